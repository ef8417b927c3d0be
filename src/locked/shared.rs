//! What the registered interpreter and its thread states share: the VM and its lock.

use super::lock::Lock;
use std::any::Any;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, TryLockError};

/// The VM, until it is taken out. Whoever is attached locks this for as long as it is lent, and never waits for it:
/// that nobody else has the VM meanwhile rests on this lock alone, and not on who is attached.
pub(super) type Vm<V> = Mutex<Option<V>>;

/// What the registered interpreter and the thread states share.
pub(super) struct Interpreter<M: ?Sized> {
    /// To have it is to be attached.
    pub lock: Lock,
    /// The registered interpreter is gone: what is left belongs to whoever is attached still.
    ended: AtomicBool,
    /// By whoever is attached. In a forked child also by a thread that is not there.
    pub lent: AtomicBool,
    pub vm: M,
}

/// The same, of whatever type.
pub(super) type Erased = Interpreter<dyn Any + Send + Sync>;

impl<V> Interpreter<Vm<V>> {
    pub fn new(vm: V) -> Self {
        let (ended, lent) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { lock: Lock::new(), ended, lent, vm: Mutex::new(Some(vm)) }
    }
}

impl<M: ?Sized> Interpreter<M> {
    /// What is left belongs to whoever is attached still. Who has the VM lent looks at this when it has been given
    /// back. Should neither that nor who ends it get at it, at the same moment, it goes with the thread state.
    pub fn end(&self) {
        // SeqCst: with `has_ended`, so that this seldom happens.
        self.ended.store(true, Ordering::SeqCst);
    }

    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }
}

/// Takes the VM out, if nobody has it.
pub(super) fn take<V>(vm: &Vm<V>) -> Option<V> {
    match vm.try_lock() {
        Ok(mut vm) => vm.take(),
        Err(TryLockError::Poisoned(vm)) => vm.into_inner().take(),
        Err(TryLockError::WouldBlock) => None,
    }
}
