//! What is to be done when an interpreter closes.

use crate::registry::{OnClose, Registry};
use crate::signal_safe::LookupError;
use crate::signal_safe::word::InterpreterId;
use crate::unwind;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Closing.
impl<T: Send + Sync + 'static> Registry<T> {
    /// Has `f` called when the interpreter closes: so that a pool can wind its workers down and give their guards up.
    ///
    /// `f` runs once, on the thread that closes the interpreter, inside [`close`](Self::close),
    /// [`finalize`](Self::finalize) or [`finalize_all`](Self::finalize_all), in normal context, with no lock held, when
    /// no lookup succeeds any more. Of several, the latest runs first. If one panics, the others still run; then the
    /// panic goes on, and the interpreter is closed and free to be taken up. Dropping the registry runs none.
    ///
    /// Context: normal.
    ///
    /// # Errors
    /// [`LookupError::Finalizing`] if it is closing already, [`LookupError::NotFound`]. `f` is dropped, not run.
    ///
    /// ```
    /// # use interp_guard::{LookupError, Registry};
    /// # use std::sync::mpsc;
    /// let registry = Registry::new();
    /// let id = registry.register("an interpreter").unwrap();
    /// let (tell, told) = mpsc::channel();
    /// registry.on_close(id, move |id| tell.send(id).unwrap())?;
    /// let closing = registry.close(id)?;
    /// assert_eq!(told.recv(), Ok(id));
    /// assert_eq!(registry.on_close(id, |_| ()), Err(LookupError::Finalizing));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn on_close(
        &self,
        id: InterpreterId,
        f: impl FnOnce(InterpreterId) + Send + 'static,
    ) -> Result<(), LookupError> {
        let f: OnClose = Box::new(f);
        let mut book = self.lock();
        let refused = match book.as_mut().and_then(|book| book.entries.get_mut(&id)) {
            None => LookupError::NotFound,
            Some(entry) if self.table().is_closing(entry.slot) => LookupError::Finalizing,
            Some(entry) => {
                entry.on_close.push(f);
                return Ok(());
            }
        };
        drop(book); // before `f` is dropped: what it owns may come back here
        Err(refused)
    }
}

/// Calls them, the latest first, with no lock held; a panic goes on when all have run.
pub(super) fn run_on_close(callbacks: Vec<(InterpreterId, OnClose)>) {
    let mut panicked = None;
    for (id, callback) in callbacks {
        // Unwind-safe: the callback is consumed, and the panic goes on below.
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| callback(id)))
            && let Some(earlier) = panicked.replace(panic)
        {
            unwind::discard(earlier);
        }
    }
    if let Some(panic) = panicked {
        resume_unwind(panic);
    }
}
