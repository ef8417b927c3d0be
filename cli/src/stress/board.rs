//! The board: which interpreter sits in each seat, and in which phase, for handlers to check answers against.
//!
//! One churner works each seat and posts a phase only while it certainly holds: Live from after registration to before
//! close, Closed from after close to before drain, Gone from after the hand-over. In between it posts Changing. A seat's
//! value never comes back, since IDs are not reused; so a handler that reads the same value before and after its lookup
//! knows the phase throughout.

#![allow(clippy::result_large_err, reason = "a refused registration hands the interpreter back")]

use super::canary::Interpreter;
use super::tally::{self, Context, Violation};
use interp_guard::pending::PendingQueue;
use interp_guard::{Guard, InterpreterId, LookupError, RegisterError, Registry};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Changing = 0,
    Live = 1,
    Closed = 2,
    Gone = 3,
}

/// What a seat says at one moment.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Post(u64);

impl Post {
    fn new(id: InterpreterId, phase: Phase) -> Self {
        Self((i64::from(id) as u64) << 2 | phase as u64)
    }
    pub fn id(self) -> Option<InterpreterId> {
        InterpreterId::try_from((self.0 >> 2) as i64).ok()
    }
    fn phase(self) -> Phase {
        match self.0 & 3 {
            1 => Phase::Live,
            2 => Phase::Closed,
            3 => Phase::Gone,
            _ => Phase::Changing,
        }
    }
}

/// Larger IDs would not fit a post.
pub const LARGEST_ID: i64 = 1 << 60;

/// This ID is never registered.
pub const NEVER_USED: i64 = LARGEST_ID + 1;

#[derive(Default)]
pub struct Seat(AtomicU64);

impl Seat {
    pub fn post(&self, id: InterpreterId, phase: Phase) {
        self.0.store(Post::new(id, phase).0, Ordering::SeqCst);
    }
    pub fn read(&self) -> Post {
        Post(self.0.load(Ordering::SeqCst))
    }

    /// Checks an answer that was given since the seat said `before`. Async-signal-safe.
    pub fn judge(&self, before: Post, answer: Result<(), LookupError>) {
        let steady = self.read() == before;
        match (before.phase(), answer) {
            (Phase::Live, Err(LookupError::NotFound)) if steady => tally::violation(Violation::LiveNotFound),
            (Phase::Live, Err(LookupError::Finalizing)) if steady => {
                tally::violation(Violation::LiveFinalizing)
            }
            // Whatever happened meanwhile, these lookups began after close had returned.
            (Phase::Closed | Phase::Gone, Ok(())) => tally::violation(Violation::GuardAfterClose),
            (Phase::Closed, Err(LookupError::NotFound)) if steady => {
                tally::violation(Violation::ClosingNotFound)
            }
            (Phase::Gone, Err(LookupError::Finalizing)) => tally::violation(Violation::GoneFinalizing),
            _ => {}
        }
    }
}

pub struct Board {
    /// Live from the beginning to the end.
    pub anchors: Vec<InterpreterId>,
    /// Worked by the churners.
    pub seats: Vec<Seat>,
    /// The seat that a churner worked last, or is about to: where a lookup is most likely to meet a change.
    hot: AtomicUsize,
}

/// How many of the interpreters stay throughout, at the most: one at least comes and goes.
const ANCHORS: usize = 4;

impl Board {
    /// Registers the anchors, and one interpreter that is gone again at once, so that every seat has something to say.
    pub fn set_up(
        registry: &'static Registry<Interpreter>,
        interpreters: usize,
    ) -> Result<&'static Self, RegisterError<Interpreter>> {
        let gone = register(registry, None, "the first")?;
        drop(registry.finalize(gone, None));
        tally::finalized(1);
        let anchors = ANCHORS.min(interpreters - 1);
        let seats: Vec<Seat> = (anchors..interpreters).map(|_| Seat::default()).collect();
        for seat in &seats {
            seat.post(gone, Phase::Gone);
        }
        let anchor = |index| register(registry, None, &format!("anchor {index}"));
        let anchors = (0..anchors).map(anchor).collect::<Result<_, _>>()?;
        Ok(Box::leak(Box::new(Self { anchors, seats, hot: AtomicUsize::new(0) })))
    }

    /// Finalizes what is left.
    pub fn clear(&self, registry: &'static Registry<Interpreter>) {
        for id in registry.ids() {
            match registry.finalize(id, Some(super::DRAIN_LIMIT)) {
                Ok(interpreter) => {
                    tally::check(interpreter.holders() == 0, Violation::GuardOutAfterFinalize);
                    tally::finalized(1);
                }
                Err(error) => {
                    eprintln!("violation: at the end: {error}");
                    tally::violation(Violation::Leak);
                }
            }
        }
    }

    /// Says that the seat `index` is about to change.
    pub fn heat(&self, index: usize) {
        self.hot.store(index, Ordering::Relaxed);
    }

    /// Looks up an anchor. Async-signal-safe.
    pub fn probe_anchor(&self, registry: &'static Registry<Interpreter>, context: Context, random: usize) {
        if let Some(&id) = self.anchors.get(random % ANCHORS) {
            let answer = probe(registry, context, id);
            tally::check(answer.is_ok(), Violation::LiveNotFound);
        }
    }

    /// Looks up whoever sits in a seat, and checks the answer against what the seat says. Async-signal-safe.
    pub fn probe_seat(&self, registry: &'static Registry<Interpreter>, context: Context, random: usize) {
        let Some((seat, before, id)) = self.choose(random) else { return };
        seat.judge(before, probe(registry, context, id));
    }

    /// Leaves the guard of whoever sits in a seat as a pending call. Async-signal-safe.
    pub fn leave_call(
        &self,
        registry: &'static Registry<Interpreter>,
        queue: &PendingQueue<'static, Interpreter>,
        random: usize,
    ) {
        let Some((_, _, id)) = self.choose(random) else { return };
        if let Ok(guard) = registry.lookup(id) {
            let answer = queue.push(guard, pending_call, i64::from(id) as usize);
            tally::pushed(answer.is_ok());
        }
    }

    /// A seat, what it says, and who sits or sat there. Half of the choices go where the change is.
    fn choose(&self, random: usize) -> Option<(&Seat, Post, InterpreterId)> {
        let hot = self.hot.load(Ordering::Relaxed);
        let index = if random & 1 == 0 { hot } else { (random >> 1) % self.seats.len().max(1) };
        let seat = self.seats.get(index)?;
        let post = seat.read();
        Some((seat, post, post.id()?))
    }

    /// Looks up an ID that nobody ever had. For handlers. Async-signal-safe.
    pub fn probe_never_used(&self, registry: &'static Registry<Interpreter>) {
        if let Ok(id) = InterpreterId::try_from(NEVER_USED) {
            let answer = probe(registry, Context::Handler, id);
            tally::check(answer == Err(LookupError::NotFound), Violation::GuardOfNobody);
        }
    }
}

/// Registers an interpreter that knows its ID. `name` is what reports call it.
pub fn register(
    registry: &'static Registry<Interpreter>,
    asked: Option<InterpreterId>,
    name: &str,
) -> Result<InterpreterId, RegisterError<Interpreter>> {
    let id = match asked {
        Some(id) => registry.register_with_id(id, Interpreter::new(asked)).map(|()| id)?,
        None => registry.register(Interpreter::new(None))?,
    };
    if let Ok(guard) = registry.lookup(id) {
        guard.name(id);
        tally::check(registry.set_name(id, name).is_ok(), Violation::LiveNotFound);
    }
    tally::registered(1);
    Ok(id)
}

/// Looks `id` up, checks and uses what comes back. Async-signal-safe.
fn probe(
    registry: &'static Registry<Interpreter>,
    context: Context,
    id: InterpreterId,
) -> Result<(), LookupError> {
    let began = tally::now();
    let answer = registry.lookup(id);
    tally::lookup(context, began, &answer);
    let guard = answer?;
    tally::check(guard.id() == id, Violation::WrongId);
    tally::check(guard.is(id), Violation::DeadCanary);
    guard.enter();
    if began & 3 == 0 {
        let clone = guard.clone();
        tally::check(clone.is(id), Violation::DeadCanary);
    }
    tally::check(guard.is(id), Violation::DeadCanary);
    guard.leave();
    Ok(())
}

/// What a worker runs: the guard was taken in a handler, and the interpreter must still be there.
fn pending_call(guard: &Guard<'_, Interpreter>, data: usize) {
    tally::pending_run();
    tally::check(i64::from(guard.id()) as usize == data, Violation::WrongId);
    guard.enter();
    tally::check(guard.is(guard.id()), Violation::DeadCanary);
    guard.leave();
}
