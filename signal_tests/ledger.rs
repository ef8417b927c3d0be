//! The ledger under fire: guards recorded in handlers that interrupt the recording of others.
#![allow(missing_docs)]

#[macro_use]
mod harness;

use harness::{Scenario, Sender, forbid, install, timer_at_this_thread};
use interp_guard::{Counters, InterpreterId, LookupError, Registry, Site};
use nix::sys::signal::{SaFlags, Signal, raise};
use std::collections::HashSet;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

fn main() -> ExitCode {
    let scenarios: &[Scenario] = &[
        ("recording_interrupted_by_recording_per_cpu", || recording_interrupted(Counters::PerCpu)),
        ("recording_interrupted_by_recording_shared", || recording_interrupted(Counters::Shared)),
        ("full_and_under_fire", full_and_under_fire),
        ("a_handler_on_a_signal_stack_is_told", a_handler_on_a_signal_stack_is_told),
        ("errno_is_preserved", errno_is_preserved),
        ("over_release_in_a_handler", over_release_in_a_handler),
    ];
    harness::main(scenarios)
}

static REGISTRY: OnceLock<Registry<u64>> = OnceLock::new();
static ID: OnceLock<InterpreterId> = OnceLock::new();
static HANDLED: AtomicU64 = AtomicU64::new(0);
/// Guards that a handler took and for which the ledger had no entry.
static UNRECORDED: AtomicU64 = AtomicU64::new(0);

/// Sets up what handlers use. A handler must not be the first to look at either.
fn set_up(registry: Registry<u64>) -> (&'static Registry<u64>, InterpreterId) {
    let registry = REGISTRY.get_or_init(|| registry);
    (registry, *ID.get_or_init(|| registry.register(7).expect("room")))
}

/// Sites by which a reader of the ledger knows who took a guard.
const IN_A_HANDLER: Site = Site::code(0x1000);
const NESTED: Site = Site::code(0x2000);
const OUTSIDE: Site = Site::code(0x3000);

fn lookup(site: Site) -> Result<interp_guard::Guard<'static, u64>, LookupError> {
    match (REGISTRY.get(), ID.get()) {
        (Some(registry), Some(&id)) => registry.lookup_at(id, site),
        _ => Err(LookupError::NotFound),
    }
}

extern "C" fn on_usr1(_: libc::c_int) {
    let guard = lookup(IN_A_HANDLER);
    handler_check!(guard.is_ok());
    // SAFETY: raise and kill are async-signal-safe.
    unsafe { libc::raise(libc::SIGUSR2) };
    let clone = guard.as_ref().ok().map(|guard| guard.clone_at(IN_A_HANDLER));
    drop(guard);
    handler_check!(clone.is_some_and(|clone| clone.into_raw().release().is_ok()));
    HANDLED.fetch_add(1, SeqCst);
}

extern "C" fn on_usr2(_: libc::c_int) {
    let guard = lookup(NESTED);
    handler_check!(guard.as_ref().is_ok_and(|guard| **guard == 7));
    let (Ok(guard), Some(registry)) = (guard, REGISTRY.get()) else { return };
    let parts = guard.into_raw().into_parts();
    UNRECORDED.fetch_add(u64::from(parts.ticket == 0), SeqCst);
    // SAFETY: of this registry, and put together once.
    handler_check!(unsafe { registry.guard_from_parts(parts) }.into_raw().release().is_ok());
}

fn recording_interrupted(counters: Counters) {
    const SIGNALS: u64 = 20_000;
    if counters == Counters::PerCpu && interp_guard::platform::missing_for_per_cpu().is_some() {
        return println!("this machine has no per-CPU counters");
    }
    let (registry, id) = set_up(Registry::with_capacity(8).counters(counters).ledger(true));
    install(Signal::SIGUSR1, on_usr1, SaFlags::empty());
    install(Signal::SIGUSR2, on_usr2, SaFlags::empty());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let _timer = timer_at_this_thread(Signal::SIGUSR1, Duration::from_micros(100));
                while !stop.load(SeqCst) {
                    let guard = registry.lookup_at(id, OUTSIDE).expect("live");
                    let clone = guard.clone_at(OUTSIDE);
                    assert_eq!(guard.into_raw().release(), Ok(()));
                    assert_eq!(clone.into_raw().release(), Ok(()));
                }
            });
        }
        // A reader all the while: what it reads is some guard's facts, never a mixture or a leftover.
        let (mut rows, mut sites) = (0, HashSet::new());
        // That it reads some of each is waited for: guards of handlers are out for a moment only.
        while HANDLED.load(SeqCst) < SIGNALS || sites.len() < 3 {
            let holders = registry.holders(id).expect("registered");
            for holder in &holders {
                assert!([IN_A_HANDLER, NESTED, OUTSIDE].contains(&holder.site), "{holder:?}");
                assert!(!holder.thread_ended && holder.age < Duration::from_secs(60), "{holder:?}");
                rows += 1;
                sites.insert(holder.site);
            }
        }
        stop.store(true, SeqCst);
        println!("{SIGNALS} signals, each with one nested; {rows} rows read meanwhile");
    });
    assert_eq!(registry.holders(id).expect("registered").iter().count(), 0);
    assert_eq!(registry.finalize(id, Some(Duration::ZERO)).expect("nobody is left"), 7);
}

/// With no entry free the handlers' guards count, unrecorded, and nothing else changes.
fn full_and_under_fire() {
    let (registry, id) = set_up(Registry::with_capacity(8).ledger(true));
    install(Signal::SIGUSR1, on_usr1, SaFlags::empty());
    install(Signal::SIGUSR2, on_usr2, SaFlags::empty());
    let mut held: Vec<_> = (0..16_390).map(|_| registry.lookup_at(id, OUTSIDE).expect("live")).collect();
    assert_eq!(registry.holders(id).expect("registered").unrecorded(), 6);
    let sender = Sender::at_this_thread(Signal::SIGUSR1);
    let mut round = 0_usize;
    while HANDLED.load(SeqCst) < 5_000 || UNRECORDED.load(SeqCst) == 0 {
        // At the edge: one goes and one comes, while handlers try for the place in between.
        let at = round % held.len();
        drop(held.swap_remove(at));
        held.push(registry.lookup_at(id, OUTSIDE).expect("live"));
        round += 1;
    }
    drop(sender);
    let holders = registry.holders(id).expect("registered");
    assert_eq!(holders.outstanding(), held.len() as u64);
    assert!(holders.iter().all(|holder| holder.site == OUTSIDE));
    drop(held);
    assert_eq!(registry.holders(id).expect("registered").iter().count(), 0);
    assert_eq!(registry.finalize(id, Some(Duration::ZERO)).expect("nobody is left"), 7);
}

/// The guard that a handler took and left, for the test to look at.
static LEFT: AtomicU64 = AtomicU64::new(0);

extern "C" fn leaves_a_guard(_: libc::c_int) {
    let guard = lookup(IN_A_HANDLER);
    handler_check!(guard.is_ok());
    std::mem::forget(guard);
    LEFT.fetch_add(1, SeqCst);
}

fn a_handler_on_a_signal_stack_is_told() {
    let (registry, id) = set_up(Registry::with_capacity(8).ledger(true));
    let _outside = registry.lookup_at(id, OUTSIDE).expect("live");
    // The standard library gives every thread of its own a signal stack.
    install(Signal::SIGUSR1, leaves_a_guard, SaFlags::SA_ONSTACK);
    raise(Signal::SIGUSR1).expect("raised");
    assert_eq!(LEFT.load(SeqCst), 1);
    let holders = registry.holders(id).expect("registered");
    for holder in &holders {
        assert_eq!(holder.in_handler, holder.site == IN_A_HANDLER, "{holder:?}");
    }
    assert_eq!(holders.iter().count(), 2);
    assert!(holders.to_string().contains("in a signal handler"), "{holders}");
    println!("{holders}");
}

extern "C" fn checks_errno(_: libc::c_int) {
    // SAFETY: errno's address is this thread's.
    let errno = || unsafe { *libc::__errno_location() };
    let before = errno();
    let guard = lookup(IN_A_HANDLER);
    let clone = guard.clone();
    drop((guard, clone));
    handler_check!(errno() == before);
    HANDLED.fetch_add(1, SeqCst);
}

/// Broken twin `errno_touched`. One of the recording's system calls fails here each time, as a seccomp filter can have it.
fn errno_is_preserved() {
    set_up(Registry::with_capacity(8).ledger(true));
    forbid(libc::SYS_prctl, Some((0, libc::PR_GET_NAME as u32)), libc::EPERM);
    let mut name = [0_u8; 16];
    // SAFETY: `name` has the 16 bytes that this writes, if it writes any.
    assert_eq!(unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) }, -1, "it fails");
    install(Signal::SIGUSR1, checks_errno, SaFlags::empty());
    for errno in [0, libc::EBADF, 12345] {
        nix::errno::Errno::set_raw(errno);
        raise(Signal::SIGUSR1).expect("raised");
        assert_eq!(nix::errno::Errno::last_raw(), errno);
    }
    assert_eq!(HANDLED.load(SeqCst), 3);
}

static PARTS: OnceLock<interp_guard::raw::GuardParts> = OnceLock::new();

/// Gives a guard up that was given up before: caught, with no panic and no count touched.
extern "C" fn releases_again(_: libc::c_int) {
    let (Some(registry), Some(&parts)) = (REGISTRY.get(), PARTS.get()) else {
        return handler_check!(false);
    };
    // SAFETY: put together twice, on purpose, and not dereferenced.
    let stale = unsafe { registry.guard_from_parts(parts) };
    handler_check!(stale.into_raw().release().is_err());
    HANDLED.fetch_add(1, SeqCst);
}

fn over_release_in_a_handler() {
    let (registry, id) = set_up(Registry::with_capacity(8).ledger(true));
    let parts = registry.lookup(id).expect("live").into_raw().into_parts();
    // SAFETY: put together once here.
    drop(unsafe { registry.guard_from_parts(parts) });
    PARTS.set(parts).expect("set once");
    install(Signal::SIGUSR1, releases_again, SaFlags::empty());
    let guard = registry.lookup(id).expect("live");
    for _ in 0..100 {
        raise(Signal::SIGUSR1).expect("raised");
    }
    assert_eq!((HANDLED.load(SeqCst), registry.outstanding(id)), (100, Some(1)));
    drop(guard);
    assert_eq!(registry.finalize(id, Some(Duration::ZERO)).expect("nobody is left"), 7);
}
