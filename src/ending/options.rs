//! How long a drain waits, what may interrupt it, and who watches.

use crate::signal_safe::sys::Errno;
use crate::signal_safe::table::Table;
use crate::signal_safe::word::InterpreterId;
use std::fmt;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// How often a waiting drain asks its interrupt callback.
const POLL: Duration = Duration::from_millis(20);

/// What [`DrainOptions::observe`] is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// No interpreter gives out guards any more, and what [`Registry::on_close`](crate::Registry::on_close) left has
    /// run. Told once, by `finalize_all`.
    Closed {
        /// How many interpreters are registered.
        interpreters: usize,
    },
    /// No guard of this interpreter is out, and none can come to be.
    Drained(InterpreterId),
    /// This interpreter could not be drained, or somebody else holds its [`Closing`](crate::Closing).
    NotDrained(InterpreterId),
    /// This interpreter was taken out and its ID retired.
    Finalized(InterpreterId),
}

/// How to drain: the deadline, an interrupt check of the runtime's own, an observer.
///
/// For [`Closing::drain_with`](crate::Closing::drain_with), [`Registry::finalize_with`](crate::Registry::finalize_with)
/// and [`Registry::finalize_all_with`](crate::Registry::finalize_all_with). The callbacks run on the thread that
/// drains, with no lock held.
///
/// ```
/// use interp_guard::{DrainError, DrainOptions, FinalizeError, Registry};
/// use std::ops::ControlFlow;
///
/// let registry = Registry::new();
/// let id = registry.register("an interpreter").unwrap();
/// let guard = registry.lookup(id)?;
/// let ctrl_c = || ControlFlow::Break(());
/// let refused = registry.finalize_with(id, DrainOptions::new().interrupt(ctrl_c)).unwrap_err();
/// assert!(matches!(refused, FinalizeError::Drain(DrainError::Interrupted(_))));
/// # Ok::<(), interp_guard::LookupError>(())
/// ```
#[derive(Default)]
#[must_use]
pub struct DrainOptions<'a> {
    timeout: Option<Duration>,
    interrupt: Option<Box<dyn FnMut() -> ControlFlow<()> + 'a>>,
    observe: Option<Box<dyn FnMut(Phase) + 'a>>,
}

impl<'a> DrainOptions<'a> {
    /// Waits without limit, interrupted by nothing, watched by nobody.
    ///
    /// ```
    /// # use interp_guard::{DrainOptions, Registry};
    /// # let registry = Registry::new();
    /// # let id = registry.register("an interpreter").unwrap();
    /// assert_eq!(registry.finalize_with(id, DrainOptions::new()).unwrap(), "an interpreter");
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// Limits the waiting, of all interpreters together; `None` is without limit, zero looks once.
    ///
    /// ```
    /// # use interp_guard::{DrainError, DrainOptions, FinalizeError, Registry};
    /// # use std::time::Duration;
    /// # let registry = Registry::new();
    /// # let id = registry.register("an interpreter").unwrap();
    /// let guard = registry.lookup(id)?;
    /// let options = DrainOptions::new().timeout(Some(Duration::from_millis(10)));
    /// let refused = registry.finalize_with(id, options).unwrap_err();
    /// assert!(matches!(refused, FinalizeError::Drain(DrainError::Timeout(_))));
    /// # Ok::<(), interp_guard::LookupError>(())
    /// ```
    pub fn timeout(mut self, timeout: Option<Duration>) -> Self {
        self.timeout = timeout;
        self
    }

    /// Is asked whenever the drain is about to wait, again every 20 ms while it waits, and before each
    /// [pending call](crate::pending) that it runs. `Break` ends the waiting:
    /// [`DrainError::Interrupted`](crate::DrainError::Interrupted).
    ///
    /// ```
    /// # use interp_guard::{DrainError, DrainOptions, FinalizeError, Registry};
    /// # use std::ops::ControlFlow;
    /// # let registry = Registry::new();
    /// # let id = registry.register("an interpreter").unwrap();
    /// let guard = registry.lookup(id)?;
    /// let mut asked = 0;
    /// let third_time = || {
    ///     asked += 1;
    ///     if asked < 3 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    /// };
    /// let refused = registry.finalize_with(id, DrainOptions::new().interrupt(third_time)).unwrap_err();
    /// assert!(matches!(refused, FinalizeError::Drain(DrainError::Interrupted(_))));
    /// assert_eq!(asked, 3);
    /// # Ok::<(), interp_guard::LookupError>(())
    /// ```
    pub fn interrupt(mut self, check: impl FnMut() -> ControlFlow<()> + 'a) -> Self {
        self.interrupt = Some(Box::new(check));
        self
    }

    /// Is told of each phase when it is reached.
    ///
    /// ```
    /// # use interp_guard::{DrainOptions, Phase, Registry};
    /// # let registry = Registry::new();
    /// # let id = registry.register("an interpreter").unwrap();
    /// let mut phases = Vec::new();
    /// let options = DrainOptions::new().observe(|phase| phases.push(phase));
    /// registry.finalize_with(id, options).unwrap();
    /// assert_eq!(phases, [Phase::Drained(id), Phase::Finalized(id)]);
    /// ```
    pub fn observe(mut self, observer: impl FnMut(Phase) + 'a) -> Self {
        self.observe = Some(Box::new(observer));
        self
    }

    /// Is there an interrupt check?
    pub(super) fn has_interrupt(&self) -> bool {
        self.interrupt.is_some()
    }

    /// Is there time left after this much of it?
    pub(super) fn allows(&self, elapsed: Duration) -> bool {
        self.timeout.is_none_or(|timeout| elapsed < timeout)
    }

    /// May it wait for ever?
    pub(super) fn is_without_limit(&self) -> bool {
        self.timeout.is_none()
    }

    /// The clock starts.
    pub(super) fn start(self) -> Watch<'a> {
        Watch {
            began: Instant::now(),
            deadline: self.timeout.and_then(Deadline::after),
            interrupt: self.interrupt,
            interrupted: false,
            out_of_memory: None,
            observe: self.observe,
        }
    }
}

impl fmt::Debug for DrainOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DrainOptions")
            .field("timeout", &self.timeout)
            .field("interrupt", &self.interrupt.is_some())
            .field("observe", &self.observe.is_some())
            .finish()
    }
}

/// How long the kernel may have no memory for a heavy fence before a drain says so, if its deadline is not nearer.
const FOR_MEMORY: Duration = Duration::from_secs(1);

/// Between two tries.
const BETWEEN_FENCES: Duration = Duration::from_millis(1);

/// Options whose clock runs: one for all the interpreters that are drained together.
pub(super) struct Watch<'a> {
    pub began: Instant,
    deadline: Option<Deadline>,
    interrupt: Option<Box<dyn FnMut() -> ControlFlow<()> + 'a>>,
    /// Did `interrupt` ever say `Break`? It is not asked again then.
    interrupted: bool,
    /// When to stop hoping for memory; `None` while there is some.
    out_of_memory: Option<Instant>,
    observe: Option<Box<dyn FnMut(Phase) + 'a>>,
}

/// Why the waiting is over with guards still out.
pub(super) enum Enough {
    Deadline,
    Interrupted,
}

impl Watch<'_> {
    /// May the drain wait any longer?
    pub fn enough(&mut self) -> Option<Enough> {
        if let Some(check) = self.interrupt.as_mut().filter(|_| !self.interrupted) {
            self.interrupted = check().is_break();
        }
        if self.interrupted {
            return Some(Enough::Interrupted);
        }
        self.deadline.as_ref().is_some_and(Deadline::has_passed).then_some(Enough::Deadline)
    }

    /// May it wait for ever?
    pub fn is_without_limit(&self) -> bool {
        self.deadline.is_none()
    }

    /// Is there an interrupt check that may yet be asked?
    pub fn has_interrupt(&self) -> bool {
        self.interrupt.is_some() && !self.interrupted
    }

    /// The latest moment to look again, asleep until then; `None`: whenever woken. `soon`: also for what wakes nobody. `within`: not
    /// later than that.
    pub fn next_look(&self, soon: bool, within: Option<Duration>) -> Option<libc::timespec> {
        let poll = if soon || self.interrupt.is_some() { Deadline::after(POLL) } else { None };
        [self.deadline, poll, within.and_then(Deadline::after)]
            .into_iter()
            .flatten()
            .min()
            .map(Deadline::timespec)
    }

    /// The heavy fence, as long as the kernel lacks the memory for it, the waiting may go on, and that for no longer than
    /// [`FOR_MEMORY`] in all.
    ///
    /// # Errors
    /// What the kernel said last.
    pub fn fence(&mut self, table: &Table) -> Result<(), Errno> {
        loop {
            let fenced = table.heavy_fence();
            let Err(Errno(libc::ENOMEM)) = fenced else { return fenced };
            let give_up = *self.out_of_memory.get_or_insert_with(|| Instant::now() + FOR_MEMORY);
            if Instant::now() >= give_up || self.enough().is_some() {
                return fenced;
            }
            std::thread::sleep(BETWEEN_FENCES);
        }
    }

    pub fn tell(&mut self, phase: Phase) {
        if let Some(observe) = &mut self.observe {
            observe(phase);
        }
    }
}

/// A point on the monotonic clock: seconds and nanoseconds, as the futex call takes it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Deadline(i64, i64);

impl Deadline {
    /// `None` if that point is beyond what the clock can say: no limit.
    fn after(timeout: Duration) -> Option<Self> {
        let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `now` is a valid timespec to write to; the monotonic clock exists on every Linux.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
        let nanos = now.tv_nsec + i64::from(timeout.subsec_nanos());
        let seconds = i64::try_from(timeout.as_secs()).ok()?;
        let seconds = now.tv_sec.checked_add(seconds)?.checked_add(nanos / 1_000_000_000)?;
        Some(Self(seconds, nanos % 1_000_000_000))
    }

    fn has_passed(&self) -> bool {
        Self::after(Duration::ZERO).is_some_and(|now| now >= *self)
    }

    fn timespec(self) -> libc::timespec {
        libc::timespec { tv_sec: self.0, tv_nsec: self.1 }
    }
}
