//! Every cell of the phase table (docs/questions.md) that has to do with attaching, by its own name.

use interp_guard::thread_state::{self, EnsureError, HoldError};
use interp_guard::{CloseError, FinalizeError, InterpreterId, LookupError, Registry};
use refruntime::{Interpreter, Object, Probe};
use std::time::Duration;

fn one() -> (Registry<Interpreter>, InterpreterId, Probe) {
    let (registry, interpreter) = (Registry::new(), Interpreter::locking());
    let probe = interpreter.probe();
    let id = interpreter.register(&registry).expect("room");
    (registry, id, probe)
}

/// Attached natively, without a guard: as a runtime's own thread is.
macro_rules! enter {
    ($registry:expr, $id:expr) => {
        $registry.lookup($id).unwrap().enter()
    };
}

// --- hold -----------------------------------------------------------------------------------------------------------

#[test]
fn hold_live() {
    let (registry, id, _) = one();
    let _native = enter!(registry, id);
    assert_eq!(thread_state::hold(&registry).unwrap().id(), id);
}

#[test]
fn hold_closing() {
    let (registry, id, _) = one();
    let _native = enter!(registry, id);
    let _guard = registry.lookup(id).unwrap();
    let _closing = registry.close(id).unwrap();
    assert_eq!(thread_state::hold(&registry).unwrap_err(), HoldError::Finalizing);
}

#[test]
fn hold_drained() {
    let (registry, id, _) = one();
    let _native = enter!(registry, id);
    let _closing = registry.close(id).unwrap();
    assert_eq!(registry.outstanding(id), Some(0));
    assert_eq!(thread_state::hold(&registry).unwrap_err(), HoldError::Finalizing);
}

#[test]
fn hold_with_nothing_attached() {
    let (registry, ..) = one();
    assert_eq!(thread_state::hold(&registry).unwrap_err(), HoldError::NotAttached);
}

#[test]
fn hold_of_an_interpreter_that_is_not_in_the_registry() {
    let (registry, ..) = one();
    let unregistered = Interpreter::locking();
    let native = unregistered.enter();
    assert_eq!(thread_state::hold(&registry).unwrap_err(), HoldError::NotFound);
    drop(native);
}

// --- ensure(&guard) -------------------------------------------------------------------------------------------------

#[test]
fn ensure_live() {
    let (registry, id, _) = one();
    let guard = registry.lookup(id).unwrap();
    assert_eq!(thread_state::ensure(&guard).unwrap().id(), id);
}

#[test]
fn ensure_closing() {
    let (registry, id, probe) = one();
    let guard = registry.lookup(id).unwrap();
    let closing = registry.close(id).unwrap();
    let attached = thread_state::ensure(&guard).unwrap();
    drop(guard);
    assert_eq!((Object::new(1).get(), closing.outstanding()), (1, 1));
    drop(attached);
    drop(closing.drain(Some(Duration::ZERO)).unwrap());
    assert_eq!(probe.violations(), [""; 0]);
}

// --- ensure_id ------------------------------------------------------------------------------------------------------

#[test]
fn ensure_id_live_has_its_own_guard() {
    let (registry, id, _) = one();
    let attached = thread_state::ensure_id(&registry, id).unwrap();
    assert_eq!(registry.outstanding(id), Some(1));
    drop(attached);
}

#[test]
fn ensure_id_closing() {
    let (registry, id, _) = one();
    let _guard = registry.lookup(id).unwrap();
    let _closing = registry.close(id).unwrap();
    assert_eq!(thread_state::ensure_id(&registry, id).unwrap_err(), EnsureError::Finalizing);
    assert_eq!(registry.outstanding(id), Some(1), "nothing left over");
}

#[test]
fn ensure_id_closing_inside_an_ensure_of_it() {
    let (registry, id, _) = one();
    let (other, _) = (Interpreter::locking().register(&registry).unwrap(), ());
    let outer = thread_state::ensure_id(&registry, id).unwrap();
    let closing = registry.close(id).unwrap();
    let between = thread_state::ensure_id(&registry, other).unwrap();
    let inner = thread_state::ensure_id(&registry, id).unwrap();
    assert_eq!(thread_state::current_id(), Some(id));
    drop(inner);
    drop(between);
    drop(outer);
    assert!(closing.drain(Some(Duration::ZERO)).is_ok());
}

#[test]
fn ensure_id_closing_inside_a_daemon_ensure_of_it() {
    let (registry, id, _) = one();
    let _guard = registry.lookup(id).unwrap();
    let outer = thread_state::ensure_id(&registry, id).unwrap();
    outer.set_daemon(true).unwrap();
    let _closing = registry.close(id).unwrap();
    assert_eq!(thread_state::ensure_id(&registry, id).unwrap_err(), EnsureError::Finalizing);
    drop(outer);
}

#[test]
fn ensure_id_drained() {
    let (registry, id, _) = one();
    let _closing = registry.close(id).unwrap();
    assert_eq!(thread_state::ensure_id(&registry, id).unwrap_err(), EnsureError::Finalizing);
}

#[test]
fn ensure_id_finalized_and_never_registered() {
    let (registry, id, _) = one();
    drop(registry.finalize(id, None).unwrap());
    let never = InterpreterId::try_from(i64::MAX - 1).unwrap();
    assert_eq!(thread_state::ensure_id(&registry, id).unwrap_err(), EnsureError::NotFound);
    assert_eq!(thread_state::ensure_id(&registry, never).unwrap_err(), EnsureError::NotFound);
}

#[test]
fn ensure_main_of_a_registry_with_and_without_one() {
    let registry = Registry::new();
    assert_eq!(thread_state::ensure_main(&registry).unwrap_err(), EnsureError::NotFound);
    let main = Interpreter::locking().register(&registry).unwrap();
    Interpreter::locking().register(&registry).unwrap();
    assert_eq!(thread_state::ensure_main(&registry).unwrap().id(), main);
}

#[test]
fn ensure_where_the_runtime_has_no_thread_state_left() {
    use interp_guard::thread_state::{CreateError, Runtime};
    struct Poor;
    // SAFETY: nothing is ever attached, since no thread state ever exists.
    unsafe impl Runtime for Poor {
        type ThreadState = ();
        fn attached() -> Option<()> {
            None
        }
        fn interpreter_of((): ()) -> InterpreterId {
            unreachable!("no thread state exists")
        }
        fn create(&self) -> Result<(), CreateError> {
            Err(CreateError::new("poor"))
        }
        unsafe fn attach((): ()) {
            unreachable!("no thread state exists")
        }
        unsafe fn detach((): ()) {
            unreachable!("no thread state exists")
        }
        unsafe fn destroy((): ()) {
            unreachable!("no thread state exists")
        }
    }
    let registry = Registry::new();
    let id = registry.register(Poor).ok().unwrap();
    let guard = registry.lookup(id).unwrap();
    let refused = EnsureError::Create(CreateError::new("poor"));
    assert_eq!(thread_state::ensure(&guard).unwrap_err(), refused);
    assert_eq!(thread_state::ensure_id(&registry, id).unwrap_err(), refused);
    assert_eq!(registry.outstanding(id), Some(1), "only the guard here");
    let back = thread_state::ensure_owned(guard).unwrap_err();
    assert_eq!((back.error, back.guard.id()), (refused, id), "handed back");
    drop(back);
    assert!(registry.finalize(id, Some(Duration::ZERO)).is_ok());
}

// --- re-attach after allow_threads inside an ensure -----------------------------------------------------------------

#[test]
fn reattach_live() {
    let (registry, id, _) = one();
    let attached = thread_state::ensure_id(&registry, id).unwrap();
    attached.allow_threads(|| ()).unwrap();
    assert_eq!(thread_state::current_id(), Some(id));
}

#[test]
fn reattach_closing() {
    let (registry, id, probe) = one();
    let attached = thread_state::ensure_id(&registry, id).unwrap();
    let closing = attached.allow_threads(|| registry.close(id).unwrap()).unwrap();
    assert_eq!((thread_state::current_id(), Object::new(7).get()), (Some(id), 7));
    drop(attached);
    drop(closing.drain(Some(Duration::ZERO)).unwrap());
    assert_eq!(probe.violations(), [""; 0]);
}

// --- re-attach of a daemon ------------------------------------------------------------------------------------------

#[test]
fn daemon_reattach_live() {
    let (registry, id, _) = one();
    let attached = thread_state::ensure_id(&registry, id).unwrap();
    attached.set_daemon(true).unwrap();
    attached.allow_threads(|| ()).unwrap();
    assert_eq!(thread_state::current_id(), Some(id));
}

#[test]
fn daemon_reattach_closing() {
    let (registry, id, probe) = one();
    let guard = registry.lookup(id).unwrap();
    let attached = thread_state::ensure_id(&registry, id).unwrap();
    attached.set_daemon(true).unwrap();
    let closing = attached.allow_threads(|| registry.close(id).unwrap()).unwrap();
    assert_eq!(thread_state::current_id(), Some(id), "another guard is still out");
    assert_eq!(closing.outstanding(), 1, "and this thread's attaching is over");
    drop(attached);
    drop(guard);
    drop(closing.drain(Some(Duration::ZERO)).unwrap());
    assert_eq!(probe.violations(), [""; 0]);
}

#[test]
fn daemon_reattach_drained() {
    let (registry, id, _) = one();
    let attached = thread_state::ensure_id(&registry, id).unwrap();
    attached.set_daemon(true).unwrap();
    let refused = attached.allow_threads(|| registry.close(id).unwrap()).unwrap_err();
    assert_eq!(refused.result.outstanding(), 0);
    assert_eq!((refruntime::attached(), thread_state::current_id()), (None, None));
    drop(attached); // nothing to undo
    assert!(refused.result.drain(Some(Duration::ZERO)).is_ok());
}

#[test]
fn daemon_reattach_finalized() {
    let (registry, id, probe) = one();
    let attached = thread_state::ensure_id(&registry, id).unwrap();
    attached.set_daemon(true).unwrap();
    let refused = attached.allow_threads(|| drop(registry.finalize(id, None).unwrap()));
    assert!(refused.is_err() && probe.has_ended());
    assert_eq!(thread_state::current_id(), None);
    assert!(attached.allow_threads(|| ()).is_err(), "and stays so");
    assert_eq!(attached.set_daemon(false), Err(LookupError::NotFound));
    drop(attached);
    assert_eq!(probe.violations(), [""; 0]);
}

// --- close and finalize, with a thread attached ---------------------------------------------------------------------

#[test]
fn close_and_finalize_in_every_phase() {
    let (registry, id, _) = one();
    let attached = thread_state::ensure_id(&registry, id).unwrap();
    let closing = registry.close(id).unwrap();
    // Also on the very thread that would block it: the drain is the holder's of `closing`.
    let finalize = || registry.finalize(id, None).expect_err("not this caller's, or gone");
    assert_eq!(registry.close(id).unwrap_err(), CloseError::AlreadyClosing, "closing, guards out");
    assert!(matches!(finalize(), FinalizeError::AlreadyClosing), "closing, guards out");
    drop(attached);
    assert_eq!(registry.close(id).unwrap_err(), CloseError::AlreadyClosing, "drained");
    assert!(matches!(finalize(), FinalizeError::AlreadyClosing), "drained");
    drop(closing.drain(None).unwrap());
    assert_eq!(registry.close(id).unwrap_err(), CloseError::NotFound);
    assert!(matches!(finalize(), FinalizeError::NotFound));
}
