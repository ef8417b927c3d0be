//! The gate: who may attach to Python, and who comes too late.
//!
//! A registry with one interpreter, the main one: whoever attaches has a guard of it. It is closed at the last
//! moment (`last`). Then a thread that comes waits, detached, until CPython says that it finalizes, and from
//! there on for good.
//!
//! Python may go on after all: a forked child without the thread that was ending it, a program that ran its
//! `atexit` callbacks itself. So a thread that has waited for a while, when the end does not any more, is let
//! past, as without us.

use super::locked::Locked;
use crate::ground::python::{self, this_thread};
use interp_guard::{Closing, Guard, InterpreterId, Registry, thread_state};
use pyo3_ffi::{self as ffi, PyInterpreterState};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

/// The main interpreter of an epoch.
pub struct Main {
    /// Compared, never followed.
    state: *mut PyInterpreterState,
}

// SAFETY: the pointer is only compared.
unsafe impl Send for Main {}
// SAFETY: as above.
unsafe impl Sync for Main {}

impl Main {
    /// Is this the main interpreter?
    pub fn is(&self, state: *mut PyInterpreterState) -> bool {
        self.state == state
    }
}

/// Of earlier epochs only those are left over whose guards never came back.
static GATE: Registry<Main> = Registry::with_capacity(64).ledger(false);

/// The gate's ID in this epoch; negative where nobody has asked for a shield, or not any more.
static CURRENT: AtomicI64 = AtomicI64::new(NONE);
const NONE: i64 = -1;

/// The gate of this epoch, kept while the shield is uninstalled.
static OPENED: AtomicI64 = AtomicI64::new(NONE);

/// The thread that ends Python, by `this_thread`; 0 before.
static ENDS_ON: AtomicU64 = AtomicU64::new(0);

/// When the end ceased to wait, in nanoseconds of the monotonic clock; 0 before.
static OVER_SINCE: AtomicU64 = AtomicU64::new(0);

/// Has this epoch's Python been finalized?
static IS_GONE: AtomicBool = AtomicBool::new(false);

/// Threads that came too late, by `this_thread`.
static PARKED: Locked<Vec<u64>> = Locked::new(Vec::new());

/// How many threads have come too late, in this process.
static CAME_LATE: AtomicU64 = AtomicU64::new(0);

/// CPython finalizes right after the end has waited. Where it does not for so long, Python goes on.
const UNTIL_FINALIZING: Duration = Duration::from_secs(1);

/// How often a thread that waits looks.
const LOOK_EVERY: Duration = Duration::from_millis(2);

pub type Admission = Guard<'static, Main>;

/// Opens the gate of this epoch, if it is not open. Why not, if it cannot.
///
/// # Safety
/// Attached to the main interpreter, which is not ending.
pub unsafe fn open() -> Result<(), String> {
    // Relaxed, all of them: with the GIL held; whoever is let in asks the registry, whose own edges order the
    // rest.
    if OPENED.load(Ordering::Relaxed) == NONE || IS_GONE.load(Ordering::Relaxed) {
        // SAFETY: attached.
        let main = Main { state: unsafe { ffi::PyInterpreterState_Get() } };
        let id = GATE.register(main).map_err(|refused| refused.to_string())?;
        ENDS_ON.store(0, Ordering::Relaxed);
        OVER_SINCE.store(0, Ordering::Relaxed);
        IS_GONE.store(false, Ordering::Relaxed);
        OPENED.store(id.into(), Ordering::Relaxed);
    }
    CURRENT.store(OPENED.load(Ordering::Relaxed), Ordering::Relaxed);
    Ok(())
}

/// Everybody passes, without a guard.
pub fn stand_open() {
    CURRENT.store(NONE, Ordering::Relaxed); // as in `open`
}

/// Does anybody need a guard to pass?
pub fn is_kept() -> bool {
    CURRENT.load(Ordering::Relaxed) != NONE // as in `open`
}

/// A guard for a thread that is about to attach. `None` if it may pass without. Does not return where it comes
/// too late.
///
/// Context: normal, detached.
#[inline(always)]
pub fn admit() -> Option<Admission> {
    // Relaxed: an ID; the registry says whether it is one.
    let id = InterpreterId::try_from(CURRENT.load(Ordering::Relaxed)).ok()?;
    match GATE.lookup(id) {
        Ok(guard) => Some(guard),
        Err(_) => {
            wait_where_too_late();
            None
        }
    }
}

/// Returns for threads that pass all the same; parks the others.
#[cold]
#[inline(never)]
fn wait_where_too_late() {
    if passes_always() {
        return;
    }
    CAME_LATE.fetch_add(1, Ordering::Relaxed); // a count
    while !has_no_way_back() {
        // Acquire: pairs with the Release in `wait_is_over`.
        let over = OVER_SINCE.load(Ordering::Acquire);
        if passes_always() || over != 0 && now() >= over + UNTIL_FINALIZING.as_nanos() as u64 {
            CAME_LATE.fetch_sub(1, Ordering::Relaxed); // as above
            return;
        }
        std::thread::sleep(LOOK_EVERY);
    }
    park()
}

fn park() -> ! {
    PARKED.with(|parked| parked.push(this_thread()));
    thread_state::park_for_good()
}

/// Parks a thread that CPython would end now.
pub fn park_if_python_ends() {
    if is_kept() && has_no_way_back() && !passes_always() {
        CAME_LATE.fetch_add(1, Ordering::Relaxed); // a count
        park()
    }
}

/// The thread that ends Python attaches as often as it likes; so does everybody in another Python.
fn passes_always() -> bool {
    // Relaxed: only what this thread has stored itself is of interest.
    ENDS_ON.load(Ordering::Relaxed) == this_thread() || is_another_python()
}

/// Has Python been initialised anew, without a shield?
fn is_another_python() -> bool {
    // SAFETY: reads a flag; callable always.
    IS_GONE.load(Ordering::Relaxed) && unsafe { ffi::Py_IsInitialized() != 0 }
}

/// Would CPython end or stop a thread that attached now?
fn has_no_way_back() -> bool {
    // SAFETY: reads a flag; callable always.
    python::is_finalizing() || unsafe { ffi::Py_IsInitialized() } == 0
}

/// Nanoseconds of the monotonic clock that ticks a few hundred times a second, and costs next to nothing.
///
/// Context: any.
#[inline(always)]
pub fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is writable; the clock is there on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Closes the gate: the calling thread ends Python. `None` if that has been done, or there is no gate.
pub fn close() -> Option<Closing<'static, Main>> {
    let id = InterpreterId::try_from(CURRENT.load(Ordering::Relaxed)).ok()?; // as in `open`
    ENDS_ON.store(this_thread(), Ordering::Relaxed); // see `passes_always`
    OVER_SINCE.store(0, Ordering::Relaxed); // it has not begun to wait
    GATE.close(id).ok()
}

/// The end does not wait any more.
pub fn wait_is_over() {
    OVER_SINCE.store(now(), Ordering::Release); // pairs with the Acquire in `wait_where_too_late`
}

/// Is the gate closed, so that threads may be parked? Asked by the thread that ends Python, or by nobody who
/// minds.
pub fn is_closed() -> bool {
    is_kept() && OVER_SINCE.load(Ordering::Relaxed) != 0 && !is_another_python()
}

/// Is this thread parked for good?
pub fn is_parked(thread: u64) -> bool {
    PARKED.with(|parked| parked.contains(&thread))
}

/// How many threads have come too late.
pub fn came_late() -> u64 {
    CAME_LATE.load(Ordering::Relaxed) // a count
}

/// Python is gone.
pub fn begin_epoch() {
    IS_GONE.store(true, Ordering::Relaxed); // as in `open`
}

pub fn before_fork() {
    PARKED.take();
    GATE.before_fork();
}

pub fn after_fork_parent() {
    GATE.after_fork_parent();
    PARKED.give_back();
}

/// # Safety
/// In the child, on the thread that called [`before_fork`].
pub unsafe fn after_fork_child() {
    // SAFETY: the caller's promise. The guards of other threads are never used again: they are in those
    // threads' own storage.
    unsafe { GATE.after_fork_child(&mut []) };
    PARKED.give_back();
    PARKED.with(Vec::clear);
    CAME_LATE.store(0, Ordering::Relaxed); // the only thread of the process
    // The end may have been another thread's, which the child does not have.
    if ENDS_ON.load(Ordering::Relaxed) != 0 && !passes_always() {
        wait_is_over();
    }
}
