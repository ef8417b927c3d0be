//! What the stepped process and the one that steps it tell each other: one page that both have mapped.

use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering::SeqCst};

/// What the handler does besides looking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Order {
    /// Nothing.
    Look = 0,
    /// Drops the guard that is held, the last one.
    DropHeld = 1,
    /// Finalizes the interpreter under the interrupted lookup, clone or drop, and gives its slot to another.
    Intrude = 2,
    /// Leaves a pending call with a guard of its own.
    Push = 3,
}

/// See the module. All zero at first.
#[derive(Default)]
pub struct Shared {
    /// The operation that is to be stepped now: a `&'static str`, as both processes have the same image. Null: none.
    name: AtomicPtr<u8>,
    length: AtomicUsize,
    order: AtomicU32,
    /// Address of a system-call instruction, for the tracer to fork the stepped process at.
    pub fork_site: AtomicU64,
    /// Handlers stop at their end, so that nothing need watch their system calls for it.
    pub handlers_stop: AtomicBool,
    /// Handlers run, and answers checked in them.
    pub handlers: AtomicU64,
    pub checks: AtomicU64,
    /// What the last handler saw, two bits for each ID.
    pub seen: AtomicU64,
    /// Where the first check that failed stands, and what it saw.
    pub failed_line: AtomicU32,
    pub failed_id: AtomicU64,
}

impl Shared {
    /// Maps the page, for this process and those it forks.
    pub fn map() -> &'static Self {
        use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
        let (length, flags) = (size_of::<Self>().try_into().expect("not empty"), MapFlags::MAP_SHARED);
        // SAFETY: a fresh mapping disturbs nothing.
        let page =
            unsafe { mmap_anonymous(None, length, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, flags) };
        // SAFETY: zero-filled, large enough, aligned to a page, never unmapped; all fields are atomic.
        unsafe { page.expect("a page").cast::<Self>().as_ref() }
    }

    pub fn begin(&self, name: &'static str) {
        self.length.store(name.len(), SeqCst);
        self.name.store(name.as_ptr().cast_mut(), SeqCst);
    }

    pub fn end(&self) {
        self.name.store(std::ptr::null_mut(), SeqCst);
    }

    /// The operation that is being stepped.
    pub fn operation(&self) -> Option<&'static str> {
        let name = std::ptr::NonNull::new(self.name.load(SeqCst))?;
        // SAFETY: `begin` took them from a `&'static str`, which lies at the same place in both processes.
        let bytes = unsafe { std::slice::from_raw_parts(name.as_ptr(), self.length.load(SeqCst)) };
        std::str::from_utf8(bytes).ok()
    }

    pub fn set_order(&self, order: Order) {
        self.order.store(order as u32, SeqCst);
    }

    pub fn order(&self) -> Order {
        match self.order.load(SeqCst) {
            1 => Order::DropHeld,
            2 => Order::Intrude,
            3 => Order::Push,
            _ => Order::Look,
        }
    }

    /// Notes a failed check. Async-signal-safe.
    pub fn fail(&self, line: u32, id: i64) {
        if self.failed_line.compare_exchange(0, line, SeqCst, SeqCst).is_ok() {
            self.failed_id.store(id as u64, SeqCst);
        }
    }
}
