//! What is said: who is still inside when the end has waited in vain, and, where that is asked for, what was
//! prevented.

use super::{gate, threads};
use crate::end::report::lines;
use crate::end::wait::names_to_show;
use crate::ground::helpers::say;
use crate::ground::python::minor_version;
use interp_guard::Site;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

// Relaxed, all of them: numbers for a text.
static WAITED_FOR: AtomicUsize = AtomicUsize::new(0);
static WAITED_MS: AtomicU64 = AtomicU64::new(0);
static LEFT: AtomicUsize = AtomicUsize::new(0);
static JOINS: AtomicUsize = AtomicUsize::new(0);

/// The process that is to say at its exit what was prevented; 0: none.
static REPORTS: AtomicU64 = AtomicU64::new(0);

/// `1 thread is` and `2 threads are`
fn threads_are(many: usize) -> String {
    if many == 1 { "1 thread is".into() } else { format!("{many} threads are") }
}

/// The end goes on although threads are inside. To be called attached.
pub fn still_inside(waited: Duration, interrupted: bool) {
    let inside = threads::inside();
    LEFT.store(inside.len(), Ordering::Relaxed);
    let names = names_to_show();
    let rows: Vec<_> = inside
        .into_iter()
        .map(|one| {
            let kernels =
                std::fs::read_to_string(format!("/proc/self/task/{}/comm", one.thread)).unwrap_or_default();
            let name = names.get_or(one.thread, kernels.trim_end());
            (name, one.age, Site::code(one.caller.saturating_sub(1)).to_string())
        })
        .collect();
    let how = if interrupted { "interrupted after" } else { "after" };
    let who = match rows.len() {
        0 => "threads are still about to call into it".into(),
        many => format!("{} still inside a call into it", threads_are(many)),
    };
    say(&format!(
        "Python ends, {how} {:.1} s, although {who}{}",
        waited.as_secs_f64(),
        lines(rows.into_iter())
    ));
}

pub fn note_wait(inside: usize, waited: Duration) {
    WAITED_FOR.store(inside, Ordering::Relaxed);
    WAITED_MS.store(waited.as_millis() as u64, Ordering::Relaxed);
}

/// Somebody was told that a parked thread has ended.
pub fn note_join() {
    JOINS.fetch_add(1, Ordering::Relaxed);
}

/// From now on this process says at its exit what was prevented. False if it cannot.
pub fn at_exit() -> bool {
    extern "C" fn report() {
        if REPORTS.load(Ordering::Relaxed) == u64::from(std::process::id()) {
            say(&prevented());
        }
    }
    let before = REPORTS.swap(std::process::id().into(), Ordering::Relaxed);
    // SAFETY: a function that stays as long as the process: Python never unloads an extension.
    before != 0 || unsafe { libc::atexit(report) } == 0
}

/// What was prevented, in one paragraph.
fn prevented() -> String {
    let (late, waited_for) = (gate::came_late() as usize, WAITED_FOR.load(Ordering::Relaxed));
    let (left, joins) = (LEFT.load(Ordering::Relaxed), JOINS.load(Ordering::Relaxed));
    let mut text = String::from("the shield: ");
    if late == 0 {
        text += "no thread called into Python while it was ending.";
    } else {
        let (threads, were, them) =
            if late == 1 { ("thread", "was", "it") } else { ("threads", "were", "them") };
        text += &format!("{late} {threads} called into Python while it was ending and {were} parked; ");
        text += &match minor_version() {
            minor @ ..14 => format!("without the shield CPython 3.{minor} would have ended {them}."),
            minor => format!("CPython 3.{minor} would have parked {them}, too."),
        };
    }
    if waited_for > 0 {
        let seconds = Duration::from_millis(WAITED_MS.load(Ordering::Relaxed)).as_secs_f64();
        let were =
            if waited_for == 1 { "1 thread that was" } else { &format!("{waited_for} threads that were") };
        text += &format!(" The end waited {seconds:.3} s for {were} inside a call into it");
        text += &match left {
            0 => ".".to_owned(),
            left => format!(", and went on although {} still there.", threads_are(left)),
        };
    }
    if joins > 0 {
        text += &format!(" Joins of parked threads that were answered: {joins}.");
    }
    text
}
