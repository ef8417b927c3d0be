//! `python -m interp_guard stress`: real SIGUSR1 at every thread of a process whose subinterpreters come and go.
//!
//! The Python side makes and ends subinterpreters on the main thread, seat by seat. Native threads of three kinds run beside
//! it: some hold guards, some ensure and call Python, one sends the signals. What each seat has been announced as lets
//! handlers and threads judge an answer:
//!
//! | announced before and after a lookup | must be |
//! |---|---|
//! | live, the same ID | a guard |
//! | gone | `NotFound` |
//! | anything else | a guard, `Finalizing` or `NotFound` |
//!
//! and a guard must be of the ID asked for, and its interpreter's own memory must say so too.

use crate::attach;
use crate::ground::helpers::{detached, none, raise, runtime_error, text};
use crate::ground::registry::{self, Interpreter, REGISTRY};
use crate::ground::threads::this_thread;
use interp_guard::signal::{self, Handler};
use interp_guard::{Guard, InterpreterId, LookupError, Site};
use pyo3_ffi::{self as ffi, PyObject, PyThreadState};
use std::ffi::{CString, c_char, c_int, c_long};
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub const MOST_SEATS: usize = 64;
/// Nobody ever has this ID.
const NEVER: i64 = (1 << 39) + 12_345;

/// `id << 2 | phase`; 0 before anybody sat there. SeqCst throughout: announcements and lookups are to be seen in one order.
struct Seat {
    announced: AtomicI64,
    /// Guards of its interpreter that threads and handlers say they hold: counted after taking, uncounted before giving up.
    held: AtomicU32,
}

const LIVE: i64 = 1;
const ENDING: i64 = 2;
const GONE: i64 = 3;

static SEATS: [Seat; MOST_SEATS] =
    [const { Seat { announced: AtomicI64::new(0), held: AtomicU32::new(0) } }; MOST_SEATS];
static SEATS_USED: AtomicU32 = AtomicU32::new(0);
static STOP: AtomicBool = AtomicBool::new(false);

/// What is counted. Relaxed throughout: statistics.
struct Counts {
    signals: AtomicU64,
    hits: AtomicU64,
    finalizing: AtomicU64,
    not_found: AtomicU64,
    ensures: AtomicU64,
    registered: AtomicU64,
    finalized: AtomicU64,
    violations: [AtomicU64; VIOLATIONS.len()],
    /// How long a lookup and close in a handler took: by nanoseconds, eight buckets to a power of two.
    nanoseconds: [AtomicU64; 8 * 40],
}

#[derive(Clone, Copy)]
enum Violation {
    LiveNotFound,
    GoneFound,
    WrongInterpreter,
    EndedUnderGuard,
    AttachedElsewhere,
    Errno,
}

const VIOLATIONS: [&str; 6] = [
    "a lookup did not find an interpreter that was live throughout",
    "a lookup found an interpreter that had ended",
    "a guard's interpreter is another than the one asked for",
    "an interpreter ended while a guard of it was out",
    "ensure attached another interpreter than the one asked for",
    "errno changed in a handler",
];

static COUNTS: Counts = Counts {
    signals: AtomicU64::new(0),
    hits: AtomicU64::new(0),
    finalizing: AtomicU64::new(0),
    not_found: AtomicU64::new(0),
    ensures: AtomicU64::new(0),
    registered: AtomicU64::new(0),
    finalized: AtomicU64::new(0),
    violations: [const { AtomicU64::new(0) }; VIOLATIONS.len()],
    nanoseconds: [const { AtomicU64::new(0) }; 8 * 40],
};

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

fn violated(what: Violation) {
    count(&COUNTS.violations[what as usize]);
}

/// The bucket of a duration: exponent and the next three bits.
fn bucket(nanoseconds: u64) -> usize {
    let n = nanoseconds.max(8);
    let exponent = n.ilog2();
    ((exponent as usize - 3) * 8 + (n >> (exponent - 3) & 7) as usize).min(8 * 40 - 1)
}

/// The upper end of a bucket.
fn upper(bucket: usize) -> u64 {
    ((9 + (bucket as u64 & 7)) << (bucket / 8)) - 1
}

fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: signal-safe; writes to `time` alone.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// A number that looks like chance, from anywhere.
fn chance() -> u64 {
    static STATE: AtomicU64 = AtomicU64::new(0);
    let mut n = STATE.fetch_add(0x9E37_79B9_7F4A_7C15, Relaxed);
    n = (n ^ n >> 32).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    n ^ n >> 32
}

fn seat() -> &'static Seat {
    &SEATS[chance() as usize % (SEATS_USED.load(Relaxed) as usize).clamp(1, MOST_SEATS)]
}

/// Is the guard what was asked for? Reads the interpreter's memory.
fn check(guard: &Guard<'_, Interpreter>, asked: InterpreterId) {
    // SAFETY: guarded. CPython's function reads one field: signal-safe.
    if guard.id() != asked || guard.id != asked || unsafe { registry::id_of(guard.state) } != Some(asked) {
        violated(Violation::WrongInterpreter);
    }
}

/// Looks a seat's interpreter up and judges the answer; `with` gets the guard.
///
/// Context: any, async-signal-safe if `with` is.
fn look(seat: &Seat, with: impl FnOnce(Guard<'static, Interpreter>)) {
    let before = seat.announced.load(SeqCst);
    let Ok(id) = InterpreterId::try_from(if before == 0 { NEVER } else { before >> 2 }) else { return };
    match REGISTRY.lookup(id) {
        Ok(guard) => {
            seat.held.fetch_add(1, SeqCst);
            count(&COUNTS.hits);
            check(&guard, id);
            if before == 0 || before & 3 == GONE {
                violated(Violation::GoneFound);
            }
            with(guard.clone());
            seat.held.fetch_sub(1, SeqCst);
        }
        Err(refused) => {
            let is_gone = refused == LookupError::NotFound;
            count(if is_gone { &COUNTS.not_found } else { &COUNTS.finalizing });
            if before & 3 == LIVE && seat.announced.load(SeqCst) == before {
                violated(Violation::LiveNotFound);
            }
            if (before == 0 || before & 3 == GONE) && !is_gone {
                violated(Violation::GoneFound);
            }
        }
    }
}

/// SIGUSR1.
///
/// Context: a signal handler.
fn in_handler() {
    // SAFETY: the calling thread's errno, here and below.
    let errno = unsafe { *libc::__errno_location() };
    let Some(main) = registry::main_id() else { return };
    let began = now();
    match REGISTRY.lookup(main) {
        Ok(guard) => {
            check(&guard, main);
            drop(guard);
            count(&COUNTS.nanoseconds[bucket(now() - began)]);
            count(&COUNTS.hits);
        }
        Err(_) => violated(Violation::LiveNotFound), // the stress ends before the main interpreter does
    }
    for _ in 0..3 {
        look(seat(), |guard| drop(guard.clone()));
    }
    if let Ok(never) = InterpreterId::try_from(NEVER) {
        match REGISTRY.lookup(never) {
            Err(LookupError::NotFound) => count(&COUNTS.not_found),
            _ => violated(Violation::GoneFound),
        }
    }
    // SAFETY: as above.
    if unsafe { *libc::__errno_location() } != errno {
        violated(Violation::Errno);
    }
    count(&COUNTS.signals);
}

/// Takes guards, and keeps each for a while.
fn hold_guards() {
    while !STOP.load(Relaxed) {
        look(seat(), |guard| {
            let copy = guard.clone();
            drop(guard);
            for _ in 0..chance() % 2000 {
                std::hint::spin_loop();
            }
            drop(copy);
        });
        // Leaves the CPU to who makes and ends subinterpreters.
        std::thread::sleep(Duration::from_micros(chance() % 200));
    }
}

/// Attaches, and asks Python where it is; at times in two interpreters at once.
fn call_python() {
    while !STOP.load(Relaxed) {
        ensure(seat(), chance().is_multiple_of(4));
        std::thread::sleep(Duration::from_micros(chance() % 500));
    }
}

fn ensure(seat: &Seat, again: bool) {
    let Ok(id) = InterpreterId::try_from(seat.announced.load(SeqCst) >> 2) else { return };
    let Some(level) = attach::ensure_id(id, Site::caller()) else { return };
    count(&COUNTS.ensures);
    // SAFETY: attached; objects are checked for null and given back.
    unsafe {
        let package = ffi::PyImport_ImportModule(c"interp_guard".as_ptr());
        let answer = match package.is_null() {
            true => null_mut(),
            false => ffi::PyObject_CallMethod(package, c"current".as_ptr(), null()),
        };
        if answer.is_null() || ffi::PyLong_AsLongLong(answer) != i64::from(id) {
            violated(Violation::AttachedElsewhere);
        }
        ffi::PyErr_Clear();
        ffi::Py_XDECREF(answer);
        ffi::Py_XDECREF(package);
    }
    if again {
        ensure(self::seat(), false);
    }
    if attach::release(level).is_err() {
        violated(Violation::AttachedElsewhere);
    }
}

/// What runs, between `start` and `finish`. Used by the main thread alone.
struct Run {
    handler: Option<Handler>,
    threads: Vec<JoinHandle<()>>,
    subs: Vec<*mut PyThreadState>,
    path: CString,
}

// SAFETY: the thread states are used attached, on the main thread.
unsafe impl Send for Run {}

static RUN: Mutex<Option<Run>> = Mutex::new(None);

/// Sends SIGUSR1 to each thread in turn, and SIGUSR2 to the process now and then.
fn send_signals(to: &[i32]) {
    while !STOP.load(Relaxed) {
        for &thread in to {
            // SAFETY: sends a signal that has a handler until this thread has ended; a thread that is gone is an error.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, libc::SIGUSR1) };
        }
        if chance().is_multiple_of(16) {
            // SAFETY: as above.
            unsafe { libc::kill(libc::getpid(), libc::SIGUSR2) };
        }
        std::thread::sleep(Duration::from_micros(100));
    }
}

fn launch(threads: usize) -> Result<(Handler, Vec<JoinHandle<()>>), String> {
    // SAFETY: lookups, clones and drops of guards, atomics, clock_gettime; CPython's GetID reads one field.
    let handler = unsafe { signal::in_handler(libc::SIGUSR1, in_handler) }.map_err(|why| why.to_string())?;
    let (tell, told) = std::sync::mpsc::channel();
    let spawn = |work: Box<dyn FnOnce() + Send>| {
        let thread = std::thread::Builder::new().name("interp-guard st".into()).spawn(work);
        thread.map_err(|why| format!("no thread: {why}"))
    };
    let mut running = Vec::new();
    for number in 0..threads {
        let tell = tell.clone();
        running.push(spawn(Box::new(move || {
            let _ = tell.send(this_thread() as i32);
            if number % 2 == 0 { hold_guards() } else { call_python() }
        }))?);
    }
    drop(tell);
    let mut ids: Vec<i32> = told.iter().take(threads).collect();
    // The main thread, which makes and ends subinterpreters, gets signals too.
    ids.push(this_thread() as i32);
    running.push(spawn(Box::new(move || send_signals(&ids)))?);
    Ok((handler, running))
}

fn run() -> std::sync::MutexGuard<'static, Option<Run>> {
    RUN.lock().unwrap_or_else(PoisonError::into_inner)
}

// SAFETY (all methods): called by Python, attached to the main interpreter on the main thread, with objects.

/// `stress_start(threads, seats, path)`.
pub unsafe extern "C" fn start(_: *mut PyObject, arguments: *mut PyObject) -> *mut PyObject {
    let (mut threads, mut seats, mut path): (c_int, c_int, *const c_char) = (0, 0, null());
    // SAFETY: attached, with a tuple; what is written fits the format; the text lives as long as the arguments.
    let path = unsafe {
        let format = c"iis".as_ptr();
        if ffi::PyArg_ParseTuple(arguments, format, &raw mut threads, &raw mut seats, &raw mut path) == 0 {
            return null_mut();
        }
        std::ffi::CStr::from_ptr(path).to_owned()
    };
    let seats = (seats as usize).clamp(1, MOST_SEATS);
    SEATS_USED.store(seats as u32, Relaxed);
    STOP.store(false, Relaxed);
    match launch(threads as usize) {
        Ok((handler, threads)) => {
            *run() = Some(Run { handler: Some(handler), threads, subs: vec![null_mut(); seats], path });
            none()
        }
        Err(why) => raise(runtime_error(), &why),
    }
}

/// Ends who sits there. How long that took, in nanoseconds.
///
/// # Safety
/// Attached to the main interpreter, with `sub` detached and made by `sit`.
unsafe fn get_up(seat: &Seat, sub: *mut PyThreadState) -> u64 {
    let announced = seat.announced.load(SeqCst) & !3;
    seat.announced.store(announced | ENDING, SeqCst);
    let began = Instant::now();
    // SAFETY: the caller's promise; one GIL, or none, serves both interpreters, as `Py_NewInterpreter` makes them.
    unsafe {
        let main = ffi::PyThreadState_Swap(sub);
        ffi::Py_EndInterpreter(sub);
        ffi::PyThreadState_Swap(main);
    }
    let took = began.elapsed();
    if seat.held.load(SeqCst) != 0 {
        violated(Violation::EndedUnderGuard);
    }
    seat.announced.store(announced | GONE, SeqCst);
    count(&COUNTS.finalized);
    took.as_nanos() as u64
}

/// Makes an interpreter that has imported the package. Null with an exception set.
///
/// # Safety
/// Attached to the main interpreter.
unsafe fn sit(seat: &Seat, path: &CString) -> *mut PyThreadState {
    // SAFETY: attached to one interpreter or the other; objects are checked for null and given back; the list is borrowed.
    unsafe {
        let main = ffi::PyThreadState_Get();
        let sub = ffi::Py_NewInterpreter();
        if sub.is_null() {
            ffi::PyThreadState_Swap(main);
            raise(runtime_error(), "CPython made no subinterpreter");
            return null_mut();
        }
        let (folders, ours) =
            (ffi::PySys_GetObject(c"path".as_ptr()), ffi::PyUnicode_FromString(path.as_ptr()));
        if !folders.is_null() && !ours.is_null() {
            ffi::PyList_Insert(folders, 0, ours);
        }
        ffi::Py_XDECREF(ours);
        let package = ffi::PyImport_ImportModule(c"interp_guard".as_ptr());
        let imported = !package.is_null();
        ffi::Py_XDECREF(package);
        let id = registry::current().1.map_or(0, i64::from);
        if !imported || id == 0 {
            ffi::PyErr_Print();
            ffi::Py_EndInterpreter(sub);
            ffi::PyThreadState_Swap(main);
            raise(runtime_error(), "a subinterpreter cannot import interp_guard");
            return null_mut();
        }
        ffi::PyThreadState_Swap(main);
        count(&COUNTS.registered);
        seat.announced.store(id << 2 | LIVE, SeqCst);
        sub
    }
}

/// `stress_cycle(seat)`: ends who sits there, if anybody, and seats another. How long the end took, or 0.
pub unsafe extern "C" fn cycle(_: *mut PyObject, number: *mut PyObject) -> *mut PyObject {
    let mut run = run();
    let Some(run) = run.as_mut() else { return raise(runtime_error(), "the stress is not running") };
    // SAFETY: attached; an error is -1, taken as the first seat with the exception set.
    unsafe {
        let at = ffi::PyLong_AsLong(number).max(0) as usize % run.subs.len();
        let sub = std::mem::replace(&mut run.subs[at], null_mut());
        let took = if sub.is_null() { 0 } else { get_up(&SEATS[at], sub) };
        run.subs[at] = sit(&SEATS[at], &run.path);
        match run.subs[at].is_null() {
            true => null_mut(),
            false => ffi::PyLong_FromUnsignedLongLong(took),
        }
    }
}

/// `stress_finish()`: ends the subinterpreters and the threads. How long each end took. Harmless when nothing runs.
pub unsafe extern "C" fn finish(_: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    let taken = run().take();
    // SAFETY: attached; null is checked for, and the references are given back.
    unsafe {
        let list = ffi::PyList_New(0);
        let Some(mut run) = taken else { return list };
        for (seat, sub) in SEATS.iter().zip(run.subs.drain(..)).filter(|(_, sub)| !sub.is_null()) {
            let took = ffi::PyLong_FromUnsignedLongLong(get_up(seat, sub));
            if !list.is_null() && !took.is_null() {
                ffi::PyList_Append(list, took);
            }
            ffi::Py_XDECREF(took);
        }
        STOP.store(true, Relaxed);
        detached(|| run.threads.drain(..).for_each(|thread| drop(thread.join())));
        drop(run.handler.take());
        list
    }
}

/// What takes `share` of all samples at the most.
fn quantile(share: f64) -> u64 {
    let samples: Vec<u64> = COUNTS.nanoseconds.iter().map(|bucket| bucket.load(Relaxed)).collect();
    let wanted = (samples.iter().sum::<u64>() as f64 * share).ceil() as u64;
    let mut seen = 0;
    let found = samples.iter().position(|&samples| {
        seen += samples;
        samples > 0 && seen >= wanted
    });
    found.map_or(0, upper)
}

/// `stress_counts()`: a dict.
pub unsafe extern "C" fn counts(_: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    let total = |counter: &AtomicU64| counter.load(Relaxed);
    let violations = COUNTS.violations.iter().zip(VIOLATIONS).filter(|(times, _)| total(times) > 0);
    let said: Vec<String> = violations.map(|(times, what)| format!("{} x {what}", total(times))).collect();
    let said = text(&said.join("\n"));
    // SAFETY: attached; the format fits the arguments.
    unsafe {
        ffi::Py_BuildValue(
            c"{s:K,s:K,s:K,s:K,s:K,s:K,s:K,s:K,s:s,s:(KKK)}".as_ptr(),
            c"signals".as_ptr(),
            total(&COUNTS.signals),
            c"hits".as_ptr(),
            total(&COUNTS.hits),
            c"finalizing".as_ptr(),
            total(&COUNTS.finalizing),
            c"not_found".as_ptr(),
            total(&COUNTS.not_found),
            c"ensures".as_ptr(),
            total(&COUNTS.ensures),
            c"registered".as_ptr(),
            total(&COUNTS.registered),
            c"finalized".as_ptr(),
            total(&COUNTS.finalized),
            c"violations".as_ptr(),
            COUNTS.violations.iter().map(total).sum::<u64>(),
            c"violated".as_ptr(),
            said.as_ptr(),
            c"lookup_ns".as_ptr(),
            quantile(0.5),
            quantile(0.99),
            quantile(1.0),
        )
    }
}

const _: () = assert!(size_of::<c_long>() == 8); // what PyLong_AsLong returns
