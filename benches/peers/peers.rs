//! The candidates: ours and its peers, each used as its own documentation advises, all doing the same job: find an
//! interpreter by ID and keep it alive until it is given up.

use super::clock::used;
use interp_guard::{Counters, InterpreterId, Registry};
use std::collections::HashMap;
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};

/// What is registered.
pub struct Interp {
    pub id: i64,
}

/// One way to do it.
pub trait Peer: Send + Sync + 'static {
    /// Under this name in the results.
    const NAME: &'static str;
    /// What it can be held against; see `docs/benchmarks.md`.
    const KIND: &'static str;
    /// Its cost grows with the number of interpreters.
    const WALKS: bool = false;

    /// What it is asked by.
    type Key: TryFrom<i64> + Copy + Send + Sync + 'static;

    /// Holds these IDs, registered in this order.
    fn with(ids: &[i64]) -> Self;
    /// The ID as this candidate's callers have it.
    fn key(id: i64) -> Self::Key {
        id.try_into().ok().expect("an ID")
    }
    /// Finds the interpreter, keeps it alive, gives it up. Was it there?
    fn visit(&self, key: Self::Key) -> bool;
    /// Adds an interpreter and takes it out again; `None` where that is not part of the job.
    fn churn(&self, _id: i64) -> Option<()> {
        None
    }
}

/// Ours, in one of its two modes.
pub struct Ours<const SHARED: bool>(pub Registry<Interp>);

impl<const SHARED: bool> Peer for Ours<SHARED> {
    const NAME: &'static str = if SHARED { "interp-guard/shared" } else { "interp-guard/per-cpu" };
    const KIND: &'static str = "ours";
    type Key = InterpreterId;

    fn with(ids: &[i64]) -> Self {
        let mode = if SHARED { Counters::Shared } else { Counters::PerCpu };
        let registry = Registry::with_capacity((ids.len() + 64).max(1024)).counters(mode);
        for &raw in ids {
            registry
                .register_with_id(Self::key(raw), Interp { id: raw })
                .unwrap_or_else(|error| panic!("{raw}: {error}"));
        }
        Self(registry)
    }

    #[inline(always)]
    fn visit(&self, id: InterpreterId) -> bool {
        match self.0.lookup(id) {
            Ok(guard) => {
                used::<Interp>(&*guard);
                true
            }
            Err(_) => false,
        }
    }

    fn churn(&self, _id: i64) -> Option<()> {
        let id = self.0.register(Interp { id: 0 }).ok()?;
        self.0.finalize(id, None).ok().map(drop)
    }
}

/// Nothing at all: what the measuring itself costs.
pub struct Nothing;

impl Peer for Nothing {
    const NAME: &'static str = "nothing";
    const KIND: &'static str = "nothing";
    type Key = i64;

    fn with(_ids: &[i64]) -> Self {
        Self
    }

    #[inline(always)]
    fn visit(&self, _id: i64) -> bool {
        used(self);
        true
    }
}

/// One counter for all, without any lookup: less than the job.
pub struct SharedCounter(AtomicU64);

impl Peer for SharedCounter {
    const NAME: &'static str = "one shared counter";
    const KIND: &'static str = "counter";
    type Key = i64;

    fn with(_ids: &[i64]) -> Self {
        Self(AtomicU64::new(0))
    }

    #[inline(always)]
    fn visit(&self, _id: i64) -> bool {
        self.0.fetch_add(1, Ordering::AcqRel);
        self.0.fetch_sub(1, Ordering::AcqRel);
        true
    }
}

type Map = HashMap<i64, Arc<Interp>>;

fn map(ids: &[i64]) -> Map {
    ids.iter().map(|&id| (id, Arc::new(Interp { id }))).collect()
}

#[inline(always)]
fn visited(found: Option<Arc<Interp>>) -> bool {
    found.is_some_and(|interp| {
        used(Arc::as_ptr(&interp));
        true
    })
}

/// The same where it cannot leave the scope that found it.
#[inline(always)]
fn visited_in_place(found: Option<&Arc<Interp>>) -> bool {
    found.is_some_and(|interp| {
        used(Arc::as_ptr(interp));
        true
    })
}

/// The standard library's reader-writer lock.
pub struct StdRwLock(RwLock<Map>);

impl Peer for StdRwLock {
    const NAME: &'static str = "RwLock<HashMap> (std)";
    const KIND: &'static str = "reference";
    type Key = i64;

    fn with(ids: &[i64]) -> Self {
        Self(RwLock::new(map(ids)))
    }

    #[inline(always)]
    fn visit(&self, id: i64) -> bool {
        visited(self.0.read().expect("no writer panics").get(&id).cloned())
    }

    fn churn(&self, id: i64) -> Option<()> {
        self.0.write().ok()?.insert(id, Arc::new(Interp { id }));
        self.0.write().ok()?.remove(&id).map(drop)
    }
}

/// parking_lot's reader-writer lock.
pub struct ParkingLot(parking_lot::RwLock<Map>);

impl Peer for ParkingLot {
    const NAME: &'static str = "RwLock<HashMap> (parking_lot)";
    const KIND: &'static str = "reference";
    type Key = i64;

    fn with(ids: &[i64]) -> Self {
        Self(parking_lot::RwLock::new(map(ids)))
    }

    #[inline(always)]
    fn visit(&self, id: i64) -> bool {
        visited(self.0.read().get(&id).cloned())
    }

    fn churn(&self, id: i64) -> Option<()> {
        self.0.write().insert(id, Arc::new(Interp { id }));
        self.0.write().remove(&id).map(drop)
    }
}

/// A map of locked shards.
pub struct DashMap(dashmap::DashMap<i64, Arc<Interp>>);

impl Peer for DashMap {
    const NAME: &'static str = "DashMap";
    const KIND: &'static str = "reference";
    type Key = i64;

    fn with(ids: &[i64]) -> Self {
        Self(map(ids).into_iter().collect())
    }

    #[inline(always)]
    fn visit(&self, id: i64) -> bool {
        visited(self.0.get(&id).map(|entry| entry.value().clone()))
    }

    fn churn(&self, id: i64) -> Option<()> {
        self.0.insert(id, Arc::new(Interp { id }));
        self.0.remove(&id).map(drop)
    }
}

/// A lock-free map with its own reclamation; a clone of the value survives the pin.
pub struct Papaya(papaya::HashMap<i64, Arc<Interp>>);

impl Peer for Papaya {
    const NAME: &'static str = "papaya, clone";
    const KIND: &'static str = "reference";
    type Key = i64;

    fn with(ids: &[i64]) -> Self {
        Self(map(ids).into_iter().collect())
    }

    #[inline(always)]
    fn visit(&self, id: i64) -> bool {
        visited(self.0.pin().get(&id).cloned())
    }

    fn churn(&self, id: i64) -> Option<()> {
        self.0.pin().insert(id, Arc::new(Interp { id }));
        self.0.pin().remove(&id).map(|_| ())
    }
}

/// The same without the clone: usable inside the pin only.
pub struct PapayaPin(papaya::HashMap<i64, Arc<Interp>>);

impl Peer for PapayaPin {
    const NAME: &'static str = "papaya, pin";
    const KIND: &'static str = "pin";
    type Key = i64;

    fn with(ids: &[i64]) -> Self {
        Self(map(ids).into_iter().collect())
    }

    #[inline(always)]
    fn visit(&self, id: i64) -> bool {
        visited_in_place(self.0.pin().get(&id))
    }
}

/// A map that writers replace as a whole.
pub struct ArcSwap(arc_swap::ArcSwap<Map>);

impl Peer for ArcSwap {
    const NAME: &'static str = "arc-swap of a map, clone";
    const KIND: &'static str = "reference";
    type Key = i64;

    fn with(ids: &[i64]) -> Self {
        Self(arc_swap::ArcSwap::from_pointee(map(ids)))
    }

    #[inline(always)]
    fn visit(&self, id: i64) -> bool {
        visited(self.0.load().get(&id).cloned())
    }

    fn churn(&self, id: i64) -> Option<()> {
        self.0.rcu(|old| {
            let mut map = Map::clone(old);
            map.insert(id, Arc::new(Interp { id }));
            map
        });
        self.0.rcu(|old| {
            let mut map = Map::clone(old);
            map.remove(&id);
            map
        });
        Some(())
    }
}

/// Epoch-based reclamation: the map is safe to read while pinned.
pub struct Epoch(crossbeam_epoch::Atomic<Map>);

impl Peer for Epoch {
    const NAME: &'static str = "crossbeam-epoch pin + map";
    const KIND: &'static str = "pin";
    type Key = i64;

    fn with(ids: &[i64]) -> Self {
        Self(crossbeam_epoch::Atomic::new(map(ids)))
    }

    #[inline(always)]
    fn visit(&self, id: i64) -> bool {
        let pin = crossbeam_epoch::pin();
        // SAFETY: set in `with`, never replaced, freed in `drop` only.
        let map = unsafe { self.0.load(Ordering::Acquire, &pin).deref() };
        visited_in_place(map.get(&id))
    }
}

impl Drop for Epoch {
    fn drop(&mut self) {
        let map = std::mem::replace(&mut self.0, crossbeam_epoch::Atomic::null());
        // SAFETY: nobody else has the map.
        unsafe { map.try_into_owned() };
    }
}

/// The reading side of signal-hook's half-lock, written anew, since its crate does not export it: announce oneself in
/// the current generation's counter, read the pointer, leave. In signal-hook this may run in a signal handler.
pub struct HalfLock {
    map: AtomicPtr<Map>,
    generation: AtomicUsize,
    readers: [AtomicUsize; 2],
}

impl Peer for HalfLock {
    const NAME: &'static str = "half-lock algorithm + map";
    const KIND: &'static str = "pin";
    type Key = i64;

    fn with(ids: &[i64]) -> Self {
        let map = AtomicPtr::new(Box::into_raw(Box::new(map(ids))));
        Self { map, generation: AtomicUsize::new(0), readers: Default::default() }
    }

    #[inline(always)]
    fn visit(&self, id: i64) -> bool {
        let readers = &self.readers[self.generation.load(Ordering::SeqCst) % 2];
        readers.fetch_add(1, Ordering::SeqCst);
        // SAFETY: set in `with`, freed in `drop` only.
        let map = unsafe { &*self.map.load(Ordering::SeqCst) };
        let found = visited_in_place(map.get(&id));
        readers.fetch_sub(1, Ordering::SeqCst);
        found
    }
}

impl Drop for HalfLock {
    fn drop(&mut self) {
        // SAFETY: made by `Box::into_raw` in `with`.
        drop(unsafe { Box::from_raw(*self.map.get_mut()) });
    }
}

struct Node {
    interp: Interp,
    guards: AtomicU64,
    next: Option<Box<Node>>,
}

/// How CPython looks up an interpreter: a list, newest first, under a lock; then a counter in the interpreter.
pub struct List(Mutex<Option<Box<Node>>>);

impl Peer for List {
    const NAME: &'static str = "list under a mutex";
    const KIND: &'static str = "list";
    const WALKS: bool = true;
    type Key = i64;

    fn with(ids: &[i64]) -> Self {
        Self(Mutex::new(ids.iter().fold(None, |next, &id| {
            Some(Box::new(Node { interp: Interp { id }, guards: AtomicU64::new(0), next }))
        })))
    }

    #[inline(always)]
    fn visit(&self, id: i64) -> bool {
        let list = self.0.lock().expect("nobody panics with it");
        let mut at = list.as_deref();
        while let Some(node) = at {
            if node.interp.id == id {
                node.guards.fetch_add(1, Ordering::Relaxed);
                let (interp, guards): (*const Interp, *const AtomicU64) = (&node.interp, &node.guards);
                drop(list);
                used(interp);
                // SAFETY: nodes are freed in `drop` only.
                unsafe { &*guards }.fetch_sub(1, Ordering::Release);
                return true;
            }
            at = node.next.as_deref();
        }
        false
    }
}

impl Drop for List {
    fn drop(&mut self) {
        // One by one: the list may be longer than the stack is deep.
        let mut next = self.0.get_mut().expect("nobody panics with it").take();
        while let Some(mut node) = next {
            next = node.next.take();
        }
    }
}
