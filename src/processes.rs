// May import: signal_safe.
//! Processes told apart: a forked child from the one that forked it. The number itself: `signal_safe::process`.

use crate::signal_safe::{process, sys};
use std::sync::atomic::{AtomicBool, Ordering};

/// From here on [`process::number`] differs in every forked child.
///
/// # Errors
/// Neither the kernel nor the C library sees to it: `ENOMEM`.
pub(crate) fn tell_apart() -> std::io::Result<()> {
    extern "C" fn forget() {
        process::forget();
    }
    static AT_C_LIBRARY: AtomicBool = AtomicBool::new(false);
    // Relaxed, both: once is enough, and twice does no harm.
    if sys::wipe_on_fork(process::page()).is_ok() || AT_C_LIBRARY.load(Ordering::Relaxed) {
        return Ok(());
    }
    // SAFETY: a function of the expected type, which only stores.
    match unsafe { libc::pthread_atfork(None, None, Some(forget)) } {
        0 => AT_C_LIBRARY.store(true, Ordering::Relaxed),
        errno => return Err(std::io::Error::from_raw_os_error(errno)),
    }
    Ok(())
}
