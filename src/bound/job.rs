//! What a VM is sent.

/// A function of a VM, to be run on its thread.
pub type Job<V> = Box<dyn FnOnce(&mut V) + Send>;
