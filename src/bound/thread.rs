//! A thread of ours that has a VM and nothing else to do.

use super::error::StartError;
use super::registered::Bound;
use super::vm_loop::Loop;
use crate::pending::{PendingQueue, WorkerOptions};
use crate::registry::Registry;
use crate::signal_safe::process;
use crate::signal_safe::word::InterpreterId;
use crate::threads;
use std::any::Any;
use std::fmt;
use std::io;
use std::mem;
use std::sync::mpsc;
use std::thread::JoinHandle;

/// Starts a thread that makes a VM, registers it, and runs what it is sent, until it is finalized and its [`Bound`]
/// dropped. Then the thread drops the VM and ends.
///
/// Context: normal; waits for `make`.
///
/// # Errors
/// [`StartError`]. There is no thread then.
///
/// ```
/// use interp_guard::{Registry, bound::{self, Bound}, pending::WorkerOptions};
///
/// static VMS: Registry<Bound<Vec<u32>>> = Registry::new();
/// let thread = bound::start(&VMS, WorkerOptions::new().name("a VM").stack_size(16 << 20), |_id| vec![1])?;
/// assert_eq!(VMS.call(thread.id(), |vm| vm.len())?, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn start<V: 'static>(
    registry: &'static Registry<Bound<V>>,
    options: WorkerOptions,
    make: impl FnOnce(InterpreterId) -> V + Send + 'static,
) -> Result<Thread<V>, StartError> {
    let (tell, told) = mpsc::sync_channel(1);
    let thread = options.spawn(move || {
        let vm = match Loop::new(registry, make) {
            Ok(vm) => vm,
            Err(why) => {
                let _ = tell.send(Err(why)); // somebody waits for it
                return Ok(());
            }
        };
        let _ = tell.send(Ok((vm.id(), vm.queue().clone(), threads::number())));
        drop(tell);
        vm.run().map(drop)
    });
    let thread = thread.map_err(StartError::Thread)?;
    match told.recv() {
        Ok(Ok((id, queue, number))) => {
            Ok(Thread { id, queue, thread: Some(thread), number, process: process::number() })
        }
        Ok(Err(why)) => {
            let _ = thread.join();
            Err(why)
        }
        Err(mpsc::RecvError) => Err(match thread.join() {
            Err(panic) => StartError::Panicked(panic),
            Ok(_) => unreachable!("it says what became of it"),
        }),
    }
}

/// A thread that has a VM: see [`start`]. Dropping this leaves the thread alone.
pub struct Thread<V: 'static> {
    id: InterpreterId,
    queue: PendingQueue<'static, Bound<V>>,
    thread: Option<JoinHandle<io::Result<()>>>,
    /// The thread's.
    number: u64,
    /// In a forked child there is no such thread.
    process: u64,
}

impl<V: 'static> Thread<V> {
    /// The VM's ID.
    ///
    /// Context: any.
    ///
    /// ```
    /// # use interp_guard::{Registry, bound::{self, Bound}, pending::WorkerOptions};
    /// # static VMS: Registry<Bound<u32>> = Registry::new();
    /// let thread = bound::start(&VMS, WorkerOptions::new(), |_id| 7)?;
    /// assert!(VMS.lookup(thread.id()).is_ok());
    /// # Ok::<(), interp_guard::bound::StartError>(())
    /// ```
    pub fn id(&self) -> InterpreterId {
        self.id
    }

    /// The VM's queue, for signal handlers.
    ///
    /// Context: any; `push` is for handlers.
    ///
    /// ```
    /// # use interp_guard::{Guard, Registry, bound::{self, Bound}, pending::WorkerOptions, signal};
    /// # static VMS: Registry<Bound<u32>> = Registry::new();
    /// let thread = bound::start(&VMS, WorkerOptions::new(), |_id| 0)?;
    /// let interrupt = |guard: &Guard<'_, Bound<u32>>, _| guard.with(|vm| *vm += 1).expect("its thread");
    /// let handler = signal::on_signal(thread.queue(), libc::SIGUSR1, thread.id(), interrupt, 0)?;
    /// signal_hook::low_level::raise(libc::SIGUSR1)?;
    /// assert_eq!(VMS.call(thread.id(), |vm| *vm)?, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn queue(&self) -> &PendingQueue<'static, Bound<V>> {
        &self.queue
    }

    /// Waits until the thread has dropped the VM and ended. Does not tell it to: finalize the interpreter, and drop
    /// what comes back.
    ///
    /// In a forked child, which has no such thread, and on the thread itself, it does not wait.
    ///
    /// Context: normal; blocks.
    ///
    /// # Errors
    /// What the VM's drop panicked with. Or, as an [`io::Error`], why the kernel did not let the thread wait.
    ///
    /// ```
    /// # use interp_guard::{Registry, bound::{self, Bound}, pending::WorkerOptions};
    /// # static VMS: Registry<Bound<u32>> = Registry::new();
    /// let thread = bound::start(&VMS, WorkerOptions::new(), |_id| 7)?;
    /// drop(VMS.finalize(thread.id(), None)?);
    /// thread.join().expect("no panic");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn join(mut self) -> Result<(), Box<dyn Any + Send>> {
        if self.process != process::number() || self.number == threads::number() {
            return Ok(());
        }
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join()?.map_err(|why| Box::new(why) as Box<dyn Any + Send>)
    }
}

impl<V: 'static> Drop for Thread<V> {
    fn drop(&mut self) {
        if self.process != process::number() {
            mem::forget(self.thread.take()); // there is nothing to detach
        }
    }
}

impl<V: 'static> fmt::Debug for Thread<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Thread").field("id", &self.id).finish_non_exhaustive()
    }
}
