//! How to make a thread that runs calls.

use std::ffi::c_int;
use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::thread::{self, JoinHandle};

/// How to make a [`Worker`](super::Worker)'s thread.
///
/// ```
/// use interp_guard::{Registry, pending::{PendingQueue, WorkerOptions}};
///
/// static INTERPRETERS: Registry<String> = Registry::new();
///
/// let queue = PendingQueue::new(&INTERPRETERS)?;
/// let options = WorkerOptions::new().name("scripts").stack_size(16 << 20).unblocked(&[libc::SIGPROF]);
/// let worker = queue.start_worker_with(options)?;
/// # worker.stop();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct WorkerOptions {
    name: String,
    stack_size: Option<usize>,
    unblocked: Vec<c_int>,
}

impl Default for WorkerOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl WorkerOptions {
    /// A thread called `interp-guard pending`, with the stack that Rust gives a thread, on which all signals are
    /// blocked.
    ///
    /// ```
    /// # use interp_guard::{Registry, pending::{PendingQueue, WorkerOptions}};
    /// # static INTERPRETERS: Registry<String> = Registry::new();
    /// let queue = PendingQueue::new(&INTERPRETERS)?;
    /// let worker = queue.start_worker_with(WorkerOptions::new())?; // the same as start_worker()
    /// # worker.stop();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn new() -> Self {
        Self { name: "interp-guard pending".into(), stack_size: None, unblocked: Vec::new() }
    }

    /// The thread's name, for debuggers, `ps` and the report of a drain. The kernel keeps 15 bytes of it.
    ///
    /// ```
    /// # use interp_guard::{Registry, pending::{PendingQueue, WorkerOptions}};
    /// # static INTERPRETERS: Registry<String> = Registry::new();
    /// # let id = INTERPRETERS.register("main".into())?;
    /// let queue = PendingQueue::new(&INTERPRETERS)?;
    /// let worker = queue.start_worker_with(WorkerOptions::new().name("scripts"))?;
    /// let call = |_: &interp_guard::Guard<'_, String>, _| {
    ///     assert_eq!(std::thread::current().name(), Some("scripts"));
    /// };
    /// queue.push(INTERPRETERS.lookup(id)?, call, 0).unwrap();
    /// assert_eq!(worker.stop().panics, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// How many bytes of stack the thread has, at least. An interpreter that runs scripts may need more than the usual
    /// 2 MiB.
    ///
    /// ```
    /// # use interp_guard::{Registry, pending::{PendingQueue, WorkerOptions}};
    /// # static INTERPRETERS: Registry<String> = Registry::new();
    /// # let id = INTERPRETERS.register("main".into())?;
    /// let queue = PendingQueue::new(&INTERPRETERS)?;
    /// let worker = queue.start_worker_with(WorkerOptions::new().stack_size(16 << 20))?;
    /// let deep = |_: &interp_guard::Guard<'_, String>, _| {
    ///     std::hint::black_box(&[1_u8; 4 << 20]);
    /// };
    /// queue.push(INTERPRETERS.lookup(id)?, deep, 0).unwrap();
    /// assert_eq!(worker.stop().panics, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn stack_size(mut self, bytes: usize) -> Self {
        self.stack_size = Some(bytes);
        self
    }

    /// Which signals the thread lets in. All others are blocked on it, as all are without this: a signal that is meant
    /// for the program's own threads goes to those.
    ///
    /// A profiler that samples with `SIGPROF` sees the scripts that this thread runs if that one is let in. A `SIGSEGV`
    /// or another fault that is blocked ends the process without its handler.
    ///
    /// ```
    /// # use interp_guard::{Registry, pending::{PendingQueue, WorkerOptions}};
    /// # static INTERPRETERS: Registry<String> = Registry::new();
    /// let queue = PendingQueue::new(&INTERPRETERS)?;
    /// let faults = [libc::SIGSEGV, libc::SIGBUS];
    /// let worker = queue.start_worker_with(WorkerOptions::new().unblocked(&faults))?;
    /// # worker.stop();
    /// let refused = queue.start_worker_with(WorkerOptions::new().unblocked(&[0])).unwrap_err();
    /// assert_eq!(refused.kind(), std::io::ErrorKind::InvalidInput);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn unblocked(mut self, signals: &[c_int]) -> Self {
        self.unblocked = signals.to_vec();
        self
    }

    /// Starts the thread. It takes no signal before it has its mask.
    ///
    /// # Errors
    /// `InvalidInput`: the name has a NUL in it, a number is no signal's, or no stack is that large. Or what the system
    /// says.
    pub(crate) fn spawn<R: Send + 'static>(
        self,
        work: impl FnOnce() -> R + Send + 'static,
    ) -> io::Result<JoinHandle<R>> {
        let invalid = |what| io::Error::new(io::ErrorKind::InvalidInput, what);
        if self.name.contains('\0') {
            return Err(invalid("a thread's name has no NUL in it".to_owned()));
        }
        if let Some(bytes) = self.stack_size.filter(|&bytes| bytes > MAX_STACK) {
            return Err(invalid(format!("no thread's stack has {bytes} bytes")));
        }
        let mut mask = Mask::all();
        for signal in self.unblocked {
            mask.remove(signal)
                .map_err(|_| invalid(format!("{signal} is no signal that a thread may let in")))?;
        }
        let mut thread = thread::Builder::new().name(self.name);
        if let Some(bytes) = self.stack_size {
            thread = thread.stack_size(bytes);
        }
        // The new thread inherits a mask: until it has set its own, no signal is to find it.
        let _restored = Mask::all().set()?;
        thread.spawn(move || {
            // A mask that is right is not refused. Refused, the thread goes on with every signal blocked.
            let _ = mask.set().map(std::mem::forget);
            work()
        })
    }
}

/// No address space has room for more.
const MAX_STACK: usize = 1 << 47;

/// Signals that are blocked.
#[derive(Clone, Copy)]
struct Mask(libc::sigset_t);

/// The calling thread's mask as it was, to be set again.
struct Restored(Mask);

impl Mask {
    fn all() -> Self {
        let mut set = MaybeUninit::uninit();
        // SAFETY: it fills in what it is given.
        unsafe { libc::sigfillset(set.as_mut_ptr()) };
        // SAFETY: filled in.
        Self(unsafe { set.assume_init() })
    }

    fn remove(&mut self, signal: c_int) -> io::Result<()> {
        // SAFETY: a set that is filled in.
        match unsafe { libc::sigdelset(&mut self.0, signal) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Sets the calling thread's, until what comes back is dropped.
    fn set(&self) -> io::Result<Restored> {
        let mut before = Self::all();
        // SAFETY: both are sets.
        match unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, &mut before.0) } {
            0 => Ok(Restored(before)),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

impl Drop for Restored {
    fn drop(&mut self) {
        // SAFETY: a set, and nobody asks for the one before.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.0.0, ptr::null_mut()) };
    }
}
