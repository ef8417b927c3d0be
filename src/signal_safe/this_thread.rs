//! Five words per thread: the interpreter attached on it and whose it is, for handlers to read; and where its ensure levels
//! are kept, which handlers leave alone.
//!
//! # Why not `thread_local!`
//!
//! In a library that is loaded at run time (a Python extension), the compiler reaches a thread-local through
//! `__tls_get_addr`, which allocates at a thread's first access. In a handler that is forbidden. The *initial-exec* model
//! has no such call: the variable lies in the static block that every thread is created with, at an offset from the
//! thread pointer that the loader fixes. Stable Rust cannot ask for that model, so the variable is declared and reached
//! in assembly. In an executable the linker turns the offset into a constant.
//!
//! The offset is the same in all threads. It is found once and kept in a static, so that this is inlined: an assembly that names
//! the variable could not be, for in code that ends up in another shared object the name means nothing.
//!
//! Loaded at run time, the words come out of the C library's reserve of static space (glibc: 1,664 bytes less what is
//! taken, see the tunable `glibc.rtld.optional_static_tls`), zeroed in the threads that exist already. If the reserve is
//! used up, the library does not load, which `dlopen` says; nothing is left to fail later, in a handler.
//!
//! # What a handler sees
//!
//! Each word is one aligned load and one store, by this thread alone: an interrupted update is either done or not. The
//! interpreter is stored after a thread state is attached and cleared before it is detached, so that a handler which
//! reads one is in a thread where it stays attached until the handler returns. The registry is stored while no interpreter
//! is, so that it is that interpreter's.

use super::arch::{offset_in_thread, thread_pointer};
use super::sync::{Atomic, Ordering, compiler_fence};
use super::word::{InterpreterId, Word};
use core::arch::global_asm;
use core::cell::Cell;

/// One thread's words. All zero in a thread that was never here.
#[repr(C)]
pub struct ThisThread {
    attached: Atomic<Word>,
    /// The serial number of the table that has it; 0 if that is not known, or nothing is attached.
    registry: Atomic<u64>,
    /// Its innermost ensure level; null if it is in none. This and what follows is `thread_state`'s, in normal context.
    pub innermost: Cell<*mut ()>,
    /// The memory of levels that are not in use.
    pub spare: Cell<*mut ()>,
    /// The serial number of its next level; 0 in a thread that has had none.
    pub next: Cell<u64>,
}

/// Only its name serves: mangled, it is distinct for every copy of this crate that is linked into one file.
fn name() {}

// ThisThread, in every thread's static block: zero bytes.
global_asm!(
    ".pushsection .tbss.interp_guard, \"awT\", @nobits",
    ".balign 8",
    ".globl {name}.tls",
    ".hidden {name}.tls",
    ".type {name}.tls, @object",
    ".size {name}.tls, {size}",
    "{name}.tls:",
    ".zero {size}",
    ".popsection",
    name = sym name,
    size = const size_of::<ThisThread>(),
);

/// Where a thread's words are, from its thread pointer; 0 until somebody has asked, and never then.
static OFFSET: Atomic<usize> = Atomic::new(0);

#[cold]
#[inline(never)]
fn find_offset() -> usize {
    let offset = offset_in_thread!(name);
    // Relaxed, here and below: a number that is the same whoever finds it.
    OFFSET.store(offset, Ordering::Relaxed);
    offset
}

/// The calling thread's words.
///
/// Context: any, async-signal-safe. The reference must not outlive the thread, nor leave it, which `Cell` sees to.
#[inline(always)]
pub fn this_thread<'t>() -> &'t ThisThread {
    let offset = match OFFSET.load(Ordering::Relaxed) {
        0 => find_offset(),
        offset => offset,
    };
    let pointer = thread_pointer() as *const u8;
    // SAFETY: the words lie there, in every thread. Zero bytes, or what was stored since, are a ThisThread.
    unsafe { &*pointer.wrapping_add(offset).cast::<ThisThread>() }
}

/// What is attached on a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noted {
    /// The interpreter.
    pub id: InterpreterId,
    /// The serial number of the table that has it; 0 if that is not known.
    pub registry: u64,
}

/// What is noted of a thread, as it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Words {
    attached: Word,
    registry: u64,
}

impl Words {
    /// Nothing is attached.
    pub const NOTHING: Self = Self { attached: Word::VACANT, registry: 0 };

    /// This.
    pub fn of(noted: Noted) -> Self {
        Self { attached: Word::live(noted.id), registry: noted.registry }
    }

    /// Is there nothing?
    #[inline(always)]
    pub fn is_nothing(self) -> bool {
        self.attached == Word::VACANT
    }
}

impl ThisThread {
    /// The interpreter attached on this thread, with the registry that has it.
    ///
    /// Context: any, async-signal-safe.
    #[inline(always)]
    pub fn noted(&self) -> Option<Noted> {
        // Relaxed, both: only this thread and its handlers come here. A handler runs between no two steps of this function that
        // it could tell apart.
        let id = self.attached.load(Ordering::Relaxed).id()?;
        Some(Noted { id, registry: self.registry.load(Ordering::Relaxed) })
    }

    /// The serial number of the table that has the interpreter attached on this thread; 0 if that is not known, or none is.
    #[inline(always)]
    pub fn registry(&self) -> u64 {
        // Relaxed: as in `noted`.
        self.registry.load(Ordering::Relaxed)
    }

    /// What is noted, as it is, to be [put back](Self::put_back).
    #[inline(always)]
    pub fn words(&self) -> Words {
        // Relaxed, both: as in `noted`.
        Words {
            attached: self.attached.load(Ordering::Relaxed),
            registry: self.registry.load(Ordering::Relaxed),
        }
    }

    /// Stores what was noted before.
    #[inline(always)]
    pub fn put_back(&self, words: Words) {
        // Relaxed, all: as in `noted`. Not one operation: a handler leaves the words as it found them. The fences keep the
        // compiler from showing one a registry with another's interpreter.
        self.attached.store(Word::VACANT, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        self.registry.store(words.registry, Ordering::Relaxed);
        if !words.is_nothing() {
            compiler_fence(Ordering::SeqCst);
            self.attached.store(words.attached, Ordering::Relaxed);
        }
    }

    /// Stores what is attached on this thread.
    ///
    /// Context: any, async-signal-safe.
    #[inline(always)]
    pub fn set_attached(&self, now: Option<Noted>) {
        self.put_back(now.map_or(Words::NOTHING, Words::of));
    }
}

/// The interpreter attached on this thread, if any.
///
/// Context: any, async-signal-safe.
#[inline]
pub fn attached() -> Option<InterpreterId> {
    // Relaxed: only this thread and its handlers come here.
    this_thread().attached.load(Ordering::Relaxed).id()
}

// In the loader's reserve every byte counts.
static_assertions::const_assert_eq!(size_of::<ThisThread>(), 40);
