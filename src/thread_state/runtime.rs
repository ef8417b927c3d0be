//! What a runtime supplies.

use crate::InterpreterId;
use std::fmt;

/// An interpreter of a runtime whose threads this library attaches and detaches.
///
/// The type that is registered implements it: `Registry<MyInterpreter>`. The operations are those of the runtime's own
/// interface, each for the calling thread. With a lock per interpreter, *attached* means to hold it, and
/// [`attach`](Self::attach) waits for it; without one, it means to be known to the collector, or whatever gives a thread
/// the right to touch the interpreter's objects.
///
/// In CPython's terms: `attached` is `PyThreadState_GetUnchecked`, `create` is `PyThreadState_New`, `attach` and `detach`
/// are `PyEval_RestoreThread` and `PyEval_SaveThread`, `destroy` is `PyThreadState_Clear` and `PyThreadState_DeleteCurrent`,
/// and `remembered` asks `PyGILState_GetThisThreadState`.
///
/// An ID is unique within one registry. Where a type has several, their interpreters are told apart by the ensure levels, and of
/// thread states that the runtime itself has attached, by [`owns`](Self::owns).
///
/// # Safety
/// 1. `attached` answers what the last `attach`, `detach` or `destroy` on this thread left, by whomever it was called; or, where the
///    interpreter of that has ended, that nothing is attached.
/// 2. `attach(state)` returns with `state` attached, `detach` and `destroy` with nothing attached. `create` and `remembered` leave
///    attached what they find.
/// 3. `state` from `create` or `remembered` belongs to `self` and to the calling thread, and stays valid until it is
///    destroyed or `self` is finalized. One that an ensure has found attached is not destroyed before that is released. While a
///    thread may come back to it, no other thread state equals it: its memory is not used for another one, or the handle carries
///    a count.
/// 4. None of them unwinds.
/// 5. To drop a `Self` whose thread states still exist is sound, attached ones included. What stayed attached so can be asked for
///    its ID, detached and destroyed. (A runtime with a lock meets this most easily by a `Drop` that waits for the lock, and thread
///    states that keep the memory they point to.)
/// 6. `==` of thread states compares, and calls nothing of this library. No more do `interpreter_of`, `owns`, `in_use`, `own`,
///    `attached` and `attached_or_anothers`. The others may call it: code of the interpreter's may run in them, which ensures and releases.
/// 7. A thread state that stayed attached while its `Self` was dropped is not taken for one of a later `Self` with the same
///    ID: `attached` does not answer with it any more, or `owns` knows.
/// 8. `owns`, `in_use` and `is_exclusive` are right where they say yes or no, and so are `attached_or_anothers`, `own` and the
///    constants, where a runtime has them.
/// 9. No other type's `Runtime` attaches, detaches or destroys the same thread states.
/// 10. An interpreter that is in no registry while a thread which is attached to it is in an ensure of another one does not end
///     before that is released.
pub unsafe trait Runtime: Send + Sync + Sized + 'static {
    /// A handle: one or two words. The levels of all runtimes have room for no more, so that a larger one does not compile:
    ///
    /// ```compile_fail
    /// # use interp_guard::{InterpreterId, Registry, thread_state::{self, CreateError, Runtime}};
    /// #[derive(Clone, Copy, PartialEq, Eq)]
    /// struct State([usize; 3]);
    /// # struct Vm;
    /// unsafe impl Runtime for Vm {
    ///     type ThreadState = State;
    /// #   fn attached() -> Option<State> { None }
    /// #   fn interpreter_of(_: State) -> InterpreterId { unreachable!() }
    /// #   fn create(&self) -> Result<State, CreateError> { unreachable!() }
    /// #   unsafe fn attach(_: State) {}
    /// #   unsafe fn detach(_: State) {}
    /// #   unsafe fn destroy(_: State) {}
    ///     // ..
    /// }
    /// # let registry = Registry::<Vm>::new();
    /// # let id = registry.register(Vm).unwrap();
    /// let attached = thread_state::ensure_id(&registry, id);
    /// ```
    type ThreadState: Copy + Eq + 'static;

    /// Do [`create`](Self::create) and [`remembered`](Self::remembered) run nothing that could change what is attached on the
    /// calling thread? Not the interpreter's code, then, nor anybody's callback. Then an ensure does not look whether they did.
    const CREATES_ALONE: bool = false;

    /// Is what an ensure attaches noted for [`current_id`](super::current_id)? A runtime whose handlers ask it themselves need
    /// not pay for that.
    const NOTES: bool = true;

    /// Is every ensure that this copy of the library makes one of the same registry, which is a `static`? Then a level is not asked
    /// whose it is, where that matters for time: in a nested ensure, and in its release. So it is `true` only of a type that nobody
    /// else can make a registry of.
    const ALONE: bool = false;

    /// Does an interpreter live on after its registry has handed it back, for as long as its runtime's own code has threads
    /// attached to it? Then a thread that was so attached is attached again by the release of an ensure that it made meanwhile.
    /// Where it is `false`, that release answers [`ReleaseError::Gone`](super::ReleaseError::Gone).
    const LIVES_ON: bool = false;

    /// What is attached on the calling thread.
    ///
    /// ```
    /// # use interp_guard::{Registry, thread_state::{self, Runtime}};
    /// # use refruntime::Interpreter;
    /// # let registry = Registry::new();
    /// # let id = Interpreter::locking().register(&registry)?;
    /// assert_eq!(Interpreter::attached(), None);
    /// let attached = thread_state::ensure_id(&registry, id)?;
    /// assert_eq!(Interpreter::attached(), Some(attached.thread_state()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn attached() -> Option<Self::ThreadState>;

    /// What is attached on the calling thread, if anything is; or else, perhaps, what is attached on another one. Asked at each
    /// nested ensure and at each release, whether it is this thread's, so that it pays to answer it faster than
    /// [`attached`](Self::attached): a runtime with one lock in the process need only ask who has it.
    ///
    /// ```
    /// # use interp_guard::{Registry, thread_state::{self, Runtime}};
    /// # use refruntime::Interpreter;
    /// # let registry = Registry::new();
    /// # let id = Interpreter::locking().register(&registry)?;
    /// let attached = thread_state::ensure_id(&registry, id)?;
    /// assert_eq!(Interpreter::attached_or_anothers(), Some(attached.thread_state()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline(always)]
    fn attached_or_anothers() -> Option<Self::ThreadState> {
        Self::attached()
    }

    /// The interpreter of a thread state. Called with states that are attached on the calling thread, or its
    /// [own](Self::own).
    ///
    /// ```
    /// # use interp_guard::{Registry, thread_state::{self, Runtime}};
    /// # use refruntime::Interpreter;
    /// # let registry = Registry::new();
    /// # let id = Interpreter::locking().register(&registry)?;
    /// let attached = thread_state::ensure_id(&registry, id)?;
    /// assert_eq!(Interpreter::interpreter_of(attached.thread_state()), id);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn interpreter_of(state: Self::ThreadState) -> InterpreterId;

    /// Is `state` this interpreter's? `None` if the runtime cannot tell, which is what it says unless it is implemented.
    ///
    /// Asked of an interpreter whose ID is that of `state`, which the runtime itself has attached on the calling thread,
    /// where another registry of the type has an interpreter with that ID too. Without an answer an ensure is refused there.
    ///
    /// ```
    /// # use interp_guard::{Registry, thread_state::{self, Runtime}};
    /// # use refruntime::Interpreter;
    /// # let registry = Registry::new();
    /// # let id = Interpreter::locking().register(&registry)?;
    /// let attached = thread_state::ensure_id(&registry, id)?;
    /// let interpreter = registry.lookup(id)?;
    /// assert_eq!(interpreter.owns(attached.thread_state()), Some(true));
    /// assert_eq!(Interpreter::locking().owns(attached.thread_state()), Some(false));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn owns(&self, state: Self::ThreadState) -> Option<bool> {
        let _ = state;
        None
    }

    /// Must `state`, which is attached on the calling thread, stay attached? Because this thread is inside a function that
    /// lends what only an attached thread may touch.
    ///
    /// A runtime whose safe interface has such a function (`with(|objects| ..)`) answers with it. While it says so, an
    /// allow-threads section, an ensure of another interpreter and a release that would detach `state` are refused: any of
    /// them would let other threads at what is lent. Without such a function there is nothing to implement.
    ///
    /// ```
    /// # use interp_guard::{Registry, thread_state::{self, Runtime}};
    /// # use refruntime::Interpreter;
    /// # let registry = Registry::new();
    /// # let id = Interpreter::locking().register(&registry)?;
    /// let attached = thread_state::ensure_id(&registry, id)?;
    /// assert!(!Interpreter::in_use(attached.thread_state()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn in_use(state: Self::ThreadState) -> bool {
        let _ = state;
        false
    }

    /// Makes a thread state of this interpreter for the calling thread, without attaching it. Another interpreter may
    /// be attached.
    ///
    /// # Errors
    /// What the runtime lacks for it.
    ///
    /// ```
    /// # use interp_guard::thread_state::Runtime;
    /// # use refruntime::Interpreter;
    /// let interpreter = Interpreter::locking();
    /// let state = interpreter.create()?;
    /// assert_eq!(Interpreter::interpreter_of(state), interpreter.id());
    /// assert_eq!(Interpreter::attached(), None);
    /// # Ok::<(), interp_guard::thread_state::CreateError>(())
    /// ```
    fn create(&self) -> Result<Self::ThreadState, CreateError>;

    /// A detached thread state of this interpreter for the calling thread that the runtime itself remembers, if it does
    /// that. Asked before one is created.
    ///
    /// ```
    /// # use interp_guard::thread_state::Runtime;
    /// # use refruntime::Interpreter;
    /// let interpreter = Interpreter::locking();
    /// assert_eq!(interpreter.remembered(), None);
    /// let state = interpreter.create()?;
    /// state.remember(); // the reference runtime's way to have it do that
    /// assert_eq!(interpreter.remembered(), Some(state));
    /// # Ok::<(), interp_guard::thread_state::CreateError>(())
    /// ```
    fn remembered(&self) -> Option<Self::ThreadState> {
        None
    }

    /// The one thread state that the runtime takes for the calling thread's own, attached or not, if it has such a notion, and
    /// attaching another one changes that. Its interpreter exists.
    ///
    /// Where it is of the interpreter that a thread ensures, it is used, so that [`remembered`](Self::remembered) need not name it.
    /// Where it is detached, and of another one, the release puts it back: it attaches it and detaches it again, if a guard of
    /// its interpreter was to be had.
    ///
    /// ```
    /// # use interp_guard::thread_state::Runtime;
    /// # use refruntime::Interpreter;
    /// assert_eq!(Interpreter::own(), None); // the reference runtime remembers one for each interpreter
    /// ```
    #[inline(always)]
    fn own() -> Option<Self::ThreadState> {
        None
    }

    /// Does [`attach`](Self::attach) wait until no other thread is attached to this interpreter? `true` for a runtime with a
    /// lock; `false` where several threads can be attached at a time.
    ///
    /// A drain asks. Where it is `true`, an attached thread that would wait for another one to attach is told that it
    /// [would wait for itself](crate::DrainError::WouldDeadlock).
    ///
    /// Context: normal, attached or not.
    ///
    /// ```
    /// # use interp_guard::thread_state::Runtime;
    /// # use refruntime::Interpreter;
    /// assert!(Interpreter::locking().is_exclusive());
    /// assert!(!Interpreter::lockless().is_exclusive());
    /// ```
    fn is_exclusive(&self) -> bool {
        true
    }

    /// Attaches; waits as long as it takes.
    ///
    /// # Safety
    /// 1. Nothing is attached on the calling thread, to which `state` belongs.
    /// 2. Until the call has returned, the interpreter is not taken out of its registry. (Where no registry has it: as
    ///    when the native code that had `state` attached re-attaches it itself.)
    ///
    /// ```
    /// # use interp_guard::thread_state::Runtime;
    /// # use refruntime::Interpreter;
    /// # let interpreter = Interpreter::locking();
    /// let state = interpreter.create()?;
    /// // SAFETY: this thread's, with nothing attached; no registry has the interpreter.
    /// unsafe { Interpreter::attach(state) };
    /// assert_eq!(Interpreter::attached(), Some(state));
    /// # unsafe { Interpreter::destroy(state) };
    /// # Ok::<(), interp_guard::thread_state::CreateError>(())
    /// ```
    unsafe fn attach(state: Self::ThreadState);

    /// Detaches.
    ///
    /// # Safety
    /// `state` is attached on the calling thread.
    ///
    /// ```
    /// # use interp_guard::thread_state::Runtime;
    /// # use refruntime::Interpreter;
    /// # let interpreter = Interpreter::locking();
    /// # let state = interpreter.create()?;
    /// # unsafe { Interpreter::attach(state) };
    /// // SAFETY: it is attached.
    /// unsafe { Interpreter::detach(state) };
    /// assert_eq!(Interpreter::attached(), None);
    /// # Ok::<(), interp_guard::thread_state::CreateError>(())
    /// ```
    unsafe fn detach(state: Self::ThreadState);

    /// Destroys a thread state, leaving nothing attached. May run the interpreter's code, nested ensures included.
    ///
    /// # Safety
    /// `state` is attached on the calling thread, came from [`create`](Self::create), and is not used any more.
    ///
    /// ```
    /// # use interp_guard::thread_state::Runtime;
    /// # use refruntime::Interpreter;
    /// # let interpreter = Interpreter::locking();
    /// let state = interpreter.create()?;
    /// # unsafe { Interpreter::attach(state) };
    /// // SAFETY: it is attached, was created above, and is used no more.
    /// unsafe { Interpreter::destroy(state) };
    /// assert_eq!(Interpreter::attached(), None);
    /// # Ok::<(), interp_guard::thread_state::CreateError>(())
    /// ```
    unsafe fn destroy(state: Self::ThreadState);
}

/// A runtime could not make a thread state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreateError(&'static str);

impl CreateError {
    /// With the reason, for people.
    ///
    /// ```
    /// let error = interp_guard::thread_state::CreateError::new("no memory");
    /// assert_eq!(error.to_string(), "no thread state could be made: no memory");
    /// ```
    pub const fn new(reason: &'static str) -> Self {
        Self(reason)
    }
}

impl fmt::Display for CreateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no thread state could be made: {}", self.0)
    }
}

impl std::error::Error for CreateError {}
