//! Inside a real signal handler: the round trip of a SIGUSR1 that a thread sends itself, with and without a lookup and
//! drop in the handler.

use super::clock::{tick_ns, ticks, used};
use super::measure::quantile;
use super::peers::Ours;
use interp_guard::InterpreterId;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, raise, sigaction};
use std::sync::atomic::{AtomicPtr, Ordering};

static PER_CPU: AtomicPtr<Ours<false>> = AtomicPtr::new(std::ptr::null_mut());
static SHARED: AtomicPtr<Ours<true>> = AtomicPtr::new(std::ptr::null_mut());

extern "C" fn empty(_: libc::c_int) {}

extern "C" fn visit<const IS_SHARED: bool>(_: libc::c_int) {
    let table =
        if IS_SHARED { SHARED.load(Ordering::Relaxed).cast() } else { PER_CPU.load(Ordering::Relaxed) };
    // SAFETY: set in `round_trips` to a table that is never freed; both modes have the same layout.
    let registry = unsafe { &(*table).0 };
    if let Ok(guard) =
        InterpreterId::try_from(0).map_err(|_| ()).and_then(|id| registry.lookup(id).map_err(|_| ()))
    {
        used::<super::peers::Interp>(&*guard);
    }
}

fn install(handler: extern "C" fn(libc::c_int)) {
    let action = SigAction::new(SigHandler::Handler(handler), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handlers above do what a handler may.
    unsafe { sigaction(Signal::SIGUSR1, &action) }.expect("sigaction");
}

/// One handler's round trips.
pub struct Trips {
    pub name: &'static str,
    pub kind: &'static str,
    /// p50, p99, p99.99 in nanoseconds.
    pub ns: [f64; 3],
}

/// Interleaved batches of each handler, `samples` round trips in all of each.
pub fn round_trips(samples: usize) -> Vec<Trips> {
    use super::peers::Peer;
    PER_CPU.store(Box::leak(Box::new(Ours::with(&[0]))), Ordering::Relaxed);
    SHARED.store(Box::leak(Box::new(Ours::with(&[0]))), Ordering::Relaxed);
    type Handler = extern "C" fn(libc::c_int);
    let handlers: [(&str, &str, Handler); 3] = [
        ("empty handler", "floor", empty),
        (Ours::<false>::NAME, "ours", visit::<false>),
        (Ours::<true>::NAME, "ours", visit::<true>),
    ];
    let batch = 100;
    let mut times = [(); 3].map(|()| Vec::with_capacity(samples));
    for round in 0..samples / batch {
        for turn in 0..handlers.len() {
            // The order changes from round to round.
            let at = (turn + round) % handlers.len();
            install(handlers[at].2);
            for sample in 0..batch + 5 {
                let start = ticks();
                raise(Signal::SIGUSR1).expect("raise");
                let took = (ticks() - start) as f64 * tick_ns();
                if sample >= 5 {
                    times[at].push(took);
                }
            }
        }
    }
    handlers
        .iter()
        .zip(&mut times)
        .map(|(&(name, kind, _), times)| Trips {
            name,
            kind,
            ns: [0.5, 0.99, 0.9999].map(|q| quantile(times, q)),
        })
        .collect()
}
