//! What a forked child finds, and what it may do.
//!
//! A child does only what is listed in its closure and then `_exit`s; an alarm ends it if it hangs.
#![allow(missing_docs)]

mod again;
mod refuse;

use again::{again, in_child};
use interp_guard::bound::{self, Bound, CallError, Loop, Refused};
use interp_guard::locked::{Locked, WithError};
use interp_guard::pending::{PendingQueue, Worker, WorkerOptions};
use interp_guard::raw::GuardParts;
use interp_guard::{
    CloseError, Counters, DrainError, DrainOptions, FinalizeError, Guard, InterpreterId, Registry,
    thread_state,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getpid};
use refruntime::Interpreter;
use refuse::refuse;
use std::fs::File;
use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, AsRawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Barrier, mpsc};
use std::time::Duration;

/// When a child counts as hung, in seconds. A failure deadline: nothing waits for it.
const DEADLINE: u32 = 60;

const NOW: Option<Duration> = Some(Duration::ZERO);

/// Forks without telling anybody; the child runs `child`, which fails the test by panicking.
fn forked(child: impl FnOnce()) {
    // SAFETY: the child calls what this library declares usable there, what the C library makes usable after a fork, the
    // allocator included, and `_exit`.
    match unsafe { fork() }.expect("fork") {
        ForkResult::Child => {
            nix::unistd::alarm::set(DEADLINE);
            // Also while `before_fork` has the signals blocked.
            SigSet::from(Signal::SIGALRM).thread_unblock().expect("mask");
            let failed = catch_unwind(AssertUnwindSafe(child)).is_err();
            // SAFETY: ends the process.
            unsafe { libc::_exit(i32::from(failed)) }
        }
        ForkResult::Parent { child } => {
            assert_eq!(waitpid(child, None).expect("waitpid"), WaitStatus::Exited(child, 0));
        }
    }
}

/// Forks around `registry`. The child keeps `kept`.
fn forked_with<T: Send + Sync>(registry: &Registry<T>, kept: &mut [&mut Guard<'_, T>], child: impl FnOnce()) {
    registry.before_fork();
    forked(|| {
        // SAFETY: the child; the tests dereference only what they keep.
        unsafe { registry.after_fork_child(kept) };
        child();
    });
    registry.after_fork_parent();
}

fn modes() -> impl Iterator<Item = Counters> {
    let per_cpu = interp_guard::platform::missing_for_per_cpu().is_none().then_some(Counters::PerCpu);
    per_cpu.into_iter().chain([Counters::Shared])
}

fn registry(ledger: bool, counters: Counters) -> (Registry<u32>, InterpreterId) {
    let registry = Registry::with_capacity(16).ledger(ledger).counters(counters);
    let id = registry.register(7).expect("registered");
    (registry, id)
}

fn kept_holds_inherited_does_not(ledger: bool, counters: Counters) {
    let (registry, id) = registry(ledger, counters);
    let mut kept = vec![registry.lookup(id).expect("live")];
    let mut inherited = vec![registry.lookup(id).expect("live"), kept[0].clone()];
    inherited.push(inherited[0].clone());
    registry.before_fork();
    forked(|| {
        // SAFETY: the child; only `kept` is dereferenced.
        unsafe { registry.after_fork_child(&mut [&mut kept[0]]) };
        assert_eq!(registry.outstanding(id), Some(1));
        // Neither dropping nor cloning what was not kept counts anything.
        drop(inherited.clone());
        inherited.clear();
        assert_eq!(registry.outstanding(id), Some(1));
        let late = registry.finalize(id, NOW).unwrap_err();
        assert!(matches!(late, FinalizeError::Drain(DrainError::Timeout(_))), "{late}");
        assert_eq!(*kept[0], 7);
        let again = kept[0].clone();
        kept.clear();
        assert_eq!(registry.outstanding(id), Some(1));
        drop(again);
        let FinalizeError::Drain(late) = late else { unreachable!() };
        assert_eq!(late.into_closing().drain(NOW).expect("nobody holds it"), 7);
        let next = registry.register(8).expect("the registry goes on");
        assert_eq!(*registry.lookup(next).expect("live"), 8);
    });
    registry.after_fork_parent();
    assert_eq!(registry.outstanding(id), Some(4), "the parent goes on as it was");
    drop((kept, inherited));
    assert_eq!(registry.finalize(id, NOW).expect("nobody holds it"), 7);
}

#[test]
fn a_kept_guard_holds_its_finalizer_and_an_inherited_one_does_not() {
    for counters in modes() {
        for ledger in [false, true] {
            kept_holds_inherited_does_not(ledger, counters);
        }
    }
}

#[test]
fn what_vanished_threads_held_holds_nobody() {
    for counters in modes() {
        let (registry, id) = registry(false, counters);
        let (taken, done) = (Barrier::new(9), Barrier::new(9));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let guard = registry.lookup(id).expect("live");
                    taken.wait();
                    done.wait();
                    drop(guard);
                });
            }
            taken.wait();
            assert_eq!(registry.outstanding(id), Some(8));
            forked_with(&registry, &mut [], || {
                assert_eq!(registry.finalize(id, NOW).expect("nobody is left"), 7);
            });
            done.wait();
        });
        assert_eq!(registry.finalize(id, NOW).expect("all have left"), 7);
    }
}

#[test]
fn what_a_vanished_thread_was_closing_can_be_taken_up() {
    let (registry, id) = registry(false, Counters::Shared);
    let _guard = registry.lookup(id).expect("live");
    let (closed, done) = (Barrier::new(2), Barrier::new(2));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let closing = registry.close(id).expect("live");
            closed.wait();
            done.wait();
            drop(closing);
        });
        closed.wait();
        forked_with(&registry, &mut [], || {
            let closing = registry.close(id).expect("its owner is gone");
            assert_eq!(registry.close(id).unwrap_err(), CloseError::AlreadyClosing);
            assert_eq!(closing.drain(NOW).expect("nobody is left"), 7);
        });
        assert_eq!(registry.close(id).unwrap_err(), CloseError::AlreadyClosing, "the parent's owner lives");
        done.wait();
    });
}

#[test]
fn the_forking_threads_own_closing_stays_good_until_it_is_taken_up() {
    let (registry, id) = registry(false, Counters::Shared);
    let closing = registry.close(id).expect("live");
    let mut closing = Some(closing);
    forked_with(&registry, &mut [], || {
        assert_eq!(closing.take().unwrap().drain(NOW).expect("nobody holds it"), 7);
    });
    forked_with(&registry, &mut [], || {
        let taken_up = registry.close(id).expect("it can be taken up");
        let late = closing.take().unwrap().drain(NOW).unwrap_err();
        assert!(matches!(late, DrainError::Superseded(_)), "{late}");
        drop(late);
        assert_eq!(taken_up.drain(NOW).expect("nobody holds it"), 7);
    });
    for first in [100, 200, 300, 400] {
        forked_with(&registry, &mut [], || {
            assert_eq!(registry.finalize(id, NOW).expect("it can be taken up"), 7);
            // In one child or the other, another interpreter is where it was, and guarded: not what this waits for.
            let ids = (first..first + 16).map(|raw| InterpreterId::try_from(raw).unwrap());
            let registered = ids.inspect(|&id| registry.register_with_id(id, 8).expect("room"));
            let guards: Vec<_> = registered.map(|id| registry.lookup(id).expect("live")).collect();
            let late = closing.take().unwrap().drain(None).unwrap_err();
            assert!(matches!(late, DrainError::Superseded(_)), "{late}");
            drop(guards);
        });
    }
    assert_eq!(closing.unwrap().drain(NOW).expect("the parent's"), 7);
}

#[test]
fn the_forking_threads_own_closing_is_not_taken_up_while_it_drains() {
    let (registry, id) = registry(false, Counters::Shared);
    let mut guard = Some(registry.lookup(id).expect("live"));
    let mut closing = Some(registry.close(id).expect("live"));
    registry.before_fork();
    forked(|| {
        // SAFETY: the child; the guard is kept.
        unsafe { registry.after_fork_child(&mut [guard.as_mut().unwrap()]) };
        let while_it_waits = || {
            assert_eq!(registry.close(id).unwrap_err(), CloseError::AlreadyClosing);
            guard = None;
            ControlFlow::Continue(())
        };
        let options = DrainOptions::new().interrupt(while_it_waits);
        assert_eq!(closing.take().unwrap().drain_with(options).expect("nobody holds it"), 7);
    });
    registry.after_fork_parent();
}

#[test]
fn the_three_nest_and_either_may_keep() {
    for inner_keeps in [false, true] {
        let (registry, id) = registry(true, Counters::Shared);
        let mut kept = vec![registry.lookup(id).expect("live"), registry.lookup(id).expect("live")];
        registry.before_fork();
        registry.before_fork();
        forked(|| {
            let (mut inner, mut outer): (Vec<_>, Vec<_>) = (vec![], kept.iter_mut().collect());
            if inner_keeps {
                std::mem::swap(&mut inner, &mut outer);
            }
            // SAFETY: the child; both guards are kept by one of the two.
            unsafe { registry.after_fork_child(&mut inner) };
            // SAFETY: as above.
            unsafe { registry.after_fork_child(&mut outer) };
            assert_eq!(registry.outstanding(id), Some(2));
            assert_eq!(registry.holders(id).unwrap().iter().count(), 2);
            kept.clear();
            assert_eq!(registry.finalize(id, NOW).expect("nobody holds it"), 7);
        });
        registry.after_fork_parent();
        registry.after_fork_parent();
    }
}

#[test]
fn a_guard_that_was_not_kept_cannot_be_kept_by_a_grandchild() {
    let (registry, id) = registry(false, Counters::Shared);
    let mut guard = registry.lookup(id).expect("live");
    let (registry, guard) = (&registry, &mut guard);
    forked_with(registry, &mut [], || {
        forked_with(registry, &mut [guard], || {
            assert_eq!(registry.outstanding(id), Some(0));
        });
    });
}

#[test]
fn a_guard_of_another_registry_is_left_as_it_is() {
    let ((one, id), (other, other_id)) =
        (registry(false, Counters::Shared), registry(false, Counters::Shared));
    let mut guard = vec![one.lookup(id).expect("live")];
    other.before_fork();
    forked(|| {
        // SAFETY: the child.
        unsafe { other.after_fork_child(&mut [&mut guard[0]]) };
        assert_eq!((one.outstanding(id), other.outstanding(other_id)), (Some(1), Some(0)));
        guard.clear();
        assert_eq!(one.outstanding(id), Some(0));
    });
    other.after_fork_parent();
}

#[test]
fn plain_data_can_be_kept() {
    let (registry, id) = registry(true, Counters::Shared);
    let mut parts: [GuardParts; 2] =
        [0; 2].map(|_| registry.lookup(id).expect("live").into_raw().into_parts());
    registry.before_fork();
    forked(|| {
        // SAFETY: the child; the first is kept, the second not used.
        unsafe { registry.after_fork_child_with(|keep| keep(&mut parts[0])) };
        // SAFETY: parts of this registry's guards, put together once.
        let [kept, inherited] = parts.map(|parts| unsafe { registry.guard_from_parts(parts) });
        drop(inherited);
        assert_eq!((registry.outstanding(id), *kept), (Some(1), 7));
        drop(kept);
        assert_eq!(registry.finalize(id, NOW).expect("nobody holds it"), 7);
    });
    registry.after_fork_parent();
}

#[test]
fn the_childs_ledger_has_what_is_kept_under_the_thread_that_forked() {
    let (registry, id) = registry(true, Counters::Shared);
    let mut inherited = Some(registry.lookup(id).expect("live"));
    let mut kept = vec![std::thread::scope(|scope| {
        let other = scope.spawn(|| registry.lookup(id).expect("live"));
        other.join().expect("joined")
    })];
    let site = registry.holders(id).unwrap().iter().last().unwrap().site;
    registry.before_fork();
    forked(|| {
        // SAFETY: the child; only `kept` is used.
        unsafe { registry.after_fork_child(&mut [&mut kept[0]]) };
        let holders = registry.holders(id).unwrap();
        assert_eq!((holders.iter().count(), holders.unrecorded()), (1, 0));
        let holder = holders.iter().next().unwrap();
        assert_eq!((holder.site, holder.by_this_thread, holder.thread_ended), (site, true, false));
        drop(inherited.take()); // strikes nobody out
        assert_eq!(registry.holders(id).unwrap().iter().count(), 1);
        assert_eq!(kept.pop().unwrap().into_raw().release(), Ok(()));
        assert_eq!(registry.holders(id).unwrap().iter().count(), 0);
    });
    registry.after_fork_parent();
    assert_eq!(registry.holders(id).unwrap().iter().count(), 2);
}

#[test]
fn signals_are_blocked_in_between_and_the_mask_is_given_back() {
    let (registry, _) = registry(false, Counters::Shared);
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGUSR2);
    mask.thread_set_mask().expect("mask");
    let blocked = |signal| SigSet::thread_get_mask().expect("mask").contains(signal);
    registry.before_fork();
    assert!(blocked(Signal::SIGUSR1) && blocked(Signal::SIGUSR2));
    forked(|| {
        assert!(blocked(Signal::SIGUSR1));
        // SAFETY: the child.
        unsafe { registry.after_fork_child(&mut []) };
        assert!(!blocked(Signal::SIGUSR1) && blocked(Signal::SIGUSR2));
    });
    assert!(blocked(Signal::SIGUSR1));
    registry.after_fork_parent();
    assert!(!blocked(Signal::SIGUSR1) && blocked(Signal::SIGUSR2));
}

#[test]
fn a_registry_without_interpreters_can_be_forked() {
    let registry: Registry<u32> = Registry::new();
    forked_with(&registry, &mut [], || {
        let id = registry.register(7).expect("registered");
        assert_eq!(registry.finalize(id, NOW).expect("drained"), 7);
    });
    assert!(registry.is_empty());
}

#[test]
fn a_child_has_threads_of_its_own() {
    for counters in modes() {
        let (registry, id) = registry(false, counters);
        let _inherited = registry.lookup(id).expect("live");
        forked_with(&registry, &mut [], || {
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| (0..1000).for_each(|_| drop(registry.lookup(id).expect("live"))));
                }
            });
            assert_eq!(registry.finalize(id, NOW).expect("nobody is left"), 7);
        });
    }
}

#[test]
fn a_childs_statistics_are_its_own() {
    let (registry, _) = registry(false, Counters::Shared);
    let id = registry.register(8).expect("registered");
    registry.finalize(id, NOW).expect("drained");
    forked_with(&registry, &mut [], || assert_eq!(registry.stats().drains, 0));
    assert_eq!(registry.stats().drains, 1);
}

#[test]
fn a_registry_that_moved_in_between_is_refused() {
    std::thread::spawn(|| {
        let here = Box::new(registry(false, Counters::Shared).0);
        here.before_fork();
        let there = *here;
        let in_parent = catch_unwind(AssertUnwindSafe(|| there.after_fork_parent()));
        // SAFETY: no child, but it is refused before that matters.
        let in_child = catch_unwind(AssertUnwindSafe(|| unsafe { there.after_fork_child(&mut []) }));
        for refused in [in_parent.unwrap_err(), in_child.unwrap_err()] {
            let message = refused.downcast_ref::<String>().expect("a message");
            assert!(message.contains("the registry stays where it is"), "{message}");
        }
    })
    .join()
    .expect("no panic");
}

#[test]
fn an_answer_without_a_question_is_refused() {
    let (registry, _) = registry(false, Counters::Shared);
    assert!(catch_unwind(AssertUnwindSafe(|| registry.after_fork_parent())).is_err());
}

#[test]
fn every_fork_can_be_told_of_a_registry() {
    // In a process of its own: with these hooks, `before_fork` by hand must not meet another thread's fork.
    if !in_child() {
        return again("every_fork_can_be_told_of_a_registry", &[]);
    }
    static ONE: Registry<u32> = Registry::new();
    static OTHER: Registry<u32> = Registry::new();
    // SAFETY: no child in this file uses a guard of these two that it does not keep.
    unsafe { interp_guard::fork::install_atfork(&ONE) }.expect("installed");
    // SAFETY: as above.
    unsafe { interp_guard::fork::install_atfork(&OTHER) }.expect("installed");
    let before = SigSet::thread_get_mask().expect("mask");
    let ids = [&ONE, &OTHER].map(|registry| registry.register(7).expect("registered"));
    let _guards = [&ONE, &OTHER].map(|registry| registry.lookup(ids[0]).expect("live"));
    let finalize_both = || {
        assert_eq!(SigSet::thread_get_mask().expect("mask"), before);
        for registry in [&ONE, &OTHER] {
            assert_eq!(registry.finalize(ids[0], NOW).expect("nobody is left"), 7);
        }
    };
    forked(finalize_both);
    assert_eq!(SigSet::thread_get_mask().expect("mask"), before);
    // Inside somebody's own three, which keep a guard.
    let mut kept = ONE.lookup(ids[0]).expect("live");
    forked_with(&ONE, &mut [&mut kept], || {
        assert_eq!((ONE.outstanding(ids[0]), OTHER.outstanding(ids[0])), (Some(1), Some(0)));
    });
    assert_eq!(ONE.outstanding(ids[0]), Some(2));
}

#[test]
fn the_forking_threads_ensure_levels_are_counted_anew() {
    let registry = Registry::new().ledger(true);
    let interpreters = [0; 2].map(|_| refruntime::Interpreter::locking());
    let [outer_id, inner_id] = interpreters.map(|one| one.register(&registry).expect("room"));
    let mut outer = Some(thread_state::ensure_id(&registry, outer_id).expect("live"));
    let mut inner = Some(thread_state::ensure_id(&registry, inner_id).expect("live"));
    let _inherited = registry.lookup(inner_id).expect("live");
    forked_with(&registry, &mut [], || {
        let out = || [outer_id, inner_id].map(|id| registry.outstanding(id).unwrap());
        let held = out();
        assert!(held[0] >= 1 && held[1] == 1, "{held:?}");
        let blocked = registry.finalize(inner_id, NOW).unwrap_err();
        assert!(matches!(blocked, FinalizeError::WouldDeadlock(_)), "{blocked}");
        drop(blocked);
        drop(inner.take());
        drop(outer.take());
        assert_eq!(out(), [0, 0]);
        registry.finalize(inner_id, NOW).expect("nobody is left");
        registry.finalize(outer_id, NOW).expect("nobody is left");
    });
}

#[test]
fn what_was_pending_is_the_parents_to_run() {
    static RUN: AtomicUsize = AtomicUsize::new(0);
    fn note(_: &Guard<'_, u32>, data: usize) {
        RUN.fetch_add(data, SeqCst);
    }
    let (registry, id) = registry(false, Counters::Shared);
    let queue = PendingQueue::new(&registry).expect("a queue");
    queue.push(registry.lookup(id).expect("live"), note, 1).expect("room");
    forked_with(&registry, &mut [], || {
        assert!(queue.is_empty());
        queue.push(registry.lookup(id).expect("live"), note, 100).expect("room");
        queue.run_pending();
        assert_eq!((RUN.load(SeqCst), registry.outstanding(id)), (100, Some(0)));
        assert_eq!(registry.finalize(id, NOW).expect("nobody is left"), 7);
    });
    queue.run_pending();
    assert_eq!((RUN.load(SeqCst), registry.outstanding(id)), (1, Some(0)));
}

// --- several registries, several threads ---------------------------------------------------------------------------------

fn all_blocked() -> bool {
    let mask = SigSet::thread_get_mask().expect("mask");
    Signal::iterator()
        .filter(|signal| !matches!(signal, Signal::SIGKILL | Signal::SIGSTOP | Signal::SIGALRM))
        .all(|signal| mask.contains(signal))
}

/// The signals that are blocked: of a `SigSet` the kernel fills in the first eight bytes.
fn mask() -> Vec<Signal> {
    SigSet::thread_get_mask().expect("mask").iter().collect()
}

#[test]
fn two_registries_around_a_fork_are_answered_in_any_order() {
    let two = [(); 2].map(|()| registry(false, Counters::Shared).0);
    let before = mask();
    for order in [[0, 1], [1, 0]] {
        let before_forks = || two.iter().for_each(Registry::before_fork);
        before_forks();
        forked(|| {
            for (left, which) in [(1, order[0]), (0, order[1])] {
                // SAFETY: the child.
                unsafe { two[which].after_fork_child(&mut []) };
                assert_eq!(all_blocked(), left > 0, "{order:?}: signals are blocked until the last answer");
            }
            assert!(!mask().contains(&Signal::SIGUSR1));
            two.iter().for_each(|one| _ = one.register(8).expect("its mutex was given back"));
        });
        two[order[0]].after_fork_parent();
        assert!(all_blocked(), "{order:?}: signals are blocked until the last answer");
        two[order[1]].after_fork_parent();
        assert_eq!(mask(), before, "{order:?}");
    }
    // The inner one of a nested pair is no answer for the other registry.
    two[0].before_fork();
    two[1].before_fork();
    two[0].before_fork();
    [0, 0, 1].iter().for_each(|&which: &usize| {
        assert!(all_blocked());
        two[which].after_fork_parent();
    });
    assert_eq!(mask(), before);
}

#[test]
fn two_threads_fork_around_two_registries_in_opposite_order() {
    // In a process of its own: where they wait for each other, an alarm ends it.
    if !in_child() {
        return again("two_threads_fork_around_two_registries_in_opposite_order", &[]);
    }
    nix::unistd::alarm::set(DEADLINE);
    let two = [(); 2].map(|()| registry(false, Counters::Shared).0);
    let begin = Barrier::new(2);
    std::thread::scope(|scope| {
        for order in [[0, 1], [1, 0]] {
            let (two, begin) = (&two, &begin);
            scope.spawn(move || {
                for _ in 0..2_000 {
                    begin.wait();
                    for which in order {
                        two[which].before_fork();
                        std::thread::yield_now();
                    }
                    order.iter().for_each(|&which: &usize| two[which].after_fork_parent());
                }
            });
        }
    });
}

/// One thread asks by hand and forks, the other one only forks, and the C library asks for it.
#[test]
fn a_thread_that_asks_by_hand_and_one_that_only_forks_do_not_wait_for_each_other() {
    if !in_child() {
        return again("a_thread_that_asks_by_hand_and_one_that_only_forks_do_not_wait_for_each_other", &[]);
    }
    // SAFETY: a string that lives as long as the process.
    let version = unsafe { std::ffi::CStr::from_ptr(libc::gnu_get_libc_version()) }.to_str().expect("ASCII");
    let minor = version.strip_prefix("2.").and_then(|minor| minor.parse::<u32>().ok());
    if minor.is_none_or(|minor| minor < 36) {
        return println!("not asked of glibc {version}, which holds a lock while it calls such functions");
    }
    nix::unistd::alarm::set(DEADLINE);
    static ONE: Registry<u32> = Registry::new();
    static OTHER: Registry<u32> = Registry::new();
    for registry in [&ONE, &OTHER] {
        registry.register(7).expect("registered");
        // SAFETY: the children here only exit.
        unsafe { interp_guard::fork::install_atfork(registry) }.expect("installed");
    }
    fn exits() {
        // SAFETY: the child only exits.
        match unsafe { fork() }.expect("fork") {
            // SAFETY: ends the process.
            ForkResult::Child => unsafe { libc::_exit(0) },
            ForkResult::Parent { child } => {
                assert_eq!(waitpid(child, None).expect("waitpid"), WaitStatus::Exited(child, 0));
            }
        }
    }
    let begin = Barrier::new(2);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..300 {
                begin.wait();
                ONE.before_fork();
                std::thread::yield_now();
                exits();
                ONE.after_fork_parent();
            }
        });
        for _ in 0..300 {
            begin.wait();
            exits();
        }
    });
}

#[test]
fn a_thread_does_not_pass_for_one_that_has_ended() {
    // In a process of its own, for what it leaves locked.
    if !in_child() {
        return again("a_thread_does_not_pass_for_one_that_has_ended", &[]);
    }
    static REGISTRY: Registry<u32> = Registry::new();
    REGISTRY.register(7).expect("registered");
    // SAFETY: no requirements.
    let this_thread = || unsafe { libc::pthread_self() };
    let asked = move || {
        REGISTRY.before_fork();
        this_thread()
    };
    let ended = std::thread::spawn(asked).join().expect("asked");
    let later = move || {
        let refused = catch_unwind(|| REGISTRY.after_fork_parent()).is_err();
        // SAFETY: no child, but it is refused before that matters.
        let in_child = catch_unwind(|| unsafe { REGISTRY.after_fork_child(&mut []) }).is_err();
        (this_thread() == ended, refused && in_child)
    };
    let at_its_address = (0..1_000).find_map(|_| {
        let (same, refused) = std::thread::spawn(later).join().expect("no panic");
        assert!(refused, "a thread{} answered for it", if same { " at its address" } else { "" });
        same.then_some(())
    });
    at_its_address.expect("the C library gives a new thread the place of one that has ended");
}

#[test]
fn a_registry_that_goes_unanswered_lets_others_fork() {
    std::thread::spawn(|| {
        let (gone, _) = registry(false, Counters::Shared);
        let before = mask();
        gone.before_fork();
        drop(gone);
        assert_eq!(mask(), before);
    })
    .join()
    .expect("no panic");
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        forked_with(&registry(false, Counters::Shared).0, &mut [], || ());
        tell.send(()).expect("waited for");
    });
    told.recv_timeout(Duration::from_secs(DEADLINE.into())).expect("it forks");
}

#[test]
fn a_registry_that_moved_gives_its_share_back_once() {
    let (other, _) = registry(false, Counters::Shared);
    let before = mask();
    let mut place = Some(registry(false, Counters::Shared).0);
    place.as_ref().expect("here").before_fork();
    other.before_fork();
    let moved = Box::new(place.take());
    let answer = |registry: &Option<Registry<u32>>| {
        catch_unwind(AssertUnwindSafe(|| registry.as_ref().expect("here").after_fork_parent())).is_ok()
    };
    assert!(!answer(&moved), "it is told");
    place = *moved;
    // SAFETY: no child, but it is refused before that matters.
    let in_child = || unsafe { place.as_ref().expect("here").after_fork_child(&mut []) };
    assert!(catch_unwind(AssertUnwindSafe(in_child)).is_err(), "its signals may have come through meanwhile");
    assert!(answer(&place), "back again, it gets its mutex back");
    assert!(all_blocked(), "the other one is unanswered");
    place.expect("here").register(8).expect("the mutex is free");
    other.after_fork_parent();
    assert_eq!(mask(), before);
}

// --- pending queues --------------------------------------------------------------------------------------------------

fn readable(queue: &impl AsFd) -> bool {
    let mut events = [PollFd::new(queue.as_fd(), PollFlags::POLLIN)];
    poll(&mut events, PollTimeout::ZERO).expect("poll") == 1
}

static RUN: AtomicUsize = AtomicUsize::new(0);

fn add(_: &Guard<'_, u32>, data: usize) {
    RUN.fetch_add(data, SeqCst);
}

/// Takes every descriptor that this process may have, once it may have no more than `limit`.
fn exhaust(limit: u64) -> Vec<File> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, limit, hard).expect("lowered");
    std::iter::from_fn(|| File::open("/dev/null").ok()).collect()
}

/// Forks with what `queue` of `registry` has pending; in the child, which has none of that, `child` runs when the parent has
/// pushed, and after it the parent's queue is as that push has left it.
fn the_childs_queue_is_its_own(queue: &PendingQueue<'_, u32>, id: InterpreterId, child: impl FnOnce()) {
    let registry = queue.registry();
    let ((mut pushed, mut push), (mut done, mut finish)) =
        (std::io::pipe().expect("a pipe"), std::io::pipe().expect("a pipe"));
    let full = exhaust(64);
    registry.before_fork();
    // SAFETY: the child calls what this library declares usable there, the allocator, and `_exit`.
    match unsafe { fork() }.expect("fork") {
        ForkResult::Child => {
            nix::unistd::alarm::set(DEADLINE);
            SigSet::from(Signal::SIGALRM).thread_unblock().expect("mask");
            let failed = catch_unwind(AssertUnwindSafe(|| {
                // SAFETY: the child.
                unsafe { registry.after_fork_child(&mut []) };
                pushed.read_exact(&mut [0]).expect("told");
                child();
                finish.write_all(&[0]).expect("waited for");
            }));
            // SAFETY: ends the process.
            unsafe { libc::_exit(failed.is_err().into()) }
        }
        ForkResult::Parent { child } => {
            registry.after_fork_parent();
            drop((full, finish));
            queue.push(registry.lookup(id).expect("live"), add, 1).expect("room");
            push.write_all(&[0]).expect("waited for");
            let _ = done.read_exact(&mut [0]);
            assert_eq!(waitpid(child, None).expect("waitpid"), WaitStatus::Exited(child, 0));
            assert!(readable(queue), "the child has reset its parent's eventfd");
            assert_eq!((queue.run_pending().calls, RUN.load(SeqCst), readable(queue)), (1, 1, false));
        }
    }
}

#[test]
fn a_child_that_is_given_no_descriptor_has_an_eventfd_of_its_own() {
    if !in_child() {
        return again("a_child_that_is_given_no_descriptor_has_an_eventfd_of_its_own", &[]);
    }
    let (registry, id) = registry(false, Counters::Shared);
    let queue = PendingQueue::new(&registry).expect("a queue");
    the_childs_queue_is_its_own(&queue, id, || {
        assert!(File::open("/dev/null").is_err(), "there is none to be had");
        for _ in 0..3 {
            queue.run_pending(); // the first resets it
            assert!(!readable(&queue), "what the parent has pushed is not the child's");
            queue.push(registry.lookup(id).expect("live"), add, 100).expect("room");
            assert!(readable(&queue), "what the child pushes wakes the child");
            assert_eq!(queue.run_pending().calls, 1);
        }
        // Nor is a child of this child in want of one.
        forked_with(&registry, &mut [], || {
            assert!(File::open("/dev/null").is_err());
            queue.push(registry.lookup(id).expect("live"), add, 100).expect("room");
            assert!(readable(&queue) && queue.run_pending().calls == 1);
        });
        queue.run_pending();
        assert!(!readable(&queue), "what its child has pushed is not this one's");
    });
}

#[test]
fn a_child_that_cannot_have_an_eventfd_leaves_its_parents_alone() {
    if !in_child() {
        return again("a_child_that_cannot_have_an_eventfd_leaves_its_parents_alone", &[]);
    }
    static REGISTRY: Registry<u32> = Registry::new();
    let id = REGISTRY.register(7).expect("registered");
    // At a number beyond what `exhaust` leaves allowed: nothing can be put there.
    let low: Vec<_> = (0..80).map(|_| File::open("/dev/null").expect("opened")).collect();
    let queue = PendingQueue::new(&REGISTRY).expect("a queue");
    drop(low);
    assert!(queue.as_fd().as_raw_fd() >= 64);
    the_childs_queue_is_its_own(&queue, id, || {
        assert!(readable(&queue), "what the descriptor says is of the parent's calls");
        let push = || queue.push(REGISTRY.lookup(id).expect("live"), add, 100).expect("room");
        push();
        assert_eq!((queue.run_pending().calls, RUN.load(SeqCst)), (1, 100));
        assert!(readable(&queue), "it is left alone");
        push();
        let refused = queue.start_worker().expect_err("a worker needs it");
        println!("{refused}");
        assert!(matches!(refused.raw_os_error(), Some(libc::EBADF | libc::EMFILE)));
        // What hindered it passes.
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("raised");
        let worker = queue.start_worker().expect("it has one of its own by now");
        REGISTRY.finalize(id, Some(Duration::from_secs(DEADLINE.into()))).expect("the worker runs it");
        assert_eq!((worker.stop().calls, readable(&queue)), (1, false));
    });
}

/// How many descriptors this process has open, but for the one with which it looks.
fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("procfs").count() - 1
}

#[test]
fn a_child_that_drops_its_parents_worker_closes_that_ones_descriptors() {
    if !in_child() {
        return again("a_child_that_drops_its_parents_worker_closes_that_ones_descriptors", &[]);
    }
    static REGISTRY: Registry<u32> = Registry::new();
    REGISTRY.register(7).expect("registered");
    let queue = PendingQueue::new(&REGISTRY).expect("a queue");
    let without = descriptors();
    let mut worker = Some(queue.start_worker().expect("a worker"));
    let with = descriptors();
    assert_eq!(with, without + 2);
    fn generations(queue: &PendingQueue<'static, u32>, worker: &mut Option<Worker>, with: usize, left: u32) {
        forked_with(&REGISTRY, &mut [], || {
            drop(worker.take());
            assert_eq!(descriptors(), with - 2);
            *worker = Some(queue.start_worker().expect("a worker of the child's own"));
            assert_eq!(descriptors(), with);
            if left > 0 {
                generations(queue, worker, with, left - 1);
            }
            assert_eq!(worker.take().expect("its own").stop().calls, 0);
            assert_eq!(descriptors(), with - 2);
        });
    }
    generations(&queue, &mut worker, with, 3);
    // A thread that has ended by itself is not in the way of its worker's drop.
    let threads = || std::fs::read_dir("/proc/self/task").expect("procfs").count();
    let before = threads();
    refuse(
        &[
            #[cfg(target_arch = "x86_64")]
            libc::SYS_epoll_wait,
            libc::SYS_epoll_pwait,
            libc::SYS_epoll_pwait2,
        ],
        libc::EPERM,
    );
    queue.push(REGISTRY.lookup(REGISTRY.ids()[0]).expect("live"), add, 0).expect("room");
    while threads() == before {
        std::thread::yield_now();
    }
    forked_with(&REGISTRY, &mut [], || {
        drop(worker.take());
        assert_eq!(descriptors(), with - 2);
    });
}

// --- who am I -----------------------------------------------------------------------------------------------------------

/// Starts a worker, and forks a child by `fork`, which drops that worker; the parent's goes on.
fn a_child_leaves_the_worker_alone(fork: impl FnOnce() -> Option<Pid>) {
    static REGISTRY: Registry<u32> = Registry::new();
    let id = REGISTRY.register(7).expect("registered");
    let queue = PendingQueue::new(&REGISTRY).expect("a queue");
    let worker = queue.start_worker().expect("a worker");
    let Some(child) = fork() else {
        nix::unistd::alarm::set(DEADLINE);
        let none = catch_unwind(AssertUnwindSafe(|| assert_eq!(worker.stop().calls, 0)));
        // SAFETY: ends the process.
        unsafe { libc::_exit(none.is_err().into()) }
    };
    // The child is no thread, whatever it is to this process: `__WALL`.
    let status = waitpid(child, Some(nix::sys::wait::WaitPidFlag::__WALL)).expect("waitpid");
    assert_eq!(status, WaitStatus::Exited(child, 0));
    queue.push(REGISTRY.lookup(id).expect("live"), add, 1).expect("room");
    let left = REGISTRY.finalize(id, Some(Duration::from_secs(DEADLINE.into())));
    left.expect("the parent's worker runs what is pushed");
    assert_eq!(worker.stop().calls, 1);
}

fn plain_fork() -> Option<Pid> {
    // SAFETY: the child stops a worker, which is nothing there, and exits.
    match unsafe { fork() }.expect("fork") {
        ForkResult::Child => None,
        ForkResult::Parent { child } => Some(child),
    }
}

/// Which the C library knows nothing of.
fn raw_fork() -> Option<Pid> {
    // SAFETY: as above; without CLONE_VM the child has memory and stack of its own.
    let pid = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) };
    assert!(pid >= 0, "{}", std::io::Error::last_os_error());
    (pid > 0).then(|| Pid::from_raw(pid as i32))
}

#[test]
fn a_child_is_told_from_its_parent_by_the_kernel() {
    if !in_child() {
        return again("a_child_is_told_from_its_parent_by_the_kernel", &[]);
    }
    a_child_leaves_the_worker_alone(plain_fork);
}

#[test]
fn a_child_that_the_c_library_does_not_know_of_is_told_from_its_parent() {
    if !in_child() {
        return again("a_child_that_the_c_library_does_not_know_of_is_told_from_its_parent", &[]);
    }
    a_child_leaves_the_worker_alone(raw_fork);
}

#[test]
fn a_child_is_told_from_its_parent_where_the_kernel_does_not_do_it() {
    if !in_child() {
        return again("a_child_is_told_from_its_parent_where_the_kernel_does_not_do_it", &[]);
    }
    refuse(&[libc::SYS_madvise], libc::EINVAL);
    a_child_leaves_the_worker_alone(plain_fork);
}

#[test]
fn a_child_with_its_parents_pid_is_told_from_it() {
    if !in_child() {
        return again("a_child_with_its_parents_pid_is_told_from_it", &[]);
    }
    forked(|| {
        // With a user namespace of one's own, others need no privilege, where that is allowed at all.
        let own = || unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWPID);
        if let Err(why) = unshare(CloneFlags::CLONE_NEWPID).or_else(|_| own()) {
            return println!("NOT TESTED: no new PID namespace is to be had here ({why}). As root it is.");
        }
        forked(|| {
            assert_eq!(getpid().as_raw(), 1, "the first process of a namespace");
            a_child_leaves_the_worker_alone(|| {
                unshare(CloneFlags::CLONE_NEWPID).expect("as above");
                let child = plain_fork();
                assert!(child.is_some() || getpid().as_raw() == 1);
                child
            });
            println!("parent and child are both process 1");
        });
    });
}

/// A runtime whose `create` forks, as one does that runs a program to set itself up, and then makes no thread state.
mod forks_in_create {
    use super::*;
    use interp_guard::thread_state::{CreateError, Runtime, ensure_id, ensure_owned};

    struct Forks;

    static FORKING: Registry<Forks> = Registry::with_capacity(2);

    // SAFETY: it never makes a thread state, so nothing is ever attached.
    unsafe impl Runtime for Forks {
        type ThreadState = u64;

        fn attached() -> Option<u64> {
            None
        }

        fn interpreter_of(_: u64) -> InterpreterId {
            unreachable!("there is no thread state")
        }

        fn create(&self) -> Result<u64, CreateError> {
            FORKING.before_fork();
            match plain_fork() {
                None => {
                    nix::unistd::alarm::set(DEADLINE);
                    // SAFETY: the child, which keeps nothing that was a guard's.
                    unsafe { FORKING.after_fork_child(&mut []) };
                    Err(CreateError::new("not in a child"))
                }
                Some(child) => {
                    FORKING.after_fork_parent();
                    assert_eq!(waitpid(child, None).expect("waitpid"), WaitStatus::Exited(child, 0));
                    Err(CreateError::new("not here either"))
                }
            }
        }

        unsafe fn attach(_: u64) {}
        unsafe fn detach(_: u64) {}
        unsafe fn destroy(_: u64) {}
    }

    /// In the child: `guarded` is what it has, of all that was counted there.
    fn child_ends(id: InterpreterId, guarded: u64) -> ! {
        let ended = catch_unwind(AssertUnwindSafe(|| {
            assert_eq!(FORKING.outstanding(id), Some(guarded));
        }));
        // SAFETY: ends the process.
        unsafe { libc::_exit(i32::from(ended.is_err())) }
    }

    #[test]
    fn an_ensure_that_forks_and_fails_loses_no_guard() {
        let here = getpid();
        let id = FORKING.register(Forks).unwrap_or_else(|_| panic!("there is room"));
        assert!(ensure_id(&FORKING, id).is_err());
        if getpid() != here {
            child_ends(id, 0);
        }
        let guard = ensure_owned(FORKING.lookup(id).expect("live")).expect_err("it fails").guard;
        if getpid() != here {
            child_ends(id, 1); // what came back protects there, too
        }
        assert_eq!(FORKING.outstanding(id), Some(1));
        assert!(thread_state::ensure(&guard).is_err());
        if getpid() != here {
            child_ends(id, 0); // the level's is given up, and `guard` was not kept
        }
        drop(guard);
        assert!(FORKING.finalize(id, NOW).is_ok());
    }
}

/// A daemon comes back through the gate, and what the runtime runs there forks: in the child it is inside still.
#[test]
fn a_daemon_that_forks_while_it_attaches_keeps_the_interpreter_in_the_child() {
    static REGISTRY: Registry<Interpreter> = Registry::with_capacity(2);
    static ID: std::sync::OnceLock<InterpreterId> = std::sync::OnceLock::new();
    static ARMED: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);
    let here = getpid();
    let interpreter = Interpreter::lockless();
    let probe = interpreter.probe();
    interpreter.before_attach(|| {
        if !ARMED.swap(false, SeqCst) {
            return;
        }
        REGISTRY.before_fork();
        let Some(child) = plain_fork() else {
            nix::unistd::alarm::set(DEADLINE);
            // SAFETY: the child, which keeps nothing that was a guard's.
            unsafe { REGISTRY.after_fork_child(&mut []) };
            let id = *ID.get().expect("registered");
            let ended = std::thread::spawn(move || REGISTRY.finalize(id, NOW).map(drop)).join();
            assert!(ended.expect("it does not panic").is_err(), "this thread is in attach");
            return;
        };
        REGISTRY.after_fork_parent();
        assert_eq!(waitpid(child, None).expect("waitpid"), WaitStatus::Exited(child, 0));
    });
    let id = interpreter.register(&REGISTRY).expect("room");
    ID.set(id).expect("once");
    let attached = thread_state::ensure_id(&REGISTRY, id).expect("live");
    attached.set_daemon(true).expect("no guard is needed for that");
    let ended = catch_unwind(AssertUnwindSafe(|| {
        attached
            .allow_threads(|| ARMED.store(true, SeqCst))
            .expect("live, or closing with this thread inside");
        assert_eq!((thread_state::current_id(), probe.has_ended()), (Some(id), false));
        assert_eq!(attached.release(), Ok(()));
        REGISTRY.finalize(id, NOW).map(drop).expect("nobody is inside any more");
        assert_eq!(probe.violations(), Vec::<&str>::new());
    }));
    if getpid() != here {
        // SAFETY: ends the process.
        unsafe { libc::_exit(i32::from(ended.is_err())) }
    }
    assert!(ended.is_ok());
}

#[test]
fn an_interpreter_that_is_being_made_is_its_threads_own_in_a_child() {
    let registry = Registry::with_capacity(2);
    let (made, go_on) = (Barrier::new(2), Barrier::new(2));
    std::thread::scope(|scope| {
        // Another thread's: in the child nobody will finish it.
        scope.spawn(|| {
            let others = registry.register_with(|_| {
                made.wait();
                go_on.wait();
                1
            });
            assert!(others.is_ok());
        });
        made.wait();
        let own = registry.register_with(|own| {
            assert!(registry.register(0).is_err(), "both places are taken");
            forked_with(&registry, &mut [], || {
                let other = registry.register(3).expect("the other thread's place is free");
                assert!(registry.register(0).is_err(), "this thread's is not");
                assert_ne!(other, own);
            });
            2
        });
        let own = own.expect("registered");
        go_on.wait();
        assert_eq!(*registry.lookup(own).expect("live"), 2);
    });
    assert_eq!(registry.len(), 2);
    // And it can be finished in the child by the thread that forked.
    let registry = Registry::with_capacity(1);
    let mut child = false;
    let own = registry.register_with(|_| {
        registry.before_fork();
        // SAFETY: as in `forked`, which the child leaves by an exit below.
        match unsafe { fork() }.expect("fork") {
            ForkResult::Child => {
                nix::unistd::alarm::set(DEADLINE);
                // SAFETY: the child's only thread, no guard is out.
                unsafe { registry.after_fork_child(&mut []) };
                child = true;
            }
            ForkResult::Parent { child } => {
                registry.after_fork_parent();
                assert_eq!(waitpid(child, None).expect("waitpid"), WaitStatus::Exited(child, 0));
            }
        }
        7
    });
    let found = own.is_ok_and(|own| *registry.lookup(own).expect("live") == 7) && registry.len() == 1;
    if child {
        // SAFETY: ends the process.
        unsafe { libc::_exit(i32::from(!found)) }
    }
    assert!(found);
}

/// On a thread of its own, `inside` says when it is there, and stays there until `child` has run in a forked child.
fn forked_beside<T: Send + Sync>(
    registry: &Registry<T>,
    inside: impl FnOnce(&dyn Fn()) + Send,
    child: impl FnOnce(),
) {
    let (there, go_on) = (Barrier::new(2), Barrier::new(2));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            inside(&|| {
                there.wait();
                go_on.wait();
            });
        });
        there.wait();
        forked_with(registry, &mut [], child);
        go_on.wait();
    });
}

#[test]
fn a_lock_of_a_vanished_thread_is_free_in_a_child() {
    let registry = Registry::new();
    let [id, other] = [1, 2].map(|vm| registry.register(Locked::new(vm)).expect("registered"));
    let attached = |wait: &dyn Fn()| {
        let attached = thread_state::ensure_id(&registry, id).expect("live");
        attached.with(|vm| *vm += 10);
        wait();
        assert_eq!(attached.with(|vm| *vm), 11, "the parent's is as it was");
    };
    forked_beside(&registry, attached, || {
        // Several at a time find it so.
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..100).for_each(|_| registry.with(id, |vm| *vm += 1).expect("live")));
            }
        });
        forked_with(&registry, &mut [], || assert_eq!(registry.with(id, |vm| *vm), Ok(411)));
        assert_eq!(registry.with(other, |vm| *vm), Ok(2));
        assert_eq!(registry.finalize(id, NOW).expect("nobody is left").into_inner().ok(), Some(411));
    });
}

#[test]
fn what_a_vanished_thread_was_changing_is_not_lent_in_a_child() {
    struct Vm(u32);
    impl Drop for Vm {
        fn drop(&mut self) {
            assert_ne!(self.0, 7, "half-changed");
        }
    }
    let registry = Registry::new();
    let id = registry.register(Locked::new(Vm(1))).expect("registered");
    let changing = |wait: &dyn Fn()| {
        let changed = registry.with(id, |vm| {
            vm.0 = 7;
            wait();
            vm.0 = 8;
        });
        assert_eq!(changed, Ok(()));
    };
    forked_beside(&registry, changing, || {
        let attached = thread_state::ensure_id(&registry, id).expect("its lock is free");
        assert_eq!(attached.try_with(|_| unreachable!()), Err::<(), _>(WithError::Torn));
        assert_eq!(attached.try_with(|_| unreachable!()), Err::<(), _>(WithError::Torn), "for good");
        attached.allow_threads(|| ()).expect("it is not lent by this thread");
        drop(attached);
        let locked = registry.finalize(id, NOW).expect("nobody is left");
        drop(locked.into_inner().err().expect("it is never handed over"));
    });
    let Ok(whole) = registry.finalize(id, NOW).expect("all have left").into_inner() else { panic!("lent") };
    assert_eq!(whole.0, 8);
}

#[test]
fn the_thread_that_forks_keeps_its_lock_in_the_child() {
    let registry = Registry::new();
    let id = registry.register(Locked::new(0)).expect("registered");
    for generation in 0..2 {
        let attached = thread_state::ensure_id(&registry, id).expect("live");
        let child = || {
            // Inside the parent's `with`, on its copy.
            let ran = &AtomicUsize::new(0);
            let others = std::thread::scope(|scope| {
                let other = scope.spawn(|| {
                    let sum = registry.with(id, |vm| *vm + 100);
                    ran.store(1, SeqCst);
                    sum
                });
                for _ in 0..1_000 {
                    std::thread::yield_now();
                    assert_eq!(ran.load(SeqCst), 0, "two threads are attached");
                }
                attached.allow_threads(|| other.join().expect("no panic")).expect("guarded")
            });
            assert_eq!(others, Ok(100));
            attached.with(|vm| *vm += 1);
            // And in a child of the child.
            forked_with(&registry, &mut [], || assert_eq!(attached.with(|vm| *vm), 1));
        };
        match generation {
            0 => forked_with(&registry, &mut [], child),
            _ => attached.with(|vm| {
                forked_with(&registry, &mut [], || {
                    *vm += 1;
                    assert_eq!(attached.try_with(|_| ()), Err(WithError::Lent));
                });
                assert_eq!(*vm, 0);
            }),
        }
    }
    assert_eq!(registry.with(id, |vm| *vm), Ok(0));
}

#[test]
fn a_vm_whose_thread_is_not_there_can_be_ended_in_a_child() {
    static VMS: Registry<Bound<u32>> = Registry::with_capacity(2);
    let thread = bound::start(&VMS, WorkerOptions::new(), |_| 7).expect("started");
    let id = thread.id();
    let (began, has_begun) = mpsc::channel();
    let (go, may_go) = mpsc::channel::<()>();
    let busy = move |_: &mut u32| {
        began.send(()).expect("somebody waits");
        may_go.recv().expect("somebody says so");
    };
    VMS.post(id, busy).expect("there is room");
    has_begun.recv().expect("it runs");
    VMS.post(id, |vm| *vm += 1).expect("there is room");
    let mut thread = Some(thread);
    forked_with(&VMS, &mut [], || {
        let refused = VMS.call(id, |vm| *vm).expect_err("nobody would run it");
        assert!(matches!(refused, CallError::Refused(Refused::Ended)), "{refused}");
        assert_eq!(VMS.post(id, |_| ()).expect_err("nor that").why, Refused::Ended);
        assert_eq!(VMS.outstanding(id), Some(0), "what waited is the parent's");
        drop(VMS.finalize(id, NOW).expect("nobody is left"));
        thread.take().expect("the child's copy").join().expect("there is nothing to wait for");
        // A new one is the child's own.
        let own = bound::start(&VMS, WorkerOptions::new(), |_| 1).expect("started");
        assert_eq!(VMS.call(own.id(), |vm| *vm).expect("live"), 1);
        drop(VMS.finalize(own.id(), None).expect("it is served"));
        own.join().expect("no panic");
    });
    go.send(()).expect("it waits");
    assert_eq!(VMS.call(id, |vm| *vm).expect("live"), 8, "the parent's went on");
    drop(VMS.finalize(id, None).expect("it is served"));
    thread.take().expect("the parent's").join().expect("no panic");
}

#[test]
fn the_thread_that_forks_keeps_its_vm_in_the_child() {
    static VMS: Registry<Bound<u32>> = Registry::with_capacity(2);
    let mut vm = Loop::new(&VMS, |_| 1).expect("made");
    let id = vm.id();
    VMS.post(id, |vm| *vm += 10).expect("there is room");
    // The child's copy is ended there.
    let mut copy = Some(&mut vm);
    forked_with(&VMS, &mut [], || {
        let vm = copy.take().expect("one child");
        assert!(vm.turn().is_continue(), "what waited is the parent's");
        let call = |guard: &Guard<'_, Bound<u32>>, data| {
            guard.with(|vm| *vm += data as u32).expect("its thread");
        };
        vm.queue().push(VMS.lookup(id).expect("live"), call, 100).expect("there is room");
        assert!(vm.turn().is_continue());
        assert_eq!(vm.with(|vm| *vm), 101);
        assert_eq!(VMS.call(id, |vm| *vm).expect("here"), 101);
        assert_eq!(VMS.post(id, |_| ()).expect_err("no jobs").why, Refused::Ended);
        drop(VMS.finalize(id, NOW).expect("nobody is left"));
        assert!(vm.turn().is_break());
    });
    assert!(vm.turn().is_continue());
    assert_eq!(vm.with(|vm| *vm), 11);
    drop(VMS.finalize(id, NOW).expect("nothing waits"));
    assert_eq!(vm.into_inner(), 11);
}

#[test]
fn what_waited_for_a_vm_is_not_dropped_in_a_child() {
    static VMS: Registry<Bound<u32>> = Registry::with_capacity(2);
    struct Own(Pid);
    impl Drop for Own {
        fn drop(&mut self) {
            assert_eq!(self.0, getpid(), "a child's copy");
            DROPPED.fetch_add(1, SeqCst);
        }
    }
    static DROPPED: AtomicUsize = AtomicUsize::new(0);
    let vm = Loop::new(&VMS, |_| 1).expect("made");
    let id = vm.id();
    let own = Own(getpid());
    VMS.post(id, move |_| unreachable!("{:p}", &own)).expect("there is room");
    let mut vm = Some(vm);
    forked_with(&VMS, &mut [], || {
        drop(VMS.finalize(id, NOW).expect("nobody is left"));
        drop(vm.take());
        assert_eq!(DROPPED.load(SeqCst), 0);
    });
    drop(vm.take());
    assert_eq!(DROPPED.load(SeqCst), 1);
}
