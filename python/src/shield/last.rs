//! The last moment: all `atexit` callbacks have run, and CPython finalizes next.

use super::{gate, redirect, report, threads};
use crate::end::interrupt::Watch;
use crate::ground::helpers::{detached, run_signal_handlers};
use interp_guard::DrainError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long the end waits, in nanoseconds.
static GRACE: AtomicU64 = AtomicU64::new(0);

pub fn set_grace(grace: Duration) {
    GRACE.store(grace.as_nanos().min(u64::MAX.into()) as u64, Ordering::Relaxed); // one number, with the GIL held
}

pub fn grace() -> Duration {
    Duration::from_nanos(GRACE.load(Ordering::Relaxed)) // as above
}

/// How long the end is detached before it looks for signals.
const SLICE: Duration = Duration::from_millis(50);

/// Closes the gate, and waits until nobody is inside, or the time is over, or somebody presses Ctrl-C.
///
/// # Safety
/// Attached to the main interpreter, whose `atexit` callbacks have run.
pub unsafe fn moment() {
    if !gate::is_kept() {
        return;
    }
    redirect::all();
    // The thread that ends Python may be inside a callback: it does not wait for itself.
    threads::here(threads::Here::give_up);
    let watch = Watch::begin(true);
    let Some(mut closing) = gate::close() else { return };
    let (began, grace) = (Instant::now(), grace());
    let inside = threads::inside().len();
    let mut drained = closing.drain(Some(Duration::ZERO));
    loop {
        closing = match drained {
            Ok(_) | Err(DrainError::Superseded(_)) => break,
            Err(undrained) => undrained.into_closing(),
        };
        let pressed = watch.as_ref().map_or(0, Watch::pressed) > 0;
        let waited = began.elapsed();
        if waited >= grace || pressed {
            report::still_inside(waited, pressed);
            break;
        }
        drained = detached(|| closing.drain(Some(SLICE.min(grace - waited))));
        run_signal_handlers();
    }
    report::note_wait(inside, began.elapsed());
    gate::wait_is_over();
}
