//! `Registry::finalize_all`: everything closed first, one deadline, every interpreter accounted for.

use interp_guard::{
    CloseError, DrainError, DrainOptions, FinalizeError, LookupError, Phase, RegisterError, Registry,
};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn hands_out_the_newest_first_and_the_main_interpreter_last() {
    let registry = Registry::new();
    // IDs in another order than registrations, and main neither the first nor the last of them.
    let ids = [5, 3, 9, 4].map(|id| interp_guard::InterpreterId::try_from(id).unwrap());
    for id in ids {
        registry.register_with_id(id, i64::from(id)).unwrap();
    }
    registry.set_main(ids[2]).unwrap();
    let all = registry.finalize_all(None).into_iter().map(|(id, outcome)| (id, outcome.unwrap()));
    assert_eq!(all.collect::<Vec<_>>(), [(ids[3], 4), (ids[1], 3), (ids[0], 5), (ids[2], 9)]);
    assert!(registry.is_empty());
    assert_eq!(registry.main(), None);
}

#[test]
fn closes_all_before_it_drains_any() {
    let registry = &Registry::new();
    let held = registry.register("held").unwrap();
    let others = [1, 2, 3].map(|_| registry.register("other").unwrap());
    let guard = registry.lookup(held).unwrap();
    thread::scope(|scope| {
        let (closed, is_closed) = mpsc::channel();
        let observer = move |phase| {
            if let Phase::Closed { interpreters } = phase {
                closed.send(interpreters).unwrap();
            }
        };
        let shutdown = scope.spawn(move || {
            let options = DrainOptions::new().observe(observer);
            registry.finalize_all_with(options).into_iter().all(|(_, outcome)| outcome.is_ok())
        });
        assert_eq!(is_closed.recv(), Ok(4));
        // The drain of `held` is still waiting, for this thread's guard.
        for id in others {
            assert!(registry.lookup(id).is_err(), "a late lookup of {id} succeeded");
        }
        assert!(guard.is_closing());
        drop(guard);
        assert!(shutdown.join().unwrap());
    });
}

#[test]
fn refuses_registrations_while_it_runs_and_takes_them_again_after() {
    let registry = &Registry::new();
    registry.register(0).unwrap();
    let mut refused = 0;
    let mut refuses = || {
        assert!(matches!(registry.register(1), Err(RegisterError::ShuttingDown(1))));
        refused += 1;
    };
    registry.finalize_all_with(DrainOptions::new().observe(|_| refuses()));
    // Also with nothing registered.
    registry.finalize_all_with(DrainOptions::new().observe(|_| refuses()));
    assert_eq!(refused, 4, "closed, drained, finalized; closed");
    registry.register(2).unwrap();

    let never_used = Registry::new();
    let mut told = 0;
    never_used.finalize_all_with(DrainOptions::new().observe(|phase| {
        assert_eq!(phase, Phase::Closed { interpreters: 0 });
        assert!(matches!(never_used.register(1), Err(RegisterError::ShuttingDown(1))));
        told += 1;
    }));
    assert_eq!(told, 1);
    never_used.register(2).unwrap();
}

#[test]
fn opens_the_registry_again_when_a_callback_panics() {
    let registry = Registry::new();
    let ids = [1, 2, 3].map(|n| registry.register(n).unwrap());
    registry.on_close(ids[1], |_| panic!("asked to")).unwrap();
    let ran = std::sync::Arc::new(AtomicU32::new(0));
    for id in ids {
        let ran = ran.clone();
        registry
            .on_close(id, move |_| {
                ran.fetch_add(1, Ordering::Relaxed);
            })
            .unwrap();
    }
    catch_unwind(AssertUnwindSafe(|| registry.finalize_all(None))).unwrap_err();
    assert_eq!(ran.load(Ordering::Relaxed), 3, "the others' callbacks run, before the panic goes on");
    registry.register(4).unwrap();
    for id in ids {
        assert_eq!(registry.lookup(id).unwrap_err(), LookupError::Finalizing);
    }
    // An observer's panic, in the middle: what was not handed out stays free to be taken up.
    let observer = |phase| assert_ne!(phase, Phase::Drained(ids[1]), "asked to");
    let options = DrainOptions::new().observe(observer);
    catch_unwind(AssertUnwindSafe(|| registry.finalize_all_with(options))).unwrap_err();
    registry.register(5).unwrap();
    assert_eq!(registry.finalize_all(None).into_iter().filter(|(_, outcome)| outcome.is_ok()).count(), 5);
}

#[test]
fn somebody_elses_closing_is_left_to_them() {
    let registry = &Registry::new();
    let main = registry.register("main").unwrap();
    let theirs = registry.register("theirs").unwrap();
    let closing = registry.close(theirs).unwrap();
    let mut all = registry.finalize_all(None).into_iter();
    assert!(matches!(all.next(), Some((id, Err(FinalizeError::AlreadyClosing))) if id == theirs));
    assert!(matches!(all.next(), Some((id, Ok("main"))) if id == main));
    assert!(all.next().is_none());
    // It is as it was: theirs to drain.
    assert_eq!(registry.close(theirs).unwrap_err(), CloseError::AlreadyClosing);
    assert_eq!(closing.drain(None).unwrap(), "theirs");
}

/// While the others are drained, the holder of a `Closing` finishes with it, or drops it.
#[test]
fn what_comes_free_meanwhile_is_drained_here_and_what_is_finished_is_not() {
    let registry = &Registry::new();
    let finished = registry.register("finished").unwrap();
    let freed = registry.register("freed").unwrap();
    registry.register("main").unwrap();
    let closings = [finished, freed].map(|id| registry.close(id).unwrap());
    let mut closings = Some(closings);
    let observer = |phase| {
        if let (Phase::Closed { .. }, Some([finished, freed])) = (phase, closings.take()) {
            assert_eq!(finished.drain(None).unwrap(), "finished");
            drop(freed);
        }
    };
    let all = registry.finalize_all_with(DrainOptions::new().observe(observer));
    assert_eq!(all.len(), 3);
    for (id, outcome) in all {
        match outcome {
            Err(FinalizeError::AlreadyClosing) => assert_eq!(id, finished),
            outcome => drop(outcome.unwrap()),
        }
    }
    assert!(registry.is_empty());
}

/// Issue 3, must show 4: interpreters closing elsewhere, leaked guards, and a registering thread.
#[test]
fn ends_at_its_deadline_with_every_interpreter_accounted_for() {
    const TIMEOUT: Duration = Duration::from_millis(300);
    for round in 0..10 {
        let registry = &Registry::with_capacity(64);
        let ids: Vec<_> = (0..24).map(|n| registry.register(n).unwrap()).collect();
        let leaked = [ids[0], ids[7], ids[8]];
        for id in leaked {
            std::mem::forget(registry.lookup(id).unwrap());
        }
        let elsewhere = [ids[3], ids[7]];
        let stop = AtomicBool::new(false);
        let (before, during) = (AtomicU32::new(0), AtomicU32::new(0));
        thread::scope(|scope| {
            let closings = elsewhere.map(|id| registry.close(id).unwrap());
            let registering = scope.spawn(|| {
                let mut mine = Vec::new();
                while !stop.load(Ordering::Acquire) {
                    match registry.register(100) {
                        Ok(id) => mine.push(id),
                        Err(RegisterError::ShuttingDown(_)) => _ = during.fetch_add(1, Ordering::Relaxed),
                        Err(RegisterError::RegistryFull(_)) => {
                            // Made room for again below, so that there is always something to race with.
                            if let Some(id) = mine.pop() {
                                drop(registry.finalize(id, Some(Duration::ZERO)));
                            }
                        }
                        Err(other) => panic!("{other}"),
                    }
                    before.store(1, Ordering::Release);
                    thread::yield_now();
                }
                mine
            });
            while before.load(Ordering::Acquire) == 0 {
                thread::yield_now();
            }
            let began = Instant::now();
            let mut listed = 0;
            let options = DrainOptions::new().timeout(Some(TIMEOUT)).observe(|phase| {
                if let Phase::Closed { interpreters } = phase {
                    listed = interpreters;
                    // Not before the other thread has been refused: the race is always on.
                    while during.load(Ordering::Relaxed) == 0 {
                        thread::yield_now();
                    }
                }
            });
            let all = registry.finalize_all_with(options);
            assert!(began.elapsed() >= TIMEOUT, "round {round}: gave up early");
            stop.store(true, Ordering::Release);
            let mine = registering.join().unwrap();

            assert_eq!(all.len(), listed);
            let (mut late, mut theirs) = (Vec::new(), Vec::new());
            let mut finalized = 0;
            for (id, outcome) in &all {
                match outcome {
                    Ok(_) => finalized += 1,
                    Err(FinalizeError::AlreadyClosing) => theirs.push(*id),
                    Err(FinalizeError::Drain(DrainError::Timeout(timeout))) => {
                        assert_eq!(timeout.outstanding(), 1);
                        late.push(*id);
                    }
                    Err(other) => panic!("{id}: {other}"),
                }
            }
            // Newest first, main (ids[0]) last.
            assert_eq!(late, [ids[8], ids[0]]);
            let theirs: Vec<_> = theirs.into_iter().filter(|id| ids.contains(id)).collect();
            assert_eq!(theirs, [ids[7], ids[3]]);
            assert!(finalized >= ids.len() - 4);
            assert_eq!(all.last().unwrap().0, ids[0]);
            drop(all);
            // What is left is what the answer said, and what was registered after.
            let left = registry.ids().into_iter().filter(|id| ids.contains(id)).collect::<Vec<_>>();
            assert_eq!(left, [ids[0], ids[3], ids[7], ids[8]]);
            drop((closings, mine));
        });
    }
}

#[test]
fn one_interrupt_ends_the_waiting_for_all() {
    let registry = Registry::new();
    let ids = [1, 2, 3, 4].map(|n| registry.register(n).unwrap());
    let guards = [ids[0], ids[2]].map(|id| registry.lookup(id).unwrap());
    let mut asked = 0;
    let check = || {
        asked += 1;
        if asked < 3 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    let all = registry.finalize_all_with(DrainOptions::new().interrupt(check));
    assert_eq!(asked, 3, "asked again while waiting, and no more once it said Break");
    let interrupted = |outcome: &_| matches!(outcome, Err(FinalizeError::Drain(DrainError::Interrupted(_))));
    for (id, outcome) in all {
        assert_eq!(interrupted(&outcome), guards.iter().any(|guard| guard.id() == id), "{id}");
        assert_eq!(outcome.is_ok(), !interrupted(&outcome));
    }
}

/// A signal's handler ran, or the interval passed: a single drain asks too, and a deadline holds all the same.
#[test]
fn a_single_drain_polls_its_interrupt_and_keeps_its_deadline() {
    let registry = Registry::new();
    let id = registry.register(()).unwrap();
    let guard = registry.lookup(id).unwrap();
    let mut asked = 0;
    let third_time = || {
        asked += 1;
        if asked < 3 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    let options = DrainOptions::new().timeout(Some(Duration::from_secs(60))).interrupt(third_time);
    let let_go = registry.close(id).unwrap().drain_with(options).unwrap_err();
    assert!(matches!(let_go, DrainError::Interrupted(_)));
    assert_eq!(asked, 3);
    let never = || ControlFlow::Continue(());
    let options = DrainOptions::new().timeout(Some(Duration::from_millis(200))).interrupt(never);
    let late = let_go.into_closing().drain_with(options).unwrap_err();
    assert!(matches!(late, DrainError::Timeout(_)));
    drop(guard);
    late.into_closing().drain(None).unwrap();
}

#[test]
fn two_at_once_share_the_work_and_the_registry_opens_with_the_last() {
    for _ in 0..100 {
        let registry = &Registry::new();
        let ids: Vec<_> = (0..8).map(|n| registry.register(n).unwrap()).collect();
        let finalized = thread::scope(|scope| {
            let threads = [(); 2].map(|()| scope.spawn(|| registry.finalize_all(None)));
            let all = threads.map(|thread| thread.join().unwrap());
            all.into_iter().flatten().filter_map(|(id, outcome)| outcome.ok().map(|_| id)).collect::<Vec<_>>()
        });
        let mut sorted = finalized;
        sorted.sort();
        assert_eq!(sorted, ids, "each handed out exactly once");
        registry.register(9).unwrap();
    }
}
