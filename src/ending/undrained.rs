//! What a drain that did not finish leaves behind.

use super::closing::{Closing, TakeUp};
use super::report::Report;
use std::error::Error;
use std::fmt;
use std::ops::Deref;
use std::time::Instant;

/// What a drain that did not finish leaves behind: a [`Report`], and the [`Closing`] to go on with.
///
/// Dereferences to the report, and is displayed as that.
pub struct Undrained<'r, T: Send + Sync + 'static> {
    pub(super) closing: Closing<'r, T>,
    report: Report,
}

impl<'r, T: Send + Sync + 'static> Undrained<'r, T> {
    pub(super) fn new(closing: Closing<'r, T>, began: Instant) -> Self {
        let report = Report::new(closing.registry, closing.id, Some(began));
        Self { closing, report }
    }

    /// Gives the `Closing` back, to wait again.
    ///
    /// It was taken out of the error where the same thread has called `finalize` or `finalize_all` again, which took it up; then
    /// this takes up what that left. If somebody else has the interpreter by then, or it is gone, the `Closing` owns nothing, and
    /// its drain says [`Superseded`](crate::DrainError::Superseded) at once.
    ///
    /// ```
    /// # use interp_guard::Registry;
    /// # use std::time::Duration;
    /// # let registry = Registry::new();
    /// # let id = registry.register("an interpreter").unwrap();
    /// # let guard = registry.lookup(id)?;
    /// let late = registry.close(id)?.drain(Some(Duration::ZERO)).unwrap_err();
    /// drop(guard);
    /// assert!(late.into_undrained().into_closing().drain(None).is_ok());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn into_closing(self) -> Closing<'r, T> {
        if self.closing.note_error_of(None) {
            return self.closing;
        }
        let claimed = Closing::begin(self.closing.registry, self.closing.id, TakeUp::Left);
        claimed.unwrap_or(self.closing)
    }
}

impl<T: Send + Sync + 'static> Deref for Undrained<'_, T> {
    type Target = Report;

    fn deref(&self) -> &Report {
        &self.report
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for Undrained<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Undrained").field(&self.report).finish()
    }
}

impl<T: Send + Sync + 'static> fmt::Display for Undrained<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.report.fmt(f)
    }
}

impl<T: Send + Sync + 'static> Error for Undrained<'_, T> {}
