// May import: pending, processes, registry, signal_safe.
//! Installing signal handlers that reach interpreters.
//!
//! [`on_signal`] is what most programs want: the handler looks one interpreter up and leaves a pending call, which a
//! normal thread runs. [`on_signal_current`] does so for the interpreter that was interrupted. [`in_handler`] runs code of the
//! caller's own in the handler.
//!
//! Handlers are installed through [`signal-hook`](https://docs.rs/signal-hook), and share the process with everybody
//! else who uses it: several handlers of one signal run one after the other, what was installed before them by other
//! means runs first, and `errno` is preserved around them all. They interrupt system calls with `SA_RESTART`, and run on
//! the interrupted thread's own stack.
//!
//! Once a signal was taken over, its default action does not come back, also when the last handler is gone: a process
//! that stops handling `SIGTERM` then ignores it.
//!
//! # In a forked child
//!
//! What the parent installed is installed in the child. It can be uninstalled there as well, and waits for nobody who is not
//! there. Installing another handler in the child can fail: `signal-hook` waits, before it changes anything, until no thread is in
//! a handler, and a thread that was in one at the fork never leaves it in the child. [`SignalError::Forked`] says so where such a
//! thread was in a handler of this module. If it was in one that `signal-hook` installed for somebody else, or had only
//! begun or just ended one of this module's, installing waits for ever. So it does if another thread was installing or uninstalling
//! a handler at the fork, here or by `signal-hook` itself, whose lock that thread has in the child for ever. Install before the
//! fork what the child needs.
//!
//! A handler that forks, whose child gets another signal before that handler has returned, is taken for such a thread: `Forked` is
//! said there, though installing would succeed.
//!
//! # Race condition
//! While the first handler of a signal is being installed, and while another thread installs one by other means, a
//! delivery can still find the previous handler alone.

mod inside;

use crate::pending::{Call, PendingQueue, PushError};
use crate::processes;
use crate::registry::Registry;
use crate::signal_safe::word::InterpreterId;
use crate::signal_safe::{LookupError, process};
use inside::Inside;
use libc::c_int;
use signal_hook::SigId;
use signal_hook::low_level;
use std::cell::UnsafeCell;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Has `call` run for interpreter `id` whenever the process gets signal `signum`.
///
/// The handler takes a guard of the interpreter and leaves the call in `queue`; whoever serves that runs it, with the
/// guard and `data`. A signal that comes while the interpreter is closing or gone, or while the queue is full, leaves
/// nothing and is counted: [`Handler::counts`].
///
/// The queue lives as long as the handler is installed.
///
/// Context: normal; not in a handler.
///
/// # Errors
/// [`SignalError`].
///
/// ```
/// use interp_guard::{Registry, pending::PendingQueue, signal};
///
/// static INTERPRETERS: Registry<String> = Registry::new();
/// let id = INTERPRETERS.register("main".into())?;
/// let queue = PendingQueue::new(&INTERPRETERS)?;
/// let hello = |guard: &interp_guard::Guard<'_, String>, _| println!("hello from {}", **guard);
/// let handler = signal::on_signal(&queue, libc::SIGUSR1, id, hello, 0)?;
/// signal_hook::low_level::raise(libc::SIGUSR1)?;
/// assert_eq!(queue.run_pending().calls, 1);
/// assert_eq!(handler.counts().left, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn on_signal<T: Send + Sync + 'static>(
    queue: &PendingQueue<'static, T>,
    signum: c_int,
    id: InterpreterId,
    call: Call<T>,
    data: usize,
) -> Result<Handler, SignalError> {
    // SAFETY: it returns a number.
    unsafe { leave(queue, signum, move |_| Some(id), call, data) }
}

/// As [`on_signal`], for the interpreter that the signal has interrupted: the one attached on the thread that gets the signal; the
/// registry's [main](crate::Registry::main) interpreter where that thread has none of this registry attached.
///
/// The call's guard says which it was. A signal that interrupts an interpreter which is closing leaves nothing, and is counted
/// so: it does not go to another interpreter.
///
/// Attached is what [`thread_state`](crate::thread_state) has attached, or a VM of [`bound`](crate::bound) that runs what it was
/// sent. What a runtime has noted itself ([`note_attached`](crate::thread_state::note_attached)) counts too where the process has
/// one registry; where it has several nobody can say whose the ID is, and the signal is for the main interpreter.
///
/// The kernel chooses the thread for a signal that is sent to the process (`kill`): any that does not block it. A thread's own
/// timer, `pthread_kill` and `raise` choose it themselves.
///
/// Context: normal; not in a handler.
///
/// # Errors
/// [`SignalError`].
///
/// ```
/// use interp_guard::{Guard, Registry, locked::Locked, pending::PendingQueue, signal, thread_state};
///
/// static VMS: Registry<Locked<u32>> = Registry::new();
/// let main = VMS.register(Locked::new(0))?;
/// let other = VMS.register(Locked::new(0))?;
/// let queue = PendingQueue::new(&VMS)?;
/// let count = |vm: &Guard<'_, Locked<u32>>, _| vm.with(|vm| *vm += 1).expect("guarded");
/// let handler = signal::on_signal_current(&queue, libc::SIGUSR1, count, 0)?;
///
/// signal_hook::low_level::raise(libc::SIGUSR1)?; // nothing is attached: for `main`
/// let attached = thread_state::ensure_id(&VMS, other)?;
/// signal_hook::low_level::raise(libc::SIGUSR1)?;
/// drop(attached);
/// queue.run_pending();
/// assert_eq!((VMS.with(main, |vm| *vm)?, VMS.with(other, |vm| *vm)?), (1, 1));
/// # handler.uninstall();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn on_signal_current<T: Send + Sync + 'static>(
    queue: &PendingQueue<'static, T>,
    signum: c_int,
    call: Call<T>,
    data: usize,
) -> Result<Handler, SignalError> {
    // SAFETY: it loads from the thread's static block, and from atomics.
    unsafe { leave(queue, signum, Registry::interrupted_or_main, call, data) }
}

/// # Safety
/// As for [`in_handler`], of `whose`.
unsafe fn leave<T: Send + Sync + 'static>(
    queue: &PendingQueue<'static, T>,
    signum: c_int,
    whose: impl Fn(&Registry<T>) -> Option<InterpreterId> + Send + Sync + 'static,
    call: Call<T>,
    data: usize,
) -> Result<Handler, SignalError> {
    let tally = Arc::new(Tally::default());
    let (queue, counts) = (queue.clone(), tally.clone());
    let leave = move || {
        let registry = queue.registry();
        let counter = match whose(registry).map_or(Err(LookupError::NotFound), |id| registry.lookup(id)) {
            Err(LookupError::NotFound) => &counts.not_found,
            Err(LookupError::Finalizing) => &counts.finalizing,
            Ok(guard) => match queue.push(guard, call, data) {
                Ok(()) => &counts.left,
                // The guard is dropped here, which is async-signal-safe. It is of the queue's own registry.
                Err(PushError::Full(_) | PushError::OtherRegistry(_)) => &counts.full,
            },
        };
        // Relaxed: statistics.
        counter.fetch_add(1, Ordering::Relaxed);
    };
    // SAFETY: lookup, push, the guard's drop and atomic additions are async-signal-safe, and so is `whose`; (1) to (4) hold.
    unsafe { install(signum, leave, tally) }
}

/// Has `action` run in the signal handler itself, whenever the process gets signal `signum`.
///
/// Context: normal; not in a handler.
///
/// # Errors
/// [`SignalError`].
///
/// # Safety
/// `action` runs in a handler, on any thread, between any two instructions, and perhaps inside another run of itself. So
/// it may load, store, use atomics, call what the C library lists as async-signal-safe, and of this crate what is
/// documented as such: `lookup`, `view`, guards and views, `Registry::main`, `thread_state::current_id` and `current_of`,
/// `PendingQueue::push`. (`docs/contexts.md` has the whole list.) It
///
/// 1. allocates and frees nothing, locks nothing, prints nothing, and touches no thread-local variable;
/// 2. does not panic and does not `siglongjmp`;
/// 3. drops nothing that does any of this, and neither does what it captures, save in normal context: what it captures is
///    dropped when the [`Handler`] is;
/// 4. installs and removes no handler.
///
/// ```
/// use interp_guard::{LookupError, Registry, signal};
/// use std::sync::atomic::{AtomicU32, Ordering};
///
/// static INTERPRETERS: Registry<String> = Registry::new();
/// static LIVE: AtomicU32 = AtomicU32::new(0);
///
/// let id = INTERPRETERS.register("main".into())?;
/// let look = move || {
///     if INTERPRETERS.lookup(id).is_ok() {
///         LIVE.fetch_add(1, Ordering::Relaxed);
///     }
/// };
/// // SAFETY: a lookup, the drop of its guard and an atomic addition.
/// let handler = unsafe { signal::in_handler(libc::SIGUSR2, look)? };
/// signal_hook::low_level::raise(libc::SIGUSR2)?;
/// assert_eq!(LIVE.load(Ordering::Relaxed), 1);
/// handler.uninstall();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub unsafe fn in_handler(
    signum: c_int,
    action: impl Fn() + Send + Sync + 'static,
) -> Result<Handler, SignalError> {
    // SAFETY: the caller's promise.
    unsafe { install(signum, action, Arc::default()) }
}

/// # Safety
/// As for [`in_handler`].
unsafe fn install(
    signum: c_int,
    action: impl Fn() + Send + Sync + 'static,
    tally: Arc<Tally>,
) -> Result<Handler, SignalError> {
    match signum {
        libc::SIGKILL | libc::SIGSTOP => return Err(SignalError::Uncatchable(signum)),
        libc::SIGSEGV | libc::SIGBUS | libc::SIGILL | libc::SIGFPE => {
            return Err(SignalError::Synchronous(signum));
        }
        _ => {}
    }
    if left_behind() {
        return Err(SignalError::Forked(signum));
    }
    processes::tell_apart().map_err(|why| SignalError::Refused(signum, why))?;
    let action = UnsafeCell::new(Some(action));
    let action = Arc::new(Action { off: AtomicBool::new(false), inside: Inside::new(), action });
    let delivered = action.clone();
    // SAFETY: the action does what a handler may, by the caller's promise, and what is around it are atomic operations.
    let id = unsafe { low_level::register(signum, move || delivered.run()) };
    let id = id.map_err(|why| SignalError::Refused(signum, why))?;
    Ok(Handler { id, signum, tally, action, process: process::number() })
}

/// Who is in any handler of this module.
static IN_HANDLERS: Inside = Inside::new();

/// Was a thread in one when this process, or an ancestor, was forked?
fn left_behind() -> bool {
    // What is on the record is lost when a handler runs in the child.
    static EVER: AtomicBool = AtomicBool::new(false);
    // Relaxed: nothing is read on the strength of it.
    if IN_HANDLERS.left_behind() {
        EVER.store(true, Ordering::Relaxed);
    }
    EVER.load(Ordering::Relaxed)
}

/// What `signal-hook` runs. In a forked child it cannot be told to forget that, and so it is switched off.
struct Action<F> {
    off: AtomicBool,
    inside: Inside,
    /// Taken out when it is off and nobody is inside.
    action: UnsafeCell<Option<F>>,
}

// SAFETY: `action` is shared by those inside, as F permits, and taken out by one thread when nobody is inside; F is Send.
unsafe impl<F: Send + Sync> Sync for Action<F> {}

impl<F: Fn()> Action<F> {
    /// Context: the handler.
    fn run(&self) {
        // SeqCst, both loads: the second one pairs with `switch_off`. The first lets nobody in whom that would have to wait for.
        if self.off.load(Ordering::SeqCst) {
            return;
        }
        left_behind();
        let (anywhere, here) = (IN_HANDLERS.enter(), self.inside.enter());
        if !self.off.load(Ordering::SeqCst) {
            // SAFETY: this thread is inside, and it was not off after that: nobody takes it out until this thread has left.
            if let Some(action) = unsafe { &*self.action.get() } {
                action();
            }
        }
        self.inside.leave(here);
        IN_HANDLERS.leave(anywhere);
    }
}

trait SwitchOff: Send + Sync {
    /// Waits until no thread of this process is in it, and drops what the action captured. To be called once.
    fn switch_off(&self);
}

impl<F: Send + Sync> SwitchOff for Action<F> {
    fn switch_off(&self) {
        // SeqCst: pairs with the second load in `run`. Either that sees it off, or this sees who is inside.
        self.off.store(true, Ordering::SeqCst);
        while self.inside.anybody() {
            std::thread::yield_now();
        }
        // SAFETY: nobody is inside, and who comes in from here on finds it off.
        drop(unsafe { (*self.action.get()).take() });
    }
}

/// An installed handler. Dropping it uninstalls it.
#[must_use = "dropping it uninstalls it"]
pub struct Handler {
    id: SigId,
    signum: c_int,
    tally: Arc<Tally>,
    action: Arc<dyn SwitchOff>,
    /// In which it was installed.
    process: u64,
}

/// What came of the signals of one [`on_signal`] or [`on_signal_current`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// A call was left.
    pub left: u64,
    /// The queue was full.
    pub full: u64,
    /// The interpreter was closing.
    pub finalizing: u64,
    /// The interpreter was gone, or never there.
    pub not_found: u64,
}

#[derive(Default)]
struct Tally {
    left: AtomicU64,
    full: AtomicU64,
    finalizing: AtomicU64,
    not_found: AtomicU64,
}

impl Handler {
    /// The signal.
    ///
    /// ```
    /// # use interp_guard::signal;
    /// // SAFETY: it does nothing.
    /// let handler = unsafe { signal::in_handler(libc::SIGUSR2, || ())? };
    /// assert_eq!(handler.signum(), libc::SIGUSR2);
    /// # Ok::<(), signal::SignalError>(())
    /// ```
    pub fn signum(&self) -> c_int {
        self.signum
    }

    /// What came of the signals so far. All zero for [`in_handler`].
    ///
    /// ```
    /// # use interp_guard::{Registry, pending::{PendingQueue, QueueOptions}, signal};
    /// # static INTERPRETERS: Registry<String> = Registry::new();
    /// # let id = INTERPRETERS.register("main".into())?;
    /// let queue = PendingQueue::with(&INTERPRETERS, QueueOptions::new().capacity(1))?;
    /// let handler = signal::on_signal(&queue, libc::SIGUSR1, id, |_, _| (), 0)?;
    /// signal_hook::low_level::raise(libc::SIGUSR1)?;
    /// signal_hook::low_level::raise(libc::SIGUSR1)?;
    /// assert_eq!((handler.counts().left, handler.counts().full), (1, 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn counts(&self) -> Counts {
        // Relaxed: statistics.
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Tally { left, full, finalizing, not_found } = &*self.tally;
        Counts {
            left: load(left),
            full: load(full),
            finalizing: load(finalizing),
            not_found: load(not_found),
        }
    }

    /// Uninstalls the handler, waits until no thread is in it, and drops what it captured. Calls that it has left are
    /// still run. The signal's default action does not come back. In a forked child it waits for the child's threads only.
    ///
    /// Context: normal; not in a handler.
    ///
    /// ```
    /// # use interp_guard::signal;
    /// # use std::sync::atomic::{AtomicU32, Ordering};
    /// static SEEN: AtomicU32 = AtomicU32::new(0);
    /// let count = || {
    ///     SEEN.fetch_add(1, Ordering::Relaxed);
    /// };
    /// // SAFETY: an atomic addition.
    /// let handler = unsafe { signal::in_handler(libc::SIGUSR2, count)? };
    /// handler.uninstall();
    /// signal_hook::low_level::raise(libc::SIGUSR2)?; // ignored from here on
    /// assert_eq!(SEEN.load(Ordering::Relaxed), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn uninstall(self) {}

    /// Leaves the handler installed for the rest of the process's life.
    ///
    /// ```
    /// # use interp_guard::signal;
    /// # use std::sync::atomic::{AtomicU32, Ordering};
    /// static SEEN: AtomicU32 = AtomicU32::new(0);
    /// let count = || {
    ///     SEEN.fetch_add(1, Ordering::Relaxed);
    /// };
    /// // SAFETY: an atomic addition.
    /// let handler = unsafe { signal::in_handler(libc::SIGUSR2, count)? };
    /// handler.keep();
    /// signal_hook::low_level::raise(libc::SIGUSR2)?;
    /// assert_eq!(SEEN.load(Ordering::Relaxed), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        if self.process == process::number() {
            low_level::unregister(self.id);
        } else {
            // `signal-hook` would wait for threads of the parent that were in a handler at the fork.
            self.action.switch_off();
        }
    }
}

// Nothing of the action is run or changed through a `Handler`, but that it is dropped.
impl std::panic::UnwindSafe for Handler {}
impl std::panic::RefUnwindSafe for Handler {}

impl fmt::Debug for Handler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handler").field("signum", &self.signum).field("counts", &self.counts()).finish()
    }
}

/// Why a handler was not installed.
#[derive(Debug)]
#[non_exhaustive]
pub enum SignalError {
    /// `SIGKILL` and `SIGSTOP`: the kernel hands them to no handler.
    Uncatchable(c_int),
    /// `SIGSEGV`, `SIGBUS`, `SIGILL`, `SIGFPE`: an instruction failed, and would fail again and again when the handler
    /// returns. A crash handler that does not return has to be installed by other means; it may look interpreters up.
    Synchronous(c_int),
    /// This is a forked child, and a thread of the parent was in a handler at the fork. Installing would wait for it for ever.
    /// See [the module](self#in-a-forked-child).
    Forked(c_int),
    /// The system refuses the signal: there is none of this number, or the C library keeps it to itself.
    Refused(c_int, io::Error),
}

impl fmt::Display for SignalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |signum: &c_int| low_level::signal_name(*signum).unwrap_or("a signal");
        match self {
            Self::Uncatchable(signum) => {
                write!(f, "{} ({signum}) cannot be handled: the kernel hands it to no handler", name(signum))
            }
            Self::Synchronous(signum) => write!(
                f,
                "{} ({signum}) is not handled here: the failing instruction would run again when the handler returns",
                name(signum)
            ),
            Self::Forked(signum) => write!(
                f,
                "{} ({signum}) cannot be handled: a thread of the parent process was in a handler when this one was forked",
                name(signum)
            ),
            Self::Refused(signum, why) => write!(f, "signal {signum} cannot be handled: {why}"),
        }
    }
}

impl std::error::Error for SignalError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Refused(_, why) => Some(why),
            Self::Uncatchable(_) | Self::Synchronous(_) | Self::Forked(_) => None,
        }
    }
}
