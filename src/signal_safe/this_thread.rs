//! Three words per thread: the interpreter attached on it and whose it is, for handlers to read, and where its ensure levels
//! are kept.
//!
//! # Why not `thread_local!`
//!
//! In a library that is loaded at run time (a Python extension), the compiler reaches a thread-local through
//! `__tls_get_addr`, which allocates at a thread's first access. In a handler that is forbidden. The *initial-exec* model
//! has no such call: the variable lies in the static block that every thread is created with, at an offset from the
//! thread pointer that the loader fixes. Stable Rust cannot ask for that model, so the variable is declared and reached
//! in assembly. In an executable the linker turns the offset into a constant.
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

use super::sync::{Atomic, AtomicPtr, Ordering, compiler_fence};
use super::word::{InterpreterId, Word};
use core::arch::{asm, global_asm};

/// One thread's words. All zero in a thread that was never here.
#[repr(C)]
pub struct ThisThread {
    attached: Atomic<Word>,
    /// The serial number of the table that has it; 0 if that is not known.
    registry: Atomic<u64>,
    levels: AtomicPtr<()>,
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

/// Its address in the calling thread.
#[inline(never)] // the symbol is hidden: code in another shared object could not name it
fn this_thread() -> *const ThisThread {
    let address: *const ThisThread;
    // SAFETY: on x86-64 Linux fs:0 holds the thread pointer, and the loader put the variable's offset from it at
    // GOTTPOFF. Loads only; the flags are not preserved, and the stack is not touched.
    unsafe {
        asm!(
            "mov {address}, fs:[0]",
            "add {address}, qword ptr [rip + {name}.tls@GOTTPOFF]",
            address = out(reg) address,
            name = sym name,
            options(pure, readonly, nostack),
        );
    }
    address
}

#[inline(always)]
fn words<'t>() -> &'t ThisThread {
    // SAFETY: zero bytes, or what was stored since, are a ThisThread; they live as long as the thread, and no reference
    // leaves it: each function below lets go of it before it returns.
    unsafe { &*this_thread() }
}

/// What is attached on a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noted {
    /// The interpreter.
    pub id: InterpreterId,
    /// The serial number of the table that has it; 0 if that is not known.
    pub registry: u64,
}

/// The interpreter attached on this thread, if any.
///
/// Context: any, async-signal-safe.
#[inline]
pub fn attached() -> Option<InterpreterId> {
    // Relaxed: only this thread and its handlers come here.
    words().attached.load(Ordering::Relaxed).id()
}

/// [`attached`], with the registry that has it.
///
/// Context: any, async-signal-safe.
#[inline]
pub fn noted() -> Option<Noted> {
    let ThisThread { attached, registry, .. } = words();
    // Relaxed, both: as in `attached`. A handler runs between no two steps of this function that it could tell apart.
    let id = attached.load(Ordering::Relaxed).id()?;
    Some(Noted { id, registry: registry.load(Ordering::Relaxed) })
}

/// Stores what is attached on this thread, and returns what was.
///
/// Context: any, async-signal-safe.
#[inline]
pub fn set_attached(now: Option<Noted>) -> Option<Noted> {
    let before = noted();
    if before == now {
        return before;
    }
    let ThisThread { attached, registry, .. } = words();
    // Relaxed, all: as in `attached`. Not one operation: a handler leaves the words as it found them. The fences keep the
    // compiler from showing one a registry with another's interpreter.
    attached.store(Word::VACANT, Ordering::Relaxed);
    if let Some(now) = now {
        compiler_fence(Ordering::SeqCst);
        registry.store(now.registry, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        attached.store(Word::live(now.id), Ordering::Relaxed);
    }
    before
}

/// Where this thread keeps its ensure levels; null if it has none.
#[inline]
pub fn levels() -> *mut () {
    // Relaxed: as in `attached`.
    words().levels.load(Ordering::Relaxed)
}

/// See [`levels`].
pub fn set_levels(levels: *mut ()) {
    // Relaxed: as in `attached`.
    words().levels.store(levels, Ordering::Relaxed);
}

// In the loader's reserve every byte counts.
static_assertions::const_assert_eq!(size_of::<ThisThread>(), 24);
