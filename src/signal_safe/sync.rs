//! The atomics, behind one small shim: the `atomic` crate's typed atomics in the real build, loom's under
//! `--cfg loom`. Nothing else in the core names an atomic type.

#[cfg(not(loom))]
pub use atomic::{Atomic, Ordering, fence};
#[cfg(not(loom))]
pub use core::sync::atomic::{AtomicPtr, compiler_fence};

/// Stands between a counter's read-modify-write and the load of the slot's word in shared mode (A3 and X2).
///
/// On hardware the SeqCst read-modify-write followed by a SeqCst load *is* the fence, and this is nothing. Loom treats
/// SeqCst accesses as acquire-release only, so there it is a real one.
#[inline(always)]
pub fn light_fence() {
    #[cfg(loom)]
    fence(Ordering::SeqCst);
}

/// Plain memory that one party at a time reads or writes. Loom, in its place, objects to accesses that are not ordered.
#[cfg(not(loom))]
pub struct Plain<T>(core::cell::UnsafeCell<core::mem::MaybeUninit<T>>);

#[cfg(not(loom))]
impl<T: Copy> Plain<T> {
    /// Memory that was not written yet.
    pub const fn uninit() -> Self {
        Self(core::cell::UnsafeCell::new(core::mem::MaybeUninit::uninit()))
    }

    /// # Safety
    /// Nobody else reads or writes it meanwhile.
    #[inline(always)]
    pub unsafe fn write(&self, value: T) {
        // SAFETY: the caller's promise.
        unsafe { (*self.0.get()).write(value) };
    }

    /// # Safety
    /// It was written, and nobody writes it meanwhile.
    #[inline(always)]
    pub unsafe fn read(&self) -> T {
        // SAFETY: the caller's promise.
        unsafe { (*self.0.get()).assume_init() }
    }
}

#[cfg(loom)]
pub use checked::*;

#[cfg(loom)]
mod checked {
    use core::marker::PhantomData;
    extern crate std;
    pub use core::sync::atomic::Ordering;
    pub use loom::sync::atomic::{AtomicPtr, fence};

    use super::super::state::State;
    use super::super::word::Word;
    use core::cell::{Cell, RefCell};
    use std::boxed::Box;

    type Handler = Box<dyn FnOnce()>;

    loom::thread_local! {
        /// Steps until this thread is interrupted, and by what.
        static HANDLER: RefCell<Option<(u32, Handler)>> = RefCell::new(None);
        static INTERRUPTIONS: Cell<u32> = Cell::new(0);
        static STRIPE: Cell<u32> = Cell::new(0);
    }

    /// Has this thread call `handler` right before its `step`th atomic step from now on: a signal handler's model.
    pub fn interrupt_at(step: u32, handler: Handler) {
        HANDLER.with(|next| *next.borrow_mut() = Some((step, handler)));
    }

    /// No handler comes any more.
    pub fn interrupt_no_more() {
        drop(HANDLER.with(|next| next.borrow_mut().take()));
    }

    /// How often this thread was interrupted.
    pub fn interruptions() -> u32 {
        INTERRUPTIONS.with(Cell::get)
    }

    fn step() {
        let due = HANDLER.with(|next| {
            let mut next = next.borrow_mut();
            match &mut *next {
                Some((0, _)) => next.take(),
                Some((steps, _)) => {
                    *steps -= 1;
                    None
                }
                None => None,
            }
        });
        if let Some((_, handler)) = due {
            INTERRUPTIONS.with(|count| count.set(count.get() + 1));
            handler();
        }
    }

    /// Has this thread count on `stripe` from now on.
    pub fn count_on(stripe: u32) {
        STRIPE.with(|current| current.set(stripe));
    }

    /// The stripe on which this thread counts.
    pub fn stripe() -> u32 {
        STRIPE.with(Cell::get)
    }

    /// What a typed atomic can hold, as the 64 bits that loom checks.
    pub trait Bits: Copy {
        fn to_bits(self) -> u64;
        fn from_bits(bits: u64) -> Self;
    }

    macro_rules! bits {
        ($($t:ty),*) => { $(impl Bits for $t {
            fn to_bits(self) -> u64 { self as u64 }
            fn from_bits(bits: u64) -> Self { bits as $t }
        })* };
    }
    bits!(i32, u32, u64, i64);

    macro_rules! packed {
        ($($t:ty),*) => { $(impl Bits for $t {
            fn to_bits(self) -> u64 { <$t>::to_bits(self) }
            fn from_bits(bits: u64) -> Self { <$t>::from_bits(bits) }
        })* };
    }
    packed!(State, Word);

    /// See the other `Plain`.
    pub struct Plain<T>(loom::cell::UnsafeCell<core::mem::MaybeUninit<T>>);

    impl<T: Copy> Plain<T> {
        pub fn uninit() -> Self {
            Self(loom::cell::UnsafeCell::new(core::mem::MaybeUninit::uninit()))
        }
        /// # Safety
        /// Loom checks it.
        #[track_caller]
        pub unsafe fn write(&self, value: T) {
            // SAFETY: loom has just checked it.
            self.0.with_mut(|place| unsafe { _ = (*place).write(value) });
        }
        /// # Safety
        /// It was written; loom checks the rest.
        #[track_caller]
        pub unsafe fn read(&self) -> T {
            // SAFETY: the caller's promise, and what loom has just checked.
            self.0.with(|place| unsafe { (*place).assume_init() })
        }
    }

    /// The interface of `atomic::Atomic` that the core uses, over loom's `AtomicU64`.
    pub struct Atomic<T>(loom::sync::atomic::AtomicU64, PhantomData<T>);

    impl<T: Bits> Atomic<T> {
        pub fn new(value: T) -> Self {
            Self(loom::sync::atomic::AtomicU64::new(value.to_bits()), PhantomData)
        }
        #[track_caller]
        pub fn load(&self, order: Ordering) -> T {
            step();
            T::from_bits(self.0.load(order))
        }
        #[track_caller]
        pub fn store(&self, value: T, order: Ordering) {
            step();
            self.0.store(value.to_bits(), order);
        }
        #[track_caller]
        pub fn fetch_add(&self, value: T, order: Ordering) -> T {
            step();
            T::from_bits(self.0.fetch_add(value.to_bits(), order))
        }
        #[track_caller]
        pub fn fetch_or(&self, value: T, order: Ordering) -> T {
            step();
            T::from_bits(self.0.fetch_or(value.to_bits(), order))
        }
        #[track_caller]
        pub fn fetch_and(&self, value: T, order: Ordering) -> T {
            step();
            T::from_bits(self.0.fetch_and(value.to_bits(), order))
        }
        #[track_caller]
        pub fn compare_exchange(&self, old: T, new: T, ok: Ordering, no: Ordering) -> Result<T, T> {
            step();
            let result = self.0.compare_exchange(old.to_bits(), new.to_bits(), ok, no);
            result.map(T::from_bits).map_err(T::from_bits)
        }
    }
}
