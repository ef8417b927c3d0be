//! The registry's book: what normal context knows of each interpreter, kept under the registry's mutex.

use super::queues::{Queue, Serve, Waiting};
use super::setup::Mappings;
use super::stats::Stats;
use crate::signal_safe::word::InterpreterId;
use crate::threads;
use rangemap::RangeInclusiveSet;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

/// What somebody wants done when an interpreter closes.
pub(crate) type OnClose = Box<dyn FnOnce(InterpreterId) + Send>;

/// One registered interpreter.
pub(crate) struct Entry {
    /// Its number among all that were ever registered, from 1 on: whoever was registered later has a larger one.
    pub registration: u64,
    /// Its place in the table.
    pub slot: u32,
    /// Who owns the right to drain it: the number of a `Closing`, if there is one.
    pub owner: Option<u64>,
    /// Is that `Closing` in an error that `finalize` or `finalize_all` gave to a thread? The thread's number.
    pub in_error_of: Option<u64>,
    /// To be called once, by whoever closes it. In the order of their registration.
    pub on_close: Vec<OnClose>,
    /// What reports call it, besides its ID.
    pub name: Option<String>,
}

/// See the module. Exists once the table is published.
pub(crate) struct Book {
    /// Live and closing interpreters.
    pub entries: BTreeMap<InterpreterId, Entry>,
    /// IDs whose interpreters are being made, each by the thread with this number. Each has a place among the
    /// registered ones.
    reserved: BTreeMap<InterpreterId, u64>,
    /// Every ID that was ever registered or reserved. Ranges: dense IDs are one, however many.
    used: RangeInclusiveSet<i64>,
    /// No fresh ID is below this.
    fresh: i64,
    /// How many interpreters were ever registered.
    pub registrations: u64,
    /// How many `Closing`s were ever given out: the number of the latest.
    closings: u64,
    /// The pending queues that are bound to this registry, as long as they exist.
    queues: Vec<(Weak<dyn Queue>, Weak<dyn Serve>)>,
    /// The `Closing`s up to this number were given out before this process was forked: their interpreters can be taken up.
    pub inherited: u64,
    /// What the finalizers have done.
    pub stats: Stats,
    /// Dropped with the book, after the table's last use.
    mappings: Arc<Mappings>,
}

impl Book {
    pub fn new(mappings: Mappings) -> Self {
        let used = RangeInclusiveSet::new();
        Self {
            entries: BTreeMap::new(),
            reserved: BTreeMap::new(),
            used,
            fresh: 0,
            registrations: 0,
            closings: 0,
            queues: Vec::new(),
            inherited: 0,
            stats: Stats::default(),
            mappings: Arc::new(mappings),
        }
    }

    /// The memory behind the table, for whoever has to keep it.
    pub fn mappings(&self) -> Arc<Mappings> {
        self.mappings.clone()
    }

    /// The next ID that nobody ever had. `None` once all 2^63 - 1 have been used.
    pub fn fresh_id(&self) -> Option<InterpreterId> {
        let lowest = match self.used.get(&self.fresh) {
            Some(range) => range.end().checked_add(1)?,
            None => self.fresh,
        };
        InterpreterId::try_from(lowest).ok()
    }

    /// Was `id` ever registered or reserved?
    pub fn was_used(&self, id: InterpreterId) -> bool {
        self.used.contains(&i64::from(id))
    }

    /// Is `id` registered, or is its interpreter being made?
    pub fn is_taken(&self, id: InterpreterId) -> bool {
        self.entries.contains_key(&id) || self.reserved.contains_key(&id)
    }

    /// How many places are taken.
    pub fn taken(&self) -> usize {
        self.entries.len() + self.reserved.len()
    }

    /// Gives the calling thread a fresh ID and a place. The ID is used from here on, whatever comes of it: others may
    /// have been told. `None` as for [`fresh_id`](Self::fresh_id).
    pub fn reserve(&mut self) -> Option<InterpreterId> {
        let id = self.fresh_id()?;
        self.use_up(id, true);
        self.reserved.insert(id, threads::number());
        Some(id)
    }

    /// Gives a reserved place back.
    pub fn unreserve(&mut self, id: InterpreterId) {
        self.reserved.remove(&id);
    }

    fn use_up(&mut self, id: InterpreterId, fresh: bool) {
        let number = i64::from(id);
        self.used.insert(number..=number);
        if fresh {
            self.fresh = number;
        }
    }

    /// Enters an interpreter that the table has taken.
    pub fn enter(&mut self, id: InterpreterId, slot: u32, fresh: bool, name: Option<String>) {
        self.use_up(id, fresh);
        self.registrations += 1;
        let registration = self.registrations;
        let entry = Entry { registration, slot, owner: None, in_error_of: None, on_close: Vec::new(), name };
        self.entries.insert(id, entry);
    }

    /// A number for a new `Closing`.
    pub fn next_closing(&mut self) -> u64 {
        self.closings += 1;
        self.closings
    }

    /// Binds a pending queue.
    pub fn attach(&mut self, queue: Weak<dyn Queue>, serve: Weak<dyn Serve>) {
        self.queues.retain(|(queue, _)| queue.strong_count() != 0);
        self.queues.push((queue, serve));
    }

    /// The pending queues that exist.
    pub fn queues(&self) -> impl Iterator<Item = Arc<dyn Queue>> + '_ {
        self.queues_to_serve().map(|(queue, _)| queue)
    }

    /// The same, each with what runs its calls: to be upgraded while the registry is borrowed, and with no lock held, since a
    /// queue's last owner drops what is the program's.
    pub fn queues_to_serve(&self) -> impl Iterator<Item = (Arc<dyn Queue>, &Weak<dyn Serve>)> + '_ {
        self.queues.iter().filter_map(|(queue, serve)| Some((queue.upgrade()?, serve)))
    }

    /// Who has calls of `id` waiting.
    pub fn waiting(&self, id: InterpreterId) -> Vec<Waiting> {
        let waiting = |queue: Arc<dyn Queue>| Waiting {
            queue: queue.name().to_owned(),
            calls: queue.waiting(Some(id)),
            served: queue.is_served(),
        };
        self.queues().map(waiting).filter(|waiting| waiting.calls != 0).collect()
    }

    /// Before a fork.
    pub fn before_fork(&self) {
        self.queues().for_each(|queue| queue.before_fork());
    }

    /// After it, in the parent.
    pub fn after_fork_parent(&self) {
        self.queues().for_each(|queue| queue.after_fork_parent());
    }

    /// In a forked child: whoever owned a `Closing` is gone, or is the thread that forked, who may be superseded. Of
    /// the reserved places only that thread's own are left. What the pending queues had waiting is forgotten, not run.
    ///
    /// # Safety
    /// The only thread of a forked child, in no operation of a queue.
    pub unsafe fn begin_generation(&mut self) {
        for queue in self.queues() {
            // SAFETY: the caller's promise.
            unsafe { queue.after_fork_child() };
        }
        self.inherited = self.closings;
        // Whoever else was making an interpreter is not here to finish it.
        self.reserved.retain(|_, &mut thread| thread == threads::number());
        self.stats = Stats::default();
    }
}
