//! What is registered, and how threads attach to it.

use super::shared::{Interpreter, Vm, take};
use super::states;
use crate::signal_safe::this_thread::this_thread;
use crate::signal_safe::word::InterpreterId;
use crate::thread_state::{CreateError, Runtime, levels};
use std::any::TypeId;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A VM without thread states of its own, and its lock: see the [module](crate::locked).
///
/// Registered, it is an interpreter to which threads attach ([`thread_state`](crate::thread_state)), one at a time. Its
/// ID is the one under which it was registered.
///
/// Dropping it drops the VM; or, if a daemon has it lent at that moment, leaves it to that, and waits for nobody.
pub struct Locked<V: Send + 'static> {
    interpreter: Arc<Interpreter<Vm<V>>>,
}

impl<V: Send + 'static> Locked<V> {
    /// To be registered.
    ///
    /// Context: normal.
    ///
    /// ```
    /// use interp_guard::{Registry, locked::Locked};
    ///
    /// let registry = Registry::new();
    /// let id = registry.register(Locked::new(vec![1, 2]))?;
    /// registry.with(id, |vm| vm.push(3))?;
    /// assert_eq!(registry.with(id, |vm| vm.len())?, 3);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn new(vm: V) -> Self {
        Self { interpreter: Arc::new(Interpreter::new(vm)) }
    }

    /// The VM, out of what a finalizer handed back.
    ///
    /// Context: normal; does not wait.
    ///
    /// # Errors
    /// Itself, with nothing changed, if the VM is lent: to a daemon, or in a forked child to a thread that is not there
    /// ([`WithError::Torn`](super::WithError::Torn)). Without daemons and forks it never is.
    ///
    /// ```
    /// # use interp_guard::{Registry, locked::Locked};
    /// let registry = Registry::new();
    /// let id = registry.register(Locked::new(String::from("a VM")))?;
    /// let locked = registry.finalize(id, None).unwrap();
    /// assert_eq!(locked.into_inner().expect("nobody has it"), "a VM");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn into_inner(self) -> Result<V, Self> {
        take(&self.interpreter.vm).ok_or(self)
    }

    fn address(&self) -> *const () {
        Arc::as_ptr(&self.interpreter).cast()
    }
}

impl<V: Send + 'static> Drop for Locked<V> {
    fn drop(&mut self) {
        self.interpreter.end();
        drop(take(&self.interpreter.vm));
    }
}

impl<V: Send + 'static> fmt::Debug for Locked<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Relaxed: for people.
        let lent = self.interpreter.lent.load(Ordering::Relaxed);
        f.debug_struct("Locked").field("lent", &lent).finish_non_exhaustive()
    }
}

/// A thread's way into a [`Locked`]: a number, by which its own thread knows it.
pub struct ThreadState<V> {
    number: u64,
    id: InterpreterId,
    vm: PhantomData<fn(V) -> V>,
}

impl<V> ThreadState<V> {
    pub(super) fn number(self) -> u64 {
        self.number
    }
}

impl<V> Clone for ThreadState<V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<V> Copy for ThreadState<V> {}

impl<V> PartialEq for ThreadState<V> {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl<V> Eq for ThreadState<V> {}

impl<V> fmt::Debug for ThreadState<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreadState").field("id", &self.id).finish_non_exhaustive()
    }
}

const NOT_ENSURED: CreateError = CreateError::new("one of a Locked is made by an ensure only");

/// The ID of the interpreter that the calling thread is about to attach to, and for which a thread state is to be made.
/// An interpreter is not told its ID when it is registered, and safe code could tell it a wrong one.
fn to_be_attached<V: Send + 'static>() -> Option<InterpreterId> {
    levels::top(this_thread())
        .filter(|level| level.is_of(TypeId::of::<Locked<V>>()) && level.is_beginning())
        .map(|level| level.id)
}

// SAFETY: (1) a thread's records say what attach, detach and destroy left; (2) as they are written; (3) a state is
// found on its own thread only, by a number that is not used again, until it is destroyed or its interpreter has ended;
// (4) nothing unwinds: what a VM's drop throws is contained; (5) a state keeps the memory of its interpreter, and what
// is lent of it is not dropped; (6) they look at the thread's records; (7) `owns` compares the interpreters, one of
// which the state keeps; (8) so it is right, `in_use` is what `lend` notes, and the lock is exclusive; (9) a state is
// of the type of its VM; (10) only an ensure attaches.
unsafe impl<V: Send + 'static> Runtime for Locked<V> {
    type ThreadState = ThreadState<V>;

    fn attached() -> Option<ThreadState<V>> {
        states::attached::<V>().map(|(number, id)| ThreadState { number, id, vm: PhantomData })
    }

    fn interpreter_of(state: ThreadState<V>) -> InterpreterId {
        state.id
    }

    fn owns(&self, state: ThreadState<V>) -> Option<bool> {
        states::is_of(state.number, self.address())
    }

    fn in_use(state: ThreadState<V>) -> bool {
        states::is_lent(state.number)
    }

    fn create(&self) -> Result<ThreadState<V>, CreateError> {
        let id = to_be_attached::<V>().ok_or(NOT_ENSURED)?;
        let number = states::create(id, self.interpreter.clone());
        Ok(ThreadState { number, id, vm: PhantomData })
    }

    unsafe fn attach(state: ThreadState<V>) {
        states::attach(state.number);
    }

    unsafe fn detach(state: ThreadState<V>) {
        states::detach(state.number);
    }

    unsafe fn destroy(state: ThreadState<V>) {
        states::destroy(state.number);
    }
}
