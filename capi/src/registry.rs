//! The registry: normal context. Each export is contained: a panic ends as `IG_INTERNAL`.

use crate::boundary::contained;
use crate::status::ig_status::{self, *};
use interp_guard::bindings::RegistryExt as _;
use interp_guard::{Counters, FinalizeError, InterpreterId, Registry};
use std::ffi::{CStr, c_char, c_uint, c_void};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// What a C runtime registers: a pointer that the library hands back and never follows.
pub struct Interp(pub *mut c_void);

// SAFETY: the library does not follow the pointer. What C does with it under a guard, from whichever thread, is C's.
unsafe impl Send for Interp {}
// SAFETY: as above.
unsafe impl Sync for Interp {}

/// A set of interpreters, looked up by ID from any context. Opaque.
pub struct ig_registry {
    pub(crate) rust: Registry<Interp>,
    /// Pending queues that are bound to it.
    pub(crate) queues: AtomicUsize,
}

/// For ig_registry_new_with: count guards per CPU; what the machine lacks for it is IG_UNAVAILABLE at the first registration.
pub const IG_COUNTERS_PER_CPU: c_uint = 1;
/// For ig_registry_new_with: count guards with locked adds.
pub const IG_COUNTERS_SHARED: c_uint = 2;

/// For ig_registry_new_with: keep a ledger of who holds each guard (thread, call site, age), which ig_report shows.
pub const IG_LEDGER: c_uint = 4;

/// The largest capacity that a registry can have.
const MAX_CAPACITY: usize = 1 << 20;

/// Makes a registry for `capacity` interpreters at a time, 1 to 2^20.
///
/// The environment decides the rest: INTERP_GUARD_COUNTERS=per-cpu or shared, else the best the machine has;
/// INTERP_GUARD_LEDGER=1 for a ledger, else none.
///
/// Context: normal; allocates.
/// Returns: IG_OK; IG_INVALID if `capacity` is out of range or `out` null.
/// Ownership: with IG_OK, `*out` is the caller's, who owes one ig_registry_free; else it is NULL.
///
/// # Safety
/// `out` is null or may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ig_registry_new(capacity: usize, out: *mut *mut ig_registry) -> ig_status {
    // SAFETY: the same promise.
    unsafe { ig_registry_new_with(capacity, 0, out) }
}

/// Makes a registry as ig_registry_new does, with wishes that come before the environment's, or'ed together: IG_LEDGER, and
/// at most one of IG_COUNTERS_PER_CPU and IG_COUNTERS_SHARED.
///
/// Context: normal; allocates.
/// Returns: as ig_registry_new; IG_INVALID also for an unknown wish and for two that contradict each other.
/// Ownership: as ig_registry_new.
///
/// # Safety
/// `out` is null or may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ig_registry_new_with(
    capacity: usize,
    wishes: c_uint,
    out: *mut *mut ig_registry,
) -> ig_status {
    contained(|| {
        if out.is_null() {
            return IG_INVALID;
        }
        // SAFETY: the caller's promise.
        unsafe { out.write(std::ptr::null_mut()) };
        let counters = match wishes & !IG_LEDGER {
            0 => None,
            IG_COUNTERS_PER_CPU => Some(Counters::PerCpu),
            IG_COUNTERS_SHARED => Some(Counters::Shared),
            _ => return IG_INVALID,
        };
        if capacity == 0 || capacity > MAX_CAPACITY {
            return IG_INVALID;
        }
        let mut registry = Registry::with_capacity(capacity);
        if let Some(counters) = counters {
            registry = registry.counters(counters);
        }
        if wishes & IG_LEDGER != 0 {
            registry = registry.ledger(true);
        }
        // SAFETY: the caller's promise.
        unsafe {
            out.write(Box::into_raw(Box::new(ig_registry { rust: registry, queues: AtomicUsize::new(0) })))
        };
        IG_OK
    })
}

/// Frees a registry in which no interpreter is left and to which no pending queue is bound.
///
/// The caller sees to it that no other call on this registry is in progress, in a signal handler neither, and none comes
/// later: an ig_guard_close that let an ig_drain return may itself still be on its way out.
///
/// Context: normal.
/// Returns: IG_OK; IG_INVALID if `registry` is null, or has interpreters left (and so, perhaps, guards) or queues: then it is as
/// it was.
/// Ownership: with IG_OK the registry is gone.
///
/// # Safety
/// `registry` is null or came from `ig_registry_new`, and is freed once.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ig_registry_free(registry: *mut ig_registry) -> ig_status {
    // SAFETY: the caller's promise.
    with(unsafe { registry.as_ref() }, |rust| {
        // SAFETY: not null, or this would not run. Relaxed: queues are made and freed before, by the caller's promise.
        let queues = unsafe { &(*registry).queues }.load(Ordering::Relaxed);
        if !rust.is_empty() || queues != 0 {
            return IG_INVALID;
        }
        // SAFETY: `ig_registry_new` boxed it, and by the caller's promise nobody else uses it.
        drop(unsafe { Box::from_raw(registry) });
        IG_OK
    })
}

/// Registers an interpreter under a fresh ID. These count up from 0, past those that were chosen by ig_register_with_id.
/// No ID is negative: where none is known yet, -1 stands for nobody.
///
/// Context: normal; allocates; takes the registry's mutex.
/// Returns: IG_OK; IG_FULL; IG_FINALIZING while ig_finalize_all runs; IG_UNAVAILABLE if the registry could not set
/// itself up; IG_INVALID for a null argument.
/// Ownership: `interp` stays the caller's, to be kept until ig_drain or ig_finalize hands it back. With any other answer
/// nothing has changed and `*id` is -1.
///
/// # Safety
/// `registry` is null or not freed during the call; `id` is null or may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ig_register(
    registry: *mut ig_registry,
    interp: *mut c_void,
    id: *mut i64,
) -> ig_status {
    // SAFETY: the same promise; null is no name.
    unsafe { ig_register_named(registry, std::ptr::null(), interp, id) }
}

/// Registers an interpreter as ig_register does, with a name: what ig_report calls it besides its ID. NULL or an empty
/// text: none.
///
/// Names are for people. Several interpreters may have the same one, and nothing is looked up by it. It goes with the
/// interpreter.
///
/// Context: normal; allocates; takes the registry's mutex.
/// Returns: as ig_register.
/// Ownership: as ig_register. The name is copied; bytes of it that are not UTF-8 are replaced.
///
/// # Safety
/// `registry` is null or not freed during the call; `name` is null or text; `id` is null or may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ig_register_named(
    registry: *mut ig_registry,
    name: *const c_char,
    interp: *mut c_void,
    id: *mut i64,
) -> ig_status {
    // SAFETY: the caller's promise.
    if let Some(id) = unsafe { id.as_mut() } {
        *id = -1; // whatever else is wrong
    }
    // SAFETY: the caller's promise.
    with(unsafe { registry.as_ref() }, |rust| {
        if id.is_null() || interp.is_null() {
            return IG_INVALID;
        }
        // SAFETY: the caller's promise.
        match rust.register_named(unsafe { copied(name) }, Interp(interp)) {
            Ok(fresh) => {
                // SAFETY: the caller's promise.
                unsafe { id.write(fresh.into()) };
                IG_OK
            }
            Err(refused) => refused.into(),
        }
    })
}

/// Registers an interpreter under an ID of the caller's choice, 0 to INT64_MAX - 1.
///
/// Context: normal; allocates; takes the registry's mutex.
/// Returns: IG_OK; IG_FULL; IG_DUPLICATE_ID if an interpreter has the ID; IG_RETIRED_ID if one had it; IG_FINALIZING
/// while ig_finalize_all runs; IG_UNAVAILABLE if the registry could not set itself up; IG_INVALID for a null argument
/// or an ID out of range.
/// Ownership: as ig_register.
///
/// # Safety
/// `registry` is null or not freed during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ig_register_with_id(
    registry: *mut ig_registry,
    id: i64,
    interp: *mut c_void,
) -> ig_status {
    // SAFETY: the caller's promise.
    with(unsafe { registry.as_ref() }, |rust| match InterpreterId::try_from(id) {
        Ok(id) if !interp.is_null() => match rust.register_with_id(id, Interp(interp)) {
            Ok(()) => IG_OK,
            Err(refused) => refused.into(),
        },
        _ => IG_INVALID,
    })
}

/// Gives an interpreter a name, as ig_register_named does, in place of the one that it has: for one that came with an
/// ID of its own, too. NULL or an empty text takes the name away.
///
/// Context: normal; allocates; takes the registry's mutex.
/// Returns: IG_OK, also while it is closing; IG_NOT_FOUND; IG_INVALID for a null registry.
/// Ownership: the name is copied; bytes of it that are not UTF-8 are replaced.
///
/// # Safety
/// `registry` is null or not freed during the call; `name` is null or text.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ig_set_name(registry: *mut ig_registry, id: i64, name: *const c_char) -> ig_status {
    // SAFETY: the caller's promise.
    with_id(unsafe { registry.as_ref() }, id, |rust, id| {
        // SAFETY: the caller's promise.
        rust.set_name(id, unsafe { copied(name) }).map_or_else(ig_status::from, |()| IG_OK)
    })
}

/// Names the main interpreter: what ig_main answers from here on, and whom ig_finalize_all hands out last.
///
/// Context: normal; takes the registry's mutex.
/// Returns: IG_OK; IG_FINALIZING if it is closing; IG_NOT_FOUND; IG_INVALID for a null registry. With any but the
/// first, nothing has changed.
///
/// # Safety
/// `registry` is null or not freed during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ig_set_main(registry: *mut ig_registry, id: i64) -> ig_status {
    // SAFETY: the caller's promise.
    with_id(unsafe { registry.as_ref() }, id, |rust, id| {
        rust.set_main(id).map_or_else(ig_status::from, |()| IG_OK)
    })
}

/// Closes an interpreter: no new guards from here on; the ones that are out stay valid. Never undone.
///
/// When this has returned IG_OK, every ig_lookup that begins answers IG_FINALIZING. The right to drain waits in the
/// registry for an ig_drain, from any thread.
///
/// Context: normal; takes the registry's mutex.
/// Returns: IG_OK; IG_NOT_FOUND; IG_ALREADY_CLOSING if it is closed already, by whomever; IG_INVALID for a null registry.
///
/// # Safety
/// `registry` is null or not freed during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ig_close(registry: *mut ig_registry, id: i64) -> ig_status {
    // SAFETY: the caller's promise.
    with_id(unsafe { registry.as_ref() }, id, |rust, id| match rust.close_live(id) {
        Ok(_left_for_ig_drain) => IG_OK,
        Err(refused) => refused.into(),
    })
}

/// Waits until no guard of a closed interpreter is out, takes it out of the registry, retires its ID, and hands it back.
///
/// `timeout_ns` limits the waiting in nanoseconds; 0 looks once, a negative one is without limit. Never proceeds with a
/// guard out.
///
/// To be called with the interpreter detached on this thread: while it is attached, whoever holds a guard may be waiting for the
/// runtime's lock. The drain runs the interpreter's pending calls in a queue that nobody serves, if it may wait and this thread
/// ran that queue's calls last, or the thread that did has ended; with no limit, also if nobody ever has and this thread made the
/// queue. That is a use of the queue.
///
/// Context: normal; blocks, with no lock held; takes as long as the calls do.
/// Returns: IG_OK; IG_TIMEOUT, after which ig_drain may be called again; IG_NOT_FOUND; IG_ALREADY_CLOSING while another
/// thread drains it; IG_WOULD_DEADLOCK if only the calling thread could end the waiting: it is inside an ensure or a pending call of
/// the interpreter, or attached to it while a daemon attaches; IG_UNAVAILABLE if the kernel refuses the memory barrier; IG_INVALID
/// for a null argument, for an interpreter that is live (ig_close comes first), and if more guards were closed than taken: some
/// guard was closed twice through a copy, and nobody can say what is out.
/// Ownership: with IG_OK, `*interp` is the registered pointer, exclusively the caller's again: what was done under a guard
/// before its ig_guard_close happens before this return, in C11's words, so that fields need not be atomic for it. (Thread
/// sanitizers do not see that: the library's own accesses are not compiled for them.) Else it is NULL.
///
/// # Safety
/// `registry` is null or not freed during the call; `interp` is null or may be written to.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ig_drain(
    registry: *mut ig_registry,
    id: i64,
    timeout_ns: i64,
    interp: *mut *mut c_void,
) -> ig_status {
    let drain = |rust: &Registry<Interp>, id| match rust.take_up(id) {
        // Dropping the error parks the right to drain in the registry.
        Ok(Some(closing)) => closing.drain(timeout(timeout_ns)).map_err(ig_status::from),
        Ok(None) => Err(IG_INVALID),
        Err(refused) => Err(refused.into()),
    };
    // SAFETY: the caller's promise.
    unsafe { hand_back(registry, id, interp, drain) }
}

/// Closes an interpreter and drains it: ig_close and ig_drain in one.
///
/// Context: normal; blocks, with no lock held.
/// Returns: as ig_close and ig_drain. After IG_TIMEOUT the interpreter is closed, and ig_drain goes on with it: another
/// ig_finalize answers IG_ALREADY_CLOSING. After IG_WOULD_DEADLOCK it is as it was, unless a daemon began to attach meanwhile.
/// Ownership: as ig_drain.
///
/// # Safety
/// `registry` is null or not freed during the call; `interp` is null or may be written to.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ig_finalize(
    registry: *mut ig_registry,
    id: i64,
    timeout_ns: i64,
    interp: *mut *mut c_void,
) -> ig_status {
    let finalize =
        |rust: &Registry<Interp>, id| rust.finalize_live(id, timeout(timeout_ns)).map_err(ig_status::from);
    // SAFETY: the caller's promise.
    unsafe { hand_back(registry, id, interp, finalize) }
}

/// Closes every interpreter, then drains all under one deadline, then calls `each` once for every one: the latest
/// registered first, the main interpreter last.
///
/// `status` is IG_OK, and `interp` the registered pointer; or it says why not, as ig_drain does, and `interp` is NULL.
/// One that was closed already and left is taken up. One that another thread drains is left to it: IG_ALREADY_CLOSING.
/// What was not handed back stays closed, and ig_drain or another ig_finalize_all goes on with it.
///
/// All are handed back when the last is drained: one guard that is never closed delays every one of them to the deadline.
/// Whoever wants each as soon as it is drained calls ig_close for all, and then ig_drain for each.
///
/// While the draining lasts, registering answers IG_FINALIZING. `each` is called when it is over, on this thread, in
/// normal context, with no lock held: it may make any call but ig_registry_free, and the registry is open again. It
/// must not longjmp or throw.
///
/// `timeout_ns` limits the waiting for all of them together, as in ig_drain; what else is said there holds here for
/// each.
///
/// Context: normal; allocates; blocks, with no lock held.
/// Returns: IG_OK if every interpreter was handed back, also if there was none; else the first status that `each` was
/// told and that is not IG_OK; IG_INVALID for a null `registry` or `each`: then nothing was closed.
/// Ownership: an `interp` that `each` is told is exclusively the caller's again. `data` stays the caller's, and may be
/// NULL.
///
/// # Safety
/// `registry` is null or not freed during the call; `each` may be called with `data` on this thread.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ig_finalize_all(
    registry: *mut ig_registry,
    timeout_ns: i64,
    each: Option<unsafe extern "C" fn(id: i64, status: ig_status, interp: *mut c_void, data: *mut c_void)>,
    data: *mut c_void,
) -> ig_status {
    // SAFETY: the caller's promise.
    with(unsafe { registry.as_ref() }, |rust| {
        let Some(each) = each else { return IG_INVALID };
        let told = |(id, outcome): (InterpreterId, Result<Interp, FinalizeError<'_, Interp>>)| match outcome {
            Ok(interp) => (id, IG_OK, interp.0),
            // Dropping the error parks the right to drain in the registry.
            Err(refused) => (id, refused.into(), std::ptr::null_mut()),
        };
        // All of them before the first call, which may go on with any of them.
        let all: Vec<_> = rust.finalize_all(timeout(timeout_ns)).into_iter().map(told).collect();
        for &(id, status, interp) in &all {
            // SAFETY: the caller's promise.
            unsafe { each(id.into(), status, interp, data) };
        }
        all.iter().map(|told| told.1).find(|&status| status != IG_OK).unwrap_or(IG_OK)
    })
}

/// What a registry's finalizers have done, since the process began or was forked: see ig_stats. Times are in
/// nanoseconds.
#[repr(C)]
pub struct ig_statistics {
    /// Interpreters that were closed.
    pub closings: u64,
    /// Interpreters that were drained and handed back.
    pub drains: u64,
    /// Drains that gave up at their deadline. An interpreter that is drained again afterwards may be counted again.
    pub timeouts: u64,
    /// How long the drains that ended with `drains` took together. In an ig_finalize_all every one begins when the
    /// waiting does.
    pub drain_ns: u64,
    /// How long the longest of them took.
    pub longest_drain_ns: u64,
}

/// What the registry's finalizers have done so far. Nothing is counted where guards are taken and closed.
///
/// `size` is `sizeof *out`: a later version may count more, at the end. What this one does not know is 0.
///
/// Context: normal; takes the registry's mutex.
/// Returns: IG_OK; IG_INVALID for a null argument, or a `size` that is smaller than that of this version.
///
/// # Safety
/// `registry` is null or not freed during the call; `out` is null or `size` bytes there may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ig_stats(
    registry: *mut ig_registry,
    out: *mut ig_statistics,
    size: usize,
) -> ig_status {
    // SAFETY: the caller's promise.
    with(unsafe { registry.as_ref() }, |rust| {
        if out.is_null() || size < size_of::<ig_statistics>() {
            return IG_INVALID;
        }
        let stats = rust.stats();
        let nanoseconds = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let now = ig_statistics {
            closings: stats.closings,
            drains: stats.drains,
            timeouts: stats.timeouts,
            drain_ns: nanoseconds(stats.drain_time),
            longest_drain_ns: nanoseconds(stats.longest_drain),
        };
        // SAFETY: the caller's promise.
        unsafe { out.cast::<u8>().write_bytes(0, size) };
        // SAFETY: the caller's promise, and it fits.
        unsafe { out.write(now) };
        IG_OK
    })
}

/// How many guards of an interpreter are out.
///
/// Counts every guard that is out throughout the call; one that comes or goes meanwhile may or may not be counted.
///
/// Context: normal; takes the registry's mutex; O(CPUs).
/// Returns: IG_OK, with the number in `*count`; IG_NOT_FOUND; IG_INVALID for a null argument.
///
/// # Safety
/// `registry` is null or not freed during the call; `count` is null or may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ig_outstanding(registry: *mut ig_registry, id: i64, count: *mut u64) -> ig_status {
    // SAFETY: the caller's promise.
    with_id(unsafe { registry.as_ref() }, id, |rust, id| {
        if count.is_null() {
            return IG_INVALID;
        }
        let Some(out) = rust.outstanding(id) else { return IG_NOT_FOUND };
        // SAFETY: the caller's promise.
        unsafe { count.write(out) };
        IG_OK
    })
}

/// Writes what keeps an interpreter from finalizing, for people: its ID and name; how many guards are out; with the
/// ledger on, who holds them (thread, call site, age); how many threads are attaching as daemons; and in which pending
/// queues calls for it wait.
///
/// Works as snprintf does: writes at most `size` bytes, the terminating zero included, and says how long the whole text is.
///
/// Context: normal; allocates for the duration of the call; takes the registry's mutex.
/// Returns: IG_OK, with the length of the whole text, without the zero, in `*length`; IG_NOT_FOUND; IG_INVALID if `registry` or
/// `length` is null, or `text` is with a `size` other than 0.
///
/// # Safety
/// `registry` is null or not freed during the call; `size` bytes at `text`, and `length`, are null or may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ig_report(
    registry: *mut ig_registry,
    id: i64,
    text: *mut c_char,
    size: usize,
    length: *mut usize,
) -> ig_status {
    // SAFETY: the caller's promise.
    with_id(unsafe { registry.as_ref() }, id, |rust, id| {
        if length.is_null() || (text.is_null() && size != 0) {
            return IG_INVALID;
        }
        let Some(holders) = rust.holders(id) else { return IG_NOT_FOUND };
        let mut report = format!("{}\n{holders}", holders.summary());
        rust.waiting(id).iter().for_each(|waiting| report += &format!("\n  {waiting}"));
        // SAFETY: the caller's promise.
        unsafe { length.write(report.len()) };
        if let Some(room) = size.checked_sub(1) {
            let copied = room.min(report.len());
            // SAFETY: the caller's promise: `size` bytes, of which `copied` and the zero are at most as many.
            unsafe { text.copy_from_nonoverlapping(report.as_ptr().cast(), copied) };
            // SAFETY: as above.
            unsafe { text.add(copied).write(0) };
        }
        IG_OK
    })
}

/// Has `call(id, data)` called once when the interpreter closes: so that a pool can wind its workers down and give
/// their guards up. It runs on the thread that closes, inside ig_close, ig_finalize or ig_finalize_all, in normal
/// context, with no lock held; of several, the latest first. It must not longjmp or throw.
///
/// Context: normal; allocates; takes the registry's mutex.
/// Returns: IG_OK; IG_FINALIZING if it is closing already; IG_NOT_FOUND; IG_INVALID for a null registry or `call`.
/// Ownership: `data` stays the caller's, and may be NULL.
///
/// # Safety
/// `registry` is null or not freed during the call; `call` may be called with `data` on any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ig_on_close(
    registry: *mut ig_registry,
    id: i64,
    call: Option<unsafe extern "C" fn(id: i64, data: *mut c_void)>,
    data: *mut c_void,
) -> ig_status {
    let data = Interp(data);
    // SAFETY: the caller's promise.
    with_id(unsafe { registry.as_ref() }, id, |rust, id| {
        let Some(call) = call else { return IG_INVALID };
        let told = move |id: InterpreterId| {
            let whole = &data; // all of it, which may be sent
            // SAFETY: the caller's promise.
            unsafe { call(id.into(), whole.0) }
        };
        rust.on_close(id, told).map_or_else(ig_status::from, |()| IG_OK)
    })
}

/// The body of an export that needs a registry.
pub fn with(registry: Option<&ig_registry>, body: impl FnOnce(&Registry<Interp>) -> ig_status) -> ig_status {
    contained(|| registry.map_or(IG_INVALID, |registry| body(&registry.rust)))
}

/// The body of an export that needs a registry and an interpreter. A number that cannot be an ID is nobody's.
pub fn with_id(
    registry: Option<&ig_registry>,
    id: i64,
    body: impl FnOnce(&Registry<Interp>, InterpreterId) -> ig_status,
) -> ig_status {
    with(registry, |registry| InterpreterId::try_from(id).map_or(IG_NOT_FOUND, |id| body(registry, id)))
}

/// The body of an export that hands an interpreter back: into `out`, which is null until then.
///
/// # Safety
/// `registry` is null or not freed during the call; `out` is null or may be written to.
unsafe fn hand_back(
    registry: *mut ig_registry,
    id: i64,
    out: *mut *mut c_void,
    end: impl FnOnce(&Registry<Interp>, InterpreterId) -> Result<Interp, ig_status>,
) -> ig_status {
    if out.is_null() {
        return IG_INVALID;
    }
    // SAFETY: the caller's promise.
    unsafe { out.write(std::ptr::null_mut()) };
    // SAFETY: the caller's promise.
    with_id(unsafe { registry.as_ref() }, id, |rust, id| match end(rust, id) {
        Ok(interp) => {
            // SAFETY: the caller's promise.
            unsafe { out.write(interp.0) };
            IG_OK
        }
        Err(status) => status,
    })
}

/// A text of the caller's; empty for null.
///
/// # Safety
/// `text` is null or text.
unsafe fn copied(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// Negative: no limit.
fn timeout(nanoseconds: i64) -> Option<Duration> {
    u64::try_from(nanoseconds).ok().map(Duration::from_nanos)
}
