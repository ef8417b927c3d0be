//! The three hooks, called by every `fork` of the C library.

use crate::registry::Registry;
use std::cell::Cell;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Mutex, PoisonError};

/// Has every `fork` of the C library call the three functions for `registry`, with no guards kept but those of ensure
/// levels. A program that keeps others calls the three itself as well; they nest.
///
/// Such a program forks on one thread at a time where the C library holds a lock of its own while it calls what
/// `pthread_atfork` installed (glibc before 2.36), or where another library's such function takes a lock. A thread between its
/// `before_fork` and its `fork` would wait for that lock, and the thread in `fork` that has it for this one's answer.
///
/// Context: normal. Stays in force as long as the process.
///
/// # Safety
/// In every child that is forked from here on, requirement 2 of [`Registry::after_fork_child`] holds, with what the
/// program itself keeps. No thread forks in a signal handler. (`vfork`, `posix_spawn` and a raw `clone` call no such
/// handlers: their children do not call this library.)
///
/// # Errors
/// The error number of `pthread_atfork`: `ENOMEM`.
///
/// ```
/// # use interp_guard::Registry;
/// static INTERPRETERS: Registry<String> = Registry::new();
/// // SAFETY: nothing in this program uses a guard in a child that was taken in its parent.
/// unsafe { interp_guard::fork::install_atfork(&INTERPRETERS) }?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub unsafe fn install_atfork<T: Send + Sync + 'static>(
    registry: &'static Registry<T>,
) -> std::io::Result<()> {
    static REGISTERED: Mutex<bool> = Mutex::new(false);
    let mut registered = REGISTERED.lock().unwrap_or_else(PoisonError::into_inner);
    if !*registered {
        // SAFETY: functions of the expected type, and of no context.
        match unsafe { libc::pthread_atfork(Some(prepare), Some(in_parent), Some(in_child)) } {
            0 => *registered = true,
            errno => return Err(std::io::Error::from_raw_os_error(errno)),
        }
    }
    let node = Box::leak(Box::new(Installed { registry, older: INSTALLED.load(Ordering::Relaxed) }));
    // Release: pairs with the Acquire in `prepare`. One thread at a time: the mutex is held.
    INSTALLED.store(node, Ordering::Release);
    Ok(())
}

/// A registry that every `fork` is told to.
struct Installed {
    registry: &'static dyn AroundFork,
    older: *const Installed,
}

/// The latest one installed.
static INSTALLED: AtomicPtr<Installed> = AtomicPtr::new(null_mut());

thread_local! {
    /// The list as it was when this thread prepared to fork: what is installed since knows nothing of that.
    static PREPARED: Cell<*const Installed> = const { Cell::new(null()) };
}

trait AroundFork: Sync {
    fn before(&self);
    fn in_parent(&self);
    /// # Safety
    /// As for [`Registry::after_fork_child`].
    unsafe fn in_child(&self);
}

impl<T: Send + Sync + 'static> AroundFork for Registry<T> {
    fn before(&self) {
        self.before_fork();
    }
    fn in_parent(&self) {
        self.after_fork_parent();
    }
    unsafe fn in_child(&self) {
        // SAFETY: the caller's promise.
        unsafe { self.after_fork_child(&mut []) }
    }
}

extern "C" fn prepare() {
    // Acquire: pairs with the Release in `install_atfork`.
    let newest = INSTALLED.load(Ordering::Acquire).cast_const();
    PREPARED.set(newest);
    let mut node = newest;
    // SAFETY: null, or leaked by `install_atfork` and never changed.
    while let Some(installed) = unsafe { node.as_ref() } {
        installed.registry.before();
        node = installed.older;
    }
}

extern "C" fn in_parent() {
    oldest_first(PREPARED.replace(null()), &|registry| registry.in_parent());
}

extern "C" fn in_child() {
    // SAFETY: the C library calls this in the child, on the thread that forked and that `prepare` ran on; the rest was
    // promised to `install_atfork`.
    oldest_first(PREPARED.replace(null()), &|registry| unsafe { registry.in_child() });
}

/// The opposite order of `prepare`, as the C library calls its own.
fn oldest_first(node: *const Installed, call: &dyn Fn(&dyn AroundFork)) {
    // SAFETY: as in `prepare`.
    if let Some(installed) = unsafe { node.as_ref() } {
        oldest_first(installed.older, call);
        call(installed.registry);
    }
}
