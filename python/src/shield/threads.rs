//! What a thread has of us: the guard with which it is attached, and a note of it that others can read.

use super::gate::{Admission, now};
use crate::ground::threads::this_thread;
use pyo3_ffi::PyThreadState;
use std::cell::Cell;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// Who is inside, for others to read. Never freed: the notes of threads that have ended are used again.
struct Note {
    next: *const Note,
    is_used: AtomicBool,
    thread: AtomicU32,
    /// In nanoseconds of `now`; 0: not inside.
    since: AtomicU64,
    /// The address that the attaching call returns to.
    caller: AtomicUsize,
}

static NOTES: AtomicPtr<Note> = AtomicPtr::new(null_mut());

/// The calling thread's.
pub struct Here {
    guard: Cell<Option<Admission>>,
    /// Is there a guard? Told without taking it out.
    is_guarded: Cell<bool>,
    /// How many ensures have attached this thread, and are not released.
    levels: Cell<u32>,
    /// The thread state with which it was attached, and detached, without a guard: its own, if Python started
    /// it.
    own: Cell<*mut PyThreadState>,
    /// Has it called anything of ours before?
    is_known: Cell<bool>,
    note: Cell<*const Note>,
}

thread_local! {
    static HERE: Here = const {
        Here {
            guard: Cell::new(None),
            is_guarded: Cell::new(false),
            levels: Cell::new(0),
            own: Cell::new(null_mut()),
            is_known: Cell::new(false),
            note: Cell::new(null()),
        }
    };
}

/// Runs `f` with what the calling thread has. `None` where the thread ends, and has given it up.
#[inline(always)]
pub fn here<R>(f: impl FnOnce(&Here) -> R) -> Option<R> {
    HERE.try_with(f).ok()
}

impl Here {
    /// It ends a section without the GIL. If that is the first that is known of it, it began the section before
    /// there was a shield, with a state of its own.
    #[inline(always)]
    pub fn restores(&self, state: *mut PyThreadState) {
        if !self.is_known.replace(true) {
            self.own.set(state);
        }
    }

    #[inline(always)]
    pub fn is_guarded(&self) -> bool {
        self.is_guarded.get()
    }

    /// The thread attaches with this guard, for as long as that takes.
    #[inline(always)]
    pub fn keep(&self, guard: Admission) {
        self.guard.set(Some(guard));
        self.is_guarded.set(true);
        self.is_known.set(true);
    }

    /// It keeps it for as long as it is attached.
    #[inline(always)]
    pub fn is_inside(&self, caller: usize) {
        let note = self.note();
        // Relaxed, all of them: for reports, which may be a little late.
        note.caller.store(caller, Ordering::Relaxed);
        note.since.store(now(), Ordering::Relaxed);
    }

    /// It has detached.
    #[inline(always)]
    pub fn give_up(&self) {
        if !self.is_guarded.replace(false) {
            return;
        }
        // SAFETY: null, or never freed.
        if let Some(note) = unsafe { self.note.get().as_ref() } {
            note.since.store(0, Ordering::Relaxed); // as in `is_inside`
        }
        drop(self.guard.take());
    }

    /// An ensure has attached this thread.
    #[inline(always)]
    pub fn enter(&self) {
        self.levels.set(self.levels.get() + 1);
    }

    /// The release of one has detached it.
    #[inline(always)]
    pub fn leave(&self) {
        self.levels.set(self.levels.get().saturating_sub(1));
        self.give_up();
    }

    /// It has detached `state`, and will attach it again, or not.
    #[inline(always)]
    pub fn detaches(&self, state: *mut PyThreadState) {
        self.is_known.set(true);
        match self.is_guarded() {
            true => self.give_up(),
            false => self.own.set(state),
        }
    }

    /// It has detached and deleted what was attached.
    pub fn deletes(&self) {
        match self.is_guarded() {
            true => self.give_up(),
            false => self.own.set(null_mut()),
        }
    }

    /// Is it inside for as long as `state` is attached? Not if that is its own: then it is a thread that Python
    /// started, and whoever ends Python waits for such threads or does not, as they are daemons or not.
    #[inline(always)]
    pub fn comes_to_call(&self, state: *mut PyThreadState) -> bool {
        self.levels.get() > 0 || self.own.get() != state
    }

    #[inline(always)]
    fn note(&self) -> &'static Note {
        if self.note.get().is_null() {
            self.note.set(claim());
        }
        // SAFETY: never freed.
        unsafe { &*self.note.get() }
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        self.give_up();
        // SAFETY: null, or never freed.
        if let Some(note) = unsafe { self.note.get().as_ref() } {
            note.is_used.store(false, Ordering::Release); // pairs with the Acquire in `claim`
        }
    }
}

/// A note for the calling thread.
#[cold]
#[inline(never)]
fn claim() -> *const Note {
    let thread = this_thread();
    for note in notes() {
        // Acquire: pairs with the Release in `Here::drop`: the thread that had it has written its last.
        if note.is_used.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok() {
            note.thread.store(thread, Ordering::Relaxed); // as in `Here::is_inside`
            return note;
        }
    }
    let note = Box::leak(Box::new(Note {
        next: null(),
        is_used: AtomicBool::new(true),
        thread: AtomicU32::new(thread),
        since: AtomicU64::new(0),
        caller: AtomicUsize::new(0),
    }));
    let mut first = NOTES.load(Ordering::Relaxed); // the exchange decides
    loop {
        note.next = first;
        // Release: pairs with the Acquire in `notes`.
        match NOTES.compare_exchange_weak(first, note, Ordering::Release, Ordering::Relaxed) {
            Ok(_) => return note,
            Err(now) => first = now,
        }
    }
}

fn notes() -> impl Iterator<Item = &'static Note> {
    // Acquire: pairs with the Release in `claim`.
    // SAFETY: null, or never freed; `next` is not changed once it is in the list.
    let first = unsafe { NOTES.load(Ordering::Acquire).cast_const().as_ref() };
    // SAFETY: as above.
    std::iter::successors(first, |note| unsafe { note.next.as_ref() })
}

/// A thread that is inside.
pub struct Inside {
    pub thread: u32,
    pub age: Duration,
    /// The address that the attaching call returns to.
    pub caller: usize,
}

/// Who is inside, the longest first.
pub fn inside() -> Vec<Inside> {
    let now = now();
    let mut inside: Vec<_> = notes()
        .filter_map(|note| {
            // Relaxed: as in `Here::is_inside`.
            let since = note.since.load(Ordering::Relaxed);
            (since != 0).then(|| Inside {
                thread: note.thread.load(Ordering::Relaxed),
                age: Duration::from_nanos(now.saturating_sub(since)),
                caller: note.caller.load(Ordering::Relaxed),
            })
        })
        .collect();
    inside.sort_by_key(|inside| std::cmp::Reverse(inside.age));
    inside
}

/// In a forked child: the other threads are gone.
pub fn after_fork_child() {
    let mine = here(|here| here.note.get()).unwrap_or(null());
    for note in notes() {
        // Relaxed: the only thread of the process.
        if std::ptr::eq(note, mine) {
            note.thread.store(this_thread(), Ordering::Relaxed);
        } else {
            note.since.store(0, Ordering::Relaxed);
            note.is_used.store(false, Ordering::Relaxed);
        }
    }
}
