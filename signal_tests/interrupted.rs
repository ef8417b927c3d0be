//! Pending calls for whichever interpreter a signal interrupts, under fire: each goes to the one that was attached on the
//! thread, else to the main one.
#![allow(missing_docs)]

#[macro_use]
mod harness;

use harness::Scenario;
use interp_guard::locked::Locked;
use interp_guard::pending::{self, PendingQueue, QueueOptions};
use interp_guard::signal::{self, Handler};
use interp_guard::thread_state::{self, EnsureError};
use interp_guard::{Counters, Guard, InterpreterId, Registry, platform};
use nix::sys::signal::{Signal, raise};
use refruntime::Interpreter;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

fn main() -> ExitCode {
    let scenarios: &[Scenario] = &[
        ("under_fire_per_cpu", || {
            if platform::missing_for_per_cpu().is_none() {
                under_fire(Counters::PerCpu);
            }
        }),
        ("under_fire_shared", || under_fire(Counters::Shared)),
        ("each_place_once", each_place_once),
    ];
    harness::main(scenarios)
}

type Interpreters = Registry<Interpreter>;

/// How many calls are to be left in each place.
const CALLS: u64 = harness::short_of(20_000) as u64;

/// Where each call's signal came, by the call's number modulo this: more than can wait at a time.
const PLACES: usize = 1 << 16;
static PLACE: [AtomicI64; PLACES] = [const { AtomicI64::new(NOWHERE) }; PLACES];
static REGISTRY: OnceLock<&Interpreters> = OnceLock::new();
static LEAVES: OnceLock<Handler> = OnceLock::new();

/// What the thread under fire says of itself: an ID that is attached, or
static POSTED: AtomicI64 = AtomicI64::new(NOWHERE);
/// nothing is attached,
const NOWHERE: i64 = -1;
/// or it is about to change.
const CHANGING: i64 = -2;

/// How many came while it was about to change: at any instruction of an ensure, a release or an allow-threads section.
static BETWEEN: AtomicU64 = AtomicU64::new(0);

/// Runs first in each delivery: notes what is attached, where the call that may be left next is looked for. All signals
/// come to one thread.
fn note() {
    let (Some(registry), Some(leaves)) = (REGISTRY.get(), LEAVES.get()) else { return };
    let attached = thread_state::current_id().map_or(NOWHERE, i64::from); // of the only registry
    let posted = POSTED.load(SeqCst);
    handler_check!(posted == CHANGING || posted == attached);
    BETWEEN.fetch_add(u64::from(posted == CHANGING), SeqCst);
    let main = registry.main().map_or(NOWHERE, i64::from);
    let expected = if attached == NOWHERE { main } else { attached };
    PLACE[leaves.counts().left as usize % PLACES].store(expected, SeqCst);
}

static RAN: AtomicU64 = AtomicU64::new(0);

/// Calls run in the order in which they were left.
fn call(guard: &Guard<'_, Interpreter>, _: usize) {
    let number = RAN.load(SeqCst);
    let expected = PLACE[number as usize % PLACES].load(SeqCst);
    assert_eq!(i64::from(guard.id()), expected, "call {number}");
    assert_eq!(thread_state::current_id(), Some(guard.id()), "it runs attached");
    RAN.store(number + 1, SeqCst);
}

/// Posts `id` while `f` runs, during which nothing changes.
fn steady(id: i64, f: impl FnOnce()) {
    POSTED.store(id, SeqCst);
    f();
    POSTED.store(CHANGING, SeqCst);
}

/// How many calls were left where this thread was, by a signal of its own among others.
fn place(id: i64, left: &mut u64) {
    steady(id, || {
        let leaves = LEAVES.get().expect("installed");
        let before = leaves.counts().left;
        raise(Signal::SIGUSR1).expect("raised");
        *left += leaves.counts().left - before;
    });
}

fn under_fire(counters: Counters) {
    let registry: &'static Interpreters = Box::leak(Box::new(Registry::with_capacity(8).counters(counters)));
    let interpreters = [(); 3].map(|()| Interpreter::locking().register(registry).expect("registered"));
    let [main, one, two] = interpreters;
    let number = |id: InterpreterId| i64::from(id);
    // Runs what is queued, attached. There is room for every call that can be without its place being taken by another.
    let options = QueueOptions::new().capacity(PLACES / 2).runner(pending::attached);
    let queue = PendingQueue::with(registry, options).expect("a queue");
    let worker = queue.start_worker().expect("a worker");
    REGISTRY.get_or_init(|| registry);
    // SAFETY: loads, and a store. Handlers of one signal run in the order in which they were installed.
    unsafe { signal::in_handler(libc::SIGUSR1, note) }.expect("installed").keep();
    LEAVES.get_or_init(|| signal::on_signal_current(&queue, libc::SIGUSR1, call, 0).expect("installed"));

    // Its own timer comes to it however few processors there are.
    let timer = harness::timer_at_this_thread(Signal::SIGUSR1, Duration::from_micros(50));
    let (mut in_none, mut in_one, mut in_two, mut in_main) = (0, 0, 0, 0);
    let (mut ended, mut finalizer) = (0_u64, None);
    let enough = |left: [u64; 4]| left.iter().chain([&BETWEEN.load(SeqCst)]).all(|&left| left >= CALLS);
    while !enough([in_none, in_one, in_two, in_main]) || ended == 0 {
        place(NOWHERE, &mut in_none);
        let outer = thread_state::ensure_id(registry, one).expect("live");
        place(number(one), &mut in_one);
        {
            let _main = thread_state::ensure_id(registry, main).expect("live");
            place(number(main), &mut in_main);
        }
        place(number(one), &mut in_one);
        match thread_state::ensure_id(registry, two) {
            Ok(attached) => {
                place(number(two), &mut in_two);
                // Others get in: nothing is attached.
                attached.allow_threads(|| place(NOWHERE, &mut in_none)).expect("guarded");
                drop(attached);
            }
            Err(EnsureError::Finalizing | EnsureError::NotFound) => ended += 1,
            Err(refused) => panic!("{refused}"),
        }
        drop(outer);
        // When enough have come to it, `two` ends under fire, and signals go on coming to whoever is inside it.
        if in_two >= CALLS && finalizer.is_none() {
            finalizer = Some(std::thread::spawn(move || registry.finalize(two, None).map(drop)));
        }
    }
    drop(timer);
    finalizer.expect("it was to end").join().expect("no panic").expect("it is served");
    for id in [one, main] {
        registry.finalize(id, None).expect("the worker serves it");
    }
    let ran = worker.stop();
    let counts = LEAVES.get().expect("installed").counts();
    assert_eq!((counts.left, counts.full), (RAN.load(SeqCst), 0));
    assert_eq!((ran.calls, ran.panics), (counts.left, 0));
    // Nobody is there any more.
    raise(Signal::SIGUSR1).expect("raised");
    let after = LEAVES.get().expect("installed").counts();
    assert_eq!((after.left, after.not_found), (counts.left, counts.not_found + 1));
    println!(
        "{counters}: {} left in none, one, two, main: {in_none}, {in_one}, {in_two}, {in_main}",
        counts.left
    );
    let between = BETWEEN.load(SeqCst);
    println!("{between} between; {} finalizing, {} not found", counts.finalizing, counts.not_found);
}

/// A call leaves its interpreter's number, and the word that came with it.
static LAST: [AtomicI64; 2] = [const { AtomicI64::new(NOWHERE) }; 2];

fn each_place_once() {
    let registry: &'static Interpreters = Box::leak(Box::default());
    let other: &'static Registry<Locked<()>> = Box::leak(Box::default());
    let queue = PendingQueue::new(registry).expect("a queue");
    let last = |guard: &Guard<'_, Interpreter>, data| {
        LAST[0].store(guard.id().into(), SeqCst);
        LAST[1].store(data as i64, SeqCst);
    };
    let handler = signal::on_signal_current(&queue, libc::SIGUSR1, last, 7).expect("installed");
    let sent = || {
        LAST.iter().for_each(|last| last.store(NOWHERE, SeqCst));
        raise(Signal::SIGUSR1).expect("raised");
        queue.run_pending();
        (LAST[0].load(SeqCst), LAST[1].load(SeqCst))
    };
    let nobody = (NOWHERE, NOWHERE);
    assert_eq!((sent(), handler.counts().not_found), (nobody, 1), "nothing was ever registered");
    let [main, sub] = [(); 2].map(|()| Interpreter::locking().register(registry).expect("room"));
    let of = |id: InterpreterId| (i64::from(id), 7);
    assert_eq!(sent(), of(main));

    // What its runtime has noted is this registry's, as long as there is no other.
    thread_state::note_attached(Some(sub));
    assert_eq!(sent(), of(sub));
    let [_, theirs] = [(); 2].map(|()| other.register(Locked::new(())).expect("room"));
    assert_eq!(sent(), of(main), "whose it is nobody can say");
    thread_state::note_attached(None);

    // Another registry's interpreter, of the same number, is none of this one's.
    let attached = thread_state::ensure_id(other, theirs).expect("live");
    assert_eq!((theirs, sent()), (sub, of(main)));
    let inner = thread_state::ensure_id(registry, sub).expect("live");
    assert_eq!(sent(), of(sub));
    // It is closing: nothing is left, and not for another one.
    let closing = registry.close(sub).expect("live");
    assert_eq!((sent(), handler.counts().finalizing), (nobody, 1));
    drop(inner);
    drop(attached);
    closing.drain(None).expect("nobody is inside");
    registry.finalize(main, None).expect("nobody is inside");
    assert_eq!((sent(), handler.counts().not_found), (nobody, 2));
}
