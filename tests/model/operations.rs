//! Operations, and a plain model of what they should do. Proptest and the fuzzer (`fuzz/`) make sequences of them.

use interp_guard::{
    CloseError, Closing, Counters, DrainError, FinalizeError, Guard, InterpreterId, LookupError,
    RegisterError, Registry,
};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const CAPACITY: usize = 6;
const NOW: Option<Duration> = Some(Duration::ZERO);

/// One call on a registry. Numbers choose an interpreter, or one of the guards or closings that are held.
#[derive(Clone, Debug)]
pub enum Op {
    Register,
    RegisterWithId(i64),
    Lookup(i64),
    Clone(usize),
    Drop(usize),
    Close(i64),
    Abandon(usize),
    Drain(usize),
    Finalize(i64),
    SetMain(i64),
}

/// What should be there.
#[derive(Default)]
struct Model {
    /// Of each registered ID: is it closing, and is its `Closing` held?
    entries: BTreeMap<InterpreterId, (bool, bool)>,
    used: BTreeSet<InterpreterId>,
    main: Option<InterpreterId>,
}

impl Model {
    fn lookup(&self, id: InterpreterId) -> Result<(), LookupError> {
        match self.entries.get(&id) {
            Some((false, _)) => Ok(()),
            Some((true, _)) => Err(LookupError::Finalizing),
            None => Err(LookupError::NotFound),
        }
    }
    fn close(&mut self, id: InterpreterId) -> Result<(), CloseError> {
        match self.entries.get_mut(&id) {
            None => Err(CloseError::NotFound),
            Some((_, true)) => Err(CloseError::AlreadyClosing),
            Some(entry) => {
                *entry = (true, true);
                Ok(())
            }
        }
    }
    fn enter(&mut self, id: InterpreterId) {
        if self.entries.is_empty() {
            self.main = Some(id);
        }
        self.used.insert(id);
        self.entries.insert(id, (false, false));
    }
    fn remove(&mut self, id: InterpreterId) {
        self.entries.remove(&id);
        self.main = self.main.filter(|&main| main != id);
    }
}

/// Does what `ops` say, and panics where a registry and the model disagree.
pub fn run(counters: Counters, ledger: bool, ops: &[Op]) {
    let registry: Registry<i64> = Registry::with_capacity(CAPACITY).counters(counters).ledger(ledger);
    let mut model = Model::default();
    let mut guards: Vec<Guard<'_, i64>> = Vec::new();
    let mut closings: Vec<Closing<'_, i64>> = Vec::new();
    let id = |raw: i64| InterpreterId::try_from(raw).expect("an ID");
    let out = |guards: &[Guard<'_, i64>], id| guards.iter().filter(|guard| guard.id() == id).count() as u64;
    for op in ops {
        match *op {
            Op::Register => match registry.register(-1) {
                Ok(fresh) => {
                    assert!(model.entries.len() < CAPACITY && !model.used.contains(&fresh));
                    model.enter(fresh);
                }
                Err(refused) => {
                    assert!(matches!(refused, RegisterError::RegistryFull(-1)), "{refused}");
                    assert_eq!(model.entries.len(), CAPACITY);
                }
            },
            Op::RegisterWithId(raw) => match registry.register_with_id(id(raw), raw) {
                Ok(()) => {
                    assert!(model.entries.len() < CAPACITY && !model.used.contains(&id(raw)));
                    model.enter(id(raw));
                }
                Err(RegisterError::DuplicateId(back)) => {
                    assert!(back == raw && model.entries.contains_key(&id(raw)));
                }
                Err(RegisterError::RetiredId(back)) => {
                    assert!(
                        back == raw && model.used.contains(&id(raw)) && !model.entries.contains_key(&id(raw))
                    );
                }
                Err(RegisterError::RegistryFull(back)) => {
                    assert!(back == raw && model.entries.len() == CAPACITY)
                }
                Err(other) => panic!("{other}"),
            },
            Op::Lookup(raw) => match registry.lookup(id(raw)) {
                Ok(guard) => {
                    assert_eq!(model.lookup(id(raw)), Ok(()));
                    assert!(guard.id() == id(raw) && (*guard == raw || *guard == -1));
                    guards.push(guard);
                }
                Err(why) => assert_eq!(model.lookup(id(raw)), Err(why)),
            },
            Op::Clone(which) if !guards.is_empty() => guards.push(guards[which % guards.len()].clone()),
            Op::Drop(which) if !guards.is_empty() => drop(guards.swap_remove(which % guards.len())),
            Op::Close(raw) => {
                let expected = model.close(id(raw));
                match registry.close(id(raw)) {
                    Ok(closing) => {
                        assert_eq!(expected, Ok(()));
                        closings.push(closing);
                    }
                    Err(why) => assert_eq!(expected, Err(why)),
                }
            }
            Op::Abandon(which) if !closings.is_empty() => {
                let closing = closings.swap_remove(which % closings.len());
                model.entries.get_mut(&closing.id()).expect("registered").1 = false;
            }
            Op::Drain(which) if !closings.is_empty() => {
                let closing = closings.swap_remove(which % closings.len());
                let (drained, expected) = (closing.id(), out(&guards, closing.id()));
                match closing.drain(NOW) {
                    Ok(_) => {
                        assert_eq!(expected, 0);
                        model.remove(drained);
                    }
                    Err(DrainError::Timeout(late)) => {
                        assert!(expected > 0 && late.outstanding() == expected);
                        closings.push(late.into_closing());
                    }
                    Err(other) => panic!("{other}"),
                }
            }
            Op::Finalize(raw) => {
                let expected = model.close(id(raw));
                match (registry.finalize(id(raw), NOW), expected) {
                    (Ok(_), Ok(())) => {
                        assert_eq!(out(&guards, id(raw)), 0);
                        model.remove(id(raw));
                    }
                    (Err(FinalizeError::Drain(DrainError::Timeout(late))), Ok(())) => {
                        assert!(late.outstanding() > 0 && late.outstanding() == out(&guards, id(raw)));
                        closings.push(late.into_closing());
                    }
                    (Err(FinalizeError::NotFound), Err(CloseError::NotFound)) => {}
                    (Err(FinalizeError::AlreadyClosing), Err(CloseError::AlreadyClosing)) => {}
                    (got, expected) => panic!("{got:?}, expected {expected:?}"),
                }
            }
            Op::SetMain(raw) => {
                let expected = model.lookup(id(raw));
                assert_eq!(registry.set_main(id(raw)), expected);
                if expected.is_ok() {
                    model.main = Some(id(raw));
                }
            }
            Op::Clone(_) | Op::Drop(_) | Op::Abandon(_) | Op::Drain(_) => {}
        }
        assert_eq!(registry.ids(), model.entries.keys().copied().collect::<Vec<_>>());
        assert_eq!(registry.main(), model.main);
        let mut live = BTreeSet::new();
        registry.for_each_live(|id| assert!(live.insert(id)));
        assert!(live.into_iter().eq(model.entries.iter().filter(|entry| !entry.1.0).map(|entry| *entry.0)));
        for (&id, &(closing, _)) in &model.entries {
            assert_eq!(registry.outstanding(id), Some(out(&guards, id)));
            assert!(
                guards.iter().filter(|guard| guard.id() == id).all(|guard| guard.is_closing() == closing)
            );
        }
    }
}
