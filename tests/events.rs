//! What operators are told of an interpreter's life, by a subscriber of this test's own; with the feature `tracing`.
#![allow(missing_docs)]

use interp_guard::pending::PendingQueue;
use interp_guard::raw::GuardParts;
use interp_guard::{DrainOptions, InterpreterId, LookupError, Registry, signal};
use std::cell::{Cell, RefCell};
use std::fmt::{Debug, Write};
use std::ops::ControlFlow;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// One event, as it was told.
#[derive(Debug, Default)]
struct Told {
    level: Option<Level>,
    message: String,
    /// All fields but the message and the time, as `name=value`.
    fields: String,
    seconds: Option<f64>,
}

impl Visit for Told {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            name => write!(self.fields, "{name}={value:?} ").expect("memory"),
        }
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        assert_eq!(field.name(), "seconds");
        self.seconds = Some(value);
    }
}

type Hook = Box<dyn FnMut(&Told)>;

thread_local! {
    /// What the thread was told: a test sees its own events only.
    static TOLD: RefCell<Vec<Told>> = const { RefCell::new(Vec::new()) };
    /// What is to be done with each.
    static HOOK: RefCell<Option<Hook>> = const { RefCell::new(None) };
    static IN_HANDLER: Cell<bool> = const { Cell::new(false) };
    static PANICS: Cell<bool> = const { Cell::new(false) };
}

struct Operator;

/// No event is to come from a handler.
static FROM_A_HANDLER: AtomicBool = AtomicBool::new(false);

impl Subscriber for Operator {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "interp_guard"
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        unreachable!("there are no spans")
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        FROM_A_HANDLER.fetch_or(IN_HANDLER.get(), SeqCst);
        let mut told = Told { level: Some(*event.metadata().level()), ..Told::default() };
        event.record(&mut told);
        if let Some(mut hook) = HOOK.take() {
            hook(&told);
            HOOK.set(Some(hook));
        }
        TOLD.with_borrow_mut(|all| all.push(told));
        assert!(!PANICS.get(), "as it was asked to");
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// From here on this thread's events are kept, and `hook` is told of each.
fn listen(hook: impl FnMut(&Told) + 'static) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| tracing::subscriber::set_global_default(Operator).expect("the first"));
    HOOK.set(Some(Box::new(hook)));
    TOLD.take();
}

/// What this thread was told, one a line, without times; each of those that has one was between these.
fn told(least: f64, most: f64) -> Vec<String> {
    let line = |told: Told| {
        assert!(told.seconds.is_none_or(|seconds| (least..=most).contains(&seconds)), "{told:?}");
        let seconds = if told.seconds.is_some() { "seconds" } else { "" };
        let level = told.level.expect("each has one");
        format!("{level} {}: {}{seconds}", told.message, told.fields).trim_end().to_owned()
    };
    TOLD.take().into_iter().map(line).collect()
}

/// Nothing here takes as long.
const LONG: f64 = 3600.0;

#[test]
fn a_whole_life() {
    listen(|_| ());
    let registry = Registry::new();
    let id = registry.register_named("mail", "an interpreter").unwrap();
    assert_eq!(told(0.0, LONG), [r#"DEBUG registered: interpreter=0 name="mail""#]);
    let guard = registry.lookup(id).unwrap();
    let closing = registry.close(id).unwrap();
    assert_eq!(told(0.0, LONG), [r#"DEBUG closed: interpreter=0 name="mail" outstanding=1"#]);

    let late = closing.drain(Some(Duration::from_millis(10))).unwrap_err();
    let begun = r#"DEBUG drain begun: interpreter=0 name="mail" outstanding=1"#;
    let expected = [begun, r#"WARN drain timed out: interpreter=0 name="mail" outstanding=1 seconds"#];
    assert_eq!(told(0.01, LONG), expected);

    // The same interpreter is closed once, however often it is taken up.
    drop(late);
    let closing = registry.close(id).unwrap();
    assert_eq!(told(0.0, LONG), [""; 0]);

    // Guards are out: it says so, after a second. The subscriber lets go, and uses the registry.
    let registry: &'static Registry<&str> = Box::leak(Box::new(Registry::new()));
    drop(closing);
    drop(guard);
    let id = registry.register("another").unwrap();
    let mut guard = Some(registry.lookup(id).unwrap());
    listen(move |told| {
        if told.message == "drain still waiting" {
            assert_eq!(registry.outstanding(id), Some(1));
            drop(guard.take());
        }
    });
    assert_eq!(registry.finalize(id, None).unwrap(), "another");
    let expected = [
        "DEBUG closed: interpreter=0 outstanding=1",
        "DEBUG drain begun: interpreter=0 outstanding=1",
        "WARN drain still waiting: interpreter=0 outstanding=1 seconds",
        "DEBUG drain done: interpreter=0 seconds",
    ];
    assert_eq!(told(1.0, LONG), expected);

    // What has ended is not told of again, and a refusal is the caller's to tell.
    assert!(registry.finalize(id, None).is_err());
    assert_eq!(told(0.0, LONG), [""; 0]);
}

#[test]
fn every_way_to_register_and_all_at_once() {
    listen(|_| ());
    let registry = Registry::new();
    registry.register_with_id(InterpreterId::try_from(7).unwrap(), "seven").unwrap();
    let latest = registry.register_with(|_| "another").unwrap();
    assert!(registry.register_with_id(InterpreterId::try_from(7).unwrap(), "refused").is_err());
    assert_eq!(told(0.0, LONG), ["DEBUG registered: interpreter=7", "DEBUG registered: interpreter=0"]);

    // The latest first, the main one last. All are closed before one is drained.
    let guard = registry.lookup(latest).unwrap();
    let stop = DrainOptions::new().interrupt(|| ControlFlow::Break(()));
    assert_eq!(registry.finalize_all_with(stop).len(), 2);
    let expected = [
        "DEBUG closed: interpreter=0 outstanding=1",
        "DEBUG closed: interpreter=7 outstanding=0",
        "DEBUG drain begun: interpreter=0 outstanding=1",
        r#"WARN drain not finished: interpreter=0 outstanding=1 why="Interrupted" seconds"#,
        "DEBUG drain begun: interpreter=7 outstanding=0",
        "DEBUG drain done: interpreter=7 seconds",
    ];
    assert_eq!(told(0.0, LONG), expected);
    drop(guard);
}

/// Gives up twice what `parts` stand for.
fn over_release(registry: &Registry<&str>, parts: GuardParts) {
    for _ in 0..2 {
        // SAFETY: once is right. Twice is the mistake that is to be told of.
        drop(unsafe { registry.guard_from_parts(parts) });
    }
}

#[test]
fn an_over_release_without_a_ledger_is_told_by_the_drain() {
    listen(|_| ());
    let registry = Registry::new().ledger(false);
    let id = registry.register("an interpreter").unwrap();
    over_release(&registry, registry.lookup(id).unwrap().into_raw().into_parts());
    assert!(registry.finalize(id, None).is_err());
    let told = told(0.0, LONG);
    let expected = "ERROR over-release: more guards were released than taken: interpreter=0 seconds";
    assert_eq!(told.last().map(String::as_str), Some(expected), "{told:?}");
}

#[test]
fn an_over_release_in_a_handler_is_told_by_the_next_close() {
    listen(|_| ());
    static REGISTRY: Registry<&str> = Registry::new().ledger(true);
    let id = REGISTRY.register("an interpreter").unwrap();
    let mistake = move || {
        IN_HANDLER.set(true);
        if let Ok(guard) = REGISTRY.lookup(id) {
            over_release(&REGISTRY, guard.into_raw().into_parts());
        }
        IN_HANDLER.set(false);
    };
    // SAFETY: a lookup, guards' drops, and a thread-local of this executable that needs no initialisation.
    let handler = unsafe { signal::in_handler(libc::SIGUSR1, mistake) }.unwrap();
    // What a handler leaves is no event either.
    let queue = PendingQueue::new(&REGISTRY).unwrap();
    let leaves = signal::on_signal(&queue, libc::SIGUSR1, id, |_, _| (), 0).unwrap();
    TOLD.take();
    for _ in 0..3 {
        // SAFETY: it sends a signal to this thread, whose handlers are the two above.
        unsafe { libc::raise(libc::SIGUSR1) };
    }
    handler.uninstall();
    assert_eq!(leaves.counts().left, 3);
    assert_eq!((told(0.0, LONG).len(), FROM_A_HANDLER.load(SeqCst)), (0, false));

    queue.run_pending();
    REGISTRY.finalize(id, None).unwrap();
    let expected = [
        "ERROR over-release: guards were released twice: times=3",
        "DEBUG closed: interpreter=0 outstanding=0",
        "DEBUG drain begun: interpreter=0 outstanding=0",
        "DEBUG drain done: interpreter=0 seconds",
    ];
    assert_eq!(told(0.0, LONG), expected);
}

#[test]
fn a_subscriber_that_panics_loses_nothing() {
    listen(|_| ());
    PANICS.set(true);
    let registry = Registry::new();
    let id = registry.register(String::from("an interpreter")).unwrap();
    let (asked, asks) = std::sync::mpsc::channel();
    registry.on_close(id, move |_| asked.send(()).unwrap()).unwrap();
    assert_eq!(registry.finalize(id, None).unwrap(), "an interpreter");
    assert_eq!((asks.recv(), registry.lookup(id).err()), (Ok(()), Some(LookupError::NotFound)));
    assert_eq!(told(0.0, LONG).len(), 4);
}
