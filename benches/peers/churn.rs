//! Reads while a writer churns: p99 over batches of 100.

use super::clock::{answered, opaque, tick_ns, ticks};
use super::measure::quantile;
use super::peers::Peer;
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};

/// p99 of a read in nanoseconds, without and with a writer that registers and takes out all the while.
pub fn read_p99<P: Peer>(live: usize, batches: usize) -> Option<(f64, f64)> {
    let ids: Vec<i64> = (0..live as i64).collect();
    let peer = P::with(&ids);
    peer.churn(live as i64)?;
    let key = P::key(7);
    let stop = AtomicBool::new(false);
    let batch = || {
        let start = ticks();
        for _ in 0..100 {
            answered(peer.visit(opaque(key)));
        }
        (ticks() - start) as f64 * tick_ns() / 100.0
    };
    let p99 = || quantile(&mut (0..batches).map(|_| batch()).collect::<Vec<_>>(), 0.99);
    let quiet = p99();
    let churned = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut id = live as i64 + 1;
            while !stop.load(Ordering::Relaxed) {
                black_box(peer.churn(id));
                id += 1;
            }
        });
        let churned = p99();
        stop.store(true, Ordering::Relaxed);
        churned
    });
    Some((quiet, churned))
}
