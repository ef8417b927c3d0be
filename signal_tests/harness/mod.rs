//! How a signal scenario runs: in a process of its own, under a watchdog.
//!
//! A test target calls [`main`] with its scenarios. Each becomes a libtest-style test that starts this executable again
//! to run just that scenario, waits for it with a deadline, and, where the deadline passes, prints where every thread of
//! it stands before it kills it. A handler cannot panic: it notes a failed check with [`handler_check!`], and the
//! scenario fails when it ends.
#![allow(dead_code, reason = "each test target uses its own part")]

use libtest_mimic::{Arguments, Failed, Trial};
use nix::sys::pthread::{Pthread, pthread_kill, pthread_self};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::time::TimeSpec;
use nix::sys::timer::{Expiration, Timer, TimerSetTimeFlags};
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;
use wait_timeout::ChildExt;

/// Names the scenario that a started process is to run.
const SCENARIO: &str = "INTERP_GUARD_SCENARIO";

/// How long a scenario may take. A failure deadline: nothing waits for it.
fn deadline() -> Duration {
    Duration::from_secs(if long_form() { 3600 } else { 1200 })
}

/// Does `INTERP_GUARD_LONG` ask for the long form, which covers everything rather than a sample?
pub fn long_form() -> bool {
    std::env::var_os("INTERP_GUARD_LONG").is_some_and(|value| value != "0" && !value.is_empty())
}

/// How many of `full` to do: all in a release build, a tenth in a debug build, which is to be over while one waits.
pub const fn short_of(full: usize) -> usize {
    if cfg!(debug_assertions) { full / 10 } else { full }
}

/// One scenario: its name, and what its process does. Panicking, or a failed check in a handler, fails it.
pub type Scenario = (&'static str, fn());

/// Runs the scenarios, or the one that this process was started for.
///
/// One at a time: on two cores, more processes would only take each other's deadlines.
pub fn main(scenarios: &[Scenario]) -> ExitCode {
    main_with_threads(1, scenarios)
}

/// The same, `threads` scenarios at a time unless the command line says otherwise.
pub fn main_with_threads(threads: usize, scenarios: &[Scenario]) -> ExitCode {
    if let Some(name) = std::env::var_os(SCENARIO) {
        let run = scenarios.iter().find(|(known, _)| *known == name).expect("a scenario of this target").1;
        run();
        finish();
        return ExitCode::SUCCESS;
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads = arguments.test_threads.or(Some(threads));
    let trials = scenarios.iter().map(|&(name, _)| Trial::test(name, move || supervise(name))).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Starts this executable for one scenario and waits for it.
fn supervise(name: &str) -> Result<(), Failed> {
    let mut child = Command::new(std::env::current_exe()?)
        .env(SCENARIO, name)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let out = std::thread::spawn({
        let mut pipe = child.stdout.take().expect("piped");
        move || read_all(&mut pipe)
    });
    let err = std::thread::spawn({
        let mut pipe = child.stderr.take().expect("piped");
        move || read_all(&mut pipe)
    });
    let status = child.wait_timeout(deadline())?;
    let stands = status.is_none().then(|| {
        let stands = where_it_stands(&child);
        let _ = child.kill();
        let _ = child.wait();
        stands
    });
    let (out, err) = (out.join().expect("reader"), err.join().expect("reader"));
    match (status, stands) {
        (Some(status), _) if status.success() => {
            print!("{out}");
            Ok(())
        }
        (Some(status), _) => {
            let how =
                status.signal().map_or(format!("{status}"), |signal| format!("killed by signal {signal}"));
            Err(format!("scenario {name}: {how}\n{out}{err}").into())
        }
        (None, stands) => {
            let stands = stands.unwrap_or_default();
            Err(format!("scenario {name}: hung for {} s\n{out}{err}\n{stands}", deadline().as_secs()).into())
        }
    }
}

fn read_all(pipe: &mut dyn Read) -> String {
    let mut bytes = Vec::new();
    let _ = pipe.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Every thread of a process: name, state, the kernel function it sleeps in, and its stack where gdb is there to tell.
fn where_it_stands(child: &Child) -> String {
    let mut report = String::from("where it stands:\n");
    let tasks = format!("/proc/{}/task", child.id());
    for task in std::fs::read_dir(tasks).into_iter().flatten().flatten() {
        let read = |file: &str| std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
        let (name, wchan, syscall) = (read("comm"), read("wchan"), read("syscall"));
        report += &format!("  {:?} {} {wchan} {}\n", task.file_name(), name.trim(), syscall.trim());
    }
    let gdb = Command::new("gdb")
        .args(["-batch", "-ex", "thread apply all backtrace", "-p", &child.id().to_string()])
        .stdin(Stdio::null())
        .output();
    match gdb {
        Ok(gdb) => report + &String::from_utf8_lossy(&gdb.stdout),
        Err(error) => report + &format!("(no stacks: gdb: {error})\n"),
    }
}

/// Where the first failed check in a handler stands; 0 if none failed.
static FAILED_LINE: AtomicU32 = AtomicU32::new(0);

/// Notes a failed check. Async-signal-safe.
pub fn note_failure(line: u32) {
    let _ = FAILED_LINE.compare_exchange(0, line, Ordering::SeqCst, Ordering::SeqCst);
}

/// Checks a condition in a handler: notes the line where it does not hold. Async-signal-safe.
#[macro_export]
macro_rules! handler_check {
    ($condition:expr) => {
        if !$condition {
            $crate::harness::note_failure(line!());
        }
    };
}

/// Fails the scenario if a check in a handler failed.
pub fn finish() {
    let line = FAILED_LINE.load(Ordering::SeqCst);
    assert_eq!(line, 0, "the check at line {line} failed in a handler");
}

/// Installs `handler` for `signal`, restarting interrupted system calls, with `flags` on top.
pub fn install(signal: Signal, handler: extern "C" fn(libc::c_int), flags: SaFlags) {
    let action = SigAction::new(SigHandler::Handler(handler), SaFlags::SA_RESTART | flags, SigSet::empty());
    // SAFETY: the scenarios' handlers only do what this library declares async-signal-safe, and atomic operations.
    unsafe { sigaction(signal, &action) }.expect("sigaction");
}

/// A thread that signals another one again and again, as fast as it can, until dropped.
pub struct Sender {
    stop: std::sync::Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Sender {
    /// Signals the calling thread. The sender must be dropped before that thread ends.
    pub fn at_this_thread(signal: Signal) -> Self {
        Self::at(pthread_self(), signal)
    }

    /// Signals `target`, which must not end before the sender is dropped.
    pub fn at(target: Pthread, signal: Signal) -> Self {
        let stop = std::sync::Arc::new(AtomicBool::new(false));
        let seen = stop.clone();
        let thread = std::thread::spawn(move || {
            // With the next signal always ready, the target would leave one handler for the next and take no step of its own,
            // for seconds at a time. So the gaps grow, from none to longer than any handler takes, and begin again.
            let gaps = (0..=14).map(|power| 1 << power).cycle();
            for gap in gaps.take_while(|_| !seen.load(Ordering::Relaxed)) {
                pthread_kill(target, signal).expect("the target lives");
                (0..gap).for_each(|_| std::hint::spin_loop());
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().expect("running").join().expect("the sender does not panic");
    }
}

/// A timer that sends `signal` to the calling thread every `period`, until dropped.
pub fn timer_at_this_thread(signal: Signal, period: Duration) -> Timer {
    use nix::sys::signal::{SigEvent, SigevNotify};
    let thread_id = nix::unistd::gettid().as_raw();
    let notify = SigevNotify::SigevThreadId { signal, thread_id, si_value: 0 };
    let mut timer =
        Timer::new(nix::time::ClockId::CLOCK_MONOTONIC, SigEvent::new(notify)).expect("timer_create");
    timer
        .set(Expiration::Interval(TimeSpec::from_duration(period)), TimerSetTimeFlags::empty())
        .expect("timer_settime");
    timer
}

/// From now on the system call `number` fails with `errno` in this thread and those it starts; with `argument`, only where its
/// argument of that index has that value, of 32 bits. Never undone.
pub fn forbid(number: libc::c_long, argument: Option<(u32, u32)>, errno: libc::c_int) {
    let step = |code: u32, k: u32, jt, jf| libc::sock_filter { code: code as u16, jt, jf, k };
    let (load, equal, ret) = (
        libc::BPF_LD | libc::BPF_W | libc::BPF_ABS,
        libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
        libc::BPF_RET,
    );
    // Of `seccomp_data`: the number at 0, the arguments, eight bytes each, from 16 on.
    let (index, value) = argument.unwrap_or((0, 0));
    let mut filter = [
        step(load, 0, 0, 0),
        step(equal, number as u32, 0, 3),
        step(load, 16 + 8 * index, 0, 0),
        step(if argument.is_some() { equal } else { libc::BPF_JMP | libc::BPF_JA }, value, 0, 1),
        step(ret, libc::SECCOMP_RET_ERRNO | errno as u32, 0, 0),
        step(ret, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: sets a flag.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    let mode = libc::SECCOMP_MODE_FILTER;
    // SAFETY: `program` describes `filter`, both live; it ends in a return on every path.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &program) }, 0);
}
