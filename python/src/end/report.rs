//! What there is to say of guards that are out.

use crate::ground::registry::Interpreter;
use crate::ground::threads::Names;
use interp_guard::{Holder, Holders, InterpreterId, Undrained};
use std::fmt::Write;
use std::time::Duration;

/// How many lines a report has at most.
const LINES: usize = 32;

/// Rows of name, age and place as lines, each begun by a line break. Those that are not shown are not asked for: to name a place
/// takes a look into a file.
pub fn lines(rows: impl ExactSizeIterator<Item = (String, Duration, String)>) -> String {
    let all = rows.len();
    let shown: Vec<_> = rows
        .take(LINES)
        .map(|(name, age, place)| (name, format!("{:.1} s", age.as_secs_f64()), place))
        .collect();
    let names = shown.iter().map(|(name, ..)| name.chars().count()).max().unwrap_or(0);
    let ages = shown.iter().map(|(_, age, _)| age.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (name, age, place) in &shown {
        let line = format!("  {name:names$}  {age:>ages$}  {place}");
        text = text + "\n" + line.trim_end();
    }
    if all > shown.len() {
        let _ = write!(text, "\n  and {} more", all - shown.len());
    }
    text
}

/// `guard is` and `1`, or `guards are` and how many.
fn guards(out: u64) -> (&'static str, &'static str) {
    if out == 1 { ("guard", "is") } else { ("guards", "are") }
}

/// `1 guard of interpreter 0 is still out`
pub fn still_out(id: InterpreterId, out: u64) -> String {
    let (guards, are) = guards(out);
    format!("{out} {guards} of interpreter {id} {are} still out")
}

/// A line for each guard that the ledger has, or how to get them; and for each queue with calls of the interpreter.
pub fn holder_lines(timeout: &Undrained<'_, Interpreter>, names: &Names) -> String {
    let mut text = recorded(timeout.holders(), names, "the thread that waits");
    for waiting in timeout.pending() {
        let _ = write!(text, "\n  {waiting}"); // a String takes everything
    }
    text
}

/// A line for each guard that the ledger has; `me` is what the calling thread is called.
pub fn recorded(holders: &Holders, names: &Names, me: &str) -> String {
    let out = holders.outstanding();
    if out == 0 && holders.iter().len() == 0 {
        return String::new();
    }
    if !holders.is_recorded() {
        let (it, was) = if out == 1 { ("it", "it was") } else { ("them", "they were") };
        return format!(
            "\n  with INTERP_GUARD_LEDGER=1 in the environment there is a line here for each: \
             who holds {it}, since when, and where {was} taken"
        );
    }
    let here = std::env::current_dir().ok();
    let rows = holders.iter().map(|holder| {
        let (mut name, mut place) = (name_of(holder, names), place_of(holder, here.as_deref()));
        if holder.thread_ended {
            name += " (ended)";
        }
        if holder.in_handler {
            place += ", in a signal handler";
        }
        if holder.by_this_thread {
            place = place + ", by " + me;
        }
        (name, holder.age, place)
    });
    let mut text = lines(rows);
    if let more @ 1.. = holders.unrecorded() {
        let _ = write!(text, "\n  and {more} for which the ledger had no room"); // as above
    }
    text
}

/// What `threading` calls the holder's thread, or the kernel's name and ID.
fn name_of(holder: &Holder, names: &Names) -> String {
    names.get_or(holder.thread_id, &holder.thread_name)
}

/// Where the guard was taken, from the working folder on if that is further up.
fn place_of(holder: &Holder, here: Option<&std::path::Path>) -> String {
    let site = holder.site.to_string();
    let within = here.and_then(|here| site.strip_prefix(here.to_str()?)?.strip_prefix('/'));
    within.map(str::to_owned).unwrap_or(site)
}

/// More guards were closed than taken: there is no saying what is out.
pub fn unbalanced(timeout: &Undrained<'_, Interpreter>, id: InterpreterId, names: &Names) -> String {
    let (out, lines) = (still_out(id, timeout.outstanding()), holder_lines(timeout, names));
    format!("more guards were closed than taken: {out}{lines}")
}

/// What `drain` raises with `TimeoutError`.
pub fn timed_out(
    timeout: &Undrained<'_, Interpreter>,
    id: InterpreterId,
    waited: Duration,
    names: &Names,
) -> String {
    let (out, (guards, are)) = (timeout.outstanding(), guards(timeout.outstanding()));
    let lines = holder_lines(timeout, names);
    format!("interpreter {id}: {out} {guards} {are} out after {:.1} s{lines}", waited.as_secs_f64())
}
