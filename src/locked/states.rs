//! The thread states of the calling thread: which of them is attached, which has lent its interpreter.
//!
//! A handle is a number that is never used again, and the interpreter's ID. What it stands for is found here, on its
//! own thread only, and keeps the interpreter's memory; so a handle that is out of date is merely not found. Nothing
//! that is foreign runs while the records are borrowed: no lock is waited for, and no interpreter is dropped.

use super::shared::{Erased, Vm};
use crate::signal_safe::word::InterpreterId;
use crate::unwind;
use std::cell::{Cell, RefCell};
use std::mem::{self, ManuallyDrop};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// One thread state.
struct Record {
    number: u64,
    id: InterpreterId,
    interpreter: Arc<Erased>,
    /// Has this thread the lock through it?
    attached: bool,
    lent: bool,
}

thread_local! {
    /// Not dropped when the thread ends: destructors of other thread-locals may come here after that.
    static RECORDS: RefCell<ManuallyDrop<Vec<Record>>> = const { RefCell::new(ManuallyDrop::new(Vec::new())) };
    static AT_END: AtEnd = const { AtEnd };
    /// Have the thread's destructors run?
    static ENDING: Cell<bool> = const { Cell::new(false) };
}

/// At the end of the thread, lets go of what it has attached, or lost.
struct AtEnd;

impl Drop for AtEnd {
    fn drop(&mut self) {
        ENDING.set(true);
        // What is lent stays: this is the end of the process, from inside a `with`.
        let let_go =
            |record: &mut Record| mem::take(&mut record.attached).then(|| record.interpreter.clone());
        let left: Vec<_> =
            change(|records| records.iter_mut().filter(|record| !record.lent).filter_map(let_go).collect());
        for interpreter in left {
            interpreter.lock.release();
            discard(interpreter);
        }
        sweep();
    }
}

fn change<R>(f: impl FnOnce(&mut Vec<Record>) -> R) -> R {
    RECORDS.with_borrow_mut(|records| f(records))
}

fn with<R>(number: u64, f: impl FnOnce(&mut Record) -> R) -> Option<R> {
    change(|records| records.iter_mut().rev().find(|record| record.number == number).map(f))
}

/// Drops what may be the last handle of an interpreter, which may be the last to have a VM. Contains what that throws.
fn discard(interpreter: Arc<Erased>) {
    // Unwind-safe: it is consumed.
    if let Err(thrown) = catch_unwind(AssertUnwindSafe(|| drop(interpreter))) {
        unwind::discard(thrown);
    }
}

/// Gives up the records of interpreters that have ended, but for what is attached.
fn sweep() {
    let gone = |record: &mut Record| !record.attached && !record.lent && record.interpreter.has_ended();
    let mut swept: Vec<_> = change(|records| records.extract_if(.., gone).collect());
    swept.drain(..).for_each(|record| discard(record.interpreter));
    tidy();
}

/// After the thread's own end nobody else frees the list.
fn tidy() {
    if ENDING.get() {
        change(|records| records.is_empty().then(|| mem::take(records)));
    }
}

/// Makes a thread state, which is not attached: its number.
pub(super) fn create(id: InterpreterId, interpreter: Arc<Erased>) -> u64 {
    static NUMBERS: AtomicU64 = AtomicU64::new(1);
    // Relaxed: only to be different.
    let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
    let _ = AT_END.try_with(|_| ());
    sweep();
    change(|records| records.push(Record { number, id, interpreter, attached: false, lent: false }));
    number
}

/// The thread state of an interpreter with a `V` that is attached.
pub(super) fn attached<V: Send + 'static>() -> Option<(u64, InterpreterId)> {
    let is = |record: &&Record| record.attached && record.interpreter.vm.is::<Vm<V>>();
    RECORDS.with_borrow(|records| records.iter().rev().find(is).map(|record| (record.number, record.id)))
}

/// Waits for the lock. Nothing of the type is attached, and the number is one of this thread's.
pub(super) fn attach(number: u64) {
    let interpreter = with(number, |record| record.interpreter.clone());
    let Some(interpreter) = interpreter else {
        unreachable!("a thread state of another thread, or an old one")
    };
    interpreter.lock.acquire();
    with(number, |record| record.attached = true);
}

/// Gives the lock back.
pub(super) fn detach(number: u64) {
    let interpreter =
        with(number, |record| mem::take(&mut record.attached).then(|| record.interpreter.clone()));
    if let Some(interpreter) = interpreter.flatten() {
        interpreter.lock.release();
        discard(interpreter);
    }
}

/// Gives the lock back, and the thread state up.
pub(super) fn destroy(number: u64) {
    detach(number);
    let at = |records: &mut Vec<Record>| {
        records.iter().rposition(|record| record.number == number).map(|at| records.remove(at))
    };
    if let Some(record) = change(at) {
        discard(record.interpreter);
    }
    tidy();
}

/// Is it this interpreter's? `None`: it is not one of this thread's.
pub(super) fn is_of(number: u64, interpreter: *const ()) -> Option<bool> {
    with(number, |record| Arc::as_ptr(&record.interpreter).cast::<()>() == interpreter)
}

pub(super) fn is_lent(number: u64) -> bool {
    with(number, |record| record.lent).unwrap_or(false)
}

/// Why nothing can be lent.
pub(super) enum NotLent {
    Already,
    NotAttached,
    Gone,
}

/// While it exists, the interpreter counts as lent. It is dropped on its thread.
pub(super) struct Lent {
    number: u64,
    pub interpreter: Arc<Erased>,
}

/// Notes that it is lent.
pub(super) fn lend(number: u64) -> Result<Lent, NotLent> {
    let lend = |record: &mut Record| match (record.attached, record.lent) {
        (true, false) => {
            record.lent = true;
            Ok(Lent { number, interpreter: record.interpreter.clone() })
        }
        (true, true) => Err(NotLent::Already),
        (false, _) if record.interpreter.has_ended() => Err(NotLent::Gone),
        (false, _) => Err(NotLent::NotAttached),
    };
    with(number, lend).unwrap_or(Err(NotLent::Gone))
}

impl Lent {
    /// It has been given back.
    pub fn end(&self) {
        with(self.number, |record| record.lent = false);
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.end();
    }
}
