//! Pending calls: work that a handler leaves for a normal thread. `ig_pending_push` and `ig_pending_fd` are for handlers;
//! the rest is normal context.

use crate::boundary::contained;
use crate::guard::{Held, ZEROED, borrow, ig_guard, ig_guard_close, store};
use crate::registry::{Interp, ig_registry};
use crate::status::ig_status::{self, *};
use crate::thread_state::is_runtime_set;
use interp_guard::pending::{Call, PendingCall, PendingQueue, PushError, QueueOptions, Ran, Worker};
use interp_guard::thread_state;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::mem::{ManuallyDrop, transmute};
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

/// For ig_pending_new: run each call attached to its interpreter, inside an ensure of the queue's own.
pub const IG_PENDING_ATTACHED: c_uint = 1;

/// A queue of pending calls, bound to a registry: handlers push, normal threads run. Opaque.
///
/// A call that waits keeps its interpreter, but a queue is in no finalizer's way: closing an interpreter wakes whoever serves
/// the queue, and where nobody does, ig_report names it, or ig_drain runs the calls itself: see there. ig_finalize inside a pending call of that interpreter answers
/// IG_WOULD_DEADLOCK.
pub struct ig_pending {
    queue: PendingQueue<'static, Interp>,
    registry: &'static ig_registry,
    /// From a box; null if there is none.
    worker: AtomicPtr<Worker>,
}

/// What was run.
#[repr(C)]
pub struct ig_ran {
    /// Calls that were taken from the queue, those that failed included.
    pub calls: u64,
    /// Calls with IG_PENDING_ATTACHED that were not run, because the runtime could not make a thread state, or that left an
    /// ensure of theirs unreleased. Standard error says of each what it was.
    pub failed: u64,
}

/// What C pushes. It travels through the queue as if it were a `Call<Interp>`, and is never called as one.
type CCall = unsafe extern "C" fn(guard: *mut ig_guard, data: *mut c_void);

/// Makes a queue with room for `capacity` calls, 1 to 2^20. `name` is what ig_report calls it, and is copied; NULL: "pending".
/// `wishes` is 0 or IG_PENDING_ATTACHED.
///
/// Context: normal; allocates; takes the registry's mutex.
/// Returns: IG_OK; IG_UNAVAILABLE if the system has no descriptor to give or the registry could not set itself up; IG_INVALID
/// for a null `registry` or `out`, a capacity out of range, an unknown wish, or IG_PENDING_ATTACHED without ig_runtime_set.
/// Ownership: with IG_OK, `*out` is the caller's, who owes one ig_pending_free before the registry is freed; else it is NULL.
///
/// # Safety
/// `registry` is null or not freed before the queue; `name` is null or text; `out` is null or may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ig_pending_new(
    registry: *mut ig_registry,
    capacity: usize,
    name: *const c_char,
    wishes: c_uint,
    out: *mut *mut ig_pending,
) -> ig_status {
    contained(|| {
        if out.is_null() {
            return IG_INVALID;
        }
        // SAFETY: the caller's promise.
        unsafe { out.write(ptr::null_mut()) };
        // SAFETY: the caller's promise; the queue lets go of it when it is freed.
        let Some(registry): Option<&'static ig_registry> = (unsafe { registry.as_ref() }) else {
            return IG_INVALID;
        };
        let attached = wishes == IG_PENDING_ATTACHED;
        if wishes & !IG_PENDING_ATTACHED != 0 || (attached && !is_runtime_set()) {
            return IG_INVALID;
        }
        let mut options = QueueOptions::new().capacity(capacity);
        if !name.is_null() {
            // SAFETY: the caller's promise.
            options = options.name(unsafe { CStr::from_ptr(name) }.to_string_lossy());
        }
        let runner = move |call: PendingCall<'_, Interp>| match attached {
            true => run_attached(registry, call),
            false => run(registry, call),
        };
        match PendingQueue::with(&registry.rust, options.runner(runner)) {
            Ok(queue) => {
                // Relaxed: read when, by its caller's promise, nobody uses the registry.
                registry.queues.fetch_add(1, Ordering::Relaxed);
                let worker = AtomicPtr::new(ptr::null_mut());
                let pending = Box::new(ig_pending { queue, registry, worker });
                // SAFETY: the caller's promise.
                unsafe { out.write(Box::into_raw(pending)) };
                IG_OK
            }
            Err(why) => why.into(),
        }
    })
}

/// Frees a queue: stops its worker, if it has one, which runs what waits; where there is none, calls that wait are not run, and
/// their guards are given up.
///
/// The caller sees to it that no other call on this queue is in progress, in a signal handler neither, and none comes later.
///
/// Context: normal; blocks while the worker finishes.
/// Returns: IG_OK; IG_WOULD_DEADLOCK from inside one of the queue's calls: then it is as it was; IG_INVALID for a null
/// argument.
/// Ownership: with IG_OK the queue is gone.
///
/// # Safety
/// `pending` is null or came from `ig_pending_new`, and is freed once.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ig_pending_free(pending: *mut ig_pending) -> ig_status {
    // SAFETY: the caller's promise.
    with(unsafe { pending.as_ref() }, |queue| {
        if queue.queue.is_running_here() {
            return IG_WOULD_DEADLOCK;
        }
        // SAFETY: `ig_pending_new` boxed it, and by the caller's promise nobody else uses it.
        let queue = unsafe { Box::from_raw(pending) };
        drop(queue.take_worker());
        queue.queue.discard();
        let registry = queue.registry;
        drop(queue);
        // Relaxed: as in `ig_pending_new`.
        registry.queues.fetch_sub(1, Ordering::Relaxed);
        IG_OK
    })
}

/// Leaves `call(guard, data)` for whoever serves the queue, and wakes them. One thread that serves it runs calls in the order
/// of their pushes.
///
/// `call` runs on a normal thread, once, with a guard of its own, which is closed after it unless the call did so itself. It
/// must not longjmp or throw.
///
/// Context: any, async-signal-safe, wait-free, re-entrant to any depth.
/// Returns: IG_OK; IG_FULL; IG_INVALID for a null `pending`, `guard` or `call`, for a zeroed guard and one of another registry.
/// Ownership: with IG_OK the guard is the queue's, and `*guard` zeroed; else it stays the caller's. `data` stays the caller's,
/// and may be NULL.
/// Touches: the queue, the registry's table (read), `*guard`; one write to the queue's eventfd; if the interpreter is closing,
/// one futex system call. No lock, no allocation, no errno, no thread-local storage.
///
/// # Safety
/// 1. `pending` is null or not freed during the call.
/// 2. `guard` is null, zeroed, or held by the caller, and nobody uses it meanwhile.
/// 3. `call` may be called with `data` on any thread.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ig_pending_push(
    pending: *mut ig_pending,
    guard: *mut ig_guard,
    call: Option<unsafe extern "C" fn(guard: *mut ig_guard, data: *mut c_void)>,
    data: *mut c_void,
) -> ig_status {
    // SAFETY: (1).
    let (Some(pending), Some(call)) = (unsafe { pending.as_ref() }, call) else { return IG_INVALID };
    // SAFETY: (2).
    let Some(held) = (unsafe { borrow(guard) }) else { return IG_INVALID };
    // SAFETY: `borrow` found a guard there.
    let registry = unsafe { (*guard.cast::<Held>()).registry };
    // Zeroed first: a handler that comes in between and closes it too is told.
    // SAFETY: (2).
    unsafe { guard.write(ZEROED) };
    // SAFETY: function pointers are alike; `run` turns it back before it calls it.
    let call = unsafe { transmute::<CCall, Call<Interp>>(call) };
    let (status, back) = match pending.queue.push(ManuallyDrop::into_inner(held), call, data as usize) {
        Ok(()) => return IG_OK,
        Err(PushError::Full(back)) => (IG_FULL, back),
        Err(PushError::OtherRegistry(back)) => (IG_INVALID, back),
    };
    // SAFETY: (2).
    unsafe { store(guard, registry, back) };
    status
}

/// The queue's eventfd, readable while calls wait: for the program's own event loop, which then calls ig_pending_run.
///
/// Context: any, async-signal-safe.
/// Returns: the descriptor; -1 for a null argument.
/// Ownership: the queue's. Nobody else reads or closes it.
/// Touches: the queue (read).
///
/// # Safety
/// `pending` is null or not freed during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ig_pending_fd(pending: *const ig_pending) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { pending.as_ref() }.map_or(-1, |pending| pending.queue.as_fd().as_raw_fd())
}

/// Runs the calls that wait, on this thread; those that are pushed meanwhile not included.
///
/// Context: normal; takes as long as the calls do.
/// Returns: IG_OK, with what was run in `*ran`, if that is not NULL; IG_INVALID for a null `pending`.
///
/// # Safety
/// `pending` is null or not freed during the call; `ran` is null or may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ig_pending_run(pending: *mut ig_pending, ran: *mut ig_ran) -> ig_status {
    // SAFETY: the caller's promise.
    with(unsafe { pending.as_ref() }, |pending| {
        let what = pending.queue.run_pending();
        // SAFETY: the caller's promise.
        unsafe { say(ran, what) }
    })
}

/// Starts a thread that runs the queue's calls as they come. All signals are blocked on it.
///
/// Context: normal; allocates.
/// Returns: IG_OK; IG_UNAVAILABLE if the system has no thread or descriptor to give; IG_INVALID for a null argument, or if the
/// queue has a worker.
///
/// # Safety
/// `pending` is null or not freed during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ig_pending_start_worker(pending: *mut ig_pending) -> ig_status {
    // SAFETY: the caller's promise.
    with(unsafe { pending.as_ref() }, |pending| {
        // Acquire: pairs with the Release below and in `take_worker`.
        if !pending.worker.load(Ordering::Acquire).is_null() {
            return IG_INVALID;
        }
        let Ok(worker) = pending.queue.start_worker() else { return IG_UNAVAILABLE };
        let worker = Box::into_raw(Box::new(worker));
        // Release: pairs with the Acquire in `take_worker`.
        let (none, orders) = (ptr::null_mut(), (Ordering::Release, Ordering::Relaxed));
        if pending.worker.compare_exchange(none, worker, orders.0, orders.1).is_err() {
            // SAFETY: boxed above, and nobody else has seen it.
            drop(unsafe { Box::from_raw(worker) });
            return IG_INVALID;
        }
        IG_OK
    })
}

/// Lets the worker finish its call, run what is queued by then, and end; waits for that. In a forked child, which has no such
/// thread, it forgets the worker, and another may be started.
///
/// Context: normal; blocks.
/// Returns: IG_OK, with what the worker ran in its life in `*ran`, if that is not NULL; IG_WOULD_DEADLOCK from inside one of the
/// queue's calls; IG_INVALID for a null `pending`, or if it has no worker.
///
/// # Safety
/// `pending` is null or not freed during the call; `ran` is null or may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ig_pending_stop_worker(pending: *mut ig_pending, ran: *mut ig_ran) -> ig_status {
    // SAFETY: the caller's promise.
    with(unsafe { pending.as_ref() }, |pending| {
        if pending.queue.is_running_here() {
            return IG_WOULD_DEADLOCK;
        }
        let Some(worker) = pending.take_worker() else { return IG_INVALID };
        let what = worker.stop();
        // SAFETY: the caller's promise.
        unsafe { say(ran, what) }
    })
}

impl ig_pending {
    fn take_worker(&self) -> Option<Worker> {
        // Acquire: pairs with the Release in `ig_pending_start_worker`.
        let worker = self.worker.swap(ptr::null_mut(), Ordering::Acquire);
        // SAFETY: boxed by `ig_pending_start_worker`, and taken out once.
        (!worker.is_null()).then(|| *unsafe { Box::from_raw(worker) })
    }
}

/// The body of an export that needs a queue.
fn with(pending: Option<&ig_pending>, body: impl FnOnce(&ig_pending) -> ig_status) -> ig_status {
    contained(|| pending.map_or(IG_INVALID, body))
}

/// # Safety
/// `ran` is null or may be written to.
unsafe fn say(ran: *mut ig_ran, what: Ran) -> ig_status {
    if !ran.is_null() {
        // SAFETY: the caller's promise.
        unsafe { ran.write(ig_ran { calls: what.calls, failed: what.panics }) };
    }
    IG_OK
}

fn run(registry: &'static ig_registry, call: PendingCall<'_, Interp>) {
    let (guard, call, data) = call.into_parts();
    // SAFETY: `ig_pending_push` is the only one who pushes to these queues, and pushes these.
    let call = unsafe { transmute::<Call<Interp>, CCall>(call) };
    let mut lent = ZEROED;
    // SAFETY: it is ours.
    unsafe { store(&mut lent, registry, guard) };
    // SAFETY: the promise (3) of the push.
    unsafe { call(&mut lent, data as *mut c_void) };
    // Unless the call has done it. SAFETY: zeroed, or the guard still.
    unsafe { ig_guard_close(&mut lent) };
}

/// Whoever runs the queue counts a panic, and the panic hook says what it was.
fn run_attached(registry: &'static ig_registry, call: PendingCall<'_, Interp>) {
    match thread_state::ensure(call.guard()) {
        Ok(_attached) => run(registry, call),
        Err(refused) => panic!("a pending call was not run: {refused}"),
    }
}
