//! Around a fork: normal context.

use crate::boundary::contained_or;
use crate::guard::{Held, ig_guard};
use crate::registry::{Interp, ig_registry, with};
use crate::status::ig_status::{self, *};
use interp_guard::Registry;

/// Before a fork: blocks this thread's signals and takes the registry's mutex, until ig_after_fork_parent or
/// ig_after_fork_child. In between, lookups and closes of guards go on. Another thread's ig_before_fork, of any registry, waits.
///
/// Several registries may be around one fork, asked and answered in any order. The last answer gives the signal mask back. Twice
/// for one registry nests, and is answered twice.
///
/// Context: normal; blocks; never in a signal handler.
/// Returns: IG_OK; IG_INVALID for a null registry.
///
/// # Safety
/// `registry` is null or not freed before its counterpart.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ig_before_fork(registry: *mut ig_registry) -> ig_status {
    // SAFETY: the caller's promise.
    with(unsafe { registry.as_ref() }, |rust| {
        rust.before_fork();
        IG_OK
    })
}

/// After a fork, in the parent, also if the fork failed; on the thread that called ig_before_fork.
///
/// Context: normal.
/// Returns: IG_OK; IG_INVALID for a null registry, or if this thread has not called ig_before_fork.
///
/// # Safety
/// `registry` is null or not freed during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ig_after_fork_parent(registry: *mut ig_registry) -> ig_status {
    // SAFETY: the caller's promise.
    forked(unsafe { registry.as_ref() }, Registry::after_fork_parent)
}

/// After a fork, in the child, on its only thread, before it does anything else with the registry.
///
/// The `n` guards at `kept` go on protecting their interpreters, and so do the forking thread's own ensure levels. Every other
/// inherited guard protects nothing any more: its interpreter is not to be used under it; closing it is allowed, and counts
/// nothing. So the child can finalize whatever the parent's threads held. Pending calls are the parent's, and forgotten.
///
/// Context: normal, the only thread of a forked child; takes no lock and allocates nothing.
/// Returns: IG_OK; IG_INVALID for a null registry, for a null `kept` with an `n` other than 0, or if the forking thread had
/// not called ig_before_fork.
/// Ownership: the guards stay the caller's. Zeroed ones and those of other registries are left as they are.
///
/// # Safety
/// 1. The process is a forked child, and this thread its only one.
/// 2. `kept` points to `n` guards, none a bitwise copy of another.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ig_after_fork_child(
    registry: *mut ig_registry,
    kept: *mut ig_guard,
    n: usize,
) -> ig_status {
    if kept.is_null() && n != 0 {
        return IG_INVALID;
    }
    // SAFETY: the caller's promise.
    forked(unsafe { registry.as_ref() }, |rust| {
        let keep = |recount: &mut dyn FnMut(&mut interp_guard::raw::GuardParts)| {
            for i in 0..n {
                // SAFETY: (2); `Held` is what an `ig_guard` holds.
                let held = unsafe { &mut *kept.add(i).cast::<Held>() };
                if std::ptr::eq(held.registry, registry) {
                    recount(&mut held.parts);
                }
            }
        };
        // SAFETY: (1), (2); what Rust calls dereferencing is C's use of the interpreter, of which the comment speaks.
        unsafe { rust.after_fork_child_with(keep) }
    })
}

/// The one panic to expect is that of a thread which has not called `before_fork`.
fn forked(registry: Option<&ig_registry>, body: impl FnOnce(&Registry<Interp>)) -> ig_status {
    contained_or(IG_INVALID, || {
        registry.map_or(IG_INVALID, |registry| {
            body(&registry.rust);
            IG_OK
        })
    })
}
