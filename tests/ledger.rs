//! Who holds a guard, and guards that are given up twice.
#![allow(missing_docs)]

mod again;

use again::{again, in_child};
use interp_guard::raw::OverRelease;
use interp_guard::{
    DrainError, FinalizeError, Guard, Holders, InterpreterId, Place, Registry, SetupError, Site,
};
use std::mem::ManuallyDrop;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

/// How many guards a ledger records, as the documentation of `Registry::ledger` says.
const ENTRIES: u64 = 16_384;

fn registry() -> (Registry<u32>, InterpreterId) {
    let registry = Registry::new().ledger(true);
    let id = registry.register(7).expect("registered");
    (registry, id)
}

fn line(site: Site) -> u32 {
    match site.place() {
        Place::Source(location) => location.line(),
        place => panic!("{place:?}"),
    }
}

/// A drain that does not wait, and what it reports.
fn report<'r, T: Send + Sync>(registry: &'r Registry<T>, id: InterpreterId) -> DrainError<'r, T> {
    match registry.finalize(id, Some(Duration::ZERO)) {
        Err(FinalizeError::Drain(error)) => error,
        other => panic!("{:?}", other.err()),
    }
}

/// A bitwise copy of a guard: what C code does that closes a guard twice.
fn copy<'r, T>(guard: &Guard<'r, T>) -> Guard<'r, T> {
    // SAFETY: a wrong copy on purpose. Dropping it is what the ledger must catch; nothing dereferences it.
    unsafe { std::ptr::read(guard) }
}

#[test]
fn the_report_names_thread_call_site_and_age() {
    let (registry, id) = registry();
    let taken = Barrier::new(2);
    let done = Barrier::new(2);
    std::thread::scope(|scope| {
        let worker = || {
            let guard = registry.lookup(id).expect("live");
            taken.wait();
            done.wait();
            drop(guard);
        };
        let lookup_line = line!() - 5;
        std::thread::Builder::new().name("the-worker".into()).spawn_scoped(scope, worker).expect("spawned");
        taken.wait();
        let late = report(&registry, id);
        let holders = late.undrained().holders();
        let [holder] = holders.iter().collect::<Vec<_>>()[..] else { panic!("{holders}") };
        assert_eq!(holder.thread_name, "the-worker");
        assert_ne!(holder.thread_id, nix::unistd::gettid().as_raw() as u32);
        assert_eq!(line(holder.site), lookup_line);
        assert!(!holder.by_this_thread && !holder.in_handler);
        assert_eq!((holders.outstanding(), holders.unrecorded()), (1, 0));
        let shown = late.to_string();
        for part in ["the-worker", &format!("{}:{lookup_line}:", file!()), "1 guard is out", " s "] {
            assert!(shown.contains(part), "{part:?} is missing:\n{shown}");
        }
        assert_eq!(late.undrained().outstanding(), 1);
        done.wait();
    });
    assert_eq!(registry.finalize(id, None).unwrap(), 7);
}

#[test]
fn a_thread_that_ended_is_named_as_such() {
    let (registry, id) = registry();
    let guard = std::thread::scope(|scope| {
        let worker = std::thread::Builder::new().name("sixteen letters+".into());
        let taker = worker.spawn_scoped(scope, || registry.lookup(id).expect("live"));
        taker.expect("spawned").join().expect("joined")
    });
    // The kernel lets go of a thread only after `join` has returned.
    let gone = || registry.holders(id).unwrap().iter().next().expect("recorded").thread_ended;
    while !gone() {
        std::thread::yield_now();
    }
    assert!(registry.holders(id).unwrap().to_string().contains("sixteen letters (ended)"));
    drop(guard);
}

#[test]
fn a_clone_is_a_guard_of_its_own() {
    let (registry, id) = registry();
    let guard = registry.lookup(id).expect("live");
    let clone = guard.clone();
    let here = line!();
    let viewed = guard.view().guard().expect("live");
    let lines = |holders: Holders| holders.iter().map(|holder| line(holder.site)).collect::<Vec<_>>();
    // Oldest first.
    assert_eq!(lines(registry.holders(id).unwrap()), [here - 2, here - 1, here + 1]);
    drop(guard);
    assert_eq!(lines(registry.holders(id).unwrap()), [here - 1, here + 1]);
    drop((clone, viewed));
    assert_eq!(lines(registry.holders(id).unwrap()), [0; 0]);
}

#[test]
fn guards_of_the_thread_that_waits_are_marked() {
    let (registry, id) = registry();
    let _mine = registry.lookup(id).expect("live");
    let late = report(&registry, id);
    let holders: Vec<_> = late.undrained().holders().iter().map(|holder| holder.by_this_thread).collect();
    assert_eq!(holders, [true]);
    assert!(late.to_string().contains("by the thread that waits"), "{late}");
}

#[test]
fn other_interpreters_guards_are_not_shown() {
    let (registry, id) = registry();
    let other = registry.register(8).expect("registered");
    let _guard = registry.lookup(other).expect("live");
    assert_eq!(registry.holders(id).unwrap().iter().count(), 0);
    assert_eq!(registry.holders(id).unwrap().to_string(), "  no guard is out");
    assert_eq!(registry.holders(other).unwrap().iter().count(), 1);
    assert!(registry.holders(InterpreterId::try_from(99).unwrap()).is_none());
}

#[test]
fn without_a_ledger_the_report_says_how_many_and_how_to_learn_more() {
    let registry = Registry::new().ledger(false);
    let id = registry.register(7).expect("registered");
    let guards = [registry.lookup(id).expect("live"), registry.lookup(id).expect("live")];
    let late = report(&registry, id);
    let holders = late.undrained().holders();
    assert!(!holders.is_recorded());
    assert_eq!((holders.iter().count(), holders.unrecorded()), (0, 2));
    let shown = late.to_string();
    assert!(shown.contains("2 guards are out") && shown.contains("INTERP_GUARD_LEDGER"), "{shown}");
    drop(guards);
}

#[test]
fn what_a_full_ledger_cannot_record_is_counted() {
    let (registry, id) = registry();
    let take = |_| registry.lookup(id).expect("live");
    let recorded: Vec<_> = (0..ENTRIES).map(take).collect();
    assert_eq!(registry.holders(id).unwrap().unrecorded(), 0);
    let beyond: Vec<_> = (0..5).map(take).collect();
    let holders = registry.holders(id).unwrap();
    assert_eq!((holders.outstanding(), holders.unrecorded()), (ENTRIES + 5, 5));
    assert_eq!(holders.iter().count() as u64, ENTRIES);
    let shown = holders.to_string();
    assert!(shown.contains("and 16352 more") && shown.contains("5 more are not recorded"), "{shown}");
    assert_eq!(format!("{holders:#}").lines().count() as u64, ENTRIES + 2);
    // What is given up makes room, wherever it was.
    drop(recorded);
    let again: Vec<_> = (0..ENTRIES).map(take).collect();
    assert_eq!(registry.holders(id).unwrap().unrecorded(), 5);
    drop((again, beyond));
    assert_eq!(registry.finalize(id, None).unwrap(), 7);
}

#[test]
fn a_second_release_is_refused_at_the_call() {
    let (registry, id) = registry();
    let guard = registry.lookup(id).expect("live");
    let (second, third) = (copy(&guard), copy(&guard));
    assert_eq!(guard.into_raw().release(), Ok(()));
    assert_eq!(second.into_raw().release(), Err(OverRelease));
    // Its entry has another tenant by now, or not: the ticket is the first one's.
    let tenant = registry.lookup(id).expect("live");
    drop(third);
    assert_eq!(registry.outstanding(id), Some(1));
    assert_eq!(registry.holders(id).unwrap().iter().count(), 1);
    drop(tenant);
    assert_eq!(registry.finalize(id, Some(Duration::ZERO)).unwrap(), 7);
}

#[test]
fn a_second_release_is_refused_when_the_slot_has_another_interpreter() {
    let registry = Registry::with_capacity(1).ledger(true);
    let first = registry.register(1).expect("registered");
    let guard = registry.lookup(first).expect("live");
    let stale = copy(&guard);
    drop(guard);
    registry.finalize(first, None).expect("drained");
    let second = registry.register(2).expect("registered");
    let guard = registry.lookup(second).expect("live");
    assert_eq!(stale.into_raw().release(), Err(OverRelease));
    assert_eq!(registry.outstanding(second), Some(1));
    drop(guard);
}

#[test]
fn plain_data_keeps_the_place_in_the_ledger() {
    let (registry, id) = registry();
    let parts = registry.lookup_at(id, Site::code(0x1234)).expect("live").into_raw().into_parts();
    assert_ne!(parts.ticket, 0);
    let holders = registry.holders(id).unwrap();
    assert_eq!(holders.iter().next().map(|holder| holder.site), Some(Site::code(0x1234)));
    // SAFETY: of this registry; the second time is a wrong one on purpose, and not dereferenced.
    let [first, second] = [0, 1].map(|_| unsafe { registry.guard_from_parts(parts) }.into_raw());
    assert_eq!(first.release(), Ok(()));
    assert_eq!(second.release(), Err(OverRelease));
    assert_eq!(registry.outstanding(id), Some(0));
}

#[test]
fn without_a_ledger_the_drain_reports_an_over_release_and_keeps_the_interpreter() {
    let registry = Registry::new().ledger(false);
    let id = registry.register(7).expect("registered");
    let guard = registry.lookup(id).expect("live");
    let second = ManuallyDrop::new(copy(&guard));
    drop(guard);
    assert_eq!(ManuallyDrop::into_inner(second).into_raw().release(), Ok(()), "nobody can tell");
    let refused = report(&registry, id);
    assert!(matches!(refused, DrainError::Unbalanced(_)), "{refused}");
    assert!(refused.to_string().contains("more guards were released than taken"), "{refused}");
    let refused = refused.into_closing().drain(Some(Duration::ZERO)).unwrap_err();
    assert!(matches!(refused, DrainError::Unbalanced(_)), "it does not pass: {refused}");
    assert_eq!(registry.ids(), [id]);
}

#[test]
fn the_environment_decides_where_the_builder_does_not() {
    const EXPECTED: &str = "INTERP_GUARD_TEST_EXPECTED";
    const VARIABLE: &str = "INTERP_GUARD_LEDGER";
    if in_child() {
        let expected = std::env::var(EXPECTED).expect("given below");
        let registered =
            |registry: &Registry<u32>| registry.register(7).map(|id| registry.holders(id).unwrap());
        let answer = match registered(&Registry::new()) {
            Ok(holders) => holders.is_recorded().to_string(),
            Err(interp_guard::RegisterError::Unavailable(_, SetupError::Variable { name, value, .. })) => {
                format!("{name}={value}")
            }
            Err(other) => panic!("{other}"),
        };
        assert_eq!(answer, expected);
        for asked in [true, false] {
            assert_eq!(registered(&Registry::new().ledger(asked)).unwrap().is_recorded(), asked);
        }
        return;
    }
    let unreadable = "INTERP_GUARD_LEDGER=yes";
    for (value, expected) in
        [(None, "false"), (Some("1"), "true"), (Some("0"), "false"), (Some("yes"), unreadable)]
    {
        let given = value.map(|value| (VARIABLE, value));
        let variables: Vec<_> = given.into_iter().chain([(EXPECTED, expected)]).collect();
        again("the_environment_decides_where_the_builder_does_not", &variables);
    }
}

/// Readers while entries come and go: a row never mixes the facts of two guards.
#[test]
fn a_row_shows_one_guards_facts() {
    let registry = Registry::with_capacity(4).ledger(true);
    let ids = [0, 1].map(|n| registry.register(n).expect("registered"));
    let stop = AtomicBool::new(false);
    let ready = Barrier::new(3);
    std::thread::scope(|scope| {
        // Each worker takes guards of one interpreter, at one place of its own.
        let workers = ids.map(|id| {
            let (registry, stop, ready) = (&registry, &stop, &ready);
            scope.spawn(move || {
                ready.wait();
                let site = Site::code(i64::from(id) as usize + 100);
                while !stop.load(SeqCst) {
                    let guards = [0; 70].map(|_| registry.lookup_at(id, site).expect("live"));
                    drop(guards);
                }
                nix::unistd::gettid().as_raw() as u32
            })
        });
        ready.wait();
        let mut seen = 0;
        let mut rows = Vec::new();
        while seen < 20_000 || ids.iter().any(|id| rows.iter().all(|row: &(_, _, _)| row.0 != *id)) {
            for id in ids {
                let holders = registry.holders(id).unwrap();
                seen += holders.iter().count();
                rows.extend(holders.iter().map(|row| (id, row.site, row.thread_id)));
            }
            rows.sort_by_key(|&(id, site, thread)| (id, format!("{site:?}"), thread));
            rows.dedup();
        }
        stop.store(true, SeqCst);
        let threads = workers.map(|worker| worker.join().expect("no panic"));
        for (n, id) in ids.into_iter().enumerate() {
            let of_id: Vec<_> = rows.iter().filter(|row| row.0 == id).collect();
            assert_eq!(of_id, [&(id, Site::code(n + 100), threads[n])]);
        }
    });
    for id in ids {
        assert_eq!(registry.holders(id).unwrap().iter().count(), 0);
    }
}

#[test]
fn a_binding_can_name_the_place() {
    static NAME: &str = "worker.py:12";
    let (registry, id) = registry();
    let _guard = registry.lookup_at(id, Site::named(&NAME)).expect("live");
    let holders = registry.holders(id).expect("registered");
    assert_eq!(holders.iter().map(|holder| holder.site.to_string()).collect::<Vec<_>>(), [NAME]);
    assert!(holders.to_string().contains(NAME), "{holders}");
}
