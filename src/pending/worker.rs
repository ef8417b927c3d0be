//! A thread of ours that runs what handlers leave.

use super::queue::Serving;
use super::{Inner, PendingQueue, Ran};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{SigSet, SigmaskHow};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::thread::JoinHandleExt;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

impl<T: Send + Sync + 'static> PendingQueue<'static, T> {
    /// Starts a thread that runs this queue's calls as they come. All signals are blocked on it.
    ///
    /// One worker is the usual number: it runs calls in the order in which they were pushed.
    ///
    /// Context: normal.
    ///
    /// # Errors
    /// The system has no thread or descriptor left to give.
    ///
    /// ```
    /// use interp_guard::{Registry, pending::PendingQueue};
    ///
    /// static INTERPRETERS: Registry<String> = Registry::new();
    /// let id = INTERPRETERS.register("main".into())?;
    /// let queue = PendingQueue::new(&INTERPRETERS)?;
    /// let worker = queue.start_worker()?;
    /// let guard = INTERPRETERS.lookup(id)?;
    /// queue.push(guard, |guard, data| println!("{} {data}", **guard), 7).unwrap(); // from a handler, say
    /// INTERPRETERS.finalize(id, None)?; // waits for the call
    /// assert_eq!(worker.stop().calls, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn start_worker(&self) -> io::Result<Worker> {
        let stop = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?);
        let serving = Serving::new(self.inner.clone());
        let stopped = stop.clone();
        // The new thread inherits the mask, and never handles a signal that is meant for the program's own threads.
        let mask = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
        let name = "interp-guard pending".into();
        let thread = thread::Builder::new().name(name).spawn(move || work(&serving, &stopped));
        mask.thread_set_mask()?;
        Ok(Worker { stop, thread: Some(thread?), process: std::process::id() })
    }
}

fn work<T: Send + Sync + 'static>(serving: &Serving<Arc<Inner<'static, T>>>, stop: &EventFd) -> Ran {
    let inner = serving.queue();
    let mut ran = Ran::default();
    loop {
        let mut events = [inner.queue.event(), stop.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        // Its failures are EINTR, though all signals are blocked, and passing ones; then there is nothing to run.
        let _ = poll(&mut events, PollTimeout::NONE);
        let stopped = events[1].any().unwrap_or(false);
        ran += inner.run_pending();
        if stopped {
            return ran;
        }
    }
}

/// A thread that serves a [`PendingQueue`]. Dropping it stops it, as [`stop`](Self::stop) does.
#[must_use = "dropping it stops it"]
#[derive(Debug)]
pub struct Worker {
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<Ran>>,
    /// In a forked child there is no such thread.
    process: u32,
}

impl Worker {
    /// Lets the worker finish its call, run what is queued by then, and end; waits for that. Says what it ran in its life.
    ///
    /// Called by one of the worker's own calls, or in a forked child, which has no such thread, it does not wait and says
    /// nothing.
    ///
    /// Context: normal; blocks.
    ///
    /// ```
    /// # use interp_guard::{Registry, pending::PendingQueue};
    /// # static INTERPRETERS: Registry<String> = Registry::new();
    /// # let id = INTERPRETERS.register("main".into())?;
    /// let queue = PendingQueue::new(&INTERPRETERS)?;
    /// let worker = queue.start_worker()?;
    /// for data in 0..3 {
    ///     queue.push(INTERPRETERS.lookup(id)?, |_, _| (), data).unwrap();
    /// }
    /// assert_eq!(worker.stop().calls, 3);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn stop(mut self) -> Ran {
        self.end()
    }

    fn end(&mut self) -> Ran {
        let Some(thread) = self.thread.take() else { return Ran::default() };
        if self.process != std::process::id() {
            std::mem::forget(thread);
            return Ran::default();
        }
        let _ = self.stop.write(1); // fails only if it is readable already
        // Not by `thread::current`: for a thread that Rust did not start, that makes a record which goes when the thread ends,
        // and until then a library that was loaded at run time cannot be unloaded.
        // SAFETY: no requirements.
        if thread.as_pthread_t() == unsafe { libc::pthread_self() } {
            return Ran::default();
        }
        thread.join().unwrap_or_default() // it does not panic: calls' panics are contained
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.end();
    }
}
