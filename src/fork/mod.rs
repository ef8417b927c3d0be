// May import: registry, signal_safe, thread_state.
//! Forking a process whose threads hold guards.
//!
//! A forked child has one thread. The guards that the others held will never be given up, their finalizers never end,
//! and they may have stood anywhere in a lookup or a drop. So the child starts to count anew.
//!
//! | call | where | what it does |
//! |---|---|---|
//! | [`Registry::before_fork`] | the thread that forks, before | blocks its signals and takes the registry's mutex |
//! | [`Registry::after_fork_parent`] | the same, in the parent, also if the fork failed | gives both back |
//! | [`Registry::after_fork_child`] | the same, in the child | counts anew, then gives both back |
//!
//! Several registries may be around one fork. They are asked and answered in any order. One thread of the process at a time is
//! between its first question and its last answer, so two threads that fork cannot wait for each other's mutexes. The
//! signal mask is that from before the first question again when the last one is answered.
//!
//! The three nest: a fork inside the `before_fork` and `after_fork_*` of somebody else, through [`install_atfork`] say, is
//! one fork, and the child counts anew once. Whoever has guards to keep may be the inner or the outer one.
//!
//! # In the child
//!
//! - **Guards.** Every counter is zero and the registry's fork generation is one higher. A guard carries the generation in
//!   which it was counted. The guards in `kept`, and those of the calling thread's ensure levels, are counted anew. Every
//!   other inherited guard protects nothing any more; dropping or cloning it touches no counter, and its clones protect
//!   nothing either.
//! - **Thread states.** The forking thread's ensure levels are as they were, so it may release them. Threads without a guard
//!   that were attaching are gone, but for the forking thread's own: where a runtime's `create` or `attach` forks, its copy goes
//!   on in the child.
//! - **Closings.** Interpreters that were closing are closing. Who was draining them is gone: the next `close`, `finalize`
//!   or `finalize_all` gets them. A [`Closing`](crate::Closing) that the forking thread itself holds stays good until
//!   somebody takes its interpreter up, and says `Superseded` after that. What a vanished thread had drained and taken out
//!   is its own, and lost; callbacks of `on_close` that it was about to run are not run.
//! - **Finalizers that wait** are threads of the parent; the parent's go on waiting undisturbed, and the child has none. The
//!   wake words keep their numbers, which mean nothing but whether they have changed.
//! - **The heavy fence** needs nothing: the kernel copies the registration for `membarrier` with the address space, and a
//!   barrier reaches the threads of its own process only. There is no store of a vanished thread to wait for, since the
//!   sums start at zero.
//! - **The ledger** keeps the entries of the guards that are kept, under the thread that forked. All others are struck out.
//! - **Pending calls** that were queued are forgotten, not run: the parent runs them. The queue works on, with an eventfd of
//!   its own under the same number; its worker is a thread of the parent. It was made before the fork, for a child that is
//!   given no descriptor. Where the child cannot have one all the same, see
//!   [`PendingQueue`](crate::pending::PendingQueue).
//! - **Signal handlers** that the parent installed through [`crate::signal`] are installed, and can be uninstalled.
//! - **The registry's book** (what is registered, retired, main) is as it was: the mutex was held, so nobody was changing
//!   it. [`Registry::stats`] starts at zero, and a `finalize_all` of a vanished thread is over.

mod atfork;

pub use atfork::install_atfork;

use crate::registry::entering;
use crate::registry::forking::{self, Parked};
use crate::registry::{Book, Registry};
use crate::signal_safe::guard::{Guard, GuardParts, RawGuard};
use crate::signal_safe::table::Table;
use crate::thread_state::levels;
use std::mem::ManuallyDrop;
use std::sync::MutexGuard;

/// Around a fork. See [`crate::fork`].
impl<T: Send + Sync + 'static> Registry<T> {
    /// To be called by a thread that is about to fork: blocks its signals and takes the registry's mutex, until
    /// [`after_fork_parent`](Self::after_fork_parent) or [`after_fork_child`](Self::after_fork_child).
    ///
    /// In between, whatever needs the mutex waits, lookups and drops go on, and the registry must stay where it is in
    /// memory. Another thread that calls `before_fork`, of this registry or of another one, waits until this thread has
    /// answered for all of its registries. So do, in any registry, a first registration, a finalizer that hands its interpreter
    /// over, and an ensure from a natively attached thread. If this thread ends without answering, they wait for ever.
    ///
    /// A registry that is dropped unanswered counts as answered, if this thread drops it: on another one the drop may wait for
    /// this thread's last answer, and it gives nothing back. A registry that is found elsewhere by its answer counts as answered
    /// too. Its mutex is free again if it is moved back and answered for in the parent.
    ///
    /// Context: normal; blocks. Not callable in a signal handler: it may have interrupted somebody who has the mutex.
    ///
    /// ```
    /// # use interp_guard::Registry;
    /// static INTERPRETERS: Registry<String> = Registry::new();
    /// let id = INTERPRETERS.register("main".into())?;
    /// let mut guard = INTERPRETERS.lookup(id)?;
    /// INTERPRETERS.before_fork();
    /// // SAFETY: the child calls nothing but this library and `_exit`, and uses no guard that it does not keep.
    /// match unsafe { libc::fork() } {
    ///     0 => {
    ///         unsafe { INTERPRETERS.after_fork_child(&mut [&mut guard]) };
    ///         let kept = INTERPRETERS.outstanding(id) == Some(1) && *guard == "main";
    ///         unsafe { libc::_exit(if kept { 0 } else { 1 }) }
    ///     }
    ///     child => {
    ///         INTERPRETERS.after_fork_parent();
    ///         let mut status = 0;
    ///         unsafe { libc::waitpid(child, &mut status, 0) };
    ///         assert_eq!(status, 0);
    ///     }
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn before_fork(&self) {
        if let Some(parked) = self.fork().mine() {
            // SAFETY: ours, by `mine`.
            unsafe { (*parked).depth += 1 };
            return;
        }
        forking::begin();
        let lock = self.lock();
        if let Some(book) = lock.as_ref() {
            book.before_fork();
        }
        // SAFETY: only the lifetime changes. The guard is dropped by `unpark`, while this registry is borrowed, and only
        // if it is where it was; or never.
        let lock: MutexGuard<'static, Option<Book>> = unsafe { std::mem::transmute(lock) };
        let (lock, registry) = (ManuallyDrop::new(lock), std::ptr::from_ref(self).addr());
        let generation = self.table().generation();
        let parked = Parked { lock, registry, moved: false, depth: 1, generation };
        // SAFETY: locked above.
        unsafe { self.fork().park(parked) };
    }

    /// To be called in the parent, by the thread that called [`before_fork`](Self::before_fork), when the fork is done or
    /// has failed.
    ///
    /// Context: normal.
    ///
    /// # Panics
    /// If this thread has not called `before_fork`, or the registry was moved since.
    ///
    /// ```
    /// # let registry: interp_guard::Registry<String> = interp_guard::Registry::new();
    /// registry.before_fork();
    /// let fork_failed = true;
    /// if fork_failed {
    ///     registry.after_fork_parent();
    /// }
    /// ```
    pub fn after_fork_parent(&self) {
        let parked = self.parked();
        // SAFETY: ours, by `parked`; the borrow ends with the block. The mutex is this thread's.
        if let (1, Some(book)) = unsafe { ((*parked).depth, (*parked).lock.as_ref()) } {
            book.after_fork_parent();
        }
        self.unpark();
    }

    /// To be called in the child, by the thread that called [`before_fork`](Self::before_fork), before the child does
    /// anything else with the registry or starts a thread.
    ///
    /// Counts the guards in `kept` anew, and those of this thread's ensure levels. A guard of another registry, or one
    /// that protected nothing in the parent, is left as it is.
    ///
    /// Context: normal, the only thread of a forked child. Takes no lock and allocates nothing. O(slots × CPUs).
    ///
    /// # Safety
    /// 1. This is a forked child, its memory its own, and the calling thread the only one, the copy of the one that called
    ///    `before_fork` for this fork.
    /// 2. An inherited guard that is neither in `kept` nor an ensure level's is not dereferenced from here on. It may be
    ///    dropped, cloned, asked for its ID, or forgotten.
    /// 3. No guard in `kept` is a bitwise copy of another one that is kept.
    ///
    /// # Panics
    /// If this thread has not called `before_fork`, or the registry was moved since.
    ///
    /// ```
    /// # use interp_guard::Registry;
    /// static INTERPRETERS: Registry<String> = Registry::new();
    /// let id = INTERPRETERS.register("main".into())?;
    /// let mut kept = INTERPRETERS.lookup(id)?;
    /// let other = INTERPRETERS.lookup(id)?;
    /// INTERPRETERS.before_fork();
    /// // SAFETY: the child calls nothing but this library and `_exit`.
    /// match unsafe { libc::fork() } {
    ///     0 => {
    ///         // SAFETY: in the child, on its only thread, and from here on `other` is only dropped.
    ///         unsafe { INTERPRETERS.after_fork_child(&mut [&mut kept]) };
    ///         drop(other); // which counts nothing here
    ///         let counts_anew = INTERPRETERS.outstanding(id) == Some(1);
    ///         unsafe { libc::_exit(if counts_anew { 0 } else { 1 }) }
    ///     }
    ///     child => {
    ///         INTERPRETERS.after_fork_parent();
    ///         assert_eq!(INTERPRETERS.outstanding(id), Some(2));
    ///         # let mut status = 0;
    ///         # unsafe { libc::waitpid(child, &mut status, 0) };
    ///         # assert_eq!(status, 0);
    ///     }
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub unsafe fn after_fork_child(&self, kept: &mut [&mut Guard<'_, T>]) {
        let keep = |counted_in| {
            for guard in kept.iter_mut().filter(|guard| std::ptr::eq(guard.as_raw().table(), self.table())) {
                // SAFETY: (1) to (3) of the caller's promises; `in_child` has begun a generation.
                unsafe { guard.raw_mut().recount(counted_in) };
            }
        };
        // SAFETY: (1) of the caller's promises.
        unsafe { self.in_child(keep) }
    }

    /// [`after_fork_child`](Self::after_fork_child) for bindings, which keep guards as plain data: `keep` is called once,
    /// and calls what it is given with the parts of each guard that is kept.
    ///
    /// Context: as there.
    ///
    /// # Safety
    /// As there; and the parts that `keep` hands on are of guards of this registry.
    ///
    /// # Panics
    /// As there.
    ///
    /// ```
    /// # use interp_guard::Registry;
    /// static INTERPRETERS: Registry<String> = Registry::new();
    /// let id = INTERPRETERS.register("main".into())?;
    /// let mut parts = INTERPRETERS.lookup(id)?.into_raw().into_parts(); // as a binding stores them
    /// INTERPRETERS.before_fork();
    /// // SAFETY: the child calls nothing but this library and `_exit`.
    /// match unsafe { libc::fork() } {
    ///     0 => {
    ///         // SAFETY: in the child, on its only thread, with the parts of a guard of this registry.
    ///         unsafe { INTERPRETERS.after_fork_child_with(|keep| keep(&mut parts)) };
    ///         // SAFETY: put together once in this process.
    ///         let guard = unsafe { INTERPRETERS.guard_from_parts(parts) };
    ///         let kept = INTERPRETERS.outstanding(id) == Some(1) && *guard == "main";
    ///         unsafe { libc::_exit(if kept { 0 } else { 1 }) }
    ///     }
    ///     child => {
    ///         INTERPRETERS.after_fork_parent();
    ///         # let mut status = 0;
    ///         # unsafe { libc::waitpid(child, &mut status, 0) };
    ///         # assert_eq!(status, 0);
    ///         # drop(unsafe { INTERPRETERS.guard_from_parts(parts) });
    ///     }
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub unsafe fn after_fork_child_with(&self, keep: impl FnOnce(&mut dyn FnMut(&mut GuardParts))) {
        // SAFETY: the caller's promises; `in_child` has begun a generation.
        let keep = |counted_in| keep(&mut |parts| unsafe { recount(self.table(), parts, counted_in) });
        // SAFETY: (1) of the caller's promises.
        unsafe { self.in_child(keep) }
    }

    /// Counts anew what `keep` and this thread's ensure levels keep, given the generation in which they were counted.
    ///
    /// # Safety
    /// This is a forked child, and the calling thread the only one, the copy of the one that called `before_fork`.
    unsafe fn in_child(&self, keep: impl FnOnce(u32)) {
        let parked = self.parked();
        // SAFETY: ours, by `parked`; the borrow ends with the statement. It may be back where it was.
        let moved = unsafe { (*parked).moved };
        assert!(!moved, "the registry stays where it is: its share of the signal mask was given back");
        // SAFETY: ours, by `parked`; the borrow ends with the statement.
        let (counted_in, depth) = unsafe { ((*parked).generation, (*parked).depth) };
        if self.table().generation() == counted_in {
            // SAFETY: the caller's promise; and this thread is in no guard's operation: it is here, and its signals have
            // been blocked since before it forked.
            unsafe { self.table().begin_generation() };
            // SAFETY: as above.
            unsafe { self.table().forget_entering() };
            entering::enter_again(self.table());
            // SAFETY: (1) as above; (2) each level has a guard of its own, or none.
            levels::for_each_guard(self.table(), |parts| unsafe {
                recount(self.table(), parts, counted_in);
            });
            // SAFETY: the mutex is this thread's, and this is the only use of what it guards.
            if let Some(book) = unsafe { (*parked).lock.as_mut() } {
                // SAFETY: as above.
                unsafe { book.begin_generation() };
            }
            self.forget_shutdowns();
        }
        keep(counted_in);
        // The innermost child handler knows only some of what is kept; the outermost comes last.
        if depth == 1
            && let Some(ledger) = self.table().ledger()
        {
            ledger.sweep(self.table().generation());
        }
        self.unpark();
    }

    /// What this thread has parked, of a registry that is still where it was: its mutex is, too.
    fn parked(&self) -> *mut Parked {
        let parked = self.fork().mine().expect("this thread has called before_fork");
        // SAFETY: ours, by `mine`; the borrow ends with the statement.
        let registry = unsafe { (*parked).registry };
        let here = std::ptr::from_ref(self).addr();
        // SAFETY: as above.
        if registry != here && !unsafe { std::mem::replace(&mut (*parked).moved, true) } {
            forking::end();
        }
        assert_eq!(registry, here, "the registry stays where it is");
        parked
    }

    /// Answers one `before_fork`; the last answer gives the mutex back, and the last of all registries the signal mask.
    fn unpark(&self) {
        // SAFETY: ours, by `parked`; no borrow of it is alive.
        let parked = unsafe { &mut *self.parked() };
        parked.depth -= 1;
        if parked.depth > 0 {
            return;
        }
        // SAFETY: it has parked something, as said above, and that is not looked at any more.
        if let Some(Parked { lock, moved, .. }) = unsafe { self.fork().unpark() } {
            drop(ManuallyDrop::into_inner(lock));
            if !moved {
                forking::end();
            }
        }
    }
}

/// Counts a guard anew in a forked child, if it was counted in the parent, in generation `counted_in`.
///
/// # Safety
/// 1. The only thread of a forked child, after [`Table::begin_generation`] and before anything is vacated.
/// 2. `parts` are those of a guard of `table`, and it is counted anew once.
unsafe fn recount(table: &Table, parts: &mut GuardParts, counted_in: u32) {
    // SAFETY: (1) of `from_parts` is (2); the guard goes back into its parts below.
    let mut guard = unsafe { RawGuard::from_parts(table, *parts) };
    // SAFETY: (1) and (2).
    unsafe { guard.recount(counted_in) };
    *parts = guard.into_parts();
}
