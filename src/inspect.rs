// May import: ledger, registry, signal_safe.
//! What a registry has to say of itself and of its interpreters.

use crate::ledger::Holders;
use crate::registry::{Layout, Registry, Stats};
use crate::signal_safe::word::InterpreterId;

/// To look at. From normal context, but for what says otherwise.
impl<T: Send + Sync + 'static> Registry<T> {
    /// How many guards of `id` are out; `None` if no interpreter has this ID.
    ///
    /// Counts every guard that is out throughout the call; one that comes or goes meanwhile may or may not be counted.
    ///
    /// Context: normal. O(CPUs).
    ///
    /// ```
    /// # use interp_guard::Registry;
    /// let registry = Registry::new();
    /// let id = registry.register("an interpreter").unwrap();
    /// let guard = registry.lookup(id)?;
    /// assert_eq!(registry.outstanding(id), Some(1));
    /// # Ok::<(), interp_guard::LookupError>(())
    /// ```
    pub fn outstanding(&self, id: InterpreterId) -> Option<u64> {
        let book = self.lock();
        let slot = book.as_ref()?.entries.get(&id)?.slot;
        Some(self.in_its_way(slot).0)
    }

    /// How many guards of the interpreter in `slot` are out, and how many threads are attaching to it without one. To
    /// be asked with the mutex held.
    pub(crate) fn in_its_way(&self, slot: u32) -> (u64, u64) {
        (self.table().out(slot).try_into().unwrap_or(0), self.table().attaching(slot).into())
    }

    /// The name that `id` was [registered with](Self::register_named), or [was given](Self::set_name); `None` if it has
    /// none, or if no interpreter has this ID.
    ///
    /// Context: normal.
    ///
    /// ```
    /// # use interp_guard::Registry;
    /// let registry = Registry::new();
    /// let named = registry.register_named("mail", "an interpreter").unwrap();
    /// let nameless = registry.register("another").unwrap();
    /// assert_eq!(registry.name(named).as_deref(), Some("mail"));
    /// assert_eq!(registry.name(nameless), None);
    /// ```
    pub fn name(&self, id: InterpreterId) -> Option<String> {
        self.lock().as_ref()?.entries.get(&id)?.name.clone()
    }

    /// Who holds the guards of `id`, as far as the ledger knows; `None` if no interpreter has this ID.
    ///
    /// Context: normal. O(CPUs + guards that are out, of any interpreter).
    ///
    /// ```
    /// # use interp_guard::Registry;
    /// let registry = Registry::new().ledger(true);
    /// let id = registry.register("an interpreter").unwrap();
    /// let guard = registry.lookup(id)?;
    /// let holders = registry.holders(id).unwrap();
    /// assert_eq!(holders.iter().count(), 1);
    /// println!("{holders}");
    /// # Ok::<(), interp_guard::LookupError>(())
    /// ```
    pub fn holders(&self, id: InterpreterId) -> Option<Holders> {
        let (name, in_its_way) = {
            let book = self.lock();
            let entry = book.as_ref()?.entries.get(&id)?;
            (entry.name.clone(), self.in_its_way(entry.slot))
        };
        Some(Holders::of(self.table(), id, name, in_its_way))
    }

    /// What this registry's finalizers have done so far.
    ///
    /// Context: normal.
    ///
    /// ```
    /// # use interp_guard::Registry;
    /// let registry = Registry::new();
    /// let id = registry.register("an interpreter").unwrap();
    /// registry.finalize(id, None).unwrap();
    /// assert_eq!(registry.stats().drains, 1);
    /// ```
    pub fn stats(&self) -> Stats {
        self.lock().as_ref().map_or_else(Stats::default, |book| book.stats)
    }

    /// How many interpreters are registered, live and closing.
    ///
    /// Context: normal.
    ///
    /// ```
    /// # use interp_guard::Registry;
    /// let registry = Registry::new();
    /// registry.register("an interpreter").unwrap();
    /// assert_eq!(registry.len(), 1);
    /// ```
    pub fn len(&self) -> usize {
        self.lock().as_ref().map_or(0, |book| book.entries.len())
    }

    /// Is nothing registered?
    ///
    /// Context: normal.
    ///
    /// ```
    /// assert!(interp_guard::Registry::<String>::new().is_empty());
    /// ```
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The IDs of all registered interpreters, live and closing, in ascending order.
    ///
    /// Context: normal.
    ///
    /// ```
    /// # use interp_guard::Registry;
    /// let registry = Registry::new();
    /// let id = registry.register("an interpreter").unwrap();
    /// assert_eq!(registry.ids(), [id]);
    /// ```
    pub fn ids(&self) -> Vec<InterpreterId> {
        self.lock().as_ref().map_or_else(Vec::new, |book| book.entries.keys().copied().collect())
    }

    /// How the table lies in memory; `None` before the first registration.
    ///
    /// Context: normal.
    ///
    /// ```
    /// # use interp_guard::Registry;
    /// let registry = Registry::new();
    /// assert_eq!(registry.layout(), None);
    /// registry.register("an interpreter").unwrap();
    /// assert_eq!(registry.layout().unwrap().slots, 2048);
    /// ```
    pub fn layout(&self) -> Option<Layout> {
        let _book = self.lock();
        let mode = self.table().counters()?;
        Some(Layout::new(self.capacity(), mode))
    }

    /// How many slots beyond the first a lookup of `id` may have to probe, whether or not an interpreter has that ID.
    ///
    /// Context: any.
    ///
    /// ```
    /// # use interp_guard::{InterpreterId, Registry};
    /// let registry = Registry::new();
    /// let id = registry.register("an interpreter").unwrap();
    /// assert_eq!(registry.displacement(id), 0);
    /// ```
    pub fn displacement(&self, id: InterpreterId) -> u32 {
        self.table().reach(id)
    }

    /// Was an interpreter ever registered?
    pub(crate) fn has_registered(&self) -> bool {
        self.lock().as_ref().is_some_and(|book| book.registrations != 0)
    }
}
