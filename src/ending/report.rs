//! What a drain that did not finish leaves behind.

use super::closing::{Closing, TakeUp};
use crate::ledger::Holders;
use crate::registry::queues::Waiting;
use std::error::Error;
use std::fmt;
use std::time::{Duration, Instant};

/// What a drain that did not finish leaves behind: a report, and the [`Closing`] to go on with.
///
/// Displayed, it is the report.
pub struct DrainTimeout<'r, T: Send + Sync + 'static> {
    pub(super) closing: Closing<'r, T>,
    report: Box<Report>,
}

/// How things stood when a drain gave up.
struct Report {
    waited: Duration,
    holders: Holders,
    pending: Vec<Waiting>,
}

impl<'r, T: Send + Sync + 'static> DrainTimeout<'r, T> {
    pub(super) fn new(closing: Closing<'r, T>, began: Instant) -> Self {
        let waited = began.elapsed();
        let (outstanding, attaching) = closing.registry.in_its_way(closing.id).unwrap_or_default();
        let holders = Holders::of(closing.registry.table(), closing.id, outstanding, attaching);
        let pending = closing.registry.lock().as_ref().map_or_else(Vec::new, |book| book.waiting(closing.id));
        Self { closing, report: Box::new(Report { waited, holders, pending }) }
    }

    /// Gives the `Closing` back, to wait again.
    ///
    /// Where [`Registry::finalize`](crate::Registry::finalize) said [`WouldDeadlock`](crate::DrainError::WouldDeadlock) there is none, since the interpreter
    /// was left as it was; then this closes it. Nor is there one where the same thread has called `finalize` or `finalize_all`
    /// again, which took it up; then this takes up what that left. If somebody else has the interpreter by then, or it is gone,
    /// the `Closing` owns nothing, and its drain says [`Superseded`](crate::DrainError::Superseded) at once.
    ///
    /// ```
    /// # use interp_guard::Registry;
    /// # use std::time::Duration;
    /// # let registry = Registry::new();
    /// # let id = registry.register("an interpreter").unwrap();
    /// # let guard = registry.lookup(id)?;
    /// let late = registry.close(id)?.drain(Some(Duration::ZERO)).unwrap_err();
    /// drop(guard);
    /// assert!(late.into_timeout().into_closing().drain(None).is_ok());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn into_closing(self) -> Closing<'r, T> {
        if self.closing.note_error_of(None) {
            return self.closing;
        }
        let claimed = Closing::begin(self.closing.registry, self.closing.id, TakeUp::Left);
        claimed.unwrap_or(self.closing)
    }

    /// The pending queues in which calls of the interpreter waited when the drain gave up.
    ///
    /// ```
    /// # use interp_guard::{Registry, pending::PendingQueue};
    /// # use std::time::Duration;
    /// # let registry = Registry::new();
    /// # let id = registry.register("an interpreter").unwrap();
    /// let queue = PendingQueue::new(&registry)?;
    /// queue.push(registry.lookup(id)?, |_, _| (), 0).unwrap();
    /// let late = registry.close(id)?.drain(Some(Duration::ZERO)).unwrap_err();
    /// let waiting = &late.timeout().pending()[0];
    /// assert_eq!((waiting.calls, waiting.served), (1, false));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn pending(&self) -> &[Waiting] {
        &self.report.pending
    }

    /// How many threads were attaching as daemons when the drain gave up. They hold no guard; a drain waits until they are
    /// attached.
    ///
    /// ```
    /// # use interp_guard::Registry;
    /// # use std::time::Duration;
    /// # let registry = Registry::new();
    /// # let id = registry.register("an interpreter").unwrap();
    /// # let guard = registry.lookup(id)?;
    /// let late = registry.close(id)?.drain(Some(Duration::ZERO)).unwrap_err();
    /// assert_eq!(late.timeout().attaching(), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn attaching(&self) -> u64 {
        self.report.holders.attaching()
    }

    /// How many guards were out when the drain gave up.
    ///
    /// ```
    /// # use interp_guard::Registry;
    /// # use std::time::Duration;
    /// # let registry = Registry::new();
    /// # let id = registry.register("an interpreter").unwrap();
    /// # let guard = registry.lookup(id)?;
    /// let late = registry.close(id)?.drain(Some(Duration::ZERO)).unwrap_err();
    /// assert_eq!(late.timeout().outstanding(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn outstanding(&self) -> u64 {
        self.report.holders.outstanding()
    }

    /// Who holds them, as far as the ledger knows.
    ///
    /// ```
    /// # use interp_guard::Registry;
    /// # use std::time::Duration;
    /// let registry = Registry::new().ledger(true);
    /// let id = registry.register("an interpreter").unwrap();
    /// let guard = registry.lookup(id)?;
    /// let late = registry.close(id)?.drain(Some(Duration::ZERO)).unwrap_err();
    /// for holder in late.timeout().holders() {
    ///     println!("thread {} has held one for {:?}", holder.thread_name, holder.age);
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn holders(&self) -> &Holders {
        &self.report.holders
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for DrainTimeout<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DrainTimeout")
            .field("id", &self.closing.id)
            .field("outstanding", &self.outstanding())
            .field("waited", &self.report.waited)
            .finish_non_exhaustive()
    }
}

impl<T: Send + Sync + 'static> fmt::Display for DrainTimeout<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let guards = if self.outstanding() == 1 { "guard is" } else { "guards are" };
        let (id, out, waited) = (self.closing.id, self.outstanding(), self.report.waited.as_secs_f64());
        writeln!(f, "interpreter {id}: {out} {guards} out after {waited:.3} s of draining")?;
        self.report.holders.fmt(f)?;
        self.report.pending.iter().try_for_each(|waiting| write!(f, "\n  {waiting}"))
    }
}

impl<T: Send + Sync + 'static> Error for DrainTimeout<'_, T> {}
