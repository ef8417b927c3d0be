// May import: pending, processes, registry, signal_safe, thread_state, threads, unwind.
//! VMs that are bound to the thread that made them: a JavaScript isolate, a GUI's loop, anything that is not `Send`.
//!
//! Such a VM never leaves its thread. What is registered is a [`Bound`], through which other threads send it work: a
//! *job*, which is a function of the VM. [`call`](crate::Registry::call) waits for the job's answer, and
//! [`post`](crate::Registry::post) does not. A job keeps the interpreter by a guard until it has run, so a drain waits
//! for what was sent before.
//!
//! ```
//! use interp_guard::{Registry, bound::{self, Bound}, pending::WorkerOptions};
//! use std::rc::Rc;
//!
//! struct Vm { runs: Rc<u64> } // not `Send`
//!
//! static VMS: Registry<Bound<Vm>> = Registry::new();
//!
//! // A thread of the library's makes the VM, and runs what it is sent.
//! let options = WorkerOptions::new().name("a VM").unblocked(&[libc::SIGPROF]);
//! let thread = bound::start(&VMS, options, |_id| Vm { runs: Rc::new(0) })?;
//! let id = thread.id();
//! VMS.post(id, |vm| *Rc::get_mut(&mut vm.runs).expect("the only one") += 1).expect("live");
//! assert_eq!(VMS.call(id, |vm| *vm.runs)?, 1);
//! drop(VMS.finalize(id, None)?); // waits for the jobs; then the thread drops the VM and ends
//! thread.join().expect("no panic");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # A loop of one's own
//!
//! A thread that has its own loop makes a [`Loop`] and polls its descriptor beside the others. When that is readable,
//! it takes a [`turn`](Loop::turn), which also says when to stop. A drain on that thread runs what waits itself, as
//! with any [pending queue](crate::pending), and so does not wait for its own thread:
//!
//! ```
//! use interp_guard::{Registry, bound::{Bound, Loop}};
//! use std::rc::Rc;
//!
//! static VMS: Registry<Bound<Rc<u64>>> = Registry::new();
//!
//! let mut vm = Loop::new(&VMS, |_id| Rc::new(7))?;
//! let id = vm.id();
//! let other = std::thread::spawn(move || VMS.call(id, |vm| **vm));
//! while !other.is_finished() {
//!     // poll(vm.as_fd(), and the loop's other descriptors), then
//!     if vm.turn().is_break() {
//!         break;
//!     }
//! }
//! assert!(matches!(other.join(), Ok(Ok(7))));
//! drop(VMS.finalize(id, None)?);
//! assert!(vm.turn().is_break());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Signal handlers
//!
//! A job is made on the heap, which a handler must not do. A handler pushes a pending call to the VM's
//! [queue](Loop::queue), or [`on_signal`](crate::signal::on_signal) does. The call runs on the VM's thread, where
//! [`Guard::with`](crate::Guard::with) gives it the VM. Jobs and calls run in the order in which they were sent. While
//! one runs, [`current_id`](crate::thread_state::current_id) says so to handlers.
//!
//! # The end
//!
//! `finalize` closes the interpreter, and the drain waits until every job has run. What comes back is the `Bound`. Its
//! drop tells the VM's thread to stop, and waits for nobody: the VM is dropped there. `finalize` from inside a job is
//! told [`WouldDeadlock`](crate::FinalizeError::WouldDeadlock).
//!
//! A job whose turn comes while a function has the VM cannot have it too, and is dropped: in a nested `run_pending`, or in
//! a drain inside [`Loop::with`]. A caller gets [`CallError::Discarded`]. What was posted goes without a word, so drain
//! and run nothing from inside a function that has the VM.
//!
//! If the [`Loop`] ends before its interpreter does, what waits is dropped: the callers get [`CallError::Discarded`],
//! and whoever comes later gets [`Refused::Ended`]. A call that a handler leaves after that is run by a drain that may
//! wait, on that one's thread, where it is told [`Refused::Elsewhere`].
//!
//! Whatever a job that is dropped throws, in the drop of what it owns, is reported by the panic hook, and goes no
//! further.
//!
//! A call that waits for an answer keeps its thread from everything else. Two VMs that call each other at the same time
//! wait for ever: post one of the two.
//!
//! In a forked child there are no jobs: what waited is the parent's and is not dropped there, and new ones are refused.
//! If the VM's own thread forked, it has the VM in the child too, and runs pending calls.

mod call;
mod error;
mod home;
mod job;
mod jobs;
mod registered;
mod thread;
mod vm_loop;

pub use error::{CallError, PostError, Refused, StartError};
pub use job::Job;
pub use registered::Bound;
pub use thread::{Thread, start};
pub use vm_loop::Loop;
