//! Two registries of one runtime whose interpreters have the same IDs; and what is lent out to an attached thread.

use interp_guard::thread_state::{self, CreateError, EnsureError, HoldError, ReleaseError, Runtime, Token};
use interp_guard::{InterpreterId, Registry};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// The most obvious runtime: a lock, and the ID that `register` gave. A type for each test: their registries have the same IDs.
#[derive(Debug)]
struct Vm<const TELLS: bool, const TEST: u32>(&'static Inner);

#[derive(Debug)]
struct Inner {
    id: OnceLock<InterpreterId>,
    name: &'static str,
    locked: AtomicBool,
    number: Cell<u64>,
}

// SAFETY: `number` is for whoever has `locked`.
unsafe impl Sync for Inner {}

#[derive(Clone, Copy, Debug)]
struct State(&'static Inner);

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.0, other.0)
    }
}

impl Eq for State {}

thread_local! {
    static ATTACHED: Cell<Option<State>> = const { Cell::new(None) };
    static LENT: Cell<usize> = const { Cell::new(0) };
    /// What the next `create` and the next `attach` run, as a runtime runs an interpreter's code there.
    static IN_CREATE: Cell<Option<Box<dyn FnOnce()>>> = const { Cell::new(None) };
    static IN_ATTACH: Cell<Option<Box<dyn FnOnce()>>> = const { Cell::new(None) };
}

// SAFETY: (1), (2) by `ATTACHED`; (3) a state is its VM's memory, which is leaked; (4) nothing unwinds; (5) nothing is freed;
// (6) they compare and read; (7) each has memory of its own; (8) `owns` by that, `in_use` by the count of `with`.
unsafe impl<const TELLS: bool, const TEST: u32> Runtime for Vm<TELLS, TEST> {
    type ThreadState = State;

    fn attached() -> Option<State> {
        ATTACHED.get()
    }

    fn interpreter_of(state: State) -> InterpreterId {
        *state.0.id.get().expect("set after its registration")
    }

    fn owns(&self, state: State) -> Option<bool> {
        TELLS.then(|| std::ptr::eq(self.0, state.0))
    }

    fn in_use(_: State) -> bool {
        LENT.get() != 0
    }

    fn create(&self) -> Result<State, CreateError> {
        if let Some(code) = IN_CREATE.take() {
            code();
        }
        Ok(State(self.0))
    }

    unsafe fn attach(state: State) {
        if let Some(code) = IN_ATTACH.take() {
            code();
        }
        while state.0.locked.swap(true, Ordering::Acquire) {
            std::thread::yield_now();
        }
        ATTACHED.set(Some(state));
    }

    unsafe fn detach(state: State) {
        ATTACHED.set(None);
        state.0.locked.store(false, Ordering::Release);
    }

    unsafe fn destroy(state: State) {
        // SAFETY: attached, as here.
        unsafe { Self::detach(state) };
    }
}

impl<const TELLS: bool, const TEST: u32> Vm<TELLS, TEST> {
    fn register(registry: &Registry<Self>, name: &'static str) -> InterpreterId {
        let (id, locked, number) = (OnceLock::new(), AtomicBool::new(false), Cell::new(0));
        let inner: &'static Inner = Box::leak(Box::new(Inner { id, name, locked, number }));
        let id = registry.register(Self(inner)).expect("room");
        inner.id.set(id).expect("once");
        id
    }

    /// As the runtime's own code attaches a thread.
    fn enter(registry: &Registry<Self>, id: InterpreterId) -> State {
        let state = registry.lookup(id).unwrap().create().unwrap();
        // SAFETY: nothing is attached; the tests finalize nothing meanwhile.
        unsafe { Self::attach(state) };
        state
    }

    /// Lends out what only an attached thread may touch.
    fn with<R>(f: impl FnOnce(&Cell<u64>) -> R) -> Option<R> {
        struct Lent;
        impl Drop for Lent {
            fn drop(&mut self) {
                LENT.set(LENT.get() - 1);
            }
        }
        let state = ATTACHED.get()?;
        LENT.set(LENT.get() + 1);
        let _lent = Lent;
        Some(f(&state.0.number))
    }
}

fn name() -> Option<&'static str> {
    ATTACHED.get().map(|state| state.0.name)
}

fn leave() {
    if let Some(state) = ATTACHED.get() {
        // SAFETY: it is attached.
        unsafe { Vm::<true, 0>::detach(state) };
    }
}

#[test]
fn an_id_of_one_registry_is_not_taken_for_anothers() {
    let (one, two) = (Registry::new(), Registry::new());
    let a = Vm::<false, 1>::register(&one, "a");
    let [b, c] = ["b", "c"].map(|name| Vm::<false, 1>::register(&two, name));
    assert_eq!(a, b, "each registry begins anew");
    let outer = thread_state::ensure_id(&one, a).unwrap();
    assert_eq!((name(), thread_state::current_of(&one)), (Some("a"), Some(a)));
    assert_eq!(thread_state::hold(&two).unwrap_err(), HoldError::NotFound);

    let inner = thread_state::ensure_id(&two, b).unwrap();
    assert_eq!(
        (name(), thread_state::current_of(&one), thread_state::current_of(&two)),
        (Some("b"), None, Some(b))
    );
    assert!(!outer.is_attached() && inner.is_attached());
    assert_eq!(thread_state::hold(&two).unwrap().0.name, "b");
    let innermost = thread_state::ensure_id(&one, a).unwrap();
    assert_eq!(name(), Some("a"));
    drop(innermost);
    assert_eq!((name(), thread_state::current_of(&two)), (Some("b"), Some(b)));
    drop(inner);
    assert_eq!(name(), Some("a"));

    // What a level has left behind is the other registry's, too.
    let inner = thread_state::ensure_id(&two, c).unwrap();
    let innermost = thread_state::ensure_id(&two, b).unwrap();
    assert_eq!(name(), Some("b"));
    drop((innermost, inner));
    assert_eq!((name(), one.outstanding(a), two.outstanding(b)), (Some("a"), Some(1), Some(0)));
    drop(outer);
    assert_eq!(name(), None);
}

#[test]
fn a_native_state_whose_id_two_registries_have_is_not_guessed_at() {
    let (one, two) = (Registry::new(), Registry::new());
    let a = Vm::<false, 2>::register(&one, "a");
    let [b, c] = ["b", "c"].map(|name| Vm::<false, 2>::register(&two, name));
    Vm::<false, 2>::enter(&one, a);
    for id in [b, c] {
        let refused = thread_state::ensure_id(&two, id).unwrap_err();
        assert!(matches!(refused, EnsureError::Create(_)), "{refused}");
        assert!(refused.to_string().contains("another registry"), "{refused}");
        assert_eq!((name(), two.outstanding(id)), (Some("a"), Some(0)), "nothing changed");
    }
    assert_eq!(thread_state::hold(&two).unwrap_err(), HoldError::NotFound);
    leave();
    // Once the other is gone there is no doubt.
    one.finalize(a, None).unwrap();
    Vm::<false, 2>::enter(&two, b);
    drop(thread_state::ensure_id(&two, b).unwrap());
    assert_eq!(name(), Some("b"));
    leave();
}

#[test]
fn a_runtime_that_tells_them_apart_is_believed() {
    let (one, two) = (Registry::new(), Registry::new());
    let a = Vm::<true, 3>::register(&one, "a");
    let [b, c] = ["b", "c"].map(|name| Vm::<true, 3>::register(&two, name));
    let native = Vm::<true, 3>::enter(&one, a);
    for (registry, id, expected) in [(&two, b, "b"), (&two, c, "c"), (&one, a, "a")] {
        let attached = thread_state::ensure_id(registry, id).unwrap();
        assert_eq!(name(), Some(expected));
        drop(attached);
        assert_eq!(ATTACHED.get(), Some(native));
    }
    assert_eq!(thread_state::hold(&one).unwrap().0.name, "a");
    assert_eq!(thread_state::hold(&two).unwrap_err(), HoldError::NotFound);
    leave();
}

#[test]
fn a_registry_is_the_same_where_it_has_moved() {
    let one = Registry::<Vm<false, 4>>::new();
    let a = Vm::<false, 4>::register(&one, "a");
    std::mem::forget(thread_state::ensure_id(&one, a).unwrap());
    let moved = Box::new(one);
    let attached = thread_state::ensure_id(&moved, a).unwrap();
    assert_eq!(moved.outstanding(a), Some(1), "counted under the level that was leaked");
    drop(attached);
    assert!(Token::innermost(&moved).is_some());
    assert_eq!(name(), Some("a"));
}

/// Whatever would let another thread at what is lent out: refused, with nothing changed.
#[test]
fn what_is_lent_out_is_not_detached() {
    let registry = Registry::<Vm<true, 6>>::new();
    let [a, b] = ["a", "b"].map(|name| Vm::<true, 6>::register(&registry, name));
    let attached = thread_state::ensure_id(&registry, a).unwrap();
    let refused = Vm::<true, 6>::with(|number| {
        let refused = thread_state::ensure_id(&registry, b).unwrap_err();
        let nested = thread_state::ensure_id(&registry, a).unwrap(); // detaches nothing
        nested.release().unwrap();
        // SAFETY: it is refused.
        assert!(unsafe { thread_state::allow_threads_begin::<Vm<true, 6>>() }.is_none());
        assert!(catch_unwind(AssertUnwindSafe(|| attached.allow_threads(|| ()))).is_err());
        let token = Token::innermost(&registry).expect("the level");
        // SAFETY: the registry lives, and stays.
        assert_eq!(unsafe { token.release() }, Err(ReleaseError::InUse));
        number.set(number.get() + 1);
        assert_eq!(name(), Some("a"));
        refused
    });
    assert!(refused.unwrap().to_string().contains("in use"));
    attached.allow_threads(|| ()).unwrap();
    assert_eq!(Vm::<true, 6>::with(Cell::get), Some(1));
    drop(attached);
    assert_eq!((name(), registry.outstanding(a), registry.outstanding(b)), (None, Some(0), Some(0)));
}

/// What a daemon is attached to ends on its own thread, as a runtime's own `Drop` may have it.
#[test]
fn a_daemon_that_was_not_told_of_its_loss_is_not_stuck() {
    let registry = Registry::new();
    let [a, b] = ["a", "b"].map(|name| Vm::<true, 8>::register(&registry, name));
    for release in [false, true] {
        let registry = &registry;
        let [a, b] =
            if release { ["c", "d"].map(|name| Vm::<true, 8>::register(registry, name)) } else { [a, b] };
        let outer = thread_state::ensure_id(registry, b).unwrap();
        let daemon = thread_state::ensure_id(registry, a).unwrap();
        daemon.set_daemon(true).unwrap();
        registry.finalize(a, None).unwrap();
        leave(); // nothing is attached any more
        if release {
            assert_eq!(daemon.release(), Ok(()));
        } else {
            assert_eq!(daemon.allow_threads(|| 7).unwrap_err().result, 7);
            drop(daemon);
        }
        assert_eq!(registry.outstanding(b), Some(1));
        assert!(outer.is_attached(), "what was attached before is restored");
        drop(outer);
        assert_eq!(registry.outstanding(b), Some(0));
    }
}

/// The runtime is asked whose a state is even where only one registry has the ID now.
#[test]
fn a_state_of_an_interpreter_that_is_gone_is_not_taken_for_its_namesakes() {
    let two = Registry::new();
    let b = {
        let one = Registry::new();
        let a = Vm::<true, 10>::register(&one, "a");
        Vm::<true, 10>::enter(&one, a);
        let b = Vm::<true, 10>::register(&two, "b");
        assert_eq!(a, b);
        b
    };
    assert_eq!(name(), Some("a"), "and its registry is gone");
    let attached = thread_state::ensure_id(&two, b).unwrap();
    assert_eq!(name(), Some("b"));
    assert_eq!(attached.release(), Err(ReleaseError::Gone));
    assert_eq!(name(), None);
}

#[test]
fn what_was_noted_natively_is_no_registrys() {
    let (empty, registry) = (Registry::<Vm<true, 11>>::new(), Registry::new());
    let a = Vm::<true, 11>::register(&registry, "a");
    thread_state::note_attached(Some(a));
    assert_eq!((thread_state::current_of(&empty), thread_state::current_of(&registry)), (None, None));
    thread_state::note_attached(None);
}

/// What `create` runs ensures the same interpreter, whose level is on the stack already, with no thread state yet.
#[test]
fn code_that_creation_runs_may_ensure_the_same_interpreter() {
    static REGISTRY: Registry<Vm<true, 13>> = Registry::new();
    let [a, b] = ["a", "b"].map(|name| Vm::register(&REGISTRY, name));
    let outer = thread_state::ensure_id(&REGISTRY, b).unwrap();
    IN_CREATE.set(Some(Box::new(move || {
        let nested = thread_state::ensure_id(&REGISTRY, a).unwrap();
        assert_eq!((name(), nested.is_attached()), (Some("a"), true));
        drop(nested);
        assert_eq!(name(), Some("b"));
    })));
    let attached = thread_state::ensure_id(&REGISTRY, a).unwrap();
    assert_eq!((name(), attached.is_attached(), outer.is_attached()), (Some("a"), true, false));
    drop(attached);
    assert_eq!((name(), REGISTRY.outstanding(a), REGISTRY.outstanding(b)), (Some("b"), Some(0), Some(1)));
}

/// It forgets an ensure, so that something else is attached than before.
#[test]
fn code_that_creation_runs_and_that_leaves_something_else_attached_is_refused() {
    static REGISTRY: Registry<Vm<true, 15>> = Registry::new();
    let [a, b, c] = ["a", "b", "c"].map(|name| Vm::register(&REGISTRY, name));
    let outer = thread_state::ensure_id(&REGISTRY, b).unwrap();
    let forget = move || std::mem::forget(thread_state::ensure_id(&REGISTRY, c).unwrap());
    IN_CREATE.set(Some(Box::new(forget)));
    let refused = thread_state::ensure_id(&REGISTRY, a).unwrap_err();
    assert!(refused.to_string().contains("changed while"), "{refused}");
    assert_eq!((name(), REGISTRY.outstanding(a)), (Some("c"), Some(0)), "as that code has left it");
    std::mem::forget(outer);
}

/// The handle of the level that is being attached again, in reach of what the runtime runs meanwhile.
#[test]
fn a_level_keeps_its_guard_while_it_is_attached_again() {
    static REGISTRY: Registry<Vm<true, 17>> = Registry::new();
    let a = Vm::register(&REGISTRY, "a");
    let attached = Rc::new(thread_state::ensure_id(&REGISTRY, a).unwrap());
    let (again, tried) = (attached.clone(), Rc::new(Cell::new(false)));
    let seen = tried.clone();
    IN_ATTACH.set(Some(Box::new(move || {
        seen.set(catch_unwind(AssertUnwindSafe(|| again.set_daemon(true))).is_err());
    })));
    attached.allow_threads(|| ()).unwrap();
    assert!(tried.get(), "it was refused");
    assert_eq!((attached.is_daemon(), REGISTRY.outstanding(a)), (false, Some(1)));
}
