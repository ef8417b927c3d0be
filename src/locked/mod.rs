// May import: registry, signal_safe, thread_state, threads, unwind.
//! A [`Runtime`](crate::thread_state::Runtime) for virtual machines that have no thread states: one lock for each of
//! them.
//!
//! Many a VM is a value that one thread at a time may use: it is `Send`, and its functions ask for `&mut`. Wrapped in a
//! [`Locked`], such a VM is an interpreter to which threads attach. To be attached is to have its lock. An attached
//! thread gets at the VM with [`Attached::with`], and the lock is given back by the release. Nobody writes `unsafe` for
//! it.
//!
//! ```
//! use interp_guard::{InterpreterId, Registry, locked::Locked, thread_state};
//!
//! struct Vm { id: InterpreterId, runs: u64 }
//!
//! impl Vm {
//!     fn run(&mut self, script: &str) -> usize {
//!         self.runs += 1;
//!         script.len()
//!     }
//! }
//!
//! static VMS: Registry<Locked<Vm>> = Registry::new();
//!
//! let id = VMS.register_with(|id| Locked::new(Vm { id, runs: 0 }))?;
//! std::thread::spawn(move || {
//!     VMS.with(id, |vm| vm.run("one")).expect("live"); // attach, run, detach
//!
//!     let attached = thread_state::ensure_id(&VMS, id).expect("live"); // attached for longer
//!     attached.with(|vm| vm.run("two"));
//!     attached.allow_threads(|| { /* wait for something; others run the VM meanwhile */ }).expect("guarded");
//!     attached.with(|vm| vm.run("three"));
//! })
//! .join()
//! .unwrap();
//! let vm = VMS.finalize(id, None)?.into_inner().expect("nobody has it");
//! assert_eq!((vm.id, vm.runs), (id, 3));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # While the VM is lent
//!
//! Inside `with` the thread has the only `&mut` to the VM. Until the function returns, these are refused on this
//! thread, each with an error or a panic that says so: another `with` of the same VM, a release that would give the
//! lock back, an allow-threads section, and an ensure of another VM of the same type. To let others in, return from
//! `with` first. To finalize the VM there is [`WouldDeadlock`](crate::FinalizeError::WouldDeadlock), as within any
//! ensure.
//!
//! A panic inside `with` goes through, and the VM stays as the function left it. There is no poison: the VM can be lent
//! again, and ended in good order. If it cannot be trusted after a panic, have it say so itself.
//!
//! VMs of two types are two runtimes, which know nothing of each other: a thread can be attached to one of each, and
//! has both locks then. Take them in one order everywhere. The lock is not fair: whoever comes first gets it.
//!
//! # The end
//!
//! A finalizer hands the `Locked` back when no guard is out. [`Locked::into_inner`] then gives the VM, and a drop drops
//! it. Only a daemon, who has no guard, can be attached at that time. If it has the VM lent, the drop leaves the VM to
//! it: it is dropped when that `with` has ended. Later calls of it say [`WithError::Ended`].
//!
//! A thread that ends while it is attached, because its handle was leaked, gives the lock back. The guard of that
//! ensure stays out, and a drain reports it. (One that was leaked at the very end, in the destructor of a thread-local
//! that is dropped after the library's own, keeps the lock too, for good.)
//!
//! # In a forked child
//!
//! A thread that the child does not have holds no lock there: the child's threads attach as others do. If it had the VM
//! lent at that moment, the VM may be half-changed. It is not lent again, which [`WithError::Torn`] says, and it is
//! never dropped. This is found out by a function that `fork` calls; a raw `clone` does not, and in its child an ensure
//! may wait for ever.
//!
//! [`Attached::with`]: crate::thread_state::Attached::with

mod error;
mod lend;
mod lock;
mod runtime;
mod shared;
mod states;

pub use error::WithError;
pub use runtime::{Locked, ThreadState};
