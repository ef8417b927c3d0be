//! The threads under fire, and the one that fires.

use super::board::{self, Board, Phase, Seat};
use super::canary::Interpreter;
use super::handler::{self, Arena};
use super::tally::{self, Context, Violation};
use super::{DRAIN_LIMIT, Options};
use interp_guard::pending::{PendingQueue, Worker};
use interp_guard::{InterpreterId, RegisterError, Registry};
use nix::sys::pthread::{Pthread, pthread_kill, pthread_self};
use nix::sys::signal::{Signal, raise};
use nix::sys::timer::Timer;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// All threads of a run.
pub struct Fleet {
    sender: Stoppable,
    targets: Vec<Stoppable>,
    queue: &'static PendingQueue<'static, Interpreter>,
    worker: Worker,
}

pub struct Stoppable {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Stoppable {
    pub fn spawn(name: String, body: impl FnOnce(&AtomicBool) + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = stop.clone();
        let thread =
            std::thread::Builder::new().name(name).spawn(move || body(&seen)).expect("a thread starts");
        Self { stop, thread }
    }

    pub fn join(self) {
        self.stop.store(true, Ordering::Relaxed);
        if self.thread.join().is_err() {
            tally::violation(Violation::DrainFailed);
        }
    }
}

impl Fleet {
    /// Starts a third of the threads as churners, the rest as holders, and then the sender.
    ///
    /// # Errors
    /// If the queue for pending calls or its worker cannot be had.
    pub fn launch(
        registry: &'static Registry<Interpreter>,
        board: &'static Board,
        options: &Options,
    ) -> Result<Self, Box<dyn Error>> {
        let queue: &'static _ = Box::leak(Box::new(PendingQueue::new(registry)?));
        let worker = queue.start_worker()?;
        handler::install(Arena { registry, board, queue });
        let churners = (options.threads / 3).clamp(1, board.seats.len());
        let (report, reported) = mpsc::channel();
        let timer = Duration::from_micros(options.timer_us);
        let seed = options.seed;
        let targets: Vec<Stoppable> = (0..options.threads)
            .map(|index| {
                let report = report.clone();
                let name =
                    if index < churners { format!("churner {index}") } else { format!("holder {index}") };
                Stoppable::spawn(name, move |stop| {
                    tally::enroll(seed.wrapping_add(index as u64));
                    report.send(Target::this()).expect("waited for");
                    let _timer = timer_at_this_thread(timer);
                    if index < churners {
                        Churner::new(registry, board, index, churners, seed).run(stop);
                    } else {
                        hold(registry, board, stop);
                    }
                })
            })
            .collect();
        let threads: Vec<Target> = reported.iter().take(targets.len()).collect();
        let sender = fire_at(threads);
        Ok(Self { sender, targets, queue, worker })
    }

    /// Stops the sender, only then its targets, and then the worker; runs what it left.
    pub fn land(self) {
        self.sender.join();
        for target in self.targets {
            target.join();
        }
        self.worker.stop();
        self.queue.run_pending();
    }
}

/// A thread to signal. With musl a `pthread_t` is a pointer, which could not be sent.
#[derive(Clone, Copy)]
pub struct Target(usize);

impl Target {
    /// The calling thread.
    pub fn this() -> Self {
        Self(pthread_self() as usize)
    }
}

/// Signals these threads again and again. They outlive the sender: it is joined first.
pub fn fire_at(threads: Vec<Target>) -> Stoppable {
    Stoppable::spawn("sender".into(), move |stop| {
        while !stop.load(Ordering::Relaxed) {
            for &thread in &threads {
                let _ = pthread_kill(thread.0 as Pthread, Signal::SIGUSR1);
            }
        }
    })
}

/// Signals the calling thread every `period`, until it is dropped.
#[cfg(target_env = "gnu")]
pub fn timer_at_this_thread(period: Duration) -> Option<Timer> {
    use nix::sys::signal::{SigEvent, SigevNotify};
    use nix::sys::time::TimeSpec;
    use nix::sys::timer::{Expiration, TimerSetTimeFlags};
    let thread_id = nix::unistd::gettid().as_raw();
    let notify = SigevNotify::SigevThreadId { signal: Signal::SIGUSR1, thread_id, si_value: 0 };
    let mut timer = Timer::new(nix::time::ClockId::CLOCK_MONOTONIC, SigEvent::new(notify)).ok()?;
    timer.set(Expiration::Interval(TimeSpec::from_duration(period)), TimerSetTimeFlags::empty()).ok()?;
    Some(timer)
}

/// nix names a thread to the kernel with glibc only. The sender and the threads themselves signal.
#[cfg(not(target_env = "gnu"))]
pub fn timer_at_this_thread(_period: Duration) -> Option<Timer> {
    None
}

/// Looks up in normal context, and signals itself in between, so that many signals are delivered however few cores the
/// sender has to share; those of the sender and of the timer come in at any instruction.
fn hold(registry: &'static Registry<Interpreter>, board: &Board, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let random = tally::random();
        for turn in 0..16 {
            board.probe_seat(registry, Context::Normal, (random >> turn) as usize);
        }
        let _ = raise(Signal::SIGUSR1);
        board.probe_anchor(registry, Context::Normal, random as usize);
        if random.is_multiple_of(64) {
            std::thread::yield_now();
        }
    }
}

/// Registers, closes, drains and finalizes the interpreters of its own seats.
struct Churner {
    registry: &'static Registry<Interpreter>,
    board: &'static Board,
    /// Its seats, by their number on the board, and who sits there.
    seats: Vec<(usize, Option<InterpreterId>)>,
    random: StdRng,
}

impl Churner {
    fn new(
        registry: &'static Registry<Interpreter>,
        board: &'static Board,
        index: usize,
        churners: usize,
        seed: u64,
    ) -> Self {
        let seats = (index..board.seats.len()).step_by(churners).map(|seat| (seat, None)).collect();
        Self { registry, board, seats, random: StdRng::seed_from_u64(seed.wrapping_add(index as u64)) }
    }

    fn run(mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            let chosen = self.random.random_range(0..self.seats.len());
            let (index, tenant) = self.seats[chosen];
            self.board.heat(index);
            let seat = &self.board.seats[index];
            self.seats[chosen].1 = match tenant {
                None => self.move_in(index, seat),
                Some(id) => self.move_out(seat, id),
            };
        }
    }

    /// Half of the interpreters get a fresh ID, half bring a random one, which collides more.
    fn move_in(&mut self, index: usize, seat: &Seat) -> Option<InterpreterId> {
        let asked =
            self.random.random_bool(0.5).then(|| self.random.random_range(1 << 32..=board::LARGEST_ID));
        let asked = asked.and_then(|raw| InterpreterId::try_from(raw).ok());
        match board::register(self.registry, asked, &format!("seat {index}")) {
            Ok(id) => {
                seat.post(id, Phase::Live);
                Some(id)
            }
            // A random ID that was used before: another one, next time.
            Err(RegisterError::RetiredId(_) | RegisterError::DuplicateId(_)) => None,
            Err(error) => {
                eprintln!("violation: {error}");
                tally::violation(Violation::Leak);
                None
            }
        }
    }

    fn move_out(&mut self, seat: &Seat, id: InterpreterId) -> Option<InterpreterId> {
        seat.post(id, Phase::Changing);
        let closing = match self.registry.close(id) {
            Ok(closing) => closing,
            Err(error) => {
                eprintln!("violation: close {id}: {error}");
                tally::violation(Violation::DrainFailed);
                return None;
            }
        };
        let began = Instant::now();
        seat.post(id, Phase::Closed);
        if self.random.random_bool(0.1) {
            std::thread::yield_now(); // stays closed for a while
        }
        seat.post(id, Phase::Changing);
        match closing.drain(Some(DRAIN_LIMIT)) {
            Ok(interpreter) => {
                tally::drained(began.elapsed());
                tally::check(interpreter.holders() == 0, Violation::GuardOutAfterFinalize);
                tally::finalized(1);
            }
            Err(error) => {
                eprintln!("violation: {error}");
                tally::violation(Violation::DrainFailed);
            }
        }
        seat.post(id, Phase::Gone);
        None
    }
}
