//! Nested ensures of one interpreter, which are counted in one level: what tells them apart all the same.

use interp_guard::thread_state::{self, Attached, CreateError, ReleaseError, Runtime, Token, raw};
use interp_guard::{InterpreterId, LookupError, Registry};
use refruntime::{Interpreter, Probe};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

fn one() -> (Registry<Interpreter>, InterpreterId, Probe) {
    let (registry, interpreter) = (Registry::new(), Interpreter::locking());
    let probe = interpreter.probe();
    let id = interpreter.register(&registry).expect("room");
    (registry, id, probe)
}

/// So many ensures inside each other, outermost first.
fn nested<const N: usize>(
    registry: &Registry<Interpreter>,
    id: InterpreterId,
) -> [Attached<'_, Interpreter>; N] {
    std::array::from_fn(|_| thread_state::ensure_id(registry, id).expect("live"))
}

fn release(token: Token) -> Result<(), ReleaseError> {
    // SAFETY: the tests' registries outlive their tokens.
    unsafe { token.release() }
}

fn panics(f: impl FnOnce()) -> bool {
    catch_unwind(AssertUnwindSafe(f)).is_err()
}

#[test]
fn handles_are_released_last_in_first_out() {
    let (registry, id, probe) = one();
    let [outer, middle, inner] = nested(&registry, id);
    assert!(panics(|| drop(middle)) && panics(|| outer.set_daemon(true).unwrap()));
    assert!(panics(|| outer.allow_threads(|| ()).unwrap()));
    assert_eq!((registry.outstanding(id), thread_state::current_id()), (Some(1), Some(id)));
    drop(inner);
    assert!(panics(|| drop(outer)), "the middle one is there still, though its handle is gone");
    for _ in 0..2 {
        let left = Token::innermost(&registry).expect("the middle one, then the outer one");
        assert_eq!(release(left), Ok(()));
    }
    assert_eq!((Token::innermost(&registry), registry.outstanding(id)), (None, Some(0)));
    assert_eq!((probe.thread_states(), probe.violations()), (0, vec![]));
}

#[test]
fn tokens_are_never_used_again() {
    let (registry, id, probe) = one();
    let [outer, inner] = nested(&registry, id).map(Attached::into_token);
    assert_eq!(release(outer), Err(ReleaseError::OutOfOrder));
    assert_eq!(release(inner), Ok(()));
    let again = thread_state::ensure_id(&registry, id).unwrap().into_token();
    assert_eq!(release(inner), Err(ReleaseError::Unknown), "not the one that is there now");
    assert_eq!(release(outer), Err(ReleaseError::OutOfOrder));
    assert_eq!(release(again), Ok(()));
    assert_eq!(release(outer), Ok(()));
    assert_eq!((registry.outstanding(id), probe.thread_states(), probe.violations()), (Some(0), 0, vec![]));
}

/// In whichever order handles become tokens, each names its own ensure.
#[test]
fn a_token_names_its_own_ensure_wherever_that_is() {
    let orders = [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2], [2, 0, 3, 1], [1, 2, 3, 0]];
    for order in orders {
        let (registry, id, probe) = one();
        let mut handles = nested::<4>(&registry, id).map(Some);
        let mut tokens = [None; 4];
        for at in order {
            tokens[at] = handles[at].take().map(Attached::into_token);
        }
        for at in (0..4).rev() {
            for other in (0..4).filter(|&other| other != at) {
                let expected = if other < at { ReleaseError::OutOfOrder } else { ReleaseError::Unknown };
                assert_eq!(release(tokens[other].unwrap()), Err(expected), "{order:?}: {other} at {at}");
            }
            assert_eq!(registry.outstanding(id), Some(1), "{order:?}");
            assert_eq!(release(tokens[at].unwrap()), Ok(()), "{order:?}: {at}");
        }
        assert_eq!(
            (registry.outstanding(id), probe.thread_states(), probe.violations()),
            (Some(0), 0, vec![])
        );
    }
}

#[test]
fn handles_and_tokens_of_one_level_mix() {
    let (registry, id, _) = one();
    let [outer, middle, inner] = nested(&registry, id);
    let (middle, named) = (middle.into_token(), Token::innermost(&registry).unwrap());
    assert_eq!(Token::innermost(&registry), Some(named), "asked twice");
    let innermost = thread_state::ensure_id(&registry, id).unwrap();
    assert_eq!(release(named), Err(ReleaseError::OutOfOrder));
    drop(innermost);
    assert_eq!(release(middle), Err(ReleaseError::OutOfOrder));
    drop(inner);
    assert_eq!(release(named), Err(ReleaseError::Unknown), "it was the handle's");
    assert_eq!(release(middle), Ok(()));
    assert_eq!(registry.outstanding(id), Some(1));
    drop(outer);
    assert_eq!(registry.outstanding(id), Some(0));
}

#[test]
fn each_is_a_daemon_or_not_by_itself() {
    let (registry, id, _) = one();
    let [outer, middle, inner] = nested(&registry, id);
    inner.set_daemon(false).unwrap();
    inner.set_daemon(true).unwrap();
    let daemons = |handles: [&Attached<'_, Interpreter>; 3]| handles.map(Attached::is_daemon);
    assert_eq!(daemons([&outer, &middle, &inner]), [false, false, true]);
    assert_eq!((registry.outstanding(id), thread_state::is_daemon(&registry)), (Some(1), Some(true)));
    let innermost = thread_state::ensure_id(&registry, id).unwrap();
    assert_eq!(
        (innermost.is_daemon(), registry.outstanding(id)),
        (false, Some(1)),
        "under the outer one's guard"
    );
    drop(innermost);
    inner.set_daemon(false).unwrap();
    assert_eq!(daemons([&outer, &middle, &inner]), [false; 3]);
    let innermost = thread_state::ensure_id(&registry, id).unwrap();
    thread_state::set_innermost_daemon(&registry, true).expect("a level").unwrap();
    assert!(innermost.is_daemon() && !inner.is_daemon());
    drop((innermost, inner));
    drop(middle);
    outer.set_daemon(true).unwrap();
    assert_eq!(registry.outstanding(id), Some(0));
    let _closing = registry.close(id).unwrap();
    assert_eq!(outer.set_daemon(false), Err(LookupError::Finalizing));
}

#[test]
fn a_section_of_a_counted_one_lets_others_in() {
    let (registry, id, probe) = one();
    let [outer, inner] = nested(&registry, id);
    let other = || drop(thread_state::ensure_id(&registry, id).unwrap());
    let run = || std::thread::scope(|scope| scope.spawn(other).join().unwrap());
    let section = || {
        run();
        assert!(!outer.is_attached() && !inner.is_attached());
        let within = thread_state::ensure_id(&registry, id).unwrap();
        assert!(outer.is_attached() && within.is_attached());
        assert_eq!(registry.outstanding(id), Some(1));
    };
    // SAFETY: it touches nothing of the interpreter.
    unsafe { inner.allow_threads_unchecked(section) }.unwrap();
    // SAFETY: nothing of the interpreter is touched inside.
    let section = unsafe { thread_state::allow_threads_begin::<Interpreter>() }.expect("attached");
    run();
    // SAFETY: the registry lives.
    unsafe { section.allow_threads_end::<Interpreter>() }.expect("innermost").expect("guarded");
    drop((inner, outer));
    assert_eq!((registry.outstanding(id), probe.thread_states(), probe.violations()), (Some(0), 0, vec![]));
}

#[test]
fn what_handlers_are_told_is_restored() {
    let (registry, id, _) = one();
    let outer = thread_state::ensure_id(&registry, id).unwrap();
    thread_state::note_attached(Some(id)); // natively: of no registry
    let inner = thread_state::ensure_id(&registry, id).unwrap();
    assert_eq!(thread_state::current_of(&registry), Some(id));
    let innermost = thread_state::ensure_id(&registry, id).unwrap();
    thread_state::note_attached(None);
    drop(innermost);
    assert_eq!(thread_state::current_of(&registry), Some(id));
    drop(inner);
    assert_eq!((thread_state::current_of(&registry), thread_state::current_id()), (None, Some(id)));
    drop(outer);
    assert_eq!(thread_state::current_id(), None);
}

struct Counting;

thread_local!(static ALLOCATIONS: Cell<u32> = const { Cell::new(0) });

// SAFETY: the system's, counted.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn no_level_is_allocated_but_the_first_of_each_depth() {
    let (registry, a, _) = one();
    let b = Interpreter::locking().register(&registry).unwrap();
    let [in_a, in_b] = [a, b].map(|id| registry.lookup(id).unwrap());
    let run = |depth: usize| {
        let _outer = thread_state::ensure(&in_a).unwrap();
        let _across = thread_state::ensure(&in_b).unwrap();
        let counted: [_; 32] =
            std::array::from_fn(|at| (at < depth).then(|| thread_state::ensure(&in_b).unwrap()));
        counted.into_iter().rev().for_each(drop);
    };
    run(0);
    for depth in [0, 1, 32] {
        let before = ALLOCATIONS.get();
        run(depth);
        assert_eq!(ALLOCATIONS.get() - before, 0, "at depth {depth}");
    }
}

// --- a runtime that takes one thread state for a thread's own ----------------------------------------------------------

#[derive(Debug)]
struct Vm<const LIVES_ON: bool> {
    number: u32,
    id: std::sync::OnceLock<InterpreterId>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct State {
    vm: u32,
    serial: u32,
    id: i64,
}

thread_local! {
    static ATTACHED: Cell<Option<State>> = const { Cell::new(None) };
    /// What was attached last, unless that is destroyed.
    static OWN: Cell<Option<State>> = const { Cell::new(None) };
    static MADE: Cell<u32> = const { Cell::new(0) };
}

// SAFETY: (1) to (10): numbers, in thread-locals; nothing is ever freed, nothing calls back.
unsafe impl<const LIVES_ON: bool> Runtime for Vm<LIVES_ON> {
    type ThreadState = State;
    const CREATES_ALONE: bool = true;
    const LIVES_ON: bool = LIVES_ON;

    fn attached() -> Option<State> {
        ATTACHED.get()
    }

    fn interpreter_of(state: State) -> InterpreterId {
        InterpreterId::try_from(state.id).expect("an ID")
    }

    fn owns(&self, state: State) -> Option<bool> {
        Some(state.vm == self.number)
    }

    fn own() -> Option<State> {
        OWN.get()
    }

    fn create(&self) -> Result<State, CreateError> {
        MADE.set(MADE.get() + 1);
        let id = (*self.id.get().expect("registered")).into();
        Ok(State { vm: self.number, serial: MADE.get(), id })
    }

    unsafe fn attach(state: State) {
        assert!(ATTACHED.replace(Some(state)).is_none());
        OWN.set(Some(state));
    }

    unsafe fn detach(state: State) {
        assert_eq!(ATTACHED.take(), Some(state));
    }

    unsafe fn destroy(state: State) {
        // SAFETY: as here.
        unsafe { Self::detach(state) };
        OWN.set(None);
    }
}

fn vms<const LIVES_ON: bool>(registry: &Registry<Vm<LIVES_ON>>) -> [InterpreterId; 2] {
    [1, 2].map(|number| {
        let id = registry.register(Vm { number, id: std::sync::OnceLock::new() }).expect("room");
        registry.lookup(id).unwrap().id.set(id).expect("once");
        id
    })
}

/// The thread's own one, of interpreter `id`, attached as the runtime's code does it.
fn enter<const LIVES_ON: bool>(registry: &Registry<Vm<LIVES_ON>>, id: InterpreterId) -> State {
    let state = registry.lookup(id).unwrap().create().unwrap();
    // SAFETY: nothing is attached.
    unsafe { Vm::<LIVES_ON>::attach(state) };
    state
}

#[test]
fn a_threads_own_state_is_used_and_is_its_own_again_after_another() {
    let registry = Registry::<Vm<false>>::new();
    let [a, b] = vms(&registry);
    let own = enter(&registry, a);
    // SAFETY: it is attached.
    unsafe { Vm::<false>::detach(own) };
    let attached = thread_state::ensure_id(&registry, a).unwrap();
    assert_eq!((attached.thread_state(), MADE.get()), (own, 1));
    drop(attached);
    assert_eq!((ATTACHED.get(), OWN.get()), (None, Some(own)));

    let attached = thread_state::ensure_id(&registry, b).unwrap();
    assert_eq!(
        (registry.outstanding(a), OWN.get()),
        (Some(1), Some(attached.thread_state())),
        "guarded meanwhile"
    );
    let inner = thread_state::ensure_id(&registry, a).unwrap();
    assert_eq!((inner.thread_state(), MADE.get()), (own, 2), "found where it was left");
    drop((inner, attached));
    assert_eq!((ATTACHED.get(), OWN.get(), registry.outstanding(a)), (None, Some(own), Some(0)));

    // Nobody could say whether what is gone can be attached.
    registry.finalize(a, None).expect("no guard is out");
    drop(thread_state::ensure_id(&registry, b).unwrap());
    assert_eq!((ATTACHED.get(), OWN.get()), (None, None));
}

/// The guard of the level that leaves it behind does not cover it: that level may become a daemon.
#[test]
fn a_threads_own_state_is_guarded_by_no_level_that_may_give_that_up_before() {
    let registry = Registry::<Vm<false>>::new();
    let [a, _] = vms(&registry);
    let outer = thread_state::ensure_id(&registry, a).unwrap();
    outer.set_daemon(true).unwrap();
    let first = outer.thread_state();
    let section = || {
        let own = enter(&registry, a);
        // SAFETY: it is attached.
        unsafe { Vm::<false>::detach(own) };
        let inner = thread_state::ensure_id(&registry, a).unwrap();
        assert_eq!((inner.thread_state(), registry.outstanding(a)), (first, Some(2)));
        inner.set_daemon(true).unwrap();
        assert_eq!(registry.outstanding(a), Some(1));
        assert!(registry.finalize(a, Some(std::time::Duration::ZERO)).is_err());
        assert_eq!(inner.release(), Ok(()));
        assert_eq!((ATTACHED.get(), OWN.get(), registry.outstanding(a)), (None, Some(own), Some(0)));
    };
    // SAFETY: nothing is touched inside that only an attached thread may touch.
    unsafe { outer.allow_threads_unchecked(section) }.expect("not finalized");
    assert_eq!(outer.release(), Ok(()));
}

#[test]
fn what_lives_on_without_its_registry_is_attached_again() {
    fn release<const LIVES_ON: bool>() -> (Result<(), ReleaseError>, Option<u32>) {
        let registry = Registry::<Vm<LIVES_ON>>::new();
        let [a, b] = vms(&registry);
        enter(&registry, a);
        registry.finalize(a, None).expect("no guard is out");
        let released = thread_state::ensure_id(&registry, b).unwrap().release();
        (released, ATTACHED.take().map(|state| state.vm))
    }
    assert_eq!(release::<false>(), (Err(ReleaseError::Gone), None));
    assert_eq!(release::<true>(), (Ok(()), Some(1)));
}

/// Its thread state is there still: a release that would leave that behind is refused as ever.
#[test]
fn a_daemon_of_what_lives_on_without_its_registry_is_not_lost() {
    fn detached<const LIVES_ON: bool>() -> (Result<(), ReleaseError>, bool) {
        let registry = Registry::<Vm<LIVES_ON>>::new();
        let [a, _] = vms(&registry);
        let attached = thread_state::ensure_id(&registry, a).unwrap();
        attached.set_daemon(true).unwrap();
        let state = attached.thread_state();
        // SAFETY: it is attached.
        unsafe { Vm::<LIVES_ON>::detach(state) };
        registry.finalize(a, None).expect("no guard is out");
        let released = attached.release();
        let left = Token::innermost(&registry).map(|token| {
            // SAFETY: nothing is attached.
            unsafe { Vm::<LIVES_ON>::attach(state) };
            release(token)
        });
        assert!(matches!(left, None | Some(Ok(()))), "{left:?}");
        assert_eq!(ATTACHED.get(), None);
        (released, left.is_some())
    }
    assert_eq!(detached::<false>(), (Ok(()), false));
    assert_eq!(detached::<true>(), (Err(ReleaseError::Detached), true));
}

/// Two runtimes whose interpreters have the same ID, and one registry's inside another's of the same runtime.
#[test]
fn an_ensure_is_counted_in_no_level_of_another_registry() {
    let (registry, id, probe) = one();
    let vms = [1, 2].map(|number| {
        let registry = Registry::<Vm<false>>::new();
        registry.register_with_id(id, Vm { number, id: id.into() }).unwrap();
        registry
    });
    let outer = thread_state::ensure_id(&registry, id).unwrap();
    let inner = vms.each_ref().map(|registry| thread_state::ensure_id(registry, id).unwrap());
    let again = thread_state::ensure_id(&registry, id).unwrap();
    let once_more = vms.each_ref().map(|registry| thread_state::ensure_id(registry, id).unwrap());
    assert_eq!(again.thread_state(), outer.thread_state());
    assert_ne!(inner[0].thread_state(), inner[1].thread_state());
    for at in 0..2 {
        assert_eq!(once_more[at].thread_state(), inner[at].thread_state());
        assert_eq!(raw::release(&registry, raw::innermost(&vms[1]).unwrap()), Err(ReleaseError::OutOfOrder));
    }
    let [first, second] = once_more;
    assert!(panics(|| drop(first)), "out of order");
    assert_eq!(second.release(), Ok(()));
    assert_eq!(release(Token::innermost(&vms[0]).unwrap()), Ok(()));
    assert_eq!(again.release(), Ok(()));
    let [first, second] = inner;
    assert_eq!((second.release(), first.release(), outer.release()), (Ok(()), Ok(()), Ok(())));
    assert_eq!((registry.outstanding(id), probe.thread_states(), probe.violations()), (Some(0), 0, vec![]));
}

/// A daemon counts nothing, by whatever numbers it is asked.
#[test]
fn no_numbers_of_a_guard_count_in_a_daemon() {
    let (registry, id, _) = one();
    let attached = thread_state::ensure_id(&registry, id).unwrap();
    let parts = registry.lookup(id).unwrap().into_raw().into_parts();
    attached.set_daemon(true).unwrap();
    let numbers = [0, 1, parts.slot, u32::MAX - 1, u32::MAX];
    for (slot, generation) in
        numbers.into_iter().flat_map(|slot| numbers.map(|generation| (slot, generation)))
    {
        assert_eq!(raw::nest_like(&registry, slot, generation), None, "{slot}, {generation}");
    }
    attached.set_daemon(false).unwrap();
    assert!(raw::nest_like(&registry, parts.slot, parts.generation).is_some());
    raw::release(&registry, raw::innermost(&registry).unwrap()).unwrap();
    // SAFETY: of this registry, and put together once.
    drop(unsafe { registry.guard_from_parts(parts) });
}

/// A handle whose ensure was released by its token stands for no later one.
#[test]
fn a_handle_is_not_taken_for_a_later_ensures() {
    let (registry, id, probe) = one();
    let [outer, stale] = nested(&registry, id);
    assert_eq!(release(Token::innermost(&registry).expect("stale's")), Ok(()));
    let new = thread_state::ensure_id(&registry, id).unwrap();
    assert_eq!(stale.release(), Err(ReleaseError::Unknown));
    assert!(new.is_attached());
    assert_eq!((new.release(), outer.release()), (Ok(()), Ok(())));
    assert_eq!((registry.outstanding(id), probe.thread_states(), probe.violations()), (Some(0), 0, vec![]));
}
