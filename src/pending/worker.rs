//! A thread of ours that runs what handlers leave.
//!
//! It waits with `epoll`. `poll` answers `EINVAL`, and so never waits, where `RLIMIT_NOFILE` has become smaller than the number
//! of descriptors it is asked about; `epoll_wait` asks nothing of the limit.

use super::pending_queue::PendingQueue;
use super::queue::Serving;
use super::typed::{Ran, TypedQueue};
use super::worker_options::WorkerOptions;
use crate::processes;
use crate::signal_safe::process;
use crate::threads::Thread;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::fmt;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::thread::JoinHandleExt;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Barrier};
use std::thread::JoinHandle;

impl<T: Send + Sync + 'static> PendingQueue<'static, T> {
    /// Starts a thread that runs this queue's calls as they come. All signals are blocked on it:
    /// [`start_worker_with`](Self::start_worker_with) can choose.
    ///
    /// One worker is the usual number: it runs calls in the order in which they were pushed.
    ///
    /// Context: normal.
    ///
    /// # Errors
    /// The system has no thread or descriptor left to give: the worker needs two.
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
        self.start_worker_with(WorkerOptions::new())
    }

    /// [`start_worker`](Self::start_worker), with a thread to one's own wishes.
    ///
    /// Context: normal.
    ///
    /// # Errors
    /// As there. [`InvalidInput`](io::ErrorKind::InvalidInput) if the options ask for what no thread can have.
    ///
    /// ```
    /// use interp_guard::{Registry, pending::{PendingQueue, WorkerOptions}};
    ///
    /// static INTERPRETERS: Registry<String> = Registry::new();
    /// let queue = PendingQueue::new(&INTERPRETERS)?;
    /// // A profiler's signal finds the scripts that this worker runs.
    /// let worker = queue.start_worker_with(WorkerOptions::new().name("scripts").unblocked(&[libc::SIGPROF]))?;
    /// # worker.stop();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn start_worker_with(&self, options: WorkerOptions) -> io::Result<Worker> {
        processes::tell_apart()?;
        self.inner.own_event()?;
        let stop = EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?;
        let waiting = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        waiting.add(self.inner.queue.event(), calls())?;
        waiting.add(&stop, EpollEvent::new(EpollFlags::EPOLLIN, STOP))?;
        let serving = Serving::new(self.inner.clone());
        let shared = Arc::new(Shared { waiting, stop, error: AtomicI32::new(0) });
        let theirs = shared.clone();
        // The thread asks `procfs` who it is before this returns: a fork later on finds it with no descriptor in its hand, which
        // the child would be left with.
        let asked = Arc::new(Barrier::new(2));
        let asking = asked.clone();
        let thread = move || {
            Thread::current();
            asking.wait();
            drop(asking);
            work(&serving, &theirs)
        };
        let thread = options.spawn(thread)?;
        asked.wait();
        Ok(Worker { shared, thread: Some(thread), process: process::number() })
    }
}

/// What the kernel says is readable.
const CALLS: u64 = 0;
const STOP: u64 = 1;

/// What the worker wants to hear of its queue's eventfd.
fn calls() -> EpollEvent {
    EpollEvent::new(EpollFlags::EPOLLIN, CALLS)
}

/// How long the worker waits at a time, in milliseconds: an eventfd that somebody closed wakes nobody.
const LOOK: u16 = 1_000;

/// What the worker's thread has in common with whoever stops it.
#[derive(Debug)]
struct Shared {
    /// On the queue's eventfd and on `stop`.
    waiting: Epoll,
    stop: EventFd,
    /// Why the thread has ended by itself; 0 if it has not.
    error: AtomicI32,
}

fn work<T: Send + Sync + 'static>(serving: &Serving<Arc<TypedQueue<'static, T>>>, shared: &Shared) -> Ran {
    let waiting = &shared.waiting;
    let inner = serving.queue();
    let mut ran = Ran::default();
    loop {
        let mut events = [EpollEvent::empty(); 2];
        let heard = match waiting.wait(&mut events, EpollTimeout::from(LOOK)) {
            Err(Errno::EINTR) => Ok(0), // a signal that is let in, or a debugger
            heard => heard,
        };
        inner.queue.keeper.serves();
        // Changes nothing, but says whether the number still names what was added: a file of somebody else is not read.
        let ours = waiting.modify(inner.queue.event(), &mut calls());
        if heard == Ok(0) && ours.is_ok() {
            continue; // a second's look. What is pushed wakes this thread: where it does not, that is not to be made up for here
        }
        // R0 first: what it misses wakes this thread again.
        let reset = ours.and_then(|()| inner.queue.reset_event());
        ran += inner.run(None, &mut || true);
        // Neither passes. Waiting that the kernel refuses, or that an eventfd cuts short for ever, would only burn a processor.
        if let Err(why) = heard.and(reset) {
            shared.error.store(why as i32, Ordering::Relaxed); // Relaxed: a number, by which nothing is read
            say(format_args!("the worker of the pending queue {:?} has ended: {why}", inner.queue.name));
            return ran;
        }
        if events[..heard.unwrap_or(0)].iter().any(|event| event.data() == STOP) {
            return ran;
        }
    }
}

/// On standard error, if that can be written to.
fn say(what: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "interp-guard: {what}");
}

/// A thread that serves a [`PendingQueue`]. Dropping it stops it, as [`stop`](Self::stop) does. In a forked child, which has no
/// such thread, that closes its two descriptors.
///
/// If the kernel refuses to let it wait (a seccomp filter), or somebody closed the queue's descriptor or its `epoll`, it runs
/// what is queued, says so on standard error, and ends. Of the queue's it finds that out within a second. Nobody serves the
/// queue then, and a drain's report says that. [`error`](Self::error) has the reason.
///
/// Descriptors that somebody closed are not made again. Where the number has become another file's meanwhile, that file gets
/// the eight bytes with which a push, a close or [`stop`](Self::stop) wakes the worker, and `stop` may wait for ever.
#[must_use = "dropping it stops it"]
#[derive(Debug)]
pub struct Worker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Ran>>,
    /// In a forked child there is no such thread.
    process: u64,
}

impl Worker {
    /// Has it ended by itself? The error number of what the kernel refused, if so.
    ///
    /// ```
    /// # use interp_guard::{Registry, pending::PendingQueue};
    /// # static INTERPRETERS: Registry<String> = Registry::new();
    /// let queue = PendingQueue::new(&INTERPRETERS)?;
    /// let worker = queue.start_worker()?;
    /// assert_eq!(worker.error(), None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn error(&self) -> Option<i32> {
        // Relaxed: as where it is stored.
        Some(self.shared.error.load(Ordering::Relaxed)).filter(|&error| error != 0)
    }

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
        if self.process != process::number() {
            std::mem::forget(thread);
            // The thread's share of them is never dropped here; if that had been dropped at the fork, this one's drop closes both.
            if Arc::strong_count(&self.shared) > 1 {
                for descriptor in [self.shared.waiting.0.as_raw_fd(), self.shared.stop.as_raw_fd()] {
                    // SAFETY: this process's copy, and nobody uses or closes it any more: the thread is not here, this is the
                    // only `Worker`, which comes here once, and its share is not the last one.
                    unsafe { libc::close(descriptor) };
                }
            }
            return Ran::default();
        }
        if let Err(why) = self.shared.stop.write(1)
            && !thread.is_finished()
        {
            // Somebody closed it. The thread cannot be told to end, and waiting for it could never end either.
            say(format_args!("a worker of a pending queue cannot be stopped: {why}"));
            return Ran::default();
        }
        // Not by `thread::current`: for a thread that Rust did not start, that makes a record which goes when the thread ends,
        // and until then a library that was loaded at run time cannot be unloaded.
        // SAFETY: no requirements. (A number, or, in musl, a pointer.)
        if thread.as_pthread_t() as usize == unsafe { libc::pthread_self() } as usize {
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
