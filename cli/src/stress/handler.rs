//! What SIGUSR1 does, and SIGUSR2, nested inside it.

use super::board::Board;
use super::canary::Interpreter;
use super::tally::{self, Context, Violation};
use interp_guard::Registry;
use interp_guard::pending::PendingQueue;
use interp_guard::signal::{Handler, SignalError};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use std::sync::atomic::{AtomicPtr, Ordering};

/// What the handlers look at; set before they are installed.
pub struct Arena {
    pub registry: &'static Registry<Interpreter>,
    pub board: &'static Board,
    /// Where handlers leave work.
    pub queue: &'static PendingQueue<'static, Interpreter>,
}

static ARENA: AtomicPtr<Arena> = AtomicPtr::new(std::ptr::null_mut());

/// Installs both handlers.
pub fn install(arena: Arena) {
    ARENA.store(Box::leak(Box::new(arena)), Ordering::Release);
    for (signal, handler) in [(Signal::SIGUSR1, outer as extern "C" fn(_)), (Signal::SIGUSR2, nested)] {
        let action = SigAction::new(SigHandler::Handler(handler), SaFlags::SA_RESTART, SigSet::empty());
        // SAFETY: the handlers look up, check, and count with atomics: all async-signal-safe.
        unsafe { sigaction(signal, &action) }.expect("sigaction accepts SIGUSR1 and SIGUSR2");
    }
}

/// Counts each SIGUSR1 that is delivered, and does nothing else.
pub fn count_deliveries() -> Result<Handler, SignalError> {
    // SAFETY: an atomic addition, to what a thread-local without initialiser and destructor leads to.
    unsafe { interp_guard::signal::in_handler(libc::SIGUSR1, tally::signal) }
}

fn arena() -> Option<&'static Arena> {
    // SAFETY: null, or the arena that `install` leaked.
    unsafe { ARENA.load(Ordering::Acquire).as_ref() }
}

extern "C" fn outer(_: libc::c_int) {
    unchanged_errno(|| {
        tally::signal();
        let Some(arena) = arena() else { return };
        let random = tally::random();
        arena.board.probe_anchor(arena.registry, Context::Handler, random as usize);
        arena.board.probe_seat(arena.registry, Context::Handler, (random >> 8) as usize);
        arena.board.probe_seat(arena.registry, Context::Handler, (random >> 24) as usize);
        if random.is_multiple_of(16) {
            arena.board.probe_never_used(arena.registry);
        }
        if random % 4 == 2 {
            arena.board.leave_call(arena.registry, arena.queue, (random >> 16) as usize);
        }
        if random % 8 == 1
            && let Some(&anchor) = arena.board.anchors.first()
        {
            // A real second signal, while a guard is out.
            let guard = arena.registry.lookup(anchor);
            tally::check(guard.is_ok(), Violation::LiveNotFound);
            // SAFETY: `raise` is async-signal-safe.
            unsafe { libc::raise(libc::SIGUSR2) };
            tally::check(guard.is_ok_and(|guard| guard.is(anchor)), Violation::DeadCanary);
        }
    });
}

extern "C" fn nested(_: libc::c_int) {
    unchanged_errno(|| {
        tally::nested_signal();
        let Some(arena) = arena() else { return };
        let random = tally::random();
        arena.board.probe_anchor(arena.registry, Context::Handler, random as usize);
        arena.board.probe_seat(arena.registry, Context::Handler, (random >> 8) as usize);
        arena.board.leave_call(arena.registry, arena.queue, (random >> 16) as usize);
    });
}

/// Runs `body` and checks that it leaves `errno` alone, and that the interrupted code finds its own.
fn unchanged_errno(body: impl FnOnce()) {
    const MARK: libc::c_int = 4242;
    // SAFETY: `errno` is this thread's own.
    let errno = unsafe { &mut *libc::__errno_location() };
    let interrupted = std::mem::replace(errno, MARK);
    body();
    // SAFETY: as above; read anew.
    let after = unsafe { *libc::__errno_location() };
    tally::check(after == MARK, Violation::ErrnoChanged);
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = interrupted };
}
