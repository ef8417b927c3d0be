//! The core of a runtime: interpreters with a lock each, thread states, and `Runtime` implemented on them.
//!
//! `cargo run --example own_runtime`

use interp_guard::thread_state::{self, CreateError, EnsureError, Runtime};
use interp_guard::{InterpreterId, RegisterError, Registry};
use std::cell::Cell;
use std::error::Error;
use std::ptr;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;

static INTERPRETERS: Registry<Interpreter> = Registry::new();

/// What is registered. Only a thread that is attached may touch `total`.
struct Interpreter {
    total: AtomicI64,
    lock: &'static Lock,
}

/// An interpreter's lock. Whoever has it is attached. It is never freed, so no thread state can outlive it.
struct Lock {
    id: InterpreterId,
    taken: Mutex<bool>,
    given_back: Condvar,
}

/// One thread's record in one interpreter. `number` is never given to another one.
#[derive(Clone, Copy)]
struct ThreadState {
    lock: &'static Lock,
    number: u64,
}

impl PartialEq for ThreadState {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for ThreadState {}

thread_local! {
    static ATTACHED: Cell<Option<ThreadState>> = const { Cell::new(None) };
}

// SAFETY: the numbers are those of the trait's requirements.
// (1) `ATTACHED` is written by `attach` and `detach` alone. (2) They say so below.
// (3) A thread state is a number that is used once. `INTERPRETERS` calls `create` on the thread that needs it.
// (4) Nothing here panics: a poisoned mutex is used as it is.
// (5) A thread state points to a `Lock`, which is never freed. Dropping an `Interpreter` leaves it as it is.
// (6) `==`, `interpreter_of` and `owns` read and compare. (7), (8) No two interpreters share a `Lock`, or an ID.
// (9) Nobody else attaches these. (10) Each interpreter is in `INTERPRETERS` from the start.
unsafe impl Runtime for Interpreter {
    type ThreadState = ThreadState;

    fn attached() -> Option<ThreadState> {
        ATTACHED.get()
    }

    fn interpreter_of(state: ThreadState) -> InterpreterId {
        state.lock.id
    }

    fn owns(&self, state: ThreadState) -> Option<bool> {
        Some(ptr::eq(state.lock, self.lock))
    }

    fn create(&self) -> Result<ThreadState, CreateError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Ok(ThreadState { lock: self.lock, number })
    }

    unsafe fn attach(state: ThreadState) {
        let Lock { taken, given_back, .. } = state.lock;
        let taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = given_back.wait_while(taken, |taken| *taken);
        *waited.unwrap_or_else(PoisonError::into_inner) = true;
        ATTACHED.set(Some(state));
    }

    unsafe fn detach(state: ThreadState) {
        ATTACHED.set(None);
        *state.lock.taken.lock().unwrap_or_else(PoisonError::into_inner) = false;
        state.lock.given_back.notify_one();
    }

    unsafe fn destroy(state: ThreadState) {
        // SAFETY: the caller has it attached. There is nothing to free.
        unsafe { Self::detach(state) };
    }
}

impl Interpreter {
    fn register() -> Result<InterpreterId, RegisterError<Self>> {
        static NEXT: AtomicI64 = AtomicI64::new(0);
        let id = InterpreterId::try_from(NEXT.fetch_add(1, Ordering::Relaxed)).expect("not that many");
        let lock = Box::leak(Box::new(Lock { id, taken: Mutex::new(false), given_back: Condvar::new() }));
        INTERPRETERS.register_with_id(id, Self { total: AtomicI64::new(0), lock })?;
        Ok(id)
    }

    /// Stands for the code of a script. The two steps lose additions unless one thread at a time is attached.
    fn add(&self, more: i64) -> i64 {
        assert!(Self::attached().is_some_and(|state| self.owns(state) == Some(true)), "not attached");
        let total = self.total.load(Ordering::Relaxed) + more;
        self.total.store(total, Ordering::Relaxed);
        total
    }
}

/// A thread of a pool, which no interpreter has started. It adds until the interpreter ends.
fn pool_thread(id: InterpreterId, busy: Sender<()>) -> (i64, EnsureError) {
    let mut added = 0;
    loop {
        match thread_state::ensure_id(&INTERPRETERS, id) {
            Ok(attached) => attached.guard().expect("not a daemon").add(1),
            Err(refused) => return (added, refused),
        };
        added += 1;
        if added == 100 {
            let _ = busy.send(());
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let (one, two) = (Interpreter::register()?, Interpreter::register()?);
    let (busy, all_busy) = channel();
    let pool: Vec<_> = (0..4)
        .map(|_| {
            let busy = busy.clone();
            thread::spawn(move || pool_thread(one, busy))
        })
        .collect();
    for _ in 0..pool.len() {
        all_busy.recv()?;
    }

    // From inside one interpreter into another, and back. In between, others are let in.
    let outer = thread_state::ensure_id(&INTERPRETERS, two)?;
    outer.guard().expect("not a daemon").add(1000);
    let inner = thread_state::ensure_id(&INTERPRETERS, one)?;
    inner.guard().expect("not a daemon").add(1000);
    drop(inner);
    assert_eq!(outer.guard().expect("not a daemon").add(1), 1001);
    outer.allow_threads(thread::yield_now)?;
    drop(outer);

    // It waits for those who are inside, and lets nobody else in. Then it is this thread's alone.
    let mut ended = INTERPRETERS.finalize(one, None)?;
    let mut expected = 1000;
    for thread in pool {
        let (added, refused) = thread.join().map_err(|_| "a thread of the pool panicked")?;
        println!("a thread added {added}, then: {refused}");
        expected += added;
    }
    assert_eq!(*ended.total.get_mut(), expected);
    println!("interpreter {one} has ended, with {expected}");
    assert_eq!(INTERPRETERS.finalize(two, None)?.total.into_inner(), 1001);
    Ok(())
}
