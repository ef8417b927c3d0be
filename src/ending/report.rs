//! How things stood with an interpreter when nobody waited for it any longer.

use crate::ledger::Holders;
use crate::registry::Registry;
use crate::registry::queues::Waiting;
use crate::signal_safe::word::InterpreterId;
use std::fmt;
use std::time::{Duration, Instant};

/// How things stood with an interpreter when a drain gave up, or was not begun: what it would have waited for.
///
/// Displayed, it is a text of several lines for a person.
pub struct Report(Box<Standing>);

struct Standing {
    /// `None`: nobody did.
    waited: Option<Duration>,
    holders: Holders,
    pending: Vec<Waiting>,
}

impl Report {
    /// How things stand with interpreter `id`, for which somebody has waited since `began`; `None` if nobody did.
    pub(super) fn new<T: Send + Sync + 'static>(
        registry: &Registry<T>,
        id: InterpreterId,
        began: Option<Instant>,
    ) -> Self {
        let waited = began.map(|began| began.elapsed());
        let (name, in_its_way, pending) = {
            let book = registry.lock();
            let book = book.as_ref();
            let entry = book.and_then(|book| book.entries.get(&id));
            let name = entry.and_then(|entry| entry.name.clone());
            let in_its_way = entry.map(|entry| registry.in_its_way(entry.slot)).unwrap_or_default();
            (name, in_its_way, book.map_or_else(Vec::new, |book| book.waiting(id)))
        };
        let holders = Holders::of(registry.table(), id, name, in_its_way);
        Self(Box::new(Standing { waited, holders, pending }))
    }

    /// `interpreter 7`, and its name if it has one.
    pub(super) fn interpreter(&self) -> String {
        self.0.holders.interpreter()
    }

    /// How long somebody waited.
    pub(super) fn waited(&self) -> Duration {
        self.0.waited.unwrap_or_default()
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
    /// assert_eq!(late.undrained().outstanding(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn outstanding(&self) -> u64 {
        self.0.holders.outstanding()
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
    /// for holder in late.undrained().holders() {
    ///     println!("thread {} has held one for {:?}", holder.thread_name, holder.age);
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn holders(&self) -> &Holders {
        &self.0.holders
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
    /// let waiting = &late.undrained().pending()[0];
    /// assert_eq!((waiting.calls, waiting.served), (1, false));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn pending(&self) -> &[Waiting] {
        &self.0.pending
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
    /// assert_eq!(late.undrained().attaching(), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn attaching(&self) -> u64 {
        self.0.holders.attaching()
    }
}

impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Report")
            .field("interpreter", &self.interpreter())
            .field("outstanding", &self.outstanding())
            .field("waited", &self.waited())
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.holders.summary())?;
        if let Some(waited) = self.0.waited {
            write!(f, " after {:.3} s of draining", waited.as_secs_f64())?;
        }
        writeln!(f)?;
        self.0.holders.fmt(f)?;
        self.0.pending.iter().try_for_each(|waiting| write!(f, "\n  {waiting}"))
    }
}
