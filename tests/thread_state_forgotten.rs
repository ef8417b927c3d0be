//! A runtime that runs the interpreter's code while it makes a thread state, as its contract allows; and that code forgets an
//! ensure.

use interp_guard::thread_state::{self, CreateError, EnsureError, Runtime};
use interp_guard::{InterpreterId, Registry};
use std::cell::{Cell, RefCell};
use std::sync::OnceLock;
use std::time::Duration;

struct Vm {
    number: u32,
    id: OnceLock<InterpreterId>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct State {
    vm: u32,
    serial: u32,
    id: InterpreterId,
}

type Code = Option<Box<dyn FnOnce()>>;

thread_local! {
    static ATTACHED: Cell<Option<State>> = const { Cell::new(None) };
    static MADE: Cell<u32> = const { Cell::new(0) };
    static IN_CREATE: RefCell<Code> = const { RefCell::new(None) };
    static IN_REMEMBERED: RefCell<Code> = const { RefCell::new(None) };
    /// Where a handler would have been told what is not attached.
    static WRONG: RefCell<Vec<&'static str>> = const { RefCell::new(Vec::new()) };
}

fn run(code: &'static std::thread::LocalKey<RefCell<Code>>) {
    if let Some(code) = code.take() {
        code();
    }
}

/// What would a handler see here?
fn look(at: &'static str) {
    if thread_state::current_id().is_some_and(|told| ATTACHED.get().is_none_or(|state| state.id != told)) {
        WRONG.with_borrow_mut(|wrong| wrong.push(at));
    }
}

// SAFETY: (1) to (10): numbers, in thread-locals; nothing is ever freed. `create` and `remembered` leave attached what they
// find, but for what their code forgets, which stays attached.
unsafe impl Runtime for Vm {
    type ThreadState = State;

    fn attached() -> Option<State> {
        ATTACHED.get()
    }

    fn interpreter_of(state: State) -> InterpreterId {
        state.id
    }

    fn owns(&self, state: State) -> Option<bool> {
        Some(state.vm == self.number)
    }

    fn create(&self) -> Result<State, CreateError> {
        run(&IN_CREATE);
        MADE.set(MADE.get() + 1);
        Ok(State { vm: self.number, serial: MADE.get(), id: *self.id.get().expect("registered") })
    }

    fn remembered(&self) -> Option<State> {
        run(&IN_REMEMBERED);
        None
    }

    unsafe fn attach(state: State) {
        look("before attach");
        assert!(ATTACHED.replace(Some(state)).is_none());
        look("after attach");
    }

    unsafe fn detach(state: State) {
        look("before detach");
        assert_eq!(ATTACHED.take(), Some(state));
        look("after detach");
    }

    unsafe fn destroy(state: State) {
        // SAFETY: as here.
        unsafe { Self::detach(state) };
    }
}

/// Two interpreters, of which this thread is attached to the first, by the runtime's own code.
fn natively_in_one() -> (&'static Registry<Vm>, [InterpreterId; 2]) {
    let registry: &'static Registry<Vm> = Box::leak(Box::new(Registry::new()));
    let ids = [1, 2].map(|number| {
        let Ok(id) = registry.register(Vm { number, id: OnceLock::new() }) else { panic!("there is room") };
        registry.lookup(id).unwrap().id.set(id).expect("once");
        id
    });
    let state = registry.lookup(ids[0]).unwrap().create().unwrap();
    // SAFETY: nothing is attached.
    unsafe { Vm::attach(state) };
    (registry, ids)
}

fn forgets(registry: &'static Registry<Vm>, id: InterpreterId) -> Code {
    Some(Box::new(move || std::mem::forget(thread_state::ensure_id(registry, id).expect("live"))))
}

/// Of what is attached anyway: nothing that is attached has changed, but the level that begins is not the innermost any more.
#[test]
fn an_ensure_is_refused_whose_making_forgets_one() {
    for code in [&IN_CREATE, &IN_REMEMBERED] {
        let (registry, [one, two]) = natively_in_one();
        code.set(forgets(registry, one));
        let refused = thread_state::ensure_id(registry, two).map(drop);
        assert!(matches!(refused, Err(EnsureError::Create(_))), "{refused:?}");
        assert_eq!((registry.outstanding(two), WRONG.take()), (Some(0), vec![]));
        assert_eq!(ATTACHED.take().map(|state| state.vm), Some(1), "it stays where it was");
        thread_state::note_attached(None);
        registry.finalize(two, Some(Duration::ZERO)).map(drop).expect("nobody is in it");
    }
}

/// What it forgets has told handlers of an interpreter of which they had not been told. While that is detached, they are not.
#[test]
fn handlers_are_not_told_what_is_detached() {
    let (registry, [one, two]) = natively_in_one();
    assert_eq!(thread_state::current_id(), None, "the runtime does not note what its own code attaches");
    IN_CREATE.set(Some(Box::new(move || {
        let attached = thread_state::ensure_id(registry, one).expect("live");
        attached.release().expect("innermost");
        thread_state::note_attached(Some(one)); // as its own code may
    })));
    let attached =
        thread_state::ensure_id(registry, two).expect("nothing has changed that a release restores");
    assert_eq!(thread_state::current_id(), Some(two));
    assert_eq!(attached.release(), Ok(()));
    assert_eq!(WRONG.take(), Vec::<&str>::new());
    ATTACHED.set(None);
}
