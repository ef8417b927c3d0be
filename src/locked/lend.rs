//! Lending the VM to the thread that is attached.

use super::error::WithError;
use super::runtime::Locked;
use super::shared::{Vm, take};
use super::states::{self, Lent, NotLent};
use crate::registry::Registry;
use crate::signal_safe::guard::Guard;
use crate::signal_safe::word::InterpreterId;
use crate::thread_state::{self, Attached};
use crate::unwind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::TryLockError;
use std::sync::atomic::Ordering;

/// What is to be done when a VM is given back, also where its borrower unwinds.
struct GiveBack<'l, V: Send + 'static> {
    lent: &'l Lent,
    vm: &'l Vm<V>,
}

impl<V: Send + 'static> Drop for GiveBack<'_, V> {
    fn drop(&mut self) {
        // Relaxed: under the interpreter's lock.
        self.lent.interpreter.lent.store(false, Ordering::Relaxed);
        self.lent.end();
        if self.lent.interpreter.has_ended() {
            // With nothing lent: a VM may use its registry when it is dropped. Unwind-safe: it is consumed.
            if let Err(thrown) = catch_unwind(AssertUnwindSafe(|| drop(take(self.vm)))) {
                unwind::discard(thrown);
            }
        }
    }
}

/// A thread that is attached to a [`Locked`] gets at the VM.
impl<V: Send + 'static> Attached<'_, Locked<V>> {
    /// Calls `f` with the VM, which nobody else has meanwhile.
    ///
    /// Context: normal; takes as long as `f` does. Waits for nobody: this thread has the lock.
    ///
    /// # Panics
    /// Where [`try_with`](Self::try_with) has an error. If `f` does: the VM stays as `f` left it, and can be lent
    /// again.
    ///
    /// ```
    /// use interp_guard::{Registry, locked::Locked, thread_state};
    ///
    /// let registry = Registry::new();
    /// let id = registry.register(Locked::new(Vec::new()))?;
    /// let attached = thread_state::ensure_id(&registry, id)?;
    /// attached.with(|vm| vm.push("run"));
    /// assert_eq!(attached.with(|vm| vm.len()), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    pub fn with<R>(&self, f: impl FnOnce(&mut V) -> R) -> R {
        match self.try_with(f) {
            Ok(result) => result,
            Err(refused) => panic!("{refused}"),
        }
    }

    /// [`with`](Self::with), with an answer where the VM cannot be lent.
    ///
    /// Context: normal; takes as long as `f` does.
    ///
    /// # Errors
    /// [`WithError`], but for `Ensure`; `f` was not called.
    ///
    /// # Panics
    /// If `f` does.
    ///
    /// ```
    /// use interp_guard::{Registry, locked::{Locked, WithError}, thread_state};
    ///
    /// let registry = Registry::new();
    /// let id = registry.register(Locked::new(1))?;
    /// let attached = thread_state::ensure_id(&registry, id)?;
    /// let inner = attached.with(|_lent| attached.try_with(|_again| ()));
    /// assert_eq!(inner, Err(WithError::Lent));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn try_with<R>(&self, f: impl FnOnce(&mut V) -> R) -> Result<R, WithError> {
        let lent = states::lend(self.thread_state().number()).map_err(|not| match not {
            NotLent::Already => WithError::Lent,
            NotLent::NotAttached => WithError::Detached,
            NotLent::Gone => WithError::Ended,
        })?;
        let interpreter = &*lent.interpreter;
        let Some(vm) = interpreter.vm.downcast_ref::<Vm<V>>() else {
            unreachable!("the levels of this registry have thread states of its type")
        };
        // Only a thread that has the interpreter's lock, as this one has, comes here: a note that is there already was
        // left by one that is not there any more, before a fork. Relaxed: under that lock.
        let was_lent = interpreter.lent.swap(true, Ordering::Relaxed);
        // Dropped in the opposite order: the VM is given back first.
        let (_give_back, mut vm) = match vm.try_lock() {
            Ok(unlocked) => (GiveBack { lent: &lent, vm }, unlocked),
            // Not kept: see the module.
            Err(TryLockError::Poisoned(unlocked)) => (GiveBack { lent: &lent, vm }, unlocked.into_inner()),
            Err(TryLockError::WouldBlock) if was_lent => return Err(WithError::Torn),
            Err(TryLockError::WouldBlock) => {
                interpreter.lent.store(false, Ordering::Relaxed); // as above
                return Err(WithError::Ended); // it is being taken out
            }
        };
        vm.as_mut().map(f).ok_or(WithError::Ended)
    }
}

/// From a guard: in a pending call, say.
impl<V: Send + 'static> Guard<'_, Locked<V>> {
    /// Attaches this thread, calls `f` with the VM, and detaches.
    ///
    /// Context: normal; waits for the interpreter's lock, and takes as long as `f` does.
    ///
    /// # Errors
    /// [`WithError`]; `f` was not called.
    ///
    /// # Panics
    /// If `f` does.
    ///
    /// ```
    /// use interp_guard::{Registry, locked::Locked, pending::PendingQueue};
    ///
    /// let registry = Registry::new();
    /// let id = registry.register(Locked::new(0))?;
    /// let queue = PendingQueue::new(&registry)?;
    /// let call = |guard: &interp_guard::Guard<'_, Locked<usize>>, data| {
    ///     guard.with(|vm| *vm += data).expect("nothing is lent here");
    /// };
    /// queue.push(registry.lookup(id)?, call, 7).unwrap(); // by a handler, say
    /// queue.run_pending();
    /// assert_eq!(registry.with(id, |vm| *vm)?, 7);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    pub fn with<R>(&self, f: impl FnOnce(&mut V) -> R) -> Result<R, WithError> {
        thread_state::ensure(self)?.try_with(f)
    }
}

/// VMs with a lock each: [`locked`](crate::locked).
impl<V: Send + 'static> Registry<Locked<V>> {
    /// Attaches this thread to an interpreter by ID, calls `f` with the VM, and detaches.
    ///
    /// Context: normal; waits for the interpreter's lock, and takes as long as `f` does.
    ///
    /// # Errors
    /// [`WithError`]; `f` was not called.
    ///
    /// # Panics
    /// If `f` does.
    ///
    /// ```
    /// use interp_guard::{Registry, locked::{Locked, WithError}, thread_state::EnsureError};
    ///
    /// let registry = Registry::new();
    /// let id = registry.register(Locked::new(vec![1]))?;
    /// assert_eq!(registry.with(id, |vm| vm.pop())?, Some(1));
    /// drop(registry.finalize(id, None).unwrap());
    /// let gone = registry.with(id, |vm| vm.pop());
    /// assert_eq!(gone, Err(WithError::Ensure(EnsureError::NotFound)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    pub fn with<R>(&self, id: InterpreterId, f: impl FnOnce(&mut V) -> R) -> Result<R, WithError> {
        thread_state::ensure_id(self, id)?.try_with(f)
    }
}
