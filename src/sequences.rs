// May import: signal_safe, threads.
//! Does the kernel abort the restartable sequences that it interrupts? By its version, or by trying.
//!
//! Per-CPU mode rests on it: a sequence that goes on after another thread has counted on the same CPU loses a count, and a lost
//! count is a finalizer that does not wait. Linux before 6.19 is known to abort them. It was written anew there, and on AArch64
//! a preemption that stays on its CPU was reported not to abort.
//!
//! # The trial
//!
//! A section that looks at a word until it has changed, where only what interrupts it changes the word: a signal's handler on the
//! same thread, or a thread that may run on no other CPU. If the section goes on and *sees* the change, it was not aborted, and that
//! is certain. If it was aborted and the word has changed, that is an interruption that was heeded; [`PROOFS`] of them are asked for.
//!
//! That needs a signal's handler, and threads that are bound to a CPU. A library has neither to spare. So it is two tasks with this
//! process's memory and with signal handlers of their own that do it (as `posix_spawn`'s child has until it executes): no handler of the
//! program's is replaced or runs there, and no thread of the program's is moved. Where that is forbidden, or a busy machine leaves them
//! no time, nothing is shown. It lasts milliseconds, and ends after [`LIMIT`] in any case.

use crate::signal_safe::arch::{self, system_call};
use crate::signal_safe::process;
use crate::signal_safe::sync::{Atomic, Ordering};
use crate::signal_safe::sys;
use crate::threads;
use libc::{c_int, c_long, c_void};
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use nix::sys::signal::SigSet;
use std::cell::UnsafeCell;
use std::num::NonZeroUsize;
use std::ptr;
use std::time::Duration;

/// What is known of the kernel's restartable sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Sequences {
    /// A section that was interrupted is aborted.
    Abort = 1,
    /// One that a signal interrupted went on.
    SurviveSignals = 2,
    /// One that was preempted went on.
    SurvivePreemption = 3,
    /// The trial is forbidden here, or the machine was too busy for it.
    NotShown = 4,
}

/// How often a section must be seen aborted, of each kind.
const PROOFS: u32 = 3;

/// When the trial is over, whatever it has seen.
const LIMIT: Duration = Duration::from_millis(500);

/// How often a section looks: less than the time between two interruptions.
const TURNS: u32 = 1 << 14;

/// How often the section is interrupted.
const EVERY: Duration = Duration::from_micros(300);

/// Of each of the two tasks. A signal's frame has to fit, with the largest registers there are.
const STACK: usize = 256 << 10;

/// Is this a version of Linux whose sections are known to be aborted? `release` as `uname` has it.
pub fn are_known_good(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) < (6, 19),
        _ => false,
    }
}

/// The kernel's version, as `uname` has it; empty if it does not say.
pub fn release() -> String {
    // SAFETY: zero bytes are a `utsname`, which is there to be written to; then `release` has terminated text in it.
    unsafe {
        let mut names: libc::utsname = std::mem::zeroed();
        match libc::uname(&mut names) {
            0 => std::ffi::CStr::from_ptr(names.release.as_ptr()).to_string_lossy().into_owned(),
            _ => String::new(),
        }
    }
}

/// What the trial says. It is made once in a process, or its ancestor.
///
/// Context: normal; blocks for [`LIMIT`] at the most, and a little.
pub fn tried() -> Sequences {
    static KNOWN: Atomic<u32> = Atomic::new(0);
    /// The process one of whose threads makes it: a forked child does not wait for a thread that it has not.
    static TRYING: Atomic<u64> = Atomic::new(0);
    loop {
        // Relaxed, all: an answer by which nothing is read, and whose turn it is.
        if let Some(known) = named(KNOWN.load(Ordering::Relaxed)) {
            return known;
        }
        let (mine, other) = (process::number(), TRYING.load(Ordering::Relaxed));
        if other == mine
            || TRYING.compare_exchange(other, mine, Ordering::Acquire, Ordering::Relaxed).is_err()
        {
            sys::futex_wait(&KNOWN, 0, None);
            continue;
        }
        let found = try_it().unwrap_or(Sequences::NotShown);
        KNOWN.store(found as u32, Ordering::Relaxed);
        sys::futex_wake_all(ptr::from_ref(&KNOWN).cast());
        return found; // and nobody's turn comes again
    }
}

fn named(number: u32) -> Option<Sequences> {
    use Sequences::{Abort, NotShown, SurvivePreemption, SurviveSignals};
    [Abort, SurviveSignals, SurvivePreemption, NotShown].into_iter().find(|&this| this as u32 == number)
}

/// What the two tasks share. Zero: nothing has happened.
#[repr(C, align(32))]
struct Ground {
    /// The `struct rseq` of the task that tries, which the kernel writes to: 32 bytes, 32-byte aligned.
    rseq: UnsafeCell<[u64; 4]>,
    /// Counted up by the other one.
    ticks: Atomic<u32>,
    is_over: Atomic<u32>,
    /// A [`Sequences`]; the program's thread waits on it.
    found: Atomic<u32>,
    cpu: u32,
    /// On the monotonic clock, in nanoseconds.
    until: u64,
}

/// Signals that the trying task has had. There is one such task at a time in a process.
static SIGNALS: Atomic<u32> = Atomic::new(0);

extern "C" fn count_signal(_: c_int) {
    SIGNALS.fetch_add(1, Ordering::Relaxed); // Relaxed: for the same thread
}

/// `None`: nothing is shown.
fn try_it() -> Option<Sequences> {
    const GROUND: usize = 4096;
    // SAFETY: asks for a number.
    let cpu = u32::try_from(unsafe { libc::sched_getcpu() }).ok()?;
    let length = NonZeroUsize::new(2 * STACK + GROUND)?;
    let (access, flags) = (ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_PRIVATE);
    // SAFETY: a new mapping of no file.
    let start = unsafe { mmap_anonymous(None, length, access, flags) }.ok()?.cast::<u8>();
    let until = sys::monotonic_nanos() + LIMIT.as_nanos() as u64;
    // SAFETY: the page behind the stacks; zero bytes are a `Ground`, and nobody else knows it yet.
    let ground = unsafe {
        let ground = start.add(2 * STACK).cast::<Ground>();
        (*ground.as_ptr()).cpu = cpu;
        (*ground.as_ptr()).until = until;
        ground.as_ref()
    };
    let (first, second) = (start.as_ptr().wrapping_add(STACK), start.as_ptr().wrapping_add(2 * STACK));
    let mask = threads::swap_signal_mask(&SigSet::all()); // what is started has them blocked, too
    let (ticker, trier) = (start_task(tick, first, ground), start_task(watch, second, ground));
    threads::swap_signal_mask(&mask);
    let mut left: Vec<c_int> = [ticker, trier].into_iter().filter(|&task| task > 0).collect();
    while left.len() == 2 && ground.found.load(Ordering::Relaxed) == 0 && sys::monotonic_nanos() < until {
        let soon = sys::monotonic_nanos() + 5_000_000;
        let soon =
            libc::timespec { tv_sec: (soon / 1_000_000_000) as _, tv_nsec: (soon % 1_000_000_000) as _ };
        sys::futex_wait(&ground.found, 0, Some(soon));
        // It may have died: a filter may kill who binds itself to a CPU.
        if has_ended(trier) {
            left.pop();
        }
    }
    ground.is_over.store(1, Ordering::Relaxed);
    let found = named(ground.found.load(Ordering::Relaxed));
    if left.into_iter().filter(|&task| !end(task)).count() == 0 {
        // SAFETY: the whole mapping, and those who used it have ended.
        let _ = unsafe { munmap(start.cast(), length.get()) };
    } // else it is theirs: they get no time on that CPU, not even to die
    found
}

/// Starts a task with this process's memory, files and directory; not with its signal handlers, of which it has a copy, and not in
/// its name: nobody is told of its end. Answers its ID, or -1.
fn start_task(task: extern "C" fn(*mut c_void) -> c_int, stack_end: *mut u8, ground: &Ground) -> c_int {
    let flags = libc::CLONE_VM | libc::CLONE_FS | libc::CLONE_FILES;
    // SAFETY: the stack is `STACK` bytes that nobody else uses, and like `ground` it stays until the task has ended, see `try_it`. The
    // task shares this thread's thread-locals, so it calls nothing of the C library that has any, but for `errno` after a failure.
    unsafe { libc::clone(task, stack_end.cast(), flags, ptr::from_ref(ground).cast_mut().cast()) }
}

/// Has it ended? If so, its ID is nobody's from here on.
fn has_ended(task: c_int) -> bool {
    // SAFETY: no status is asked for. (-1: somebody else has waited for it.)
    unsafe { libc::waitpid(task, ptr::null_mut(), libc::WNOHANG | libc::__WALL) != 0 }
}

/// Ends a task whose end nobody has waited for. Has it ended?
fn end(task: c_int) -> bool {
    // SAFETY: a child of ours, or what is left of it.
    let _ = unsafe { libc::kill(task, libc::SIGKILL) };
    (0..100).any(|_| {
        let ended = has_ended(task);
        if !ended {
            std::thread::sleep(Duration::from_micros(500));
        }
        ended
    })
}

/// A system call of one of the two tasks.
fn call(number: c_long, args: [usize; 4]) -> isize {
    let [a, b, c, d] = args;
    // SAFETY: each call below has valid arguments.
    unsafe { system_call(number, [a, b, c, d, 0, 0]) }
}

impl Ground {
    /// Binds the calling task to the one CPU.
    fn stay_on_the_cpu(&self) -> bool {
        let mut set = [0_u64; 1024];
        let Some(word) = set.get_mut(self.cpu as usize / 64) else { return false };
        *word = 1 << (self.cpu % 64);
        call(libc::SYS_sched_setaffinity, [0, size_of_val(&set), set.as_ptr() as usize, 0]) == 0
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed) != 0 || sys::monotonic_nanos() >= self.until
    }
}

/// The task that preempts the other.
extern "C" fn tick(ground: *mut c_void) -> c_int {
    // SAFETY: `start_task` was given it.
    let ground = unsafe { &*ground.cast_const().cast::<Ground>() };
    let nap = libc::timespec { tv_sec: 0, tv_nsec: EVERY.as_nanos() as _ };
    if ground.stay_on_the_cpu() {
        while !ground.is_over() {
            call(libc::SYS_nanosleep, [ptr::from_ref(&nap) as usize, 0, 0, 0]);
            ground.ticks.fetch_add(1, Ordering::Relaxed); // Relaxed: who looks is on this CPU
        }
    }
    0
}

/// The task that tries.
extern "C" fn watch(ground: *mut c_void) -> c_int {
    // SAFETY: `start_task` was given it.
    let ground = unsafe { &*ground.cast_const().cast::<Ground>() };
    let found = try_sections(ground);
    ground.found.store(found as u32, Ordering::Relaxed); // Relaxed: a number, by which nothing is read
    sys::futex_wake_all(ptr::from_ref(&ground.found).cast());
    0
}

fn try_sections(ground: &Ground) -> Sequences {
    let area = ground.rseq.get() as usize;
    // A task of its own, for which nobody else has registered anything.
    let registered =
        call(libc::SYS_rseq, [area, size_of_val(&ground.rseq), 0, arch::SIGNATURE as usize]) == 0;
    if !registered || !ground.stay_on_the_cpu() {
        return Sequences::NotShown;
    }
    let rseq = area.wrapping_sub(arch::thread_pointer()) as isize;
    if !ring_every(EVERY) {
        return Sequences::NotShown;
    }
    match are_aborted(ground, rseq, &SIGNALS) {
        Some(true) => {}
        Some(false) => return Sequences::SurviveSignals,
        None => return Sequences::NotShown,
    }
    ring_every(Duration::ZERO);
    match are_aborted(ground, rseq, &ground.ticks) {
        Some(true) => Sequences::Abort,
        Some(false) => Sequences::SurvivePreemption,
        None => Sequences::NotShown,
    }
}

/// Has SIGALRM come to the calling task again and again; never, for no time.
fn ring_every(time: Duration) -> bool {
    // SAFETY: zero bytes are a `sigaction`; `count_signal` only adds. It changes this task's handlers alone, and not what is allowed
    // in the program: of its handlers this task has a copy.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = count_signal as extern "C" fn(c_int) as usize;
        action.sa_flags = libc::SA_RESTART;
        if libc::sigaction(libc::SIGALRM, &action, ptr::null_mut()) != 0 {
            return false;
        }
    }
    let every = libc::timeval { tv_sec: 0, tv_usec: time.as_micros() as _ };
    let timer = libc::itimerval { it_interval: every, it_value: every };
    let alarm = 1_u64 << (libc::SIGALRM - 1);
    let unblock = [libc::SIG_UNBLOCK as usize, ptr::from_ref(&alarm) as usize, 0, size_of_val(&alarm)];
    call(libc::SYS_setitimer, [libc::ITIMER_REAL as usize, ptr::from_ref(&timer) as usize, 0, 0]) == 0
        && call(libc::SYS_rt_sigprocmask, unblock) == 0
}

/// Are sections aborted by what changes `word`? `None`: it was not seen often enough.
fn are_aborted(ground: &Ground, rseq: isize, word: &Atomic<u32>) -> Option<bool> {
    let mut aborted = 0;
    while aborted < PROOFS {
        if ground.is_over() {
            return None;
        }
        let before = word.load(Ordering::Relaxed); // Relaxed, both: changed on this CPU
        // SAFETY: registered by `try_sections`, for this task.
        match unsafe { arch::watch(word, rseq, TURNS) } {
            Some(true) => return Some(false),
            None if word.load(Ordering::Relaxed) != before => aborted += 1,
            Some(false) | None => {}
        }
    }
    Some(true)
}

#[cfg(test)]
mod tests {
    use super::are_known_good;

    #[test]
    fn kernels_before_6_19_are_known() {
        for good in ["4.14.0", "5.15.0-1-amd64", "6.18.44-fc", "6.1-rc3+", "6.9"] {
            assert!(are_known_good(good), "{good}");
        }
        for not in ["6.19.0", "6.20", "7.0.1-cloud-arm64", "10.1", "", "6", "next-20260401", "6.x"] {
            assert!(!are_known_good(not), "{not}");
        }
    }
}
