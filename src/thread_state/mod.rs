// May import: registry, signal_safe.
//! Attaching threads to interpreters: what a runtime's core links in.
//!
//! A runtime implements [`Runtime`]. Then any thread gets at an interpreter with an *ensure*, whatever is attached on it
//! already, and back with the *release*, which is the drop of [`Attached`]:
//!
//! | attached on this thread | the ensure | the release |
//! |---|---|---|
//! | the same interpreter | uses that thread state | leaves it attached |
//! | nothing, but this thread has a thread state for it | attaches that | detaches it |
//! | nothing | creates one and attaches it | destroys it |
//! | another interpreter | detaches that, guarded meanwhile; then one of the two above | restores it |
//!
//! Each level carries a guard of its interpreter, so that it cannot finalize before the release; a level inside another
//! one of the same interpreter counts under that one's guard. A *daemon* level carries none ([`Attached::set_daemon`]).
//! An ensure inside a guarded level of the same interpreter that is attached is a count in that level, and nothing else.
//!
//! # Rules, each learnt from a crash or a hang
//!
//! - **L1** A level's own guard is given up last, after what was attached before is attached again. Once it is gone the
//!   interpreter may finalize, and with it a runtime in which this thread would attach then. (`leave` in `transition.rs`)
//! - **L2** The interpreter left behind is guarded for the duration, where its registry gives a guard, and before a thread state
//!   of the other one is made. So going back to it cannot hang. (`Owner::leave`)
//! - **L3** Interpreters are changed by a detach and an attach, never in one step: a runtime's own way to swap may not take the
//!   other one's lock. (`attach`)
//! - **L4** A thread state that a level made is destroyed while it is attached, so that whoever forks, attached, never sees
//!   the runtime's list of them half-changed. ([`Runtime::destroy`])
//! - **L5** Where a runtime has one thread state that is the thread's own, and attaching another one changes that, the release
//!   puts it back, if its interpreter is guarded meanwhile. ([`Runtime::own`], `bind_again`)
//!
//! ```
//! use interp_guard::{Registry, thread_state};
//! use refruntime::{Interpreter, Object};
//!
//! static INTERPRETERS: Registry<Interpreter> = Registry::new();
//!
//! let id = Interpreter::locking().register(&INTERPRETERS)?;
//! std::thread::spawn(move || {
//!     let attached = thread_state::ensure_id(&INTERPRETERS, id).expect("live");
//!     let object = Object::new(1);
//!     assert_eq!(object.add(41), 42);
//!     attached.allow_threads(|| { /* waits for something; others run meanwhile */ }).expect("guarded");
//! })
//! .join()
//! .unwrap();
//! INTERPRETERS.finalize(id, None)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod attached;
mod blockers;
mod ensuring;
mod error;
pub(crate) mod levels;
mod owner;
mod parking;
pub mod raw;
mod runtime;
mod token;
mod transition;

pub use attached::Attached;
pub(crate) use ensuring::ensure_daemon;
pub use ensuring::{ensure, ensure_id, ensure_main, ensure_owned, hold};
pub use error::{EnsureError, EnsureOwnedError, Finalized, HoldError, ReleaseError};
pub use parking::{park_for_good, parked};
pub use runtime::{CreateError, Runtime};
pub use token::{Token, allow_threads_begin, is_daemon, set_innermost_daemon};

use crate::signal_safe::this_thread::{self, Noted, ThisThread, Words, this_thread};
use crate::{InterpreterId, Registry};

/// The interpreter attached on the calling thread, if any: of whatever registry and runtime.
///
/// What this layer attaches, and what a runtime notes with [`note_attached`]. While a handler runs that was told an
/// interpreter, it stays attached: between attaching and detaching proper, nothing is said to be attached. Where a process
/// has several registries, whose IDs may be the same, [`current_of`] tells one's from another's.
///
/// Context: any, async-signal-safe: one load from the thread's static block. No lazily allocated thread-local is
/// involved, in an executable and in a library loaded at run time.
///
/// ```
/// use interp_guard::thread_state;
/// assert_eq!(thread_state::current_id(), None);
/// ```
#[inline]
pub fn current_id() -> Option<InterpreterId> {
    this_thread::attached()
}

/// [`current_id`], if an ensure of this registry has attached it.
///
/// Not what a runtime has noted with [`note_attached`], which says nothing of a registry.
///
/// Context: any, async-signal-safe.
///
/// ```
/// # use interp_guard::{Registry, thread_state};
/// # use refruntime::Interpreter;
/// let (one, two) = (Registry::new(), Registry::<Interpreter>::new());
/// let id = Interpreter::locking().register(&one)?;
/// let attached = thread_state::ensure_id(&one, id)?;
/// assert_eq!((thread_state::current_of(&one), thread_state::current_of(&two)), (Some(id), None));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[inline]
pub fn current_of<T: Runtime>(registry: &Registry<T>) -> Option<InterpreterId> {
    registry.attached_here()
}

/// For runtimes whose own operations attach and detach threads, so that [`current_id`] knows of those too: notes what is
/// attached on the calling thread, and returns what was noted. After attaching; before detaching. From then on [`current_of`] knows
/// nothing, until an ensure begins or ends: no registry is noted.
///
/// Context: any, async-signal-safe.
///
/// ```
/// use interp_guard::{InterpreterId, thread_state};
/// let id = InterpreterId::try_from(7)?;
/// thread_state::note_attached(Some(id));
/// assert_eq!(thread_state::current_id(), Some(id));
/// assert_eq!(thread_state::note_attached(None), Some(id));
/// # Ok::<(), interp_guard::InvalidId>(())
/// ```
#[inline]
pub fn note_attached(id: Option<InterpreterId>) -> Option<InterpreterId> {
    let (here, noted) = (this_thread(), id.map(|id| Noted { id, registry: 0 }));
    let before = here.noted();
    if before != noted {
        here.set_attached(noted);
    }
    before.map(|before| before.id)
}

/// Tells handlers that `noted` is attached while `f` runs; then, also where it unwinds, what they were told before.
/// Where `f` has made an ensure that outlives it, or released one that was made before, that has told them what is
/// attached, and it stays so.
pub(crate) fn noted_while<R>(noted: Noted, f: impl FnOnce() -> R) -> R {
    struct End {
        told: Words,
        before: Words,
        /// The serial number of the innermost level, and of the next one.
        innermost: Option<u64>,
        next: u64,
    }
    fn innermost(here: &ThisThread) -> Option<u64> {
        levels::top(here).map(|level| level.serial)
    }
    impl Drop for End {
        fn drop(&mut self) {
            let here = this_thread();
            let is_as_it_was = innermost(here) == self.innermost;
            if is_as_it_was || here.words() == self.told {
                here.put_back(self.before);
            }
            if !is_as_it_was {
                levels::told_for_a_while(self.next, self.told, self.before);
            }
        }
    }
    let here = this_thread();
    let (told, before, innermost) = (Words::of(noted), here.words(), innermost(here));
    let _end = End { told, before, innermost, next: here.next.get() };
    here.set_attached(Some(noted));
    f()
}
