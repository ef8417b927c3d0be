//! Guards, and what else a handler may ask: everything here may run in a signal handler. Total functions, calls of the
//! signal-safe core alone.

#![deny(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, clippy::expect_used)]

use crate::registry::{Interp, ig_registry};
use crate::status::ig_status::{self, *};
use interp_guard::bindings::RegistryExt as _;
use interp_guard::raw::{GuardParts, NotAtHome, OverRelease};
use interp_guard::{Guard, InterpreterId, Site};
use std::ffi::c_void;
use std::mem::ManuallyDrop;

/// A guard: while it is held, its interpreter cannot finalize.
///
/// A value: it may be kept anywhere, moved, and handed to another thread. Zeroed memory (`= {0}`) is no guard, and every
/// call knows it. A bitwise copy is the *same* guard, to be closed once; a second guard comes from ig_guard_dup.
/// The content is private.
#[repr(C)]
pub struct ig_guard {
    opaque: [u64; 4],
}

/// The content of an `ig_guard`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Held {
    /// Null: no guard, and the rest means nothing.
    pub registry: *const ig_registry,
    pub parts: GuardParts,
}

const _: () = {
    assert!(size_of::<Held>() <= size_of::<ig_guard>());
    assert!(align_of::<Held>() == align_of::<ig_guard>());
};

pub const ZEROED: ig_guard = ig_guard { opaque: [0; 4] };

/// Stores a guard, which is from now on the C caller's to close.
///
/// # Safety
/// `out` may be written to.
#[inline(always)]
pub unsafe fn store(out: *mut ig_guard, registry: *const ig_registry, guard: Guard<'_, Interp>) {
    let held = Held { registry, parts: guard.into_raw().into_parts() };
    // SAFETY: the caller's promise; `Held` fits (checked above).
    unsafe { out.cast::<Held>().write(held) };
}

/// Looks at a guard without taking it from its holder. `None` for null and zeroed ones.
///
/// # Safety
/// 1. `guard` is null or points to an `ig_guard` that is zeroed or was stored by this library.
/// 2. If it holds a guard, the registry is not freed and the guard not closed meanwhile.
#[inline(always)]
pub unsafe fn borrow<'r>(guard: *const ig_guard) -> Option<ManuallyDrop<Guard<'r, Interp>>> {
    if guard.is_null() {
        return None;
    }
    // SAFETY: (1). Zeroed memory is a valid `Held` with a null registry.
    let held = unsafe { guard.cast::<Held>().read() };
    // SAFETY: (2).
    let registry: &'r ig_registry = unsafe { held.registry.as_ref() }?;
    // SAFETY: the parts came from `store`, which had a guard of this registry. It is not put together twice: what is
    // made here is never dropped, except by `ig_guard_close`, which zeroes the original.
    Some(ManuallyDrop::new(unsafe { registry.rust.guard_from_parts(held.parts) }))
}

/// Takes a guard on interpreter `id`, if it is live.
///
/// Context: any, async-signal-safe, wait-free, O(1), re-entrant to any depth.
/// Returns: IG_OK; IG_FINALIZING if it is closing; IG_NOT_FOUND if it is gone or never was, also before anything was
/// registered; IG_INVALID for a null argument.
/// Ownership: with IG_OK, `*out` is a guard that the caller owes one ig_guard_close; else it is zeroed. What `*out` held
/// before is overwritten, not closed.
/// Touches: the registry's table and `*out`; with the ledger on, that too, and the clock and the thread's ID by system
/// calls. No lock, no allocation, no errno, no thread-local storage.
///
/// # Safety
/// `registry` is null or not freed during the call; `out` is null or may be written to.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ig_lookup(registry: *mut ig_registry, id: i64, out: *mut ig_guard) -> ig_status {
    // What is rare is called in the tail: then the rest needs next to no frame.
    // SAFETY: the caller's promise.
    let (Some(found), false) = (unsafe { registry.as_ref() }, out.is_null()) else {
        // SAFETY: the caller's promise.
        return unsafe { null_argument(out) };
    };
    let status = match InterpreterId::try_from(id).map(|id| found.rust.lookup_at_home(id)) {
        Ok(Ok(guard)) => {
            // SAFETY: the caller's promise.
            unsafe { store(out, registry, guard) };
            return IG_OK;
        }
        // SAFETY: the same promise.
        Ok(Err(NotAtHome::Elsewhere)) => return unsafe { lookup_elsewhere(registry, id, out) },
        // SAFETY: the same promise, and what it has just said.
        Ok(Err(NotAtHome::Counted(at))) => return unsafe { back_out(registry, id, out, at) },
        Ok(Err(NotAtHome::Refused(why))) => why.into(),
        Err(_) => IG_NOT_FOUND,
    };
    // SAFETY: the caller's promise.
    unsafe { out.write(ZEROED) };
    status
}

/// # Safety
/// `out` is null or may be written to.
#[cold]
#[inline(never)]
unsafe fn null_argument(out: *mut ig_guard) -> ig_status {
    if !out.is_null() {
        // SAFETY: the caller's promise.
        unsafe { out.write(ZEROED) };
    }
    IG_INVALID
}

/// # Safety
/// As [`ig_lookup`], none null; `lookup_at_home` has answered `Counted(at)` for `id`.
#[cold]
#[inline(never)]
unsafe fn back_out(registry: *mut ig_registry, id: i64, out: *mut ig_guard, at: u32) -> ig_status {
    // SAFETY: the caller's promise.
    unsafe { out.write(ZEROED) };
    // SAFETY: the caller's promise.
    let found = unsafe { &(*registry).rust };
    match InterpreterId::try_from(id) {
        // SAFETY: the caller's promise.
        Ok(id) => unsafe { found.back_out_at_home(at, id) }.into(),
        Err(_) => IG_NOT_FOUND,
    }
}

/// [`lookup_from`], told for the ledger from where `ig_lookup` was called: that jumps here, so that the return address on the
/// stack is its caller's. (Built without optimization it calls instead, and the ledger shows a place in `ig_lookup`.)
///
/// # Safety
/// As [`ig_lookup`], none null.
#[unsafe(naked)]
unsafe extern "C" fn lookup_elsewhere(registry: *mut ig_registry, id: i64, out: *mut ig_guard) -> ig_status {
    interp_guard::jump_with_caller!(3, lookup_from)
}

/// The whole lookup.
///
/// # Safety
/// As [`ig_lookup`], none null.
unsafe extern "C" fn lookup_from(
    registry: *mut ig_registry,
    id: i64,
    out: *mut ig_guard,
    caller: usize,
) -> ig_status {
    // SAFETY: the caller's promise.
    let found = unsafe { &(*registry).rust };
    let status = match InterpreterId::try_from(id).map(|id| found.lookup_at(id, Site::code(caller))) {
        Ok(Ok(guard)) => {
            // SAFETY: the caller's promise.
            unsafe { store(out, registry, guard) };
            return IG_OK;
        }
        Ok(Err(why)) => why.into(),
        Err(_) => IG_NOT_FOUND,
    };
    // SAFETY: the caller's promise.
    unsafe { out.write(ZEROED) };
    status
}

/// Takes another guard on the interpreter that `guard` guards. Succeeds while it is closing, too.
///
/// Context: any, async-signal-safe, wait-free, O(1).
/// Returns: IG_OK; IG_INVALID if `guard` is null or zeroed, if `out` is null, or if both are the same.
/// Ownership: with IG_OK, `*out` is a guard that the caller owes one ig_guard_close, independent of `*guard`; else `*out`
/// is zeroed, unless it is `guard`.
/// Touches: as ig_lookup, and `*guard` (read).
///
/// # Safety
/// `guard` is null, zeroed, or held by the caller throughout the call; `out` is null or may be written to.
#[must_use]
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ig_guard_dup(guard: *const ig_guard, out: *mut ig_guard) -> ig_status {
    interp_guard::jump_with_caller!(2, dup_from)
}

/// # Safety
/// As [`ig_guard_dup`].
unsafe extern "C" fn dup_from(guard: *const ig_guard, out: *mut ig_guard, caller: usize) -> ig_status {
    if out.is_null() || guard == out {
        return IG_INVALID;
    }
    // SAFETY: the caller's promise.
    let Some(original) = (unsafe { borrow(guard) }) else {
        // SAFETY: the caller's promise.
        unsafe { out.write(ZEROED) };
        return IG_INVALID;
    };
    // SAFETY: `borrow` found a guard there.
    let registry = unsafe { (*guard.cast::<Held>()).registry };
    // SAFETY: the caller's promise.
    unsafe { store(out, registry, original.clone_at(Site::code(caller))) };
    IG_OK
}

/// Gives a guard up and zeroes `*guard`. The last guard of a closing interpreter wakes its finalizer; nothing of the
/// interpreter is touched or freed here.
///
/// Context: any, async-signal-safe, wait-free.
/// Returns: IG_OK; IG_INVALID if `guard` is null or zeroed, closed ones included, and, with the ledger on, if this guard was
/// closed before through a bitwise copy. (Without the ledger a drain finds that out, and hands nothing back, unless another guard
/// is out: which of the two is gone, the count cannot tell.)
/// Ownership: the guard is gone; so is the right to use the interpreter under it.
/// Touches: the registry's table, the ledger if it is on, and `*guard`; if the interpreter is closing, one futex system
/// call. No lock, no allocation, no errno, no thread-local storage.
///
/// # Safety
/// `guard` is null, zeroed, or held by the caller, and nobody uses it meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ig_guard_close(guard: *mut ig_guard) -> ig_status {
    // SAFETY: the caller's promise.
    let Some(held) = (unsafe { borrow(guard) }) else { return IG_INVALID };
    // Zeroed first: a handler that comes in between and closes it too is told.
    // SAFETY: the caller's promise.
    unsafe { guard.write(ZEROED) };
    match ManuallyDrop::into_inner(held).into_raw().release() {
        Ok(()) => IG_OK,
        Err(OverRelease) => IG_INVALID,
    }
}

/// What was registered: the pointer that ig_register was given.
///
/// Context: any, async-signal-safe, wait-free.
/// Returns: the pointer; NULL for a null or zeroed guard.
/// Ownership: to be used while the guard is held.
/// Touches: the registry's memory (read) and `*guard` (read).
///
/// # Safety
/// `guard` is null, zeroed, or held by the caller throughout the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ig_guard_interpreter(guard: *const ig_guard) -> *mut c_void {
    // SAFETY: the caller's promise.
    unsafe { borrow(guard) }.map_or(std::ptr::null_mut(), |guard| guard.0)
}

/// The guarded interpreter's ID.
///
/// Context: any, async-signal-safe, wait-free.
/// Returns: the ID; -1 for a null or zeroed guard.
/// Touches: `*guard` (read).
///
/// # Safety
/// `guard` is null, zeroed, or held by the caller throughout the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ig_guard_id(guard: *const ig_guard) -> i64 {
    // SAFETY: the caller's promise.
    unsafe { borrow(guard) }.map_or(-1, |guard| guard.id().into())
}

/// Has somebody begun to close the interpreter? A long holder that sees 1 should finish and close its guard: a finalizer
/// waits for it.
///
/// Context: any, async-signal-safe, wait-free.
/// Returns: 1 or 0; 0 for a null or zeroed guard.
/// Touches: the registry's table (read) and `*guard` (read).
///
/// # Safety
/// `guard` is null, zeroed, or held by the caller throughout the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ig_guard_is_closing(guard: *const ig_guard) -> std::ffi::c_int {
    // SAFETY: the caller's promise.
    unsafe { borrow(guard) }.is_some_and(|guard| guard.is_closing()).into()
}

/// The main interpreter: the first that was registered into an empty registry, unless ig_set_main has named another.
///
/// Context: any, async-signal-safe, wait-free.
/// Returns: its ID; -1 if nobody is, as before the first registration and from the moment it is finalized, or for a
/// null registry.
/// Touches: the registry's table (read).
///
/// # Safety
/// `registry` is null or not freed during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ig_main(registry: *mut ig_registry) -> i64 {
    // SAFETY: the caller's promise.
    unsafe { registry.as_ref() }.and_then(|registry| registry.rust.main()).map_or(-1, i64::from)
}

/// Calls `call(id, data)` with the ID of every interpreter that is live when its place in the table is looked at, in no
/// particular order. That an interpreter was live is no guard: ig_lookup may say no by then.
///
/// Context: any, async-signal-safe if `call` is. Looks at 2 to 4 places for each interpreter of capacity.
/// Returns: IG_OK; IG_INVALID for a null `registry` or `call`.
/// Ownership: `data` stays the caller's, and may be NULL. `call` must not longjmp or throw.
/// Touches: the registry's table (read), and what `call` does.
///
/// # Safety
/// `registry` is null or not freed during the call; `call` may be called with `data` on this thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ig_for_each_live(
    registry: *mut ig_registry,
    call: Option<unsafe extern "C" fn(id: i64, data: *mut c_void)>,
    data: *mut c_void,
) -> ig_status {
    // SAFETY: the caller's promise.
    let (Some(registry), Some(call)) = (unsafe { registry.as_ref() }, call) else { return IG_INVALID };
    // SAFETY: the caller's promise.
    registry.rust.for_each_live(|id| unsafe { call(id.into(), data) });
    IG_OK
}
