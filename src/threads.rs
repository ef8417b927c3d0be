// May import: signal_safe.
//! Which thread this is, and whether another one has ended. Normal context only.
//!
//! The kernel gives the ID of an ended thread to a new one in the end. It keeps that of the main thread until the process ends,
//! whenever that thread does. `procfs` tells both from a thread that lives: it says when a thread began, and which are zombies.

use crate::signal_safe::{process, sys};
use nix::sys::signal::{SigSet, SigmaskHow};
use std::cell::Cell;
use std::fs::File;
use std::io::Read;
use std::sync::atomic::{AtomicU64, Ordering};

/// The number of this thread: not 0, and no other's before or after it. A forked child's only thread has that of the thread
/// that forked, whose copy it is.
pub(crate) fn number() -> u64 {
    static DRAWN: AtomicU64 = AtomicU64::new(0);
    thread_local! {
        static NUMBER: Cell<u64> = const { Cell::new(0) };
    }
    if NUMBER.get() == 0 {
        // Relaxed: only to be different.
        NUMBER.set(DRAWN.fetch_add(1, Ordering::Relaxed) + 1);
    }
    NUMBER.get()
}

/// Sets the calling thread's signal mask and returns the one it had.
pub(crate) fn swap_signal_mask(mask: &SigSet) -> SigSet {
    mask.thread_swap_mask(SigmaskHow::SIG_SETMASK).expect("SIG_SETMASK is a way to set a mask")
}

/// A thread of this process: the kernel's ID, and when it began.
///
/// ```text
/// thread : u64 =  0 (1)  |  began (41)  |  ID (22)
/// ```
///
/// The kernel counts time in hundredths of a second here, and has no IDs beyond 2^22. It comes to an ID again when it has been
/// through the others, which takes longer than that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Thread(u64);

const ID_BITS: u32 = 22;
const BEGAN_BITS: u32 = 41;

impl Thread {
    fn new(id: u32, began: u64) -> Self {
        let began = began & ((1 << BEGAN_BITS) - 1);
        Self(began << ID_BITS | u64::from(id) & ((1 << ID_BITS) - 1))
    }

    /// The calling thread. `procfs` is asked once in its life.
    pub fn current() -> Self {
        thread_local! {
            /// With the number of the process in which that was.
            static CURRENT: Cell<(u64, Thread)> = const { Cell::new((0, Thread(0))) };
        }
        let (process, id) = (process::number(), sys::gettid());
        let (of, thread) = CURRENT.get();
        if of == process && thread.id() == id {
            return thread;
        }
        // With the `procfs` of another PID namespace it has another ID there.
        let began = stat("/proc/thread-self/stat").filter(|stat| stat.id == id).map_or(0, |stat| stat.began);
        let thread = Self::new(id, began);
        CURRENT.set((process, thread));
        thread
    }

    /// The only thread of a forked child, which asks nobody.
    pub fn of_forked_child() -> Self {
        Self::new(sys::gettid(), 0)
    }

    /// From what [`bits`](Self::bits) gave.
    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The highest bit is 0.
    pub fn bits(self) -> u64 {
        self.0
    }

    fn id(self) -> u32 {
        (self.0 & ((1 << ID_BITS) - 1)) as u32
    }

    /// When it began; `None` where `procfs` did not say.
    fn began(self) -> Option<u64> {
        Some(self.0 >> ID_BITS).filter(|&began| began != 0)
    }

    /// Is it the calling thread? Of one that is not known to have begun at another time, its ID says so.
    pub fn is_current(self) -> bool {
        let current = Self::current();
        self.id() == current.id() && (self == current || self.began().is_none() || current.began().is_none())
    }

    /// `false` where nobody says so: `procfs` is not there, or there is no descriptor left to ask it.
    pub fn has_ended(self) -> bool {
        has_ended(self.id())
            || self.began().is_some_and(|began| {
                let now = stat(&format!("/proc/self/task/{}/stat", self.id()));
                now.is_some_and(|now| Self::new(now.id, now.began) != Self::new(self.id(), began))
            })
    }
}

/// Has the thread that had this ID ended? `false` where nobody says so, or where the ID is another thread's by now.
pub(crate) fn has_ended(id: u32) -> bool {
    let zombie = || stat("/proc/self/stat").is_some_and(|stat| stat.id == id && stat.zombie);
    sys::thread_has_ended(id) || id == std::process::id() && zombie()
}

/// What is of use here of what `procfs` says of a thread.
struct Stat {
    id: u32,
    zombie: bool,
    began: u64,
}

fn stat(path: &str) -> Option<Stat> {
    let mut text = [0; 512];
    let length = File::open(path).and_then(|mut file| file.read(&mut text)).ok()?;
    let text = text.get(..length)?;
    // The second field is the thread's name in parentheses, which may have anything in it, and need not be UTF-8.
    let (open, close) =
        (text.iter().position(|&byte| byte == b'(')?, text.iter().rposition(|&byte| byte == b')')?);
    let id = std::str::from_utf8(text.get(..open)?).ok()?.trim().parse().ok()?;
    let mut rest = std::str::from_utf8(text.get(close + 1..)?).ok()?.split_ascii_whitespace();
    let zombie = matches!(rest.next()?, "Z" | "X"); // field 3
    let began = rest.nth(18)?.parse().ok()?; // field 22
    Some(Stat { id, zombie, began })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_living_thread_with_the_id_of_an_ended_one_is_told_from_it() {
        let current = Thread::current();
        let began = current.began().expect("procfs");
        assert!(current.is_current() && !current.has_ended());
        let ended = Thread::new(current.id(), began - 1);
        assert!(!ended.is_current() && ended.has_ended());
        let unknown = Thread::of_forked_child();
        assert!(unknown.is_current() && !unknown.has_ended());
        let other = std::thread::spawn(|| (Thread::current(), number()));
        let (other, its) = other.join().unwrap();
        assert!(!other.is_current() && its != number());
        while !other.has_ended() {
            std::thread::yield_now();
        }
    }
}
