// May import: signal_safe, symbols, threads.
//! Who holds the guards of an interpreter, as a report that a person reads. The recording: `signal_safe::ledger`.

use crate::signal_safe::ledger::{Place, Record, Site};
use crate::signal_safe::sys;
use crate::signal_safe::table::Table;
use crate::signal_safe::word::InterpreterId;
use crate::symbols::{self, Function};
use crate::threads;
use std::ffi::CStr;
use std::fmt;
use std::time::Duration;

/// One guard that is out, as the ledger recorded it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holder {
    /// The kernel's ID of the thread that took the guard. It may have handed it to another one since.
    pub thread_id: u32,
    /// That thread's name when it took the guard.
    pub thread_name: String,
    /// Does the kernel say that the thread has ended? (Of the main thread only `procfs` knows. The kernel gives the IDs of ended
    /// threads to new ones in the end: then it seems to live, and `by_this_thread` may be another thread's.)
    pub thread_ended: bool,
    /// Where the guard was taken.
    pub site: Site,
    /// How long ago.
    pub age: Duration,
    /// Was it taken in a signal handler? `true` if on an alternate signal stack; without one nobody can tell.
    pub in_handler: bool,
    /// Was it taken by the thread that asks? If that thread waits, it may wait for itself.
    pub by_this_thread: bool,
}

impl Holder {
    fn new(record: Record, now: u64, this_thread: u32) -> Self {
        let name = record.name.split(|&byte| byte == 0).next().unwrap_or_default();
        Self {
            thread_id: record.thread,
            thread_name: String::from_utf8_lossy(name).into_owned(),
            thread_ended: threads::has_ended(record.thread),
            site: record.site,
            age: Duration::from_nanos(now.saturating_sub(record.since)),
            in_handler: record.on_signal_stack,
            by_this_thread: record.thread == this_thread,
        }
    }
}

/// Who holds the guards of one interpreter.
///
/// Displayed, it is a table, oldest guard first; `{:#}` shows every row, `{}` the first 32.
///
/// ```
/// # use interp_guard::Registry;
/// let registry = Registry::new().ledger(true);
/// let id = registry.register("an interpreter").unwrap();
/// let guard = registry.lookup(id)?;
/// let holders = registry.holders(id).unwrap();
/// let holder = holders.iter().next().unwrap();
/// assert!(holder.by_this_thread && !holder.in_handler);
/// assert!(holders.to_string().contains(file!()));
/// # Ok::<(), interp_guard::LookupError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Holders {
    id: InterpreterId,
    name: Option<String>,
    holders: Vec<Holder>,
    outstanding: u64,
    attaching: u64,
    ledger: bool,
}

impl Holders {
    /// What the ledger has for `id`, of which `outstanding` guards are out, and to which `attaching` daemons attach.
    pub(crate) fn of(
        table: &Table,
        id: InterpreterId,
        name: Option<String>,
        (outstanding, attaching): (u64, u64),
    ) -> Self {
        let (now, this_thread) = (sys::monotonic_nanos(), sys::gettid());
        let mut holders = Vec::new();
        if let Some(ledger) = table.ledger() {
            ledger.for_each(|record| {
                if record.id == i64::from(id) {
                    holders.push(Holder::new(record, now, this_thread));
                }
            });
        }
        holders.sort_by_key(|holder| std::cmp::Reverse(holder.age));
        Self { id, name, holders, outstanding, attaching, ledger: table.ledger().is_some() }
    }

    /// `interpreter 7`, and its name if it has one: quoted, and with what is not printable escaped.
    pub(crate) fn interpreter(&self) -> String {
        match &self.name {
            Some(name) => format!("interpreter {} {name:?}", self.id),
            None => format!("interpreter {}", self.id),
        }
    }

    /// The interpreter's name, if it has one: see [`register_named`](crate::Registry::register_named).
    ///
    /// ```
    /// # use interp_guard::Registry;
    /// let registry = Registry::new();
    /// let id = registry.register_named("mail", "an interpreter").unwrap();
    /// assert_eq!(registry.holders(id).unwrap().name(), Some("mail"));
    /// ```
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Which interpreter it is, and how many guards are out, on one line: what to print above the table.
    ///
    /// ```
    /// # use interp_guard::Registry;
    /// # let registry = Registry::new();
    /// # let id = registry.register_named("mail", "an interpreter").unwrap();
    /// let guard = registry.lookup(id)?;
    /// let holders = registry.holders(id).unwrap();
    /// assert_eq!(holders.summary(), r#"interpreter 0 "mail": 1 guard is out"#);
    /// println!("{}\n{holders}", holders.summary());
    /// # Ok::<(), interp_guard::LookupError>(())
    /// ```
    pub fn summary(&self) -> String {
        let guards = if self.outstanding == 1 { "guard is" } else { "guards are" };
        format!("{}: {} {guards} out", self.interpreter(), self.outstanding)
    }

    /// The guards that are recorded, oldest first.
    ///
    /// ```
    /// # use interp_guard::Registry;
    /// let registry = Registry::new().ledger(true);
    /// # let id = registry.register("an interpreter").unwrap();
    /// let guards = [registry.lookup(id)?, registry.lookup(id)?];
    /// let holders = registry.holders(id).unwrap();
    /// assert_eq!(holders.iter().len(), 2);
    /// assert!(holders.iter().is_sorted_by(|older, newer| older.age >= newer.age));
    /// # Ok::<(), interp_guard::LookupError>(())
    /// ```
    pub fn iter(&self) -> std::slice::Iter<'_, Holder> {
        self.holders.iter()
    }

    /// How many guards are out, recorded or not.
    ///
    /// ```
    /// # use interp_guard::Registry;
    /// # let registry = Registry::new();
    /// # let id = registry.register("an interpreter").unwrap();
    /// let guard = registry.lookup(id)?;
    /// assert_eq!(registry.holders(id).unwrap().outstanding(), 1);
    /// # Ok::<(), interp_guard::LookupError>(())
    /// ```
    pub fn outstanding(&self) -> u64 {
        self.outstanding
    }

    /// How many threads are attaching as daemons at this moment. They hold no guard; a drain waits until they are attached.
    ///
    /// ```
    /// # use interp_guard::Registry;
    /// # let registry = Registry::new();
    /// # let id = registry.register("an interpreter").unwrap();
    /// let guard = registry.lookup(id)?;
    /// let holders = registry.holders(id).unwrap();
    /// assert_eq!((holders.outstanding(), holders.attaching()), (1, 0));
    /// # Ok::<(), interp_guard::LookupError>(())
    /// ```
    pub fn attaching(&self) -> u64 {
        self.attaching
    }

    /// How many guards are out that the ledger does not have: all of them while it is off, and those that were taken
    /// while it was full.
    ///
    /// ```
    /// # use interp_guard::Registry;
    /// let registry = Registry::new().ledger(false);
    /// # let id = registry.register("an interpreter").unwrap();
    /// let guard = registry.lookup(id)?;
    /// assert_eq!(registry.holders(id).unwrap().unrecorded(), 1);
    /// # Ok::<(), interp_guard::LookupError>(())
    /// ```
    pub fn unrecorded(&self) -> u64 {
        self.outstanding.saturating_sub(self.holders.len() as u64)
    }

    /// Does the registry have a ledger?
    ///
    /// ```
    /// # use interp_guard::Registry;
    /// for on in [true, false] {
    ///     let registry = Registry::new().ledger(on);
    ///     let id = registry.register("an interpreter").unwrap();
    ///     assert_eq!(registry.holders(id).unwrap().is_recorded(), on);
    /// }
    /// ```
    pub fn is_recorded(&self) -> bool {
        self.ledger
    }
}

impl<'a> IntoIterator for &'a Holders {
    type Item = &'a Holder;
    type IntoIter = std::slice::Iter<'a, Holder>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Rows of the table that `{}` shows.
const ROWS: usize = 32;

const HEADER: [&str; 4] = ["thread", "ID", "age", "taken at"];

impl fmt::Display for Holders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let attaching = match self.attaching {
            0 => String::new(),
            1 => "\n  1 thread is attaching as a daemon".into(),
            many => format!("\n  {many} threads are attaching as daemons"),
        };
        if self.outstanding == 0 && self.holders.is_empty() {
            return write!(f, "  no guard is out{attaching}");
        }
        if !self.ledger {
            return write!(
                f,
                "  who holds them is not recorded; to record it, set INTERP_GUARD_LEDGER=1, or make the registry with its ledger on: \
                 Registry::ledger(true), in C IG_LEDGER{attaching}",
            );
        }
        let shown = if f.alternate() { self.holders.len() } else { ROWS };
        let rows: Vec<[String; 4]> = self.holders.iter().take(shown).map(row).collect();
        let width = |column: usize| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.chain([HEADER[column].len()]).max().unwrap_or(0)
        };
        let (name, id, age) = (width(0), width(1), width(2));
        let mut line = |end: &str, [thread, number, since, place]: [&str; 4]| {
            write!(f, "{end}  {thread:name$}  {number:>id$}  {since:>age$}  {place}")
        };
        line("", HEADER)?;
        for row in &rows {
            line("\n", row.each_ref().map(String::as_str))?;
        }
        let more = self.holders.len() - rows.len();
        if more > 0 {
            write!(f, "\n  and {more} more")?;
        }
        match self.unrecorded() {
            0 => {}
            1 => f.write_str("\n  1 more is not recorded: the ledger was full when it was taken")?,
            many => write!(f, "\n  {many} more are not recorded: the ledger was full when they were taken")?,
        }
        f.write_str(&attaching)
    }
}

/// A holder as a row of the table.
fn row(holder: &Holder) -> [String; 4] {
    let mut name = holder.thread_name.clone();
    if holder.thread_ended {
        name += " (ended)";
    }
    let mut place = holder.site.to_string();
    if holder.in_handler {
        place += ", in a signal handler";
    }
    if holder.by_this_thread {
        place += ", by the thread that waits";
    }
    [name, holder.thread_id.to_string(), format!("{:.3} s", holder.age.as_secs_f64()), place]
}

/// For a person: file, line and column; or a function and its object; or an address; or the name.
///
/// The function of a code address comes from the dynamic linker, or from the symbol table of the object's file, for
/// `static` ones too. A file that was stripped has none: then it is the object and an offset. The source line is not
/// looked for; from `take+0x25 in pool.so`, `gdb -batch -ex 'info line *(take+0x25)' pool.so` has it.
impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place() {
            Place::Unknown => f.write_str("(unknown)"),
            Place::Source(location) => location.fmt(f),
            Place::Code(address) => match symbol(address) {
                Some(symbol) => f.write_str(&symbol),
                None => write!(f, "{address:#x}"),
            },
            Place::Named(name) => f.write_str(name),
        }
    }
}

/// `function+0x1a in object`: what the dynamic linker knows, else what the object's file has a name for; `object+0x1a`
/// without.
fn symbol(address: usize) -> Option<String> {
    let mut info = libc::Dl_info {
        dli_fname: std::ptr::null(),
        dli_fbase: std::ptr::null_mut(),
        dli_sname: std::ptr::null(),
        dli_saddr: std::ptr::null_mut(),
    };
    let found = {
        // SAFETY: dladdr takes any address, and `info` is valid to write to.
        unsafe { libc::dladdr(std::ptr::without_provenance(address), &mut info) }
    };
    let text = |text: *const libc::c_char| {
        // SAFETY: null, or a terminated string in a loaded object; it is copied before anything could unload that.
        (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
    };
    let object = text(info.dli_fname).filter(|_| found != 0);
    if let (Some(object), Some(name)) = (&object, text(info.dli_sname)) {
        return Some(format!("{name}+{:#x} in {object}", address.wrapping_sub(info.dli_saddr.addr())));
    }
    match (symbols::function_at(address), object) {
        (Some(Function { name, offset, .. }), Some(object)) => {
            Some(format!("{name}+{offset:#x} in {object}"))
        }
        // Linked statically: there is no dynamic linker to ask.
        (Some(Function { name, offset, file }), None) => {
            Some(format!("{name}+{offset:#x} in {}", file.display()))
        }
        (None, object) => Some(format!("{}+{:#x}", object?, address.wrapping_sub(info.dli_fbase.addr()))),
    }
}
