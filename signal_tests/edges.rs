//! The edges: where counters wrap, tables fill, memory ends, stacks are small and the kernel refuses.
#![allow(missing_docs)]

mod harness;

use harness::{forbid, install};
use interp_guard::Counters::{self, PerCpu, Shared};
use interp_guard::{DrainError, DrainOptions, FinalizeError, InterpreterId, LookupError, Missing};
use interp_guard::{RegisterError, Registry, SetupError};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SaFlags, Signal, raise};
use nix::unistd::Pid;
use std::ops::ControlFlow;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

fn main() -> ExitCode {
    harness::main(&[
        ("guards_across_the_wrap", guards_across_the_wrap),
        ("four_thousand_interpreters", four_thousand_interpreters),
        ("full_under_churn", full_under_churn),
        ("a_thread_ends_with_a_guard_leaked", a_thread_ends_with_a_guard_leaked),
        ("the_smallest_alternate_stack", the_smallest_alternate_stack),
        ("no_memory_for_the_table", no_memory_for_the_table),
        ("affinity_changes_under_a_guard", affinity_changes_under_a_guard),
        ("membarrier_forbidden_from_the_start", membarrier_forbidden_from_the_start),
        ("membarrier_forbidden_later", membarrier_forbidden_later),
        ("membarrier_without_memory", membarrier_without_memory),
        ("who_has_ended_without_a_proc_file_system", who_has_ended_without_a_proc_file_system),
        ("no_futex_to_wait_on", no_futex_to_wait_on),
        ("who_has_ended_without_a_proc_file_system", who_has_ended_without_a_proc_file_system),
        ("clean_under_valgrind", clean_under_valgrind),
    ])
}

fn id(raw: i64) -> InterpreterId {
    InterpreterId::try_from(raw).expect("an ID")
}

/// The modes that this machine has.
fn modes() -> Vec<Counters> {
    if interp_guard::platform::missing_for_per_cpu().is_none() { vec![PerCpu, Shared] } else { vec![Shared] }
}

/// What a drain without patience says.
fn outstanding<T: Send + Sync>(result: Result<T, FinalizeError<'_, T>>) -> u64 {
    match result {
        Err(FinalizeError::Drain(DrainError::Timeout(late))) => late.outstanding(),
        Err(other) => panic!("{other}"),
        Ok(_) => 0,
    }
}

/// In the twin `counters_near_wrap` every counter begins three short of wrapping, and these guards take each of them
/// across; `tests/broken_twins.rs` runs it so. Otherwise they begin at zero.
fn guards_across_the_wrap() {
    for mode in modes() {
        let registry = Registry::with_capacity(4).counters(mode);
        let id = registry.register(7).expect("room");
        for round in 0..4 {
            let guards: Vec<_> = (0..10).map(|_| registry.lookup(id).expect("live")).collect();
            assert_eq!(registry.outstanding(id), Some(10), "round {round}");
            let clones = guards.clone();
            assert_eq!(registry.outstanding(id), Some(20));
            drop(guards);
            assert_eq!(registry.outstanding(id), Some(10));
            drop(clones);
            assert_eq!(registry.outstanding(id), Some(0));
        }
        let guard = registry.lookup(id).expect("live");
        assert_eq!(outstanding(registry.finalize(id, Some(Duration::ZERO))), 1);
        drop(guard);
        assert_eq!(registry.finalize(id, Some(Duration::ZERO)).expect("no guard out"), 7);
    }
}

fn four_thousand_interpreters() {
    const MANY: i64 = 4096;
    for mode in modes() {
        let registry = Registry::with_capacity(MANY as usize).counters(mode);
        for raw in 0..MANY {
            assert_eq!(registry.register(raw).expect("room"), id(raw));
        }
        assert!(matches!(registry.register(-1), Err(RegisterError::RegistryFull(-1))));
        let guards: Vec<_> = (0..MANY).map(|raw| registry.lookup(id(raw)).expect("live")).collect();
        for (raw, guard) in (0..MANY).zip(&guards) {
            assert_eq!((**guard, guard.id()), (raw, id(raw)));
        }
        let mut live = 0;
        registry.for_each_live(|_| live += 1);
        assert_eq!(live, MANY);
        let worst = (0..MANY).map(|raw| registry.displacement(id(raw))).max();
        // Every second one leaves; the others stay where they are.
        drop(guards);
        for raw in (0..MANY).step_by(2) {
            assert_eq!(registry.finalize(id(raw), Some(Duration::ZERO)).expect("no guard out"), raw);
        }
        for raw in 0..MANY {
            match registry.lookup(id(raw)) {
                Ok(guard) => assert!(raw % 2 == 1 && *guard == raw),
                Err(error) => assert!(raw % 2 == 0 && error == LookupError::NotFound),
            }
        }
        println!("{mode}: {MANY} interpreters, largest displacement {worst:?}");
    }
}

/// Four threads on a table of four: full again and again, never too full, and sound afterwards.
fn full_under_churn() {
    const CAPACITY: usize = 4;
    for mode in modes() {
        let registry = Registry::with_capacity(CAPACITY).counters(mode);
        let (full, registered) = (AtomicU64::new(0), AtomicUsize::new(CAPACITY));
        let has_one = std::sync::Barrier::new(CAPACITY);
        std::thread::scope(|scope| {
            for thread in 0..CAPACITY as u64 {
                let (registry, full, registered, has_one) = (&registry, &full, &registered, &has_one);
                scope.spawn(move || {
                    let mut mine = vec![registry.register(thread).expect("room")];
                    // All have one: full, and each is refused at least once, however they are scheduled.
                    has_one.wait();
                    assert!(matches!(registry.register(thread), Err(RegisterError::RegistryFull(_))));
                    has_one.wait();
                    for turn in 0..5_000 {
                        match registry.register(thread) {
                            Ok(id) => {
                                assert!(registered.fetch_add(1, SeqCst) < CAPACITY, "more than fit");
                                mine.push(id);
                            }
                            Err(RegisterError::RegistryFull(back)) => {
                                assert_eq!(back, thread);
                                full.fetch_add(1, SeqCst);
                            }
                            Err(error) => panic!("{error}"),
                        }
                        if turn % 3 == thread % 3 || mine.len() > 1 {
                            let Some(id) = mine.pop() else { continue };
                            drop(registry.lookup(id).expect("live"));
                            registered.fetch_sub(1, SeqCst);
                            assert_eq!(registry.finalize(id, None).expect("no guard is kept"), thread);
                        }
                    }
                    for id in mine {
                        registered.fetch_sub(1, SeqCst);
                        registry.finalize(id, None).expect("no guard is kept");
                    }
                });
            }
        });
        assert!(registry.is_empty());
        for _ in 0..CAPACITY {
            registry.register(9).expect("room for as many as before");
        }
        assert!(matches!(registry.register(9), Err(RegisterError::RegistryFull(9))));
        println!("{mode}: {} registrations refused", full.load(SeqCst));
    }
}

fn a_thread_ends_with_a_guard_leaked() {
    for mode in modes() {
        let registry = Registry::with_capacity(4).counters(mode).ledger(true);
        let id = registry.register(7).expect("room");
        std::thread::scope(|scope| {
            let leak = || std::mem::forget(registry.lookup(id).expect("live"));
            let thread = std::thread::Builder::new().name("leaker".into());
            thread.spawn_scoped(scope, leak).expect("a thread").join().expect("no panic");
        });
        let refused = registry.finalize(id, Some(Duration::from_millis(20))).expect_err("a guard is out");
        println!("{mode}: {refused}");
        assert_eq!(outstanding(Err(refused)), 1);
        assert_eq!(registry.lookup(id).map(drop), Err(LookupError::Finalizing));
    }
}

static ON_STACK: Registry<u64> = Registry::with_capacity(64);
static FOUND: AtomicU64 = AtomicU64::new(0);

/// As large as the kernel says that a signal frame can be, and one page for the handler; a guard page follows. How much
/// of that page the handler used is printed.
fn the_smallest_alternate_stack() {
    extern "C" fn handler(_: libc::c_int) {
        for raw in 0..64 {
            let Ok(id) = InterpreterId::try_from(raw) else { continue };
            if let Ok(guard) = ON_STACK.lookup(id) {
                let clone = guard.clone();
                drop(guard);
                FOUND.fetch_add(*clone, SeqCst);
            }
        }
    }
    const PAGE: usize = 4096;
    const PAINT: u8 = 0xA5;
    for _ in 0..32 {
        ON_STACK.register(1).expect("room");
    }
    // SAFETY: getauxval takes a number and gives one back; 0 where the kernel does not say.
    let frame = unsafe { libc::getauxval(libc::AT_MINSIGSTKSZ) } as usize;
    let size = (frame.max(libc::MINSIGSTKSZ) + PAGE).next_multiple_of(PAGE);
    let (all, flags) = (size + PAGE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a fresh mapping disturbs nothing.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), all, libc::PROT_NONE, flags, -1, 0) };
    assert_ne!(start, libc::MAP_FAILED);
    let stack = start.wrapping_byte_add(PAGE);
    // SAFETY: our own mapping, all but its first page.
    assert_eq!(unsafe { libc::mprotect(stack, size, libc::PROT_READ | libc::PROT_WRITE) }, 0);
    // SAFETY: writable now, and `size` bytes long.
    unsafe { stack.cast::<u8>().write_bytes(PAINT, size) };
    let alternate = libc::stack_t { ss_sp: stack, ss_flags: 0, ss_size: size };
    // SAFETY: a valid description of memory that lives as long as the process.
    assert_eq!(unsafe { libc::sigaltstack(&alternate, std::ptr::null_mut()) }, 0);
    install(Signal::SIGUSR1, handler, SaFlags::SA_ONSTACK);
    raise(Signal::SIGUSR1).expect("raise");
    assert_eq!(FOUND.load(SeqCst), 32);
    // SAFETY: readable, and nobody writes it now.
    let painted = unsafe { std::slice::from_raw_parts(stack.cast::<u8>(), size) };
    let untouched = painted.iter().take_while(|&&byte| byte == PAINT).count();
    println!("of {size} bytes the frame ({frame} at most) and the handler used {}", size - untouched);
    assert!(untouched > 0);
}

fn no_memory_for_the_table() {
    let registry = Registry::with_capacity(1 << 20);
    let (soft, hard) = getrlimit(Resource::RLIMIT_AS).expect("getrlimit");
    let statm = std::fs::read_to_string("/proc/self/statm").expect("mounted");
    let pages: u64 = statm.split(' ').next().expect("a number").parse().expect("a number");
    setrlimit(Resource::RLIMIT_AS, (pages + 1024) * 4096, hard).expect("setrlimit");
    let refused = registry.register(7);
    setrlimit(Resource::RLIMIT_AS, soft, hard).expect("setrlimit");
    let Err(RegisterError::Unavailable(7, SetupError::Memory { bytes, errno: libc::ENOMEM })) = refused
    else {
        panic!("{refused:?}")
    };
    assert!(bytes > 1 << 20);
    assert_eq!(registry.lookup(id(0)).map(drop), Err(LookupError::NotFound));
    let id = registry.register(7).expect("the cause has passed");
    assert_eq!(*registry.lookup(id).expect("live"), 7);
}

fn affinity_changes_under_a_guard() {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this).expect("sched_getaffinity");
    let all: Vec<usize> = (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu) == Ok(true)).collect();
    // On a large machine, all pairs of all would take minutes: the first eight, and the last.
    let cpus: Vec<usize> = all.iter().take(8).chain(all[all.len().min(8)..].last()).copied().collect();
    let on = |cpu| {
        let mut only = CpuSet::new();
        only.set(cpu).expect("a CPU number");
        sched_setaffinity(this, &only).expect("allowed");
    };
    for mode in modes() {
        let registry = Registry::with_capacity(4).counters(mode);
        let id = registry.register(7).expect("room");
        for (&taken, &given_up) in cpus.iter().flat_map(|a| cpus.iter().map(move |b| (a, b))) {
            on(taken);
            let guard = registry.lookup(id).expect("live");
            on(given_up);
            assert_eq!(registry.outstanding(id), Some(1));
            drop(guard);
            assert_eq!(registry.outstanding(id), Some(0));
        }
        assert_eq!(registry.finalize(id, Some(Duration::ZERO)).expect("no guard out"), 7);
    }
    println!("{} CPUs, each pair", cpus.len());
}

fn membarrier_forbidden_from_the_start() {
    forbid(libc::SYS_membarrier, None, libc::EPERM);
    let registry = Registry::new();
    let id = registry.register(7).expect("shared mode");
    assert_eq!(registry.layout().expect("mapped").counters, Shared);
    drop(registry.lookup(id).expect("live"));
    assert_eq!(registry.finalize(id, None).expect("no guard out"), 7);
    if interp_guard::platform::rseq().is_none() {
        return println!("no restartable sequences either");
    }
    let refused = Registry::new().counters(PerCpu).register(7).expect_err("no membarrier");
    println!("{refused}");
    let missing = SetupError::Counters(Missing::Membarrier(libc::EPERM));
    assert!(matches!(refused, RegisterError::Unavailable(7, why) if why == missing));
}

fn membarrier_forbidden_later() {
    if let Some(missing) = interp_guard::platform::missing_for_per_cpu() {
        return println!("nothing to forbid: {missing}");
    }
    let registry = Registry::new().counters(PerCpu);
    let [first, second] = [7, 8].map(|value| registry.register(value).expect("room"));
    forbid(libc::SYS_membarrier, None, libc::EPERM);
    let closing = registry.close(first).expect("live");
    assert_eq!(closing.fence_error(), Some(libc::EPERM));
    assert_eq!(registry.lookup(first).map(drop), Err(LookupError::Finalizing));
    let refused = closing.drain(None).expect_err("no fence, no zero");
    println!("{refused}");
    assert!(matches!(refused, DrainError::FenceFailed(_)));
    // Nothing helps: the filter stays, and so does the interpreter, closed and whole.
    let again = refused.into_closing().drain(None).expect_err("still no fence");
    assert!(matches!(again, DrainError::FenceFailed(_)));
    drop(again);
    let taken_up = registry.finalize(first, None).expect_err("nor for the next one");
    assert!(matches!(taken_up, FinalizeError::Drain(DrainError::FenceFailed(_))));
    drop(taken_up);
    assert_eq!(registry.lookup(first).map(drop), Err(LookupError::Finalizing));
    assert_eq!(*registry.lookup(second).expect("as live as before"), 8);
}

/// A kernel that has no memory for membarrier, in one thread for good and in another one not: no call waits for it without end,
/// and the drain that can have it goes on.
fn membarrier_without_memory() {
    if let Some(missing) = interp_guard::platform::missing_for_per_cpu() {
        return println!("nothing to run out of: {missing}");
    }
    nix::unistd::alarm::set(120); // where a call does not return
    let registry = Registry::new().counters(PerCpu);
    let ids: Vec<_> = (0..4).map(|value| registry.register(value).expect("room")).collect();
    let short = Some(Duration::from_millis(20));
    let closing = std::thread::scope(|scope| {
        let without = scope.spawn(|| {
            forbid(libc::SYS_membarrier, None, libc::ENOMEM);
            let began = Instant::now();
            let closing = registry.close(ids[0]).expect("live");
            println!("close: {:?}", began.elapsed());
            assert_eq!(closing.fence_error(), Some(libc::ENOMEM));
            for timeout in [short, None] {
                let began = Instant::now();
                let refused = registry.finalize(ids[1], timeout).expect_err("no fence, no zero");
                println!("finalize, timeout {timeout:?}: {:?}: {refused}", began.elapsed());
                let FinalizeError::Drain(refused @ DrainError::FenceFailed(_)) = refused else {
                    panic!("{refused}")
                };
                assert_eq!(refused.into_closing().fence_error(), Some(libc::ENOMEM));
            }
            let stop = DrainOptions::new().interrupt(|| ControlFlow::Break(()));
            let interrupted = registry.finalize_with(ids[1], stop).expect_err("told to stop");
            assert!(matches!(interrupted, FinalizeError::Drain(DrainError::Interrupted(_))), "{interrupted}");
            drop(interrupted);
            for timeout in [short, None] {
                let began = Instant::now();
                for (id, outcome) in registry.finalize_all(timeout) {
                    match outcome.expect_err("no fence, no zero") {
                        FinalizeError::AlreadyClosing => assert_eq!(id, ids[0]),
                        FinalizeError::Drain(DrainError::FenceFailed(_)) => {}
                        refused => panic!("{refused}"),
                    }
                }
                // One second for all of them, not for each.
                println!("finalize_all, timeout {timeout:?}: {:?}", began.elapsed());
            }
            closing
        });
        without.join().expect("no panic")
    });
    assert_eq!(closing.drain(short).expect("the kernel has memory here"), 0);
    for (&id, value) in ids.iter().zip(0..).skip(1) {
        assert_eq!(registry.finalize(id, short).expect("no guard out"), value);
    }
}

/// A container without `/proc`: whatever asks for a file by its path is told that there is none.
fn who_has_ended_without_a_proc_file_system() {
    let registry = Registry::new().ledger(true);
    let id = registry.register(7).expect("room");
    let guard = registry.lookup(id).expect("live");
    let (done, end) = std::sync::mpsc::channel::<()>();
    let (taken, guards) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let spawn = |name: &str, wait: Option<std::sync::mpsc::Receiver<()>>| {
            let (registry, taken) = (&registry, taken.clone());
            let take = move || {
                taken.send(registry.lookup(id).expect("live")).expect("received");
                wait.map(|wait| wait.recv());
            };
            std::thread::Builder::new().name(name.into()).spawn_scoped(scope, take).expect("spawned")
        };
        let ended = spawn("has ended", None);
        let _lives = spawn("lives on", Some(end));
        let guards = [guards.recv().expect("sent"), guards.recv().expect("sent")];
        ended.join().expect("no panic");
        let calls = [
            libc::SYS_statx,
            libc::SYS_newfstatat,
            libc::SYS_openat,
            libc::SYS_faccessat,
            libc::SYS_readlinkat,
        ];
        #[cfg(target_arch = "x86_64")] // which has older forms too
        let calls = calls.into_iter().chain([
            libc::SYS_stat,
            libc::SYS_lstat,
            libc::SYS_access,
            libc::SYS_open,
            libc::SYS_readlink,
        ]);
        for number in calls {
            forbid(number, None, libc::ENOENT);
        }
        assert!(!std::path::Path::new("/proc/self").exists(), "there is none");
        // The kernel lets go of a thread only after `join` has returned.
        let of = |name: &str| {
            let holders = registry.holders(id).expect("registered");
            let holder = holders.iter().find(|holder| holder.thread_name == name).expect("it holds one");
            (holder.thread_ended, holder.by_this_thread)
        };
        while of("has ended") != (true, false) {
            std::thread::yield_now();
        }
        assert_eq!(of("lives on"), (false, false));
        let holders = registry.holders(id).expect("registered");
        let mine: Vec<_> = holders.iter().filter(|holder| holder.by_this_thread).collect();
        assert!(matches!(mine[..], [mine] if !mine.thread_ended), "the thread that asks lives: {holders}");
        println!("{holders}");
        drop(guards);
        done.send(()).expect("it waits");
    });
    drop(guard);
}

/// A kernel that does not let a drain sleep until it is woken: it looks again and again, but does not burn a processor.
fn no_futex_to_wait_on() {
    const HELD: Duration = Duration::from_secs(1);
    nix::unistd::alarm::set(120);
    let registry: &'static Registry<i32> = Box::leak(Box::new(Registry::new()));
    let id = registry.register(7).expect("room");
    let guard = registry.lookup(id).expect("live");
    std::thread::spawn(move || {
        while !guard.is_closing() {
            std::thread::yield_now();
        }
        std::thread::sleep(HELD); // what the drain waits for
        drop(guard);
    });
    forbid(libc::SYS_futex, None, libc::EPERM);
    let (began, mut looks) = (Instant::now(), 0);
    let look = || {
        looks += 1;
        ControlFlow::Continue(())
    };
    let drained = registry.finalize_with(id, DrainOptions::new().interrupt(look));
    assert_eq!(drained.expect("the guard is given up"), 7);
    let waited = began.elapsed();
    println!("waited {waited:?}, looked {looks} times");
    assert!(waited >= HELD && looks <= 2 * waited.as_millis(), "it spins");
}

/// This scenario once more under valgrind's memcheck, where valgrind is there: errors and leaks fail it.
fn clean_under_valgrind() {
    const INSIDE: &str = "INTERP_GUARD_UNDER_VALGRIND";
    if std::env::var_os(INSIDE).is_none() {
        let own = std::env::current_exe().expect("this test");
        let valgrind = Command::new("valgrind")
            .args(["--error-exitcode=9", "--leak-check=full", "--errors-for-leak-kinds=definite"])
            .arg(own)
            .env(INSIDE, "1")
            .output();
        let Ok(output) = valgrind else { return println!("no valgrind here") };
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        let summary = said.lines().rfind(|line| line.contains("ERROR SUMMARY"));
        return println!("{}", summary.unwrap_or("no summary"));
    }
    extern "C" fn handler(_: libc::c_int) {
        if let Ok(guard) = ON_STACK.lookup(interp_guard::InterpreterId::try_from(0).expect("an ID")) {
            FOUND.fetch_add(*guard.clone(), SeqCst);
        }
    }
    install(Signal::SIGUSR1, handler, SaFlags::empty());
    ON_STACK.register(1).expect("room");
    for mode in modes() {
        let registry = Registry::with_capacity(8).counters(mode).ledger(true);
        for raw in 0..40_i64 {
            let id = registry.register(vec![raw; 100]).expect("room");
            let guard = registry.lookup(id).expect("live");
            raise(Signal::SIGUSR1).expect("raise");
            let late = registry.finalize(id, Some(Duration::ZERO)).expect_err("a guard is out");
            drop((guard.clone(), guard, late));
            if raw % 10 != 0 {
                assert_eq!(registry.finalize(id, None).expect("no guard out")[99], raw);
            }
        }
    }
    assert_eq!(FOUND.load(SeqCst), 40 * modes().len() as u64);
}
