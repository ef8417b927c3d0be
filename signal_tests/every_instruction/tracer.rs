//! The process that steps: stops a child at each instruction of an operation and signals it there.

use crate::arch;
use crate::shared::{Order, Shared};
use crate::stepped::STOPS;
use libc::user_regs_struct;
use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
use nix::sys::ptrace::{self, Event, Options};
use nix::sys::signal::{Signal, kill, raise};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::atomic::Ordering::SeqCst;

/// What is done at an instruction boundary.
#[derive(Clone, Copy)]
pub enum Plan {
    /// The process itself takes a signal at each `nth` boundary: one long run. Where the handler sees something new, a
    /// phase begins; in each `phase`th one the process takes another signal, whose handler takes a nested one at each
    /// `nested`th of its own boundaries.
    Signal { nth: u64, phase: u64, nested: u64 },
    /// At each `nth` boundary the process is forked; the child takes a signal there, and must finish correctly.
    Child { nth: u64 },
}

/// What was covered.
#[derive(Default)]
pub struct Covered {
    pub operations: BTreeSet<&'static str>,
    /// Boundaries at which a signal was taken, in the operations and in handlers.
    pub boundaries: u64,
    pub nested: u64,
    pub phases: u64,
    /// Stretches up to the next system call with the signal blocked, where no handler can come: between the fork hooks.
    pub blocked: u64,
    pub children: u64,
    /// Children that were signalled in their sleep.
    pub sleepers: u64,
}

struct Tracer {
    stepped: Pid,
    page: &'static Shared,
    plan: Plan,
    covered: Covered,
    /// The kernel's code in every process, which reads the clock.
    vdso: Range<u64>,
}

/// Where the vDSO is mapped, in this process and in those it forks.
fn vdso() -> Range<u64> {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("maps");
    let line = maps.lines().find(|line| line.ends_with("[vdso]"));
    let bounds = line.and_then(|line| line.split_once(' ')?.0.split_once('-'));
    let number = |hex| u64::from_str_radix(hex, 16).expect("an address");
    bounds.map_or(0..0, |(start, end)| number(start)..number(end))
}

/// Keeps this process and those it forks on the processor where it is: tracer and tracee take turns, and to wake each
/// other on another, idle processor would take most of the time.
fn stay() {
    let mut here = CpuSet::new();
    here.set(sched_getcpu().expect("getcpu")).expect("a processor's number");
    sched_setaffinity(Pid::from_raw(0), &here).expect("allowed here, where it runs");
}

/// Forks a process that does `work`, and steps the operations that it names.
pub fn trace(page: &'static Shared, plan: Plan, work: impl FnOnce()) -> Covered {
    // A kernel that has to be tried is tried here, for the child too: that takes tasks of its own, which are not to be stepped.
    interp_guard::platform::sequences();
    stay();
    // SAFETY: this process has one thread.
    let stepped = match unsafe { fork() }.expect("fork") {
        ForkResult::Child => {
            ptrace::traceme().expect("traceme");
            raise(Signal::SIGSTOP).expect("raise");
            work();
            std::process::exit(0);
        }
        ForkResult::Parent { child } => child,
    };
    assert_eq!(wait(stepped), WaitStatus::Stopped(stepped, Signal::SIGSTOP));
    let options = Options::PTRACE_O_EXITKILL | Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_TRACESYSGOOD;
    ptrace::setoptions(stepped, options).expect("setoptions");
    let mut tracer = Tracer { stepped, page, plan, covered: Covered::default(), vdso: vdso() };
    tracer.run();
    tracer.covered
}

/// One boundary in `nth`, and round about: not the same instructions of every loop.
fn is_sampled(boundary: u64, nth: u64) -> bool {
    (boundary + boundary / nth).is_multiple_of(nth)
}

fn wait(pid: Pid) -> WaitStatus {
    let status = waitpid(pid, Some(WaitPidFlag::__WALL)).expect("waitpid");
    if status == WaitStatus::Stopped(pid, Signal::SIGTRAP) {
        arch::step_over_stop(pid);
    }
    status
}

impl Tracer {
    fn run(&mut self) {
        loop {
            ptrace::cont(self.stepped, None).expect("cont");
            match wait(self.stepped) {
                WaitStatus::Exited(_, 0) => return self.check_page("at the end"),
                WaitStatus::Stopped(_, Signal::SIGTRAP) => self.operation(),
                other => self.fail(&format!("{other:?}")),
            }
        }
    }

    /// Steps one operation to its end.
    fn operation(&mut self) {
        let name = self.page.operation().expect("an operation begins");
        self.covered.operations.insert(name);
        let (mut boundary, mut seen) = (0_u64, None);
        let mut visited = BTreeSet::new();
        while self.page.operation().is_some() {
            if self.is_blocked() {
                // On to the next system call, which may unblock it.
                self.covered.blocked += 1;
                ptrace::syscall(self.stepped, None).expect("syscall");
                self.expect_trap();
                continue;
            }
            let here = ptrace::getregs(self.stepped).expect("getregs");
            // The clock is read again if it ticked meanwhile, and with something done at each instruction it always has: each
            // instruction of that is visited once.
            let (next, _) = arch::place(&here);
            let mut is_due =
                |nth| is_sampled(boundary, nth) && (!self.vdso.contains(&next) || visited.insert(next));
            match self.plan {
                Plan::Signal { nth, phase, nested } => {
                    if is_due(nth) {
                        self.covered.boundaries += 1;
                        self.signal();
                        let sees = self.page.seen.load(SeqCst);
                        if seen.replace(sees) != Some(sees) {
                            if self.covered.phases.is_multiple_of(phase) {
                                self.signal_nested(nested);
                            }
                            self.covered.phases += 1;
                        }
                    }
                }
                Plan::Child { nth } => {
                    if is_due(nth) {
                        self.covered.boundaries += 1;
                        self.child(here, false);
                    }
                    if self.would_sleep(&here) {
                        self.child(here, true);
                        // So that this process can go on: it takes the signal too.
                        self.signal();
                    }
                }
            }
            boundary += 1;
            self.single_step();
            if boundary.is_multiple_of(1024) {
                self.check_page(name);
            }
        }
        self.check_page(name);
    }

    fn is_blocked(&self) -> bool {
        let mut blocked = 0_u64;
        let size = size_of_val(&blocked);
        // SAFETY: writes that many bytes, the kernel's signal set, to where it is told.
        let answer =
            unsafe { libc::ptrace(libc::PTRACE_GETSIGMASK, self.stepped.as_raw(), size, &raw mut blocked) };
        assert_eq!(answer, 0);
        blocked & 1 << (Signal::SIGUSR1 as u32 - 1) != 0
    }

    fn single_step(&self) {
        ptrace::step(self.stepped, None).expect("step");
        self.expect_trap();
    }

    fn expect_trap(&self) {
        match wait(self.stepped) {
            WaitStatus::Stopped(_, Signal::SIGTRAP) | WaitStatus::PtraceSyscall(_) => {}
            other => self.fail(&format!("{other:?}")),
        }
    }

    /// A signal where the process stands; its handler runs to its end, and the process stands there again.
    fn signal(&self) {
        let handlers_stop = self.page.handlers_stop.load(SeqCst);
        let go_on = if handlers_stop { ptrace::cont } else { ptrace::syscall };
        go_on(self.stepped, Some(Signal::SIGUSR1)).expect("goes on");
        loop {
            let for_call = match wait(self.stepped) {
                // Where a system call ends, a signal that is put in is sent, and the process stops to receive it.
                WaitStatus::Stopped(_, Signal::SIGUSR1) => {
                    go_on(self.stepped, Some(Signal::SIGUSR1)).expect("goes on");
                    continue;
                }
                WaitStatus::Stopped(_, Signal::SIGTRAP) => false,
                WaitStatus::PtraceSyscall(_) => true,
                other => self.fail(&format!("{other:?}")),
            };
            let registers = ptrace::getregs(self.stepped).expect("getregs");
            if arch::calls_sigreturn(&registers, for_call) {
                break;
            }
            ptrace::syscall(self.stepped, None).expect("syscall");
        }
        self.single_step(); // through the return to the boundary
    }

    /// A signal where the process stands; its handler is stepped, and takes a nested signal at each `nth`
    /// boundary.
    fn signal_nested(&mut self, nth: u64) {
        let home = ptrace::getregs(self.stepped).expect("getregs");
        ptrace::step(self.stepped, Signal::SIGUSR1).expect("step");
        self.expect_trap();
        // The stop at a handler's first instruction is a notice, at which no signal can be put in: it is sent instead,
        // and the process stops again to receive it.
        kill(self.stepped, Signal::SIGUSR1).expect("kill");
        ptrace::step(self.stepped, None).expect("step");
        assert_eq!(wait(self.stepped), WaitStatus::Stopped(self.stepped, Signal::SIGUSR1));
        for boundary in 0.. {
            let here = ptrace::getregs(self.stepped).expect("getregs");
            if arch::place(&here) == arch::place(&home) {
                return;
            }
            if boundary == 0 || is_sampled(boundary, nth) {
                self.covered.nested += 1;
                self.signal();
            }
            self.single_step();
        }
    }

    /// Is the next instruction the system call in which a drain waits?
    fn would_sleep(&self, registers: &user_regs_struct) -> bool {
        let wait = (libc::FUTEX_WAIT_BITSET | libc::FUTEX_PRIVATE_FLAG) as u64;
        let (next, _) = arch::place(registers);
        arch::call_ahead(registers) == (libc::SYS_futex as u64, wait)
            && self.page.order() == Order::DropHeld
            && arch::is_call(ptrace::read(self.stepped, next as *mut _).expect("code"))
    }

    /// Forks the process where it stands, with the registers `here`. The child takes a signal there, or in the system call that comes next, and
    /// runs to its end.
    fn child(&mut self, mut here: user_regs_struct, asleep: bool) {
        arch::forget_call(&mut here);
        let forking = arch::forking(here, self.page.fork_site.load(SeqCst));
        ptrace::setregs(self.stepped, forking).expect("setregs");
        ptrace::step(self.stepped, None).expect("step");
        let event = wait(self.stepped);
        assert_eq!(
            event,
            WaitStatus::PtraceEvent(self.stepped, Signal::SIGTRAP, Event::PTRACE_EVENT_CLONE as i32)
        );
        let child = Pid::from_raw(ptrace::getevent(self.stepped).expect("getevent") as i32);
        self.single_step();
        ptrace::setregs(self.stepped, here).expect("setregs");
        assert_eq!(wait(child), WaitStatus::Stopped(child, Signal::SIGSTOP));
        ptrace::setregs(child, here).expect("setregs");

        let (operation, order) = (self.page.operation(), self.page.order());
        if asleep {
            ptrace::cont(child, None).expect("cont");
            let asleep = format!("{} ", libc::SYS_futex);
            let call = format!("/proc/{child}/syscall");
            while !std::fs::read_to_string(&call).expect("the child lives").starts_with(&asleep) {
                std::thread::yield_now();
            }
            kill(child, Signal::SIGUSR1).expect("kill");
            assert_eq!(wait(child), WaitStatus::Stopped(child, Signal::SIGUSR1));
            self.covered.sleepers += 1;
        }
        // The child does the operations that follow unstepped, and without a stop, unless one needs its signal too.
        ptrace::write(child, STOPS.as_ptr().cast(), 0).expect("the child's own copy");
        ptrace::cont(child, Signal::SIGUSR1).expect("cont");
        loop {
            match wait(child) {
                WaitStatus::Exited(_, 0) => break,
                WaitStatus::Stopped(_, Signal::SIGTRAP) => {
                    let signal = (self.page.order() == Order::DropHeld).then_some(Signal::SIGUSR1);
                    ptrace::cont(child, signal).expect("cont");
                }
                other => self.fail(&format!("a child: {other:?}")),
            }
        }
        self.covered.children += 1;
        // The child has gone further; this process has not.
        self.page.set_order(order);
        self.page.begin(operation.expect("in an operation"));
        if self.page.failed_line.load(SeqCst) != 0 {
            self.check_page("in a child");
        }
    }

    fn check_page(&self, whence: &str) {
        let line = self.page.failed_line.load(SeqCst);
        if line != 0 {
            let id = self.page.failed_id.load(SeqCst) as i64;
            self.fail(&format!("{whence}: the check at line {line} of stepped.rs failed, ID {id}"));
        }
    }

    fn fail(&self, what: &str) -> ! {
        let operation = self.page.operation();
        let at = ptrace::getregs(self.stepped).map(|registers| arch::place(&registers).0);
        panic!("{what}; operation {operation:?}, at {at:x?}, boundary {}", self.covered.boundaries)
    }
}
