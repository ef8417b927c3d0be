// May import: signal_safe/sync.
//! What an architecture does in its own way: one file each, which is all that differs between them in the library.
//!
//! The files have the same items, and say of each how it is done there:
//!
//! | item | what |
//! |---|---|
//! | `system_call` | the system-call instruction |
//! | `thread_pointer` | a number per thread, from which the C library counts to what is the thread's |
//! | `offset_in_thread!` | from there to a thread-local of the initial-exec model |
//! | `count_here` | a counter of per-CPU mode: the restartable sequence that adds one |
//! | `watch`, `SIGNATURE` | another sequence, for whoever asks whether the kernel keeps to its contract |
//! | `stripe_offset` | the stripe of shared mode |
//! | `jump_with_caller!` | a function entered with its caller's address as one more argument |
//!
//! # Rules of the kernel's contract about restartable sequences
//!
//! `count_here` and `watch` meet each, in every file:
//!
//! 1. The descriptor is 32 bytes, 32-byte aligned: in `__rseq_cs`.
//! 2. Storing its address to `rseq_cs` is the last instruction before the section: an abort between the two would be
//!    lost otherwise. Label 2 follows the store directly.
//! 3. One committing instruction, the last of the section: the store of the increment. Label 3 follows it.
//! 4. The abort address lies outside the section, four bytes after the signature that the C library registered: label
//!    4, in the function's cold part.
//! 5. No system call, call or stack operation inside the section.
//! 6. `rseq_cs` is cleared on every way out: if the object that holds the descriptor is unloaded, a stale pointer would
//!    kill the process at its next preemption. (After an abort the kernel has cleared it itself.)

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "aarch64")]
use aarch64 as this;
#[cfg(target_arch = "x86_64")]
use x86_64 as this;

pub(super) use this::offset_in_thread;
pub use this::{SIGNATURE, count_here, stripe_offset, system_call, thread_pointer, watch};
