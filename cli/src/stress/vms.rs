//! The stress of what is shipped for VMs without thread states: `--runtime locked` and `--runtime bound`. Written as a user
//! writes it, with no `unsafe`.
//!
//! VMs come and go in seats, as interpreters do in the reference stress; threads run them, and check each answer against
//! what the seat says. Each SIGUSR1 leaves a call for the VM that it has interrupted, or for the main one.
#![forbid(unsafe_code)]

use super::board::{Phase, Seat};
use super::canary::Interpreter;
use super::tally::{self, Violation};
use super::threads::{Stoppable, Target, fire_at, timer_at_this_thread};
use super::{DRAIN_LIMIT, Options, handler};
use interp_guard::bound::{self, Bound, CallError, Refused};
use interp_guard::locked::{Locked, WithError};
use interp_guard::pending::{PendingQueue, Worker, WorkerOptions};
use interp_guard::signal::{self, Handler};
use interp_guard::thread_state::{self, EnsureError};
use interp_guard::{Guard, InterpreterId, LookupError, Registry};
use nix::sys::signal::{Signal, raise};
use std::error::Error;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{OnceLock, mpsc};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

/// A VM that any thread may use, one at a time.
pub struct Vm {
    /// Knows its ID, and whether it is alive.
    canary: Box<Interpreter>,
}

impl Vm {
    fn new(id: InterpreterId) -> Self {
        Self { canary: Box::new(Interpreter::new(Some(id))) }
    }

    /// Runs a script, into which a signal comes.
    fn run(&mut self, id: InterpreterId) {
        tally::check(self.canary.is(id), Violation::DeadCanary);
        self.canary.enter();
        tally::check(self.canary.holders() == 1, Violation::TwoInside);
        if tally::random().is_multiple_of(8) {
            let _ = raise(Signal::SIGUSR1);
        }
        tally::check(self.canary.is(id) && self.canary.holders() == 1, Violation::TwoInside);
        self.canary.leave();
    }
}

/// A VM that stays on its thread.
pub struct AtHome {
    vm: Vm,
    home: ThreadId,
    /// It is not `Send`.
    _home: Rc<()>,
}

impl AtHome {
    fn new(id: InterpreterId) -> Self {
        Self { vm: Vm::new(id), home: std::thread::current().id(), _home: Rc::default() }
    }

    fn run(&mut self, id: InterpreterId) {
        tally::check(self.home == std::thread::current().id(), Violation::WrongThread);
        self.vm.run(id);
    }
}

impl Drop for AtHome {
    fn drop(&mut self) {
        tally::check(self.home == std::thread::current().id(), Violation::WrongThread);
    }
}

/// What is registered, and what goes with it.
pub trait Kind: Sized + Send + Sync + 'static {
    /// What its owner keeps of it.
    type Keep: Send + 'static;

    /// Makes a VM and registers it.
    fn begin(registry: &'static Registry<Self>) -> Result<(InterpreterId, Self::Keep), Box<dyn Error>>;

    /// Runs it, if it is there.
    fn run(registry: &'static Registry<Self>, id: InterpreterId) -> Result<(), LookupError>;

    /// What a signal has left.
    fn called(guard: &Guard<'_, Self>, _: usize);

    /// What a drain has handed back.
    fn end(self, keep: Self::Keep, id: InterpreterId);
}

impl Kind for Locked<Vm> {
    type Keep = ();

    fn begin(registry: &'static Registry<Self>) -> Result<(InterpreterId, ()), Box<dyn Error>> {
        Ok((registry.register_with(|id| Locked::new(Vm::new(id)))?, ()))
    }

    fn run(registry: &'static Registry<Self>, id: InterpreterId) -> Result<(), LookupError> {
        let twice = || {
            let attached = thread_state::ensure_id(registry, id)?;
            attached.try_with(|vm| vm.run(id))?;
            let others = attached.allow_threads(std::thread::yield_now);
            tally::check(others.is_ok(), Violation::DeadCanary); // it is guarded
            attached.try_with(|vm| vm.run(id))
        };
        let ran = match tally::random().is_multiple_of(4) {
            true => twice(),
            false => registry.with(id, |vm| vm.run(id)),
        };
        match ran {
            Ok(()) => Ok(()),
            Err(WithError::Ensure(EnsureError::Finalizing)) => Err(LookupError::Finalizing),
            Err(WithError::Ensure(EnsureError::NotFound)) => Err(LookupError::NotFound),
            Err(other) => {
                eprintln!("violation: {other}");
                tally::violation(Violation::Refused);
                Ok(())
            }
        }
    }

    fn called(guard: &Guard<'_, Self>, _: usize) {
        tally::pending_run();
        let ran = guard.with(|vm| vm.run(guard.id()));
        tally::check(ran.is_ok(), Violation::Refused);
    }

    fn end(self, (): (), id: InterpreterId) {
        match self.into_inner() {
            Ok(vm) => {
                tally::check(vm.canary.is(id), Violation::DeadCanary);
                tally::check(vm.canary.holders() == 0, Violation::GuardOutAfterFinalize);
            }
            Err(_) => tally::violation(Violation::GuardOutAfterFinalize),
        }
    }
}

/// For what a signal has left, which knows no registry.
static BOUND: OnceLock<&Registry<Bound<AtHome>>> = OnceLock::new();

impl Kind for Bound<AtHome> {
    type Keep = bound::Thread<AtHome>;

    fn begin(registry: &'static Registry<Self>) -> Result<(InterpreterId, Self::Keep), Box<dyn Error>> {
        BOUND.get_or_init(|| registry);
        let options = WorkerOptions::new().name("a VM's").unblocked(&[libc::SIGUSR1]);
        let thread = bound::start(registry, options, AtHome::new)?;
        Ok((thread.id(), thread))
    }

    fn run(registry: &'static Registry<Self>, id: InterpreterId) -> Result<(), LookupError> {
        let refused = if tally::random().is_multiple_of(4) {
            post(registry, id).err()
        } else {
            match registry.call(id, move |vm| vm.run(id)) {
                Ok(()) => None,
                Err(CallError::Refused(refused)) => Some(refused),
                Err(lost) => {
                    eprintln!("violation: {lost}");
                    tally::violation(Violation::PendingLost);
                    None
                }
            }
        };
        match refused {
            None | Some(Refused::Full) => Ok(()),
            Some(Refused::Lookup(refused)) => Err(refused),
            Some(other) => {
                eprintln!("violation: {other}");
                tally::violation(Violation::Refused);
                Ok(())
            }
        }
    }

    /// On the worker's thread: the VM is sent a job. It may be closing by now, and takes no more then.
    fn called(guard: &Guard<'_, Self>, _: usize) {
        tally::pending_run();
        if let Some(registry) = BOUND.get() {
            let _ = post(registry, guard.id());
        }
    }

    fn end(self, keep: Self::Keep, _: InterpreterId) {
        drop(self);
        tally::check(keep.join().is_ok(), Violation::DrainFailed);
    }
}

/// Sends a job that nobody waits for. It is counted as a pending call.
fn post(registry: &'static Registry<Bound<AtHome>>, id: InterpreterId) -> Result<(), Refused> {
    let job = move |vm: &mut AtHome| {
        tally::pending_run();
        vm.run(id);
    };
    match registry.post(id, job) {
        Ok(()) => tally::pushed(true),
        Err(refused) => {
            if refused.why == Refused::Full {
                tally::pushed(false);
            }
            return Err(refused.why);
        }
    }
    Ok(())
}

/// All threads of a run.
pub struct Fleet<K: Kind> {
    registry: &'static Registry<K>,
    sender: Stoppable,
    targets: Vec<Stoppable>,
    /// The main VM, which stays throughout.
    main: (InterpreterId, K::Keep),
    queue: PendingQueue<'static, K>,
    worker: Worker,
    handlers: [Handler; 2],
}

impl<K: Kind> Fleet<K> {
    /// Starts a third of the threads as churners, the rest as users, and then the sender.
    ///
    /// # Errors
    /// If there is no VM, no queue, no worker or no handler.
    pub fn launch(registry: &'static Registry<K>, options: &Options) -> Result<Self, Box<dyn Error>> {
        let main = K::begin(registry)?;
        tally::registered(1);
        let queue = PendingQueue::new(registry)?;
        let worker = queue.start_worker()?;
        let handlers =
            [handler::count_deliveries()?, signal::on_signal_current(&queue, libc::SIGUSR1, K::called, 0)?];
        let seats: &'static [Seat] =
            (1..options.interpreters.max(2)).map(|_| Seat::default()).collect::<Vec<_>>().leak();
        seats.iter().for_each(|seat| seat.post(main.0, Phase::Changing)); // nobody sits there yet
        let churners = (options.threads / 3).clamp(1, seats.len());
        let (report, reported) = mpsc::channel();
        let (seed, period) = (options.seed, Duration::from_micros(options.timer_us));
        let target = |index: usize| {
            let report = report.clone();
            let kind = if index < churners { "churner" } else { "user" };
            Stoppable::spawn(format!("{kind} {index}"), move |stop| {
                tally::enroll(seed.wrapping_add(index as u64));
                report.send(Target::this()).expect("waited for");
                let _timer = timer_at_this_thread(period);
                if index < churners {
                    churn(registry, seats, index, churners, stop);
                } else {
                    make_use(registry, seats, stop);
                }
            })
        };
        // With one thread there is nobody who uses what comes and goes, but the signals.
        let targets: Vec<_> = (0..options.threads).map(target).collect();
        let sender = fire_at(reported.iter().take(targets.len()).collect());
        Ok(Self { registry, sender, targets, main, queue, worker, handlers })
    }

    /// Stops the sender, only then its targets; ends the main VM, and then the worker.
    pub fn land(self) {
        self.sender.join();
        for target in self.targets {
            target.join();
        }
        finalize(self.registry, self.main.0, self.main.1, None);
        // Until here it ran what it had been sent, and signals came into that. Now nothing is left any more.
        let [deliveries, leaves] = self.handlers;
        tally::left_by_handlers(leaves.counts());
        leaves.uninstall();
        deliveries.uninstall();
        self.worker.stop();
        self.queue.run_pending();
    }
}

fn make_use<K: Kind>(registry: &'static Registry<K>, seats: &[Seat], stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let random = tally::random() as usize;
        let Some(seat) = seats.get(random % seats.len()) else { return };
        let before = seat.read();
        let Some(id) = before.id() else { continue };
        let answer = K::run(registry, id);
        tally::lookup(tally::Context::Normal, 0, &answer);
        seat.judge(before, answer);
        let _ = raise(Signal::SIGUSR1);
    }
}

/// Has VMs come and go in each `of`th seat.
fn churn<K: Kind>(
    registry: &'static Registry<K>,
    seats: &[Seat],
    first: usize,
    of: usize,
    stop: &AtomicBool,
) {
    let mut tenants: Vec<_> = seats.iter().skip(first).step_by(of).map(|seat| (seat, None)).collect();
    while !stop.load(Ordering::Relaxed) {
        let chosen = tally::random() as usize % tenants.len();
        let (seat, tenant) = &mut tenants[chosen];
        match tenant.take() {
            Some((id, keep)) => finalize(registry, id, keep, Some(seat)),
            None => match K::begin(registry) {
                Ok((id, keep)) => {
                    tally::registered(1);
                    seat.post(id, Phase::Live);
                    *tenant = Some((id, keep));
                }
                Err(error) => {
                    eprintln!("violation: {error}");
                    tally::violation(Violation::Leak);
                }
            },
        }
        let _ = raise(Signal::SIGUSR1);
    }
    for (seat, tenant) in tenants {
        if let Some((id, keep)) = tenant {
            finalize(registry, id, keep, Some(seat));
        }
    }
}

fn finalize<K: Kind>(registry: &'static Registry<K>, id: InterpreterId, keep: K::Keep, seat: Option<&Seat>) {
    let post = |phase| {
        if let Some(seat) = seat {
            seat.post(id, phase);
        }
    };
    post(Phase::Changing);
    let closing = match registry.close(id) {
        Ok(closing) => closing,
        Err(error) => {
            eprintln!("violation: close {id}: {error}");
            return tally::violation(Violation::DrainFailed);
        }
    };
    let began = Instant::now();
    post(Phase::Closed);
    if tally::random().is_multiple_of(8) {
        std::thread::yield_now(); // stays closed for a while
    }
    post(Phase::Changing);
    match closing.drain(Some(DRAIN_LIMIT)) {
        Ok(interpreter) => {
            tally::drained(began.elapsed());
            tally::finalized(1);
            interpreter.end(keep, id);
        }
        Err(error) => {
            eprintln!("violation: {error}");
            tally::violation(Violation::DrainFailed);
        }
    }
    post(Phase::Gone);
}
