//! Two words per thread: its innermost ensure level, and the memory of one that is not in use.
//!
//! Every ensure and release reads them, so they are reached by the *initial-exec* model: at an offset from the thread
//! pointer that the loader fixes, without the call that a library loaded at run time needs for `thread_local!`. Stable Rust
//! cannot ask for that model, so they are declared and reached in assembly, as those of the core are (see
//! `interp_guard::thread_state`; there for handlers, here for speed). They come out of the C library's reserve, zeroed in
//! the threads that exist already.

use std::arch::{asm, global_asm};
use std::cell::Cell;
use std::mem::MaybeUninit;
use std::ptr::{null_mut, without_provenance_mut};

use crate::levels::Level;

#[repr(C)]
pub struct ThisThread {
    /// This thread's innermost level, or null.
    pub top: Cell<*mut Level>,
    spare: Cell<*mut Level>,
}

// What `spare` can be besides the memory of a level:
/// Nobody frees what is kept when the thread ends, yet.
const NO_ONE_FREES: *mut Level = null_mut();
/// Nothing is kept.
const EMPTY: *mut Level = without_provenance_mut(1);
/// The thread is ending, and what would be kept would never be freed.
const ENDING: *mut Level = without_provenance_mut(2);

/// Only its name serves: mangled, it is distinct for every library of this process.
fn name() {}

global_asm!(
    ".pushsection .tbss.interp_guard_python, \"awT\", @nobits",
    ".balign 16",
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

/// The calling thread's words.
///
/// Context: any. The reference must not leave the thread, which `Cell` sees to, nor outlive it.
#[inline(always)]
pub fn this_thread<'t>() -> &'t ThisThread {
    let address: *const ThisThread;
    // SAFETY: on x86-64 Linux fs:0 holds the thread pointer, and the loader put the variable's offset from it at
    // GOTTPOFF. It loads only what never changes in a thread, so that one load serves a whole function; the stack is not
    // touched. What is there is zero bytes, or what was stored since: a ThisThread.
    unsafe {
        asm!(
            "mov {address}, fs:[0]",
            "add {address}, qword ptr [rip + {name}.tls@GOTTPOFF]",
            address = out(reg) address,
            name = sym name,
            options(pure, nomem, nostack),
        );
        &*address
    }
}

impl ThisThread {
    /// Memory for a level.
    #[inline(always)]
    pub fn take_memory(&self) -> *mut MaybeUninit<Level> {
        let kept = self.spare.get();
        if kept.addr() <= ENDING.addr() {
            return Box::into_raw(Box::new_uninit());
        }
        self.spare.set(EMPTY);
        kept.cast()
    }

    /// Keeps a level's memory for the next one, if none is kept yet.
    ///
    /// # Safety
    /// It is from [`take_memory`](Self::take_memory), with nothing left in it to drop, and not used any more.
    #[inline(always)]
    pub unsafe fn keep_memory(&self, level: *mut Level) {
        if self.spare.get() == EMPTY {
            self.spare.set(level);
        } else {
            // SAFETY: the caller's promise.
            unsafe { self.keep_or_free(level) };
        }
    }

    /// # Safety
    /// As for [`keep_memory`](Self::keep_memory).
    #[cold]
    unsafe fn keep_or_free(&self, level: *mut Level) {
        thread_local! {
            static AT_THE_END: FreeKept = const { FreeKept };
        }
        if self.spare.get() == NO_ONE_FREES && AT_THE_END.try_with(|_| ()).is_ok() {
            self.spare.set(level);
        } else {
            // SAFETY: the caller's promise; `take_memory` had it from a box of this type.
            drop(unsafe { Box::from_raw(level.cast::<MaybeUninit<Level>>()) });
        }
    }
}

/// Frees what is kept when its thread ends.
struct FreeKept;

impl Drop for FreeKept {
    fn drop(&mut self) {
        let kept = this_thread().spare.replace(ENDING);
        if kept.addr() > ENDING.addr() {
            // SAFETY: kept by `keep_memory`.
            drop(unsafe { Box::from_raw(kept.cast::<MaybeUninit<Level>>()) });
        }
    }
}

// In the loader's reserve every byte counts.
const _: () = assert!(size_of::<ThisThread>() == 16);
