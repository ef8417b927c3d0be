// May import: end, ground.
//! The shield: extensions that nobody changed are kept from being ended in `PyGILState_Ensure`.
//!
//! Up to 3.13 CPython ends the thread (`pthread_exit`) that attaches while Python finalizes, which unwinds
//! through whatever called it; C++ then ends the process. So what other objects of the process call to attach
//! and to detach is redirected to functions of ours, in their global offset tables.
//!
//! | file | concept |
//! |---|---|
//! | `functions` | what is called in place of CPython's functions |
//! | `threads` | what a thread has of us: its guard, since when, where |
//! | `gate` | who may attach, who comes too late, and where those stay |
//! | `last` | the end: closing the gate at the last moment, and waiting for who is inside |
//! | `objects` | the objects of the process, and their tables |
//! | `table` | what there is to know of such a function |
//! | `redirect` | pointing the tables to our functions, and back |
//! | `report` | what is said |
//! | `face` | the functions under `interp_guard.shield` |
//! | `locked` | a lock that a fork can be waited with |
//!
//! *The last moment.* The gate does not close with the interpreter (`end::closing`), in the middle of the
//! `atexit` callbacks: those that come later may join threads that still have to attach, as they could without
//! us. It closes when `atexit` drops its callbacks, after all of them have run, and CPython says next that it
//! finalizes. Whoever is refused from then on would have been ended or stopped by CPython. For the same reason
//! the gate is a registry of its own.
//!
//! *Nobody is caught between check and attach.* A thread attaches with a guard of the gate; the end, having
//! closed it, waits until none is out.
//!
//! *No deadlock that was not there.* The end waits for a limited time, detached. Who comes too late waits
//! detached. Somebody who joins such a thread is told that it has ended, as it would have. No lock of ours is
//! held in a call of the dynamic linker or of Python.

mod face;
mod functions;
mod gate;
mod last;
mod locked;
mod objects;
mod redirect;
mod report;
mod table;
mod threads;

pub use face::METHODS;

/// Before a fork: nobody is in the middle of changing what the child would inherit.
pub fn before_fork() {
    gate::before_fork();
    redirect::before_fork();
}

/// After it, in the parent.
pub fn after_fork_parent() {
    redirect::after_fork();
    gate::after_fork_parent();
}

/// After it, in the child, which has the calling thread alone.
///
/// # Safety
/// Called by the C library in the child, on the thread that called [`before_fork`].
pub unsafe fn after_fork_child() {
    redirect::after_fork();
    // SAFETY: the caller's promise.
    unsafe { gate::after_fork_child() };
    threads::after_fork_child();
}

/// Python is gone, and may come back.
pub fn begin_epoch() {
    gate::begin_epoch();
}
