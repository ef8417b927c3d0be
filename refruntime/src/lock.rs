//! An interpreter's lock, handed over on request: who waits longer than the switch interval asks the holder, and the
//! holder, at its next checkpoint, lets go and does not take the lock back before another has had it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

pub struct Lock {
    interval: Duration,
    wanted: AtomicBool,
    state: Mutex<State>,
    free: Condvar,
    taken: Condvar,
}

struct State {
    held: bool,
    waiting: usize,
    /// Threads in `hand_over`.
    handing_over: usize,
    /// How often the lock was taken.
    turns: u64,
}

impl Lock {
    pub fn new(interval: Duration) -> Self {
        Self {
            interval,
            wanted: AtomicBool::new(false),
            state: Mutex::new(State { held: false, waiting: 0, handing_over: 0, turns: 0 }),
            free: Condvar::new(),
            taken: Condvar::new(),
        }
    }

    pub fn acquire(&self) {
        let mut state = self.state.lock().expect("no panic under it");
        state.waiting += 1;
        while state.held {
            let turn = state.turns;
            let waited = self.free.wait_timeout(state, self.interval).expect("no panic under it");
            state = waited.0;
            if waited.1.timed_out() && state.held && state.turns == turn {
                self.wanted.store(true, Ordering::Relaxed);
            }
        }
        state.waiting -= 1;
        state.held = true;
        state.turns += 1;
        self.wanted.store(false, Ordering::Relaxed);
        if state.handing_over > 0 {
            self.taken.notify_all();
        }
    }

    pub fn release(&self) {
        let mut state = self.state.lock().expect("no panic under it");
        state.held = false;
        if state.waiting > 0 {
            self.free.notify_one();
        }
    }

    pub fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }

    /// Releases, and waits until another has had the lock, if one is waiting.
    pub fn hand_over(&self) {
        let mut state = self.state.lock().expect("no panic under it");
        state.held = false;
        self.free.notify_one();
        let turn = state.turns;
        state.handing_over += 1;
        while state.waiting > 0 && state.turns == turn {
            state = self.taken.wait(state).expect("no panic under it");
        }
        state.handing_over -= 1;
    }
}
