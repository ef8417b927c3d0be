//! Sending a VM something to run.

use super::error::{CallError, PostError, Refused};
use super::home;
use super::job::Job;
use super::registered::{Bound, noted};
use crate::registry::Registry;
use crate::signal_safe::guard::Guard;
use crate::signal_safe::ledger::Site;
use crate::signal_safe::process;
use crate::signal_safe::word::InterpreterId;
use crate::thread_state;
use crate::unwind;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;

/// Runs a job, as a pending call. Not on its thread, or inside a function that has the VM, it is dropped.
fn run<V: 'static>(guard: &Guard<'_, Bound<V>>, number: usize) {
    if let Some(job) = guard.jobs.take(number) {
        let _ = home::with(guard.jobs.number, |vm: &mut V| job(vm));
    }
}

fn post_at<V: 'static>(guard: Guard<'static, Bound<V>>, job: Job<V>) -> Result<(), PostError<V>> {
    let queue = guard.queue.clone(); // the guard goes into it
    let jobs = guard.jobs.clone();
    let push = |number| queue.push(guard, run::<V>, number).is_ok();
    jobs.add(job, push).map_err(|(job, why)| PostError::new(job, why))
}

fn call_at<V: 'static, R: Send + 'static>(
    guard: Guard<'static, Bound<V>>,
    f: impl FnOnce(&mut V) -> R + Send + 'static,
) -> Result<R, CallError> {
    if home::is_here(guard.jobs.number) {
        let with = || thread_state::noted_while(noted(&guard), || home::with(guard.jobs.number, f));
        let called = catch_unwind(AssertUnwindSafe(with));
        return Ok(called.map_err(CallError::Panicked)??);
    }
    let (answer, answered) = mpsc::sync_channel(1);
    let asked_in = process::number();
    let job: Job<V> = Box::new(move |vm| {
        // Unwind-safe: the job is consumed, and the caller is told.
        let result = catch_unwind(AssertUnwindSafe(|| f(vm)));
        if asked_in != process::number() {
            // `f` has forked. The caller is not here, and may have been at the channel, so that it is locked for ever.
            mem::forget(answer);
            return;
        }
        let unheard = answer.send(result);
        // The caller waits for it.
        if let Err(mpsc::SendError(Err(thrown))) = unheard {
            unwind::discard(thrown);
        }
    });
    post_at(guard, job).map_err(|refused| refused.why)?;
    match answered.recv() {
        Ok(result) => result.map_err(CallError::Panicked),
        Err(mpsc::RecvError) => Err(CallError::Discarded),
    }
}

/// From a guard of a VM that is bound to its thread; also while it is closing.
impl<V: 'static> Guard<'static, Bound<V>> {
    /// Sends the VM a job, and waits for its answer. On the VM's own thread `f` is run at once.
    ///
    /// Context: normal; blocks until the job has run.
    ///
    /// # Errors
    /// [`CallError`].
    ///
    /// ```
    /// # use interp_guard::{Registry, bound::{self, Bound}, pending::WorkerOptions};
    /// # static VMS: Registry<Bound<Vec<u32>>> = Registry::new();
    /// let thread = bound::start(&VMS, WorkerOptions::new(), |_id| vec![1, 2])?;
    /// let guard = VMS.lookup(thread.id())?;
    /// assert_eq!(guard.call(|vm| vm.pop())?, Some(2));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    pub fn call<R: Send + 'static>(
        &self,
        f: impl FnOnce(&mut V) -> R + Send + 'static,
    ) -> Result<R, CallError> {
        call_at(self.clone_at(Site::caller()), f)
    }

    /// Sends the VM a job, and does not wait for it. A panic of it is reported by the panic hook, and goes no further.
    ///
    /// Context: normal.
    ///
    /// # Errors
    /// [`PostError`], with the job.
    ///
    /// ```
    /// # use interp_guard::{Registry, bound::{self, Bound}, pending::WorkerOptions};
    /// # static VMS: Registry<Bound<Vec<u32>>> = Registry::new();
    /// let thread = bound::start(&VMS, WorkerOptions::new(), |_id| vec![1, 2])?;
    /// let guard = VMS.lookup(thread.id())?;
    /// guard.post(|vm| vm.push(3)).expect("there is room");
    /// assert_eq!(guard.call(|vm| vm.len())?, 3); // in the order in which they were sent
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    pub fn post(&self, f: impl FnOnce(&mut V) + Send + 'static) -> Result<(), PostError<V>> {
        post_at(self.clone_at(Site::caller()), Box::new(f))
    }
}

/// From a guard, on the VM's own thread: in a pending call, say.
impl<V: 'static> Guard<'_, Bound<V>> {
    /// Calls `f` with the VM, if this is its thread.
    ///
    /// Context: normal; takes as long as `f` does.
    ///
    /// # Errors
    /// [`Refused::Elsewhere`]; [`Refused::Lent`] inside a job or another `with`. `f` was not called.
    ///
    /// # Panics
    /// If `f` does.
    ///
    /// ```
    /// use interp_guard::{Guard, Registry, bound::{Bound, Loop}};
    ///
    /// static VMS: Registry<Bound<Vec<usize>>> = Registry::new();
    /// let mut vm = Loop::new(&VMS, |_id| Vec::new())?;
    /// let call = |guard: &Guard<'_, Bound<Vec<usize>>>, data| guard.with(|vm| vm.push(data)).expect("its thread");
    /// vm.queue().push(VMS.lookup(vm.id())?, call, 7).unwrap(); // by a handler
    /// vm.turn();
    /// assert_eq!(vm.with(|vm| vm.pop()), Some(7));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn with<R>(&self, f: impl FnOnce(&mut V) -> R) -> Result<R, Refused> {
        home::with(self.jobs.number, f)
    }
}

/// VMs that are bound to their threads: [`bound`](crate::bound).
impl<V: 'static> Registry<Bound<V>> {
    /// Sends a VM a job, and waits for its answer. On the VM's own thread `f` is run at once.
    ///
    /// Context: normal; blocks until the job has run.
    ///
    /// # Errors
    /// [`CallError`].
    ///
    /// ```
    /// use interp_guard::{LookupError, Registry, bound::{self, Bound, CallError, Refused}, pending::WorkerOptions};
    ///
    /// static VMS: Registry<Bound<Vec<u32>>> = Registry::new();
    /// let thread = bound::start(&VMS, WorkerOptions::new(), |_id| vec![1, 2])?;
    /// assert_eq!(VMS.call(thread.id(), |vm| vm.pop())?, Some(2));
    /// drop(VMS.finalize(thread.id(), None)?);
    /// let gone = VMS.call(thread.id(), |vm| vm.pop()).unwrap_err();
    /// assert!(matches!(gone, CallError::Refused(Refused::Lookup(LookupError::NotFound))));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    pub fn call<R: Send + 'static>(
        &'static self,
        id: InterpreterId,
        f: impl FnOnce(&mut V) -> R + Send + 'static,
    ) -> Result<R, CallError> {
        call_at(self.lookup(id).map_err(Refused::from)?, f)
    }

    /// Sends a VM a job, and does not wait for it. A panic of it is reported by the panic hook, and goes no further.
    ///
    /// Context: normal.
    ///
    /// # Errors
    /// [`PostError`], with the job.
    ///
    /// ```
    /// # use interp_guard::{Registry, bound::{self, Bound}, pending::WorkerOptions};
    /// # static VMS: Registry<Bound<Vec<u32>>> = Registry::new();
    /// let thread = bound::start(&VMS, WorkerOptions::new(), |_id| vec![1, 2])?;
    /// VMS.post(thread.id(), |vm| vm.push(3)).expect("there is room");
    /// assert_eq!(VMS.call(thread.id(), |vm| vm.len())?, 3);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    pub fn post(
        &'static self,
        id: InterpreterId,
        f: impl FnOnce(&mut V) + Send + 'static,
    ) -> Result<(), PostError<V>> {
        match self.lookup(id) {
            Ok(guard) => post_at(guard, Box::new(f)),
            Err(refused) => Err(PostError::new(Box::new(f), refused.into())),
        }
    }
}
