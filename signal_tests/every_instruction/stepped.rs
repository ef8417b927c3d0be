//! The stepped process: what it does, what its handler looks at, and what the handler may see at each point.

use crate::arch::{fork_site, stop};
use crate::shared::{Order, Shared};
use interp_guard::bindings::RegistryExt as _;
use interp_guard::pending::{PendingQueue, QueueOptions};
use interp_guard::raw::NotAtHome;
use interp_guard::{Counters, Guard, InterpreterId, LookupError, Registry};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use std::cell::UnsafeCell;
use std::sync::atomic::{
    AtomicBool, AtomicI64, AtomicPtr, AtomicU8, AtomicU64, AtomicUsize, Ordering::SeqCst,
};
use std::time::Duration;

/// An interpreter's life, as far as a lookup can tell. Only ever goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Stage {
    Fresh = 0,
    Live = 1,
    Closing = 2,
    Retired = 3,
}
use Stage::{Closing, Fresh, Live, Retired};

/// What is registered: a number that depends on the ID, and that is spoilt when it is dropped.
#[derive(Debug)]
pub struct Canary(AtomicI64);

const DEAD: i64 = 0x0DEA_D0DE_AD0D_EAD0;

impl Drop for Canary {
    fn drop(&mut self) {
        self.0.store(DEAD, SeqCst);
    }
}

/// One ID that the handler looks up: how far its life may have come now.
struct Watched {
    id: AtomicI64,
    from: AtomicU8,
    to: AtomicU8,
}

const MOST: usize = 16;
static WATCHED: [Watched; MOST] =
    [const { Watched { id: AtomicI64::new(-1), from: AtomicU8::new(0), to: AtomicU8::new(0) } }; MOST];
static WATCHING: AtomicUsize = AtomicUsize::new(0);
static REGISTRY: AtomicPtr<Registry<Canary>> = AtomicPtr::new(std::ptr::null_mut());
static SHARED: AtomicPtr<Shared> = AtomicPtr::new(std::ptr::null_mut());

fn registry() -> &'static Registry<Canary> {
    // SAFETY: set before the first use, to what is never freed.
    unsafe { &*REGISTRY.load(SeqCst) }
}

fn shared() -> &'static Shared {
    // SAFETY: as in `registry`.
    unsafe { &*SHARED.load(SeqCst) }
}

/// A guard that handlers clone, and drop when ordered to.
struct Held {
    present: AtomicBool,
    guard: UnsafeCell<Option<Guard<'static, Canary>>>,
}
// SAFETY: this process has one thread; between that thread and its handlers `present` decides who touches the guard.
unsafe impl Sync for Held {}
static HELD: Held = Held { present: AtomicBool::new(false), guard: UnsafeCell::new(None) };

impl Held {
    fn put(&self, guard: Guard<'static, Canary>) {
        // SAFETY: not present, so no handler looks.
        unsafe { *self.guard.get() = Some(guard) };
        self.present.store(true, SeqCst);
    }
    fn take(&self) -> Option<Guard<'static, Canary>> {
        // SAFETY: only who finds it present takes it, and from then on nobody else does.
        if self.present.swap(false, SeqCst) { unsafe { (*self.guard.get()).take() } } else { None }
    }
}

fn id(raw: i64) -> InterpreterId {
    InterpreterId::try_from(raw).expect("an ID")
}

fn canary(raw: i64) -> Canary {
    Canary(AtomicI64::new(raw ^ 0x5AFE_5AFE))
}

// --- the handler: async-signal-safe ------------------------------------------------------------------------------

macro_rules! check {
    ($id:expr, $condition:expr) => {
        shared().checks.fetch_add(1, SeqCst);
        if !$condition {
            shared().fail(line!(), $id);
        }
    };
}

extern "C" fn handler(_: libc::c_int) {
    // SAFETY: the C library's errno of this thread.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: the same.
    unsafe { errno.write(0x5A) };
    look_around();
    match shared().order() {
        Order::Look => {}
        Order::DropHeld => drop(HELD.take()),
        Order::Intrude => intrude(),
        Order::Push => push(),
    }
    shared().handlers.fetch_add(1, SeqCst);
    // SAFETY: the same.
    let after = unsafe { errno.read() };
    check!(-1, after == 0x5A || shared().order() == Order::Intrude);
    if STOPS.load(SeqCst) != 0 && shared().handlers_stop.load(SeqCst) {
        stop();
    }
}

/// Looks up every watched ID, checks the answer against what is allowed, clones and drops.
fn look_around() {
    let mut seen = 0_u64;
    for (n, watched) in WATCHED.iter().take(WATCHING.load(SeqCst)).enumerate() {
        let raw = watched.id.load(SeqCst);
        let stage = answer(raw);
        let (from, to) = (watched.from.load(SeqCst), watched.to.load(SeqCst));
        // `NotFound` is the beginning or the end of a life; no operation spans both.
        let stage = if stage == Fresh && to == Retired as u8 { Retired } else { stage };
        check!(raw, (from..=to).contains(&(stage as u8)));
        // A life only goes on: what has been seen is not taken back.
        watched.from.store(stage as u8, SeqCst);
        seen |= (stage as u64) << (2 * n);
    }
    registry().for_each_live(|live| {
        let live = i64::from(live);
        for watched in WATCHED.iter().filter(|watched| watched.id.load(SeqCst) == live) {
            check!(live, (watched.from.load(SeqCst)..=watched.to.load(SeqCst)).contains(&(Live as u8)));
        }
    });
    if HELD.present.load(SeqCst) {
        // SAFETY: present, and this thread, which alone could take it, is in this handler.
        if let Some(guard) = unsafe { &*HELD.guard.get() } {
            let raw = i64::from(guard.id());
            let clone = guard.clone();
            check!(raw, clone.0.load(SeqCst) == raw ^ 0x5AFE_5AFE);
        }
    }
    shared().seen.store(seen, SeqCst);
}

/// What a lookup says, with a guard checked, cloned and dropped.
fn answer(raw: i64) -> Stage {
    let Ok(asked) = InterpreterId::try_from(raw) else { return Fresh };
    match registry().lookup(asked) {
        Ok(guard) => {
            check!(raw, guard.id() == asked && guard.0.load(SeqCst) == raw ^ 0x5AFE_5AFE);
            let clone = guard.clone();
            drop(guard);
            check!(raw, clone.0.load(SeqCst) == raw ^ 0x5AFE_5AFE);
            Live
        }
        Err(LookupError::Finalizing) => Closing,
        Err(LookupError::NotFound) => Fresh,
    }
}

// --- running an operation under the tracer -------------------------------------------------------------------------

/// Watches `raw`, which is at `stage`.
fn watch(raw: i64, stage: Stage) {
    let n = WATCHING.load(SeqCst);
    WATCHED[n].id.store(raw, SeqCst);
    WATCHED[n].from.store(stage as u8, SeqCst);
    WATCHED[n].to.store(stage as u8, SeqCst);
    WATCHING.store(n + 1, SeqCst);
}

fn watched(raw: i64) -> &'static Watched {
    WATCHED.iter().find(|watched| watched.id.load(SeqCst) == raw).expect("watched")
}

/// Does this process stop before each operation, to have it stepped? Not zero: yes. The tracer clears it in a child, which
/// goes on by itself, and stops only where it waits for a signal to drop the last guard.
pub static STOPS: AtomicU64 = AtomicU64::new(1);

/// Has `run` stepped by the tracer, while the lives in `changes` go on as far as they say there.
fn step<R>(name: &'static str, changes: &[(i64, Stage)], run: impl FnOnce() -> R) -> R {
    for &(raw, to) in changes {
        watched(raw).to.store(to as u8, SeqCst);
    }
    shared().begin(name);
    if STOPS.load(SeqCst) != 0 || shared().order() == Order::DropHeld {
        stop();
    }
    let result = run();
    shared().end();
    for &(raw, to) in changes {
        watched(raw).from.store(to as u8, SeqCst);
    }
    look_around();
    result
}

fn set_up(page: &'static Shared, counters: Counters, ledger: bool) {
    SHARED.store(std::ptr::from_ref(page).cast_mut(), SeqCst);
    let registry = Box::new(Registry::with_capacity(4).counters(counters).ledger(ledger));
    REGISTRY.store(Box::into_raw(registry), SeqCst);
    page.fork_site.store(fork_site(), SeqCst);
    page.handlers_stop.store(ledger, SeqCst); // each guard recorded is system calls
    // A failed operation is over: what prints the failure is not to be stepped.
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |failed| {
        page.end();
        print(failed);
    }));
    // No SA_RESTART: a drain has to cope. SA_NODEFER: the handler is interrupted too.
    let flags = SaFlags::SA_NODEFER;
    let action = SigAction::new(SigHandler::Handler(handler), flags, SigSet::empty());
    // SAFETY: the handler does what this library declares async-signal-safe, and atomic operations.
    unsafe { sigaction(Signal::SIGUSR1, &action) }.expect("sigaction");
}

/// IDs of which all have the home of ID 1 in a table of this size: probe neighbours.
fn neighbours<const N: usize>() -> [i64; N] {
    let shares_home = |raw: &i64| {
        let scratch = Registry::with_capacity(4);
        scratch.register_with_id(id(1), ()).expect("room");
        scratch.register_with_id(id(*raw), ()).expect("room");
        scratch.displacement(id(*raw)) > 0
    };
    let mut found = (100..).filter(shares_home);
    std::array::from_fn(|_| found.next().expect("IDs without end"))
}

// --- the operations ------------------------------------------------------------------------------------------------

/// Every operation, on a table of eight slots in which most IDs share one home.
pub fn every_operation(page: &'static Shared, counters: Counters) {
    set_up(page, counters, false);
    let [second, third, reuser, never] = neighbours();
    for raw in [0, 1, 2, second, third, reuser, never] {
        watch(raw, Fresh);
    }
    let registry = registry();
    let fresh = |raw| assert_eq!(registry.register(canary(raw)).expect("room"), id(raw));
    let under = |raw| registry.register_with_id(id(raw), canary(raw)).expect("room");

    step("register, the first: maps the table", &[(0, Live)], || fresh(0));
    step("register", &[(1, Live)], || fresh(1));
    step("register_with_id, displaced", &[(second, Live)], || under(second));
    step("register_with_id, displaced further", &[(third, Live)], || under(third));
    step("register, refused: full", &[], || registry.register(canary(2)).expect_err("full"));

    let guard = step("lookup, hit", &[], || registry.lookup(id(1)).expect("live"));
    let far = step("lookup, hit, displaced", &[], || registry.lookup(id(third)).expect("live"));
    step("lookup, miss", &[], || registry.lookup(id(never)).map(drop).expect_err("never used"));
    let again = step("lookup in halves, hit", &[], || look_up_in_halves(registry, id(1)).expect("live"));
    step("drop of that", &[], || drop(again));
    let clone = step("clone", &[], || guard.clone());
    step("drop", &[], || drop(clone));
    HELD.put(guard.clone());

    let closing = step("close, guards out", &[(1, Closing)], || registry.close(id(1)).expect("live"));
    step("lookup, closing", &[], || registry.lookup(id(1)).map(drop).expect_err("closing"));
    let clone = step("clone, closing", &[], || guard.clone());
    step("drop, closing", &[], || drop(clone));
    let late = step("drain, timed out", &[], || closing.drain(Some(Duration::ZERO)).expect_err("guards out"));
    // Never too few; a handler that came and went between the two sums is counted too.
    assert!(late.undrained().outstanding() >= 2);
    drop(HELD.take());
    step("drop, closing, the last: wakes", &[], || drop(guard));
    let late = late.into_closing();
    let back = step("drain", &[(1, Retired)], || late.drain(None).expect("no guard out"));
    assert_eq!(back.0.load(SeqCst), 1 ^ 0x5AFE_5AFE);

    step("register, into the vacated slot", &[(2, Live)], || fresh(2));
    step("register_with_id, refused: retired", &[], || {
        registry.register_with_id(id(1), canary(1)).expect_err("retired")
    });
    step("register_with_id, refused: duplicate", &[], || {
        registry.register_with_id(id(2), canary(2)).expect_err("live")
    });
    drop(far);
    step("finalize, between neighbours", &[(second, Retired)], || {
        registry.finalize(id(second), None).map(drop).expect("live")
    });
    step("register_with_id, between neighbours", &[(reuser, Live)], || under(reuser));
    step("set_main", &[], || registry.set_main(id(2)).expect("live"));
    step("outstanding, ids, len", &[], || {
        assert!(registry.outstanding(id(2)).is_some());
        assert_eq!((registry.ids().len(), registry.len()), (4, 4));
    });
    step("close and abandon", &[(reuser, Closing)], || drop(registry.close(id(reuser)).expect("live")));
    step("finalize, taking up", &[(reuser, Retired)], || {
        registry.finalize(id(reuser), None).map(drop).expect("abandoned")
    });
    // In two steps, so that between them nothing but `Finalizing` will do: the entry is found only by its displacement.
    let closing = step("close, displaced", &[(third, Closing)], || registry.close(id(third)).expect("live"));
    step("drain, displaced", &[(third, Retired)], || closing.drain(None).map(drop).expect("no guard out"));
    for (name, raw) in [("finalize", 0), ("finalize, main", 2)] {
        step(name, &[(raw, Retired)], || registry.finalize(id(raw), None).map(drop).expect("live"));
    }
    assert!(registry.is_empty() && registry.main().is_none());
}

/// A drain and a finalize that wait for a guard which a handler drops, at whatever instruction it comes.
pub fn waiting(page: &'static Shared, counters: Counters) {
    set_up(page, counters, false);
    watch(0, Fresh);
    watch(1, Fresh);
    let registry = registry();
    for raw in [0, 1] {
        step("register", &[(raw, Live)], || registry.register(canary(raw)).map(drop).expect("room"));
    }
    HELD.put(registry.lookup(id(0)).expect("live"));
    let closing = registry.close(id(0)).expect("live");
    watched(0).to.store(Closing as u8, SeqCst);
    page.set_order(Order::DropHeld);
    step("drain, waiting", &[(0, Retired)], || closing.drain(None).map(drop).expect("drained"));
    assert!(!HELD.present.load(SeqCst), "drained with a guard out");
    page.set_order(Order::Look);
    HELD.put(registry.lookup(id(1)).expect("live"));
    page.set_order(Order::DropHeld);
    step("finalize, waiting", &[(1, Retired)], || registry.finalize(id(1), None).map(drop).expect("drained"));
    assert!(!HELD.present.load(SeqCst), "finalized with a guard out");
}

static INTRUDED: AtomicBool = AtomicBool::new(false);
static NEIGHBOUR: AtomicI64 = AtomicI64::new(-1);

/// Finalizes 1 if no guard is out, else leaves it closing; gives its slot to a neighbour. What a preempting thread could
/// do to a lookup, clone or drop in between two instructions; those hold no lock, so here the handler may do it.
fn intrude() {
    if INTRUDED.swap(true, SeqCst) {
        return;
    }
    let outstanding = match registry().finalize(id(1), Some(Duration::ZERO)) {
        Ok(back) => {
            drop(back);
            let neighbour = NEIGHBOUR.load(SeqCst);
            registry().register_with_id(id(neighbour), canary(neighbour)).expect("a vacant slot");
            watched(neighbour).to.store(Live as u8, SeqCst);
            watched(neighbour).from.store(Live as u8, SeqCst);
            0
        }
        Err(error) => match error {
            interp_guard::FinalizeError::Drain(interp_guard::DrainError::Timeout(late)) => late.outstanding(),
            error => panic!("{error}"),
        },
    };
    check!(1, outstanding <= 2);
    look_around();
}

/// Lookup, clone and drop, with the interpreter taken away between any two instructions.
pub fn intruded(page: &'static Shared, counters: Counters) {
    lose_it_under(page, counters, |registry, id| registry.lookup(id));
}

/// The same with a lookup as bindings make it.
pub fn intruded_in_halves(page: &'static Shared, counters: Counters) {
    lose_it_under(page, counters, look_up_in_halves);
}

/// What an exported function does.
fn look_up_in_halves(
    registry: &'static Registry<Canary>,
    id: InterpreterId,
) -> Result<Guard<'static, Canary>, LookupError> {
    match registry.lookup_at_home(id) {
        Ok(guard) => Ok(guard),
        Err(NotAtHome::Refused(why)) => Err(why),
        Err(NotAtHome::Elsewhere) => registry.lookup(id),
        // SAFETY: it answered so, and this is done once.
        Err(NotAtHome::Counted(at)) => Err(unsafe { registry.back_out_at_home(at, id) }),
    }
}

type Lookup = fn(&'static Registry<Canary>, InterpreterId) -> Result<Guard<'static, Canary>, LookupError>;

fn lose_it_under(page: &'static Shared, counters: Counters, look_up: Lookup) {
    set_up(page, counters, false);
    let [neighbour] = neighbours();
    NEIGHBOUR.store(neighbour, SeqCst);
    watch(1, Fresh);
    watch(neighbour, Fresh);
    let registry = registry();
    step("register", &[(1, Live)], || registry.register_with_id(id(1), canary(1)).expect("room"));
    watched(1).to.store(Retired as u8, SeqCst);
    page.set_order(Order::Intrude);
    let guard = step("lookup, intruded", &[], || look_up(registry, id(1)));
    let clone = guard.as_ref().ok().map(|guard| step("clone, intruded", &[], || guard.clone()));
    if let Some(clone) = clone {
        assert_eq!(clone.0.load(SeqCst), 1 ^ 0x5AFE_5AFE, "a guard of an interpreter that was finalized");
        step("drop, intruded", &[], || drop(clone));
    }
    if let Ok(guard) = guard {
        assert_eq!(guard.0.load(SeqCst), 1 ^ 0x5AFE_5AFE, "a guard of an interpreter that was finalized");
        step("drop, the last, intruded", &[], || drop(guard));
    }
    page.set_order(Order::Look);
    // Whatever happened, the counts come out even.
    for left in registry.ids() {
        assert_eq!(registry.outstanding(left), Some(0));
        drop(registry.finalize(left, Some(Duration::ZERO)).expect("no guard out"));
    }
    assert!(registry.is_empty());
}

static QUEUE: AtomicPtr<PendingQueue<'static, Canary>> = AtomicPtr::new(std::ptr::null_mut());
static PUSHED: AtomicU64 = AtomicU64::new(0);
static RUN: AtomicU64 = AtomicU64::new(0);

fn queue() -> &'static PendingQueue<'static, Canary> {
    // SAFETY: set before the first use, to what is never freed.
    unsafe { &*QUEUE.load(SeqCst) }
}

/// What a pending call does: checks its guard.
fn call(guard: &Guard<'_, Canary>, data: usize) {
    check!(0, guard.0.load(SeqCst) == 0x5AFE_5AFE && data == 0x0DA7A);
    RUN.fetch_add(1, SeqCst);
}

/// Leaves a call of interpreter 0, if it is live and the queue has room. Async-signal-safe.
fn push() {
    let Ok(zero) = InterpreterId::try_from(0) else { return };
    if let Ok(guard) = registry().lookup(zero)
        && queue().push(guard, call, 0x0DA7A).is_ok()
    {
        PUSHED.fetch_add(1, SeqCst);
    }
}

/// The ledger, pending calls, pushed by handlers too, and the fork hooks.
pub fn recorded_pushed_forked(page: &'static Shared, counters: Counters) {
    set_up(page, counters, true);
    for raw in [0, 1, 2] {
        watch(raw, Fresh);
    }
    let registry = registry();
    let fresh = |raw| assert_eq!(registry.register(canary(raw)).expect("room"), id(raw));
    step("register, with a ledger", &[(0, Live)], || fresh(0));
    step("register, with a ledger", &[(1, Live)], || fresh(1));

    let guard = step("lookup, recorded", &[], || registry.lookup(id(1)).expect("live"));
    let clone = step("clone, recorded", &[], || guard.clone());
    step("drop, recorded", &[], || drop(clone));
    let closing = step("close, recorded", &[(1, Closing)], || registry.close(id(1)).expect("live"));
    step("drop, closing, recorded, the last: wakes", &[], || drop(guard));
    step("drain, with a ledger", &[(1, Retired)], || {
        closing.drain(Some(Duration::ZERO)).map(drop).expect("no guard out")
    });

    let made = PendingQueue::with(registry, QueueOptions::new().capacity(8)).expect("a queue");
    QUEUE.store(Box::into_raw(Box::new(made)), SeqCst);
    step("push", &[], push);
    page.set_order(Order::Push);
    step("push, handlers push too", &[], push);
    step("run_pending, handlers push", &[], || queue().run_pending());
    page.set_order(Order::Look);
    while queue().run_pending().calls > 0 {}
    assert_eq!(RUN.load(SeqCst), PUSHED.load(SeqCst), "each call is run once");
    step("push, before a finalizer", &[], push);
    assert_eq!(registry.outstanding(id(0)).map(|out| out > 0), Some(true));
    step("run_pending", &[], || queue().run_pending());

    let mut kept = registry.lookup(id(0)).expect("live");
    step("before_fork, after_fork_parent", &[], || {
        registry.before_fork();
        registry.after_fork_parent();
    });
    step("before_fork, after_fork_child", &[], || {
        registry.before_fork();
        // SAFETY: this process has one thread, as a forked child has; the only guard is kept.
        unsafe { registry.after_fork_child(&mut [&mut kept]) };
    });
    step("drop, kept", &[], || drop(kept));
    step("register, after the fork", &[(2, Live)], || fresh(2));
    for raw in [2, 0] {
        step("finalize, with a ledger", &[(raw, Retired)], || {
            registry.finalize(id(raw), Some(Duration::ZERO)).map(drop).expect("no guard out")
        });
    }
    assert!(registry.is_empty());
}
