//! How far a lookup has to probe, for dense, random and strided IDs. `docs/hash.md` says how the hash was chosen.
#![allow(missing_docs)]

use interp_guard::bindings::RegistryExt as _;
use interp_guard::raw::NotAtHome;
use interp_guard::{InterpreterId, Registry};

/// The largest displacement of a registry with these IDs in it.
fn largest(capacity: usize, ids: impl Iterator<Item = i64>) -> u32 {
    let registry = Registry::with_capacity(capacity);
    let ids: Vec<InterpreterId> = ids.map(|raw| InterpreterId::try_from(raw).expect("an ID")).collect();
    for &id in &ids {
        registry.register_with_id(id, ()).expect("room");
    }
    for &id in &ids {
        assert!(registry.lookup(id).is_ok(), "{id} is there");
    }
    ids.iter().map(|&id| registry.displacement(id)).max().unwrap_or(0)
}

#[test]
fn dense_ids_are_at_most_one_slot_from_home() {
    for capacity in [1, 2, 10, 64, 1_000, 1_024, 16_384] {
        assert!(largest(capacity, 0..capacity as i64) <= 1, "capacity {capacity}");
    }
}

#[test]
fn dense_windows_that_begin_anywhere_stay_near_home() {
    for start in [1, 255, 256, 1_000, 65_535, 1 << 20, (1 << 40) - 512, i64::MAX - 2_000] {
        let worst = largest(1_024, start..start + 1_024);
        assert!(worst <= 6, "start {start}: {worst}");
    }
}

#[test]
fn random_ids_stay_within_tens() {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 2) as i64
    };
    let worst = largest(1_024, std::iter::repeat_with(&mut next).take(1_024));
    assert!(worst <= 64, "{worst}");
}

/// Plain Fibonacci hashing piles up 1,023 here for stride 17,711.
#[test]
fn no_stride_piles_up() {
    let strides = [2, 3, 7, 10, 16, 64, 100, 256, 610, 987, 1_000, 1_024, 1_597, 2_584, 4_096, 4_181, 6_765];
    let larger = [10_946, 16_384, 17_711, 28_657, 32_768, 46_368, 64_079, 65_535, 65_536];
    for stride in strides.into_iter().chain(larger).chain((2..65_536).step_by(1_997)) {
        let worst = largest(1_024, (0..1_024).map(|index| index * stride));
        assert!(worst <= 64, "stride {stride}: {worst}");
    }
}

#[test]
fn displacement_shrinks_again_when_what_caused_it_is_gone() {
    let registry = Registry::with_capacity(64);
    let ids: Vec<InterpreterId> =
        (0..64).map(|index| InterpreterId::try_from(index * 1_597).expect("an ID")).collect();
    for &id in &ids {
        registry.register_with_id(id, ()).expect("room");
    }
    assert!(ids.iter().any(|&id| registry.displacement(id) > 0), "something collides");
    for &id in &ids {
        registry.finalize(id, None).expect("finalized");
    }
    assert!(ids.iter().all(|&id| registry.displacement(id) == 0));
}

/// What bindings ask first never contradicts the whole lookup, and leaves to it what is elsewhere.
#[test]
fn a_lookup_at_home_says_what_a_lookup_says_or_leaves_it_to_that() {
    let registry = Registry::with_capacity(64);
    let ids: Vec<InterpreterId> =
        (0..64).map(|index| InterpreterId::try_from(index * 1_597).expect("an ID")).collect();
    for &id in &ids[..48] {
        registry.register_with_id(id, ()).expect("room");
    }
    let held: Vec<_> = ids[..16].iter().map(|&id| registry.lookup(id).expect("live")).collect();
    for &id in &ids[..16] {
        drop(registry.close(id).expect("live"));
    }
    let (mut guards, mut refused, mut elsewhere) = (0, 0, 0);
    for &id in &ids {
        match registry.lookup_at_home(id) {
            Ok(guard) => {
                assert_eq!((guard.id(), registry.outstanding(id)), (id, Some(1)));
                guards += 1;
            }
            Err(NotAtHome::Refused(why)) => {
                assert_eq!(registry.lookup(id).err(), Some(why), "{id}");
                refused += 1;
            }
            Err(NotAtHome::Elsewhere) => elsewhere += 1,
            Err(NotAtHome::Counted(at)) => panic!("nobody closes {id} in slot {at} meanwhile"),
        }
    }
    assert!(guards > 0 && refused > 0 && elsewhere > 0, "{guards} {refused} {elsewhere}");
    drop(held);

    let recorded = Registry::new().ledger(true);
    let id = recorded.register(()).expect("room");
    assert_eq!(
        recorded.lookup_at_home(id).err(),
        Some(NotAtHome::Elsewhere),
        "the ledger is not its business"
    );
    assert_eq!(recorded.outstanding(id), Some(0));
}
