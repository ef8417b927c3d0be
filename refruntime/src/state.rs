//! Thread states: one thread's record in one interpreter, attached or not.

use crate::interpreter::{Inner, Interpreter};
use interp_guard::InterpreterId;
use interp_guard::thread_state::{CreateError, Runtime, note_attached};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::ptr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::ThreadId;

/// A thread state's memory: never freed, used again by later thread states of its interpreter.
pub(crate) struct Record {
    interpreter: &'static Inner,
    /// Which thread state has this memory now; even: none.
    life: AtomicU64,
    owner: Mutex<Option<ThreadId>>,
    attached: AtomicBool,
    /// The interpreter ended while this thread had let others in.
    orphaned: AtomicBool,
}

/// One thread's record in one interpreter. A stale copy is told from the record's later lives.
#[derive(Clone, Copy)]
pub struct ThreadState {
    record: &'static Record,
    life: u64,
}

impl PartialEq for ThreadState {
    fn eq(&self, other: &Self) -> bool {
        ptr::eq(self.record, other.record) && self.life == other.life
    }
}

impl Eq for ThreadState {}

impl fmt::Debug for ThreadState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ThreadState({:p} of {}, life {})", self.record, self.record.interpreter.id, self.life)
    }
}

thread_local! {
    static ATTACHED: Cell<Option<ThreadState>> = const { Cell::new(None) };
    static REMEMBERED: RefCell<Vec<ThreadState>> = const { RefCell::new(Vec::new()) };
}

/// What is attached on the calling thread.
pub fn attached() -> Option<ThreadState> {
    ATTACHED.get()
}

/// The interpreter has ended while the thread had let others in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended;

/// What an interpreter's own loop does now and then: lets others in if they wait.
///
/// # Errors
/// The interpreter has ended meanwhile. Nothing of it may be touched any more.
pub fn checkpoint() -> Result<(), Ended> {
    let Some(state) = attached() else { return Ok(()) };
    let interpreter = state.record.interpreter;
    if interpreter.is_wanted() && interpreter.let_others_in() {
        state.record.orphaned.store(true, Ordering::SeqCst);
    }
    if state.record.orphaned.load(Ordering::SeqCst) { Err(Ended) } else { Ok(()) }
}

impl ThreadState {
    pub(crate) fn interpreter(self) -> &'static Inner {
        self.record.interpreter
    }

    pub(crate) fn new(interpreter: &'static Inner) -> Self {
        if interpreter.has_ended() {
            interpreter.violation("a thread state is made after the end");
        }
        let spare = interpreter.spare.lock().expect("no panic under it").pop();
        let record = spare.unwrap_or_else(|| {
            Box::leak(Box::new(Record {
                interpreter,
                life: AtomicU64::new(0),
                owner: Mutex::new(None),
                attached: AtomicBool::new(false),
                orphaned: AtomicBool::new(false),
            }))
        });
        *record.owner.lock().expect("no panic under it") = Some(std::thread::current().id());
        interpreter.created.fetch_add(1, Ordering::SeqCst);
        Self { record, life: record.life.fetch_add(1, Ordering::SeqCst) + 1 }
    }

    pub(crate) fn attach(self) {
        let interpreter = self.record.interpreter;
        if let Some(hook) = interpreter.before_attach.get() {
            hook();
        }
        if attached().is_some() {
            interpreter.violation("attached while another thread state is attached");
        }
        self.check("attached a thread state that was destroyed", "attached another thread's thread state");
        if interpreter.come_in() {
            interpreter.violation("attached after the end");
        }
        if self.record.attached.swap(true, Ordering::SeqCst) {
            interpreter.violation("attached twice");
        }
        ATTACHED.set(Some(self));
        note_attached(Some(interpreter.id));
    }

    pub(crate) fn detach(self) {
        note_attached(None);
        let interpreter = self.record.interpreter;
        if attached() != Some(self) {
            interpreter.violation("detached what is not attached");
            return;
        }
        self.check("detached a thread state that was destroyed", "detached another thread's thread state");
        if interpreter.has_ended() && !self.record.orphaned.load(Ordering::SeqCst) {
            interpreter.violation("attached at the end");
        }
        ATTACHED.set(None);
        self.record.attached.store(false, Ordering::SeqCst);
        interpreter.go_out();
    }

    pub(crate) fn destroy(self) {
        let interpreter = self.record.interpreter;
        if let Some(hook) = interpreter.in_destroy.get() {
            hook();
        }
        self.forget();
        self.detach();
        self.record.orphaned.store(false, Ordering::SeqCst);
        if self
            .record
            .life
            .compare_exchange(self.life, self.life + 1, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
        {
            interpreter.destroyed.fetch_add(1, Ordering::SeqCst);
            interpreter.spare.lock().expect("no panic under it").push(self.record);
        } else {
            interpreter.violation("destroyed twice");
        }
    }

    fn check(self, stale: &'static str, foreign: &'static str) {
        let interpreter = self.record.interpreter;
        if self.record.life.load(Ordering::SeqCst) != self.life {
            interpreter.violation(stale);
        } else if *self.record.owner.lock().expect("no panic under it") != Some(std::thread::current().id()) {
            interpreter.violation(foreign);
        }
    }

    /// Is it there still, and the calling thread's?
    fn is_this_threads(self) -> bool {
        let owner = *self.record.owner.lock().expect("no panic under it");
        self.record.life.load(Ordering::SeqCst) == self.life && owner == Some(std::thread::current().id())
    }

    /// Has the runtime find this thread state again on this thread, as CPython's `gilstate` does. One that is another thread's, or
    /// destroyed, is not found.
    pub fn remember(self) {
        self.forget();
        REMEMBERED.with_borrow_mut(|states| states.push(self));
    }

    /// Undoes [`remember`](Self::remember).
    pub fn forget(self) {
        // In a thread whose thread-locals are gone, nothing is remembered.
        let _ = REMEMBERED.try_with(|states| states.borrow_mut().retain(|&state| state != self));
    }

    pub(crate) fn remembered(interpreter: &Inner) -> Option<Self> {
        let mine = |state: &Self| ptr::eq(state.record.interpreter, interpreter) && state.is_this_threads();
        REMEMBERED.try_with(|states| states.borrow().iter().copied().find(mine)).ok().flatten()
    }
}

// SAFETY: (1) `ATTACHED` is what attach, detach and destroy set; (2) as they are written; (3) a record knows its
// interpreter, and its memory is never freed; (4) nothing here unwinds but for a hook that does, or a poisoned mutex,
// which needs a panic under it; (5) the end waits for those who are attached, and the memory stays; (6) they compare and
// read; (7), (8) `owns` compares what no two interpreters share, and nothing is lent out.
unsafe impl Runtime for Interpreter {
    type ThreadState = ThreadState;

    fn attached() -> Option<ThreadState> {
        attached()
    }

    fn interpreter_of(state: ThreadState) -> InterpreterId {
        state.record.interpreter.id
    }

    fn owns(&self, state: ThreadState) -> Option<bool> {
        Some(ptr::eq(state.record.interpreter, self.0))
    }

    fn create(&self) -> Result<ThreadState, CreateError> {
        Ok(ThreadState::new(self.0))
    }

    fn remembered(&self) -> Option<ThreadState> {
        ThreadState::remembered(self.0)
    }

    fn is_exclusive(&self) -> bool {
        self.0.lock.is_some()
    }

    unsafe fn attach(state: ThreadState) {
        state.attach();
    }

    unsafe fn detach(state: ThreadState) {
        state.detach();
    }

    unsafe fn destroy(state: ThreadState) {
        state.destroy();
    }
}

/// A thread that the runtime itself has attached, as one is that runs an interpreter's code. Dropping it undoes that.
pub struct Native {
    state: ThreadState,
}

impl Interpreter {
    /// Attaches the calling thread, on which nothing is attached, with a thread state of its own.
    pub fn enter(&self) -> Native {
        let state = ThreadState::new(self.0);
        state.attach();
        Native { state }
    }
}

impl Native {
    /// The thread state.
    pub fn state(&self) -> ThreadState {
        self.state
    }

    /// The runtime's own allow-threads.
    pub fn detached<R>(&self, f: impl FnOnce() -> R) -> R {
        self.state.detach();
        let result = f();
        self.state.attach();
        result
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        match attached() == Some(self.state) {
            true => self.state.destroy(),
            false => self.state.forget(),
        }
    }
}
