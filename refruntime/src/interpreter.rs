//! An interpreter: its lock, its end, and what went wrong in it.

use crate::lock::Lock;
use crate::state::{self, Record};
use interp_guard::{InterpreterId, RegisterError, Registry};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, OnceLock};
use std::time::Duration;

/// What is registered. Dropping it ends the interpreter: it waits for whoever is attached, and from then on every use is
/// a violation.
pub struct Interpreter(pub(crate) &'static Inner);

/// Looks at an interpreter, also after its end.
#[derive(Clone, Copy)]
pub struct Probe(&'static Inner);

type Hook = OnceLock<Box<dyn Fn() + Send + Sync>>;

pub(crate) struct Inner {
    pub id: InterpreterId,
    /// `None`: a runtime without a global lock.
    pub lock: Option<Lock>,
    pub ending: AtomicBool,
    ended: AtomicBool,
    /// How many threads are attached (more than one only without a lock).
    attached: Mutex<usize>,
    all_detached: Condvar,
    pub created: AtomicUsize,
    pub destroyed: AtomicUsize,
    /// Records of destroyed thread states, for new ones.
    pub spare: Mutex<Vec<&'static Record>>,
    pub before_attach: Hook,
    pub in_destroy: Hook,
    violations: Mutex<Vec<&'static str>>,
}

impl Inner {
    pub fn violation(&self, what: &'static str) {
        self.violations.lock().expect("no panic under it").push(what);
    }

    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    /// Waits for the right to touch the objects. Says whether the interpreter has ended.
    pub fn come_in(&self) -> bool {
        match &self.lock {
            Some(lock) => lock.acquire(),
            None => *self.attached.lock().expect("no panic under it") += 1,
        }
        self.has_ended()
    }

    pub fn go_out(&self) {
        match &self.lock {
            Some(lock) => lock.release(),
            None => {
                *self.attached.lock().expect("no panic under it") -= 1;
                // SeqCst, after the count under the mutex: an end that is not seen here has not looked at the count yet.
                if self.ending.load(Ordering::SeqCst) {
                    self.all_detached.notify_all();
                }
            }
        }
    }

    /// Should whoever is attached let others in?
    pub fn is_wanted(&self) -> bool {
        match &self.lock {
            Some(lock) => lock.is_wanted(),
            None => self.ending.load(Ordering::Relaxed),
        }
    }

    /// Lets others in, and comes back.
    pub fn let_others_in(&self) -> bool {
        match &self.lock {
            Some(lock) => lock.hand_over(),
            None => {
                let mut attached = self.attached.lock().expect("no panic under it");
                *attached -= 1;
                self.all_detached.notify_all();
                while self.ending.load(Ordering::SeqCst) && !self.has_ended() {
                    attached = self.all_detached.wait(attached).expect("no panic under it");
                }
            }
        }
        self.come_in()
    }

    /// Once, when nobody is attached any more (but for the calling thread itself).
    fn end(&self) {
        self.ending.store(true, Ordering::SeqCst);
        let mine = state::attached().is_some_and(|state| std::ptr::eq(state.interpreter(), self));
        match &self.lock {
            Some(_) if mine => self.ended.store(true, Ordering::SeqCst),
            Some(lock) => {
                lock.acquire();
                self.ended.store(true, Ordering::SeqCst);
                lock.release();
            }
            None => {
                let attached = self.attached.lock().expect("no panic under it");
                let _nobody = self
                    .all_detached
                    .wait_while(attached, |attached| *attached > usize::from(mine))
                    .expect("no panic under it");
                self.ended.store(true, Ordering::SeqCst);
                self.all_detached.notify_all();
            }
        }
    }
}

impl Interpreter {
    /// With a lock, and a switch interval of 5 ms, as CPython has it.
    pub fn locking() -> Self {
        Self::with(Some(Duration::from_millis(5)))
    }

    /// With a lock and this switch interval.
    pub fn switching_every(interval: Duration) -> Self {
        Self::with(Some(interval))
    }

    /// Without a lock.
    pub fn lockless() -> Self {
        Self::with(None)
    }

    fn with(interval: Option<Duration>) -> Self {
        static NEXT: AtomicI64 = AtomicI64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(Box::leak(Box::new(Inner {
            id: InterpreterId::try_from(number).expect("not that many"),
            lock: interval.map(Lock::new),
            ending: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            attached: Mutex::new(0),
            all_detached: Condvar::new(),
            created: AtomicUsize::new(0),
            destroyed: AtomicUsize::new(0),
            spare: Mutex::new(Vec::new()),
            before_attach: OnceLock::new(),
            in_destroy: OnceLock::new(),
            violations: Mutex::new(Vec::new()),
        })))
    }

    /// Its ID: unique in the process.
    pub fn id(&self) -> InterpreterId {
        self.0.id
    }

    /// Registers it under its own ID.
    ///
    /// # Errors
    /// What the registry says.
    pub fn register(self, registry: &Registry<Self>) -> Result<InterpreterId, RegisterError<Self>> {
        let id = self.id();
        registry.register_with_id(id, self).map(|()| id)
    }

    /// For looking at it later.
    pub fn probe(&self) -> Probe {
        Probe(self.0)
    }

    /// Runs `hook` on every thread that begins to attach. Once per interpreter.
    pub fn before_attach(&self, hook: impl Fn() + Send + Sync + 'static) {
        assert!(self.0.before_attach.set(Box::new(hook)).is_ok(), "one hook only");
    }

    /// Runs `hook` on every thread that destroys a thread state, attached: this interpreter's code. Once per interpreter.
    pub fn in_destroy(&self, hook: impl Fn() + Send + Sync + 'static) {
        assert!(self.0.in_destroy.set(Box::new(hook)).is_ok(), "one hook only");
    }
}

impl fmt::Debug for Interpreter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interpreter").field("id", &self.0.id).finish_non_exhaustive()
    }
}

impl Drop for Interpreter {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Probe {
    /// The interpreter's ID.
    pub fn id(self) -> InterpreterId {
        self.0.id
    }

    /// What should never have happened, in the order in which it did.
    pub fn violations(self) -> Vec<&'static str> {
        self.0.violations.lock().expect("no panic under it").clone()
    }

    /// Thread states that were created and not destroyed.
    pub fn thread_states(self) -> usize {
        self.created() - self.0.destroyed.load(Ordering::SeqCst)
    }

    /// Thread states that were ever created.
    pub fn created(self) -> usize {
        self.0.created.load(Ordering::SeqCst)
    }

    /// Has the interpreter ended?
    pub fn has_ended(self) -> bool {
        self.0.has_ended()
    }
}
