//! Registering: IDs, capacity, main, refusals. Whatever is refused comes back.
#![allow(missing_docs)]

use interp_guard::{Counters, InterpreterId, LookupError, RegisterError, Registry, SetupError, platform};
use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;

fn id(raw: i64) -> InterpreterId {
    InterpreterId::try_from(raw).expect("an ID")
}

/// Neither Debug nor Clone: every error must do without.
struct Opaque(u32);

#[test]
fn ids_are_refused_outside_their_range() {
    for wrong in [-1, i64::MIN, i64::MAX] {
        let refused = InterpreterId::try_from(wrong).expect_err("not an ID");
        assert!(refused.to_string().contains(&wrong.to_string()), "{refused}");
    }
    for right in [0, 1, i64::MAX - 1] {
        assert_eq!(i64::from(id(right)), right);
    }
}

#[test]
fn the_largest_id_is_as_good_as_any() {
    let registry = Registry::new();
    registry.register_with_id(id(i64::MAX - 1), "largest").expect("registered");
    assert_eq!(registry.lookup(id(i64::MAX - 1)).map(|guard| *guard), Ok("largest"));
    assert_eq!(registry.finalize(id(i64::MAX - 1), None).ok(), Some("largest"));
    assert_eq!(registry.register("fresh").ok(), Some(id(0)), "fresh IDs do not continue from chosen ones");
}

#[test]
fn a_live_id_and_a_retired_one_are_refused_and_the_interpreter_comes_back() {
    let registry = Registry::new();
    registry.register_with_id(id(7), Opaque(1)).expect("registered");
    let Err(RegisterError::DuplicateId(Opaque(2))) = registry.register_with_id(id(7), Opaque(2)) else {
        panic!("7 is live");
    };
    let closing = registry.close(id(7)).expect("live");
    let refused = registry.register_with_id(id(7), Opaque(3));
    assert!(matches!(refused, Err(RegisterError::DuplicateId(Opaque(3)))));
    assert!(closing.drain(None).is_ok());
    let refused = registry.register_with_id(id(7), Opaque(4)).expect_err("7 is retired");
    assert!(matches!(refused, RegisterError::RetiredId(_)));
    assert!(refused.to_string().contains("never reused") && format!("{refused:?}").contains("RetiredId"));
    assert_eq!(refused.into_inner().0, 4);
    assert_eq!(registry.lookup(id(7)).map(drop), Err(LookupError::NotFound));
}

#[test]
fn fresh_ids_skip_what_was_ever_used() {
    let registry = Registry::new();
    for raw in [0, 1, 3] {
        registry.register_with_id(id(raw), ()).expect("registered");
    }
    registry.finalize(id(1), None).expect("finalized");
    let fresh: Vec<i64> = (0..3).map(|_| registry.register(()).expect("registered").into()).collect();
    assert_eq!(fresh, [2, 4, 5]);
}

#[test]
fn fresh_ids_are_never_reused() {
    let registry = Registry::with_capacity(1);
    let mut last = None;
    for _ in 0..10_000 {
        let fresh = registry.register(()).expect("registered");
        assert!(last < Some(fresh));
        last = Some(fresh);
        registry.finalize(fresh, None).expect("finalized");
    }
}

#[test]
fn full_comes_exactly_at_capacity() {
    for capacity in [1, 2, 3, 5, 64, 100] {
        let registry = Registry::with_capacity(capacity);
        for number in 0..capacity {
            registry.register(number).expect("room");
        }
        assert_eq!(registry.len(), registry.capacity());
        let refused = registry.register(usize::MAX).expect_err("full");
        assert!(matches!(refused, RegisterError::RegistryFull(usize::MAX)));
        assert!(matches!(registry.register_with_id(id(1 << 40), 0), Err(RegisterError::RegistryFull(0))));
        // A closing interpreter still takes its place; a finalized one does not.
        let oldest = registry.ids()[0];
        let closing = registry.close(oldest).expect("live");
        assert!(registry.register(0).is_err());
        assert_eq!(closing.drain(None).ok(), Some(0));
        assert!(registry.register(0).is_ok());
    }
}

#[test]
fn an_absurd_capacity_is_reported_by_the_first_registration() {
    for capacity in [0, (1 << 20) + 1, usize::MAX] {
        let registry = Registry::with_capacity(capacity);
        assert_eq!(registry.lookup(id(0)).map(drop), Err(LookupError::NotFound));
        let refused = registry.register(Opaque(1)).expect_err("not a capacity");
        assert!(
            refused.source().is_some() && refused.to_string().contains(&capacity.to_string()),
            "{refused}"
        );
        let RegisterError::Unavailable(Opaque(1), SetupError::Capacity(asked)) = refused else {
            panic!("{refused}")
        };
        assert_eq!(asked, capacity);
    }
}

#[test]
fn the_largest_capacity_works() {
    let registry = Registry::with_capacity(1 << 20);
    let only = registry.register(9).expect("registered");
    assert_eq!(registry.lookup(only).map(|guard| *guard), Ok(9));
}

#[test]
fn main_is_the_first_unless_named() {
    let registry = Registry::new();
    assert_eq!(registry.main(), None);
    let first = registry.register(1).expect("registered");
    let second = registry.register(2).expect("registered");
    assert_eq!(registry.main(), Some(first));
    assert_eq!(registry.set_main(id(99)), Err(LookupError::NotFound));
    registry.set_main(second).expect("live");
    assert_eq!(registry.main(), Some(second));
    let closing = registry.close(second).expect("live");
    assert_eq!(registry.set_main(second), Err(LookupError::Finalizing));
    assert_eq!(registry.main(), Some(second), "closing, and still main");
    assert!(closing.drain(None).is_ok());
    assert_eq!(registry.main(), None);
    registry.finalize(first, None).expect("finalized");
    let anew = registry.register(3).expect("registered");
    assert_eq!(registry.main(), Some(anew), "the first into an empty registry");
}

#[test]
fn a_registry_that_was_never_used_answers() {
    static REGISTRY: Registry<String> = Registry::with_capacity(3);
    assert_eq!(REGISTRY.lookup(id(0)).map(drop), Err(LookupError::NotFound));
    assert_eq!(REGISTRY.view(id(0)).guard().map(drop), Err(LookupError::NotFound));
    assert_eq!((REGISTRY.len(), REGISTRY.capacity(), REGISTRY.main()), (0, 3, None));
    assert_eq!((REGISTRY.outstanding(id(0)), REGISTRY.ids(), REGISTRY.layout()), (None, vec![], None));
    REGISTRY.for_each_live(|_| panic!("nobody"));
}

#[test]
fn both_modes_run_side_by_side() {
    let shared = Registry::with_capacity(2).counters(Counters::Shared);
    let best = Registry::with_capacity(2).counters(platform::best_counters());
    let (a, b) = (shared.register("shared").expect("registered"), best.register("best").expect("registered"));
    let guards = (shared.lookup(a).expect("live"), best.lookup(b).expect("live"));
    assert_eq!((shared.outstanding(a), best.outstanding(b)), (Some(1), Some(1)));
    assert_eq!((*guards.0, *guards.1), ("shared", "best"));
    assert_eq!(shared.layout().map(|layout| layout.counters), Some(Counters::Shared));
    drop(guards);
    assert!(shared.finalize(a, None).is_ok() && best.finalize(b, None).is_ok());
}

#[test]
fn views_and_live_ids_say_what_is_there() {
    let registry = Registry::new();
    let ids: Vec<_> = (0..5).map(|number| registry.register(number).expect("registered")).collect();
    let view = registry.view(ids[2]);
    let copy = view;
    let closing = registry.close(ids[2]).expect("live");
    assert_eq!(copy.guard().map(drop), Err(LookupError::Finalizing));
    let mut live = Vec::new();
    registry.for_each_live(|id| live.push(id));
    live.sort();
    assert_eq!(live, [ids[0], ids[1], ids[3], ids[4]]);
    assert_eq!(registry.ids(), ids, "closing ones are still registered");
    assert!(closing.drain(None).is_ok());
    assert_eq!(view.guard().map(drop), Err(LookupError::NotFound));
    assert_eq!(view.id(), ids[2]);
}

#[test]
fn an_interpreter_that_is_being_made_knows_its_id_and_is_seen_by_nobody() {
    let registry = Registry::with_capacity(2);
    let made = registry.register_with(|own| {
        assert_eq!(registry.lookup(own).map(drop), Err(LookupError::NotFound));
        assert_eq!((registry.outstanding(own), registry.main(), registry.len()), (None, None, 0));
        registry.for_each_live(|_| panic!("nobody"));
        // The ID is given to nobody else meanwhile, and the place is taken.
        assert!(matches!(registry.register_with_id(own, own), Err(RegisterError::DuplicateId(_))));
        let other = registry.register(own).expect("one more place");
        assert_ne!(other, own);
        assert!(matches!(registry.register(own), Err(RegisterError::RegistryFull(_))));
        registry.finalize(other, None).expect("finalized");
        own
    });
    let made = made.expect("registered");
    assert_eq!(registry.lookup(made).map(|guard| *guard), Ok(made));
    assert_eq!((registry.main(), registry.len()), (Some(made), 1));
    // One inside another.
    let mut inner = None;
    let outer = registry.register_with(|own| {
        let full = registry.register_with(|_| panic!("there is no place"));
        assert!(matches!(full, Err(RegisterError::RegistryFull(None))));
        registry.finalize(made, None).expect("finalized");
        inner = Some(registry.register_with(|id| id).expect("there is one"));
        own
    });
    let mut both = [outer.expect("registered"), inner.expect("registered")];
    assert_eq!(registry.main(), inner, "the first that was there to be found");
    both.sort();
    assert_eq!(registry.ids(), both);
}

#[test]
fn nothing_is_made_for_a_registry_that_has_no_place() {
    let registry = Registry::with_capacity(1);
    registry.register(Opaque(1)).expect("registered");
    let refused = registry.register_with(|_| panic!("there is no place")).expect_err("full");
    assert!(matches!(refused, RegisterError::RegistryFull(None)));
    let absurd: Registry<Opaque> = Registry::with_capacity(0);
    let refused = absurd.register_with(|_| panic!("there is no registry")).expect_err("no registry");
    assert!(matches!(refused, RegisterError::Unavailable(None, SetupError::Capacity(0))), "{refused}");
}

#[test]
fn a_panic_while_an_interpreter_is_made_costs_one_id_and_no_place() {
    let registry = Registry::with_capacity(1);
    for _ in 0..100 {
        let mut told = None;
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let _ = registry.register_with(|own| {
                told = Some(own);
                panic!("on purpose")
            });
        }));
        assert!(panicked.is_err());
        let told = told.expect("it was called");
        assert_eq!(registry.lookup(told).map(drop), Err(LookupError::NotFound));
        assert!(matches!(registry.register_with_id(told, 0), Err(RegisterError::RetiredId(0))));
        assert_eq!((registry.len(), registry.main()), (0, None));
    }
    let made = registry.register_with(|_| 7).expect("the one place is free");
    assert_eq!(i64::from(made), 100);
    assert_eq!(registry.finalize(made, None).ok(), Some(7));
}

#[test]
fn what_was_made_while_the_registry_shut_down_comes_back() {
    let registry = &Registry::new();
    let first = registry.register(Opaque(1)).expect("registered");
    let guard = registry.lookup(first).expect("live");
    let (tell, told) = mpsc::channel();
    std::thread::scope(|scope| {
        let refused = registry.register_with(|_| {
            scope.spawn(|| {
                assert!(registry.finalize_all(None).into_iter().all(|(_, ended)| ended.is_ok()));
                tell.send(()).expect("somebody listens");
            });
            while !matches!(registry.register(Opaque(0)), Err(RegisterError::ShuttingDown(_))) {}
            Opaque(2)
        });
        let Err(RegisterError::ShuttingDown(Some(Opaque(2)))) = refused else { panic!("{refused:?}") };
        assert!(matches!(
            registry.register_with(|_| panic!("shutting down")),
            Err(RegisterError::ShuttingDown(None))
        ));
        drop(guard);
    });
    told.recv().expect("finalize_all has returned");
    assert!(registry.is_empty());
    assert!(registry.register_with(|_| Opaque(3)).is_ok(), "open again");
}
