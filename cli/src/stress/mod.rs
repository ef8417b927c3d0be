//! `interp-guard stress`: real signals at every thread of a process whose interpreters come and go.
//!
//! | part | what it does |
//! |---|---|
//! | [`board`] | says of each seat which interpreter sits there and in which phase, for the handlers to check against |
//! | [`canary`] | the interpreter: a canary in memory that is never given back |
//! | [`handler`] | what SIGUSR1 and SIGUSR2 do: look up, check, clone, nest, leave pending calls |
//! | [`threads`] | churners, holders, the sender |
//! | [`vms`] | the same for VMs with a lock, or a thread, each |
//! | [`tally`] | what was counted and measured |
//! | [`report`] | the result, as a table or as JSON |

mod board;
mod canary;
mod handler;
mod report;
mod tally;
mod threads;
mod vms;

use canary::Interpreter;
use clap::builder::RangedU64ValueParser;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use interp_guard::bound::Bound;
use interp_guard::locked::Locked;
use interp_guard::{Counters, RegisterError, Registry};
use std::fmt::Display;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

#[derive(clap::Args, Clone)]
pub struct Options {
    /// Whose interpreters: the reference's, VMs with a lock each, or VMs with a thread each
    #[arg(long, value_enum, default_value_t = Runtime::Reference)]
    runtime: Runtime,
    /// How long to run
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// How many interpreters there are at the most
    #[arg(long, default_value_t = 64, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1 << 20))]
    interpreters: usize,
    /// How many threads take signals: some hold guards, some register and finalize
    #[arg(long, default_value_t = 6, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1_000))]
    threads: usize,
    /// Chooses what happens when; the machine's timing still differs from run to run
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How guards are counted: per-cpu or shared [default: INTERP_GUARD_COUNTERS, else the best the machine has]
    #[arg(long)]
    counters: Option<Counters>,
    /// Microseconds between the signals of each thread's own timer
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(10..=1_000_000))]
    timer_us: u64,
    /// Record who holds each guard: slower, and checked all the same
    #[arg(long)]
    ledger: bool,
    /// Print one JSON object to standard output and nothing else; progress goes to standard error
    #[arg(long)]
    json: bool,
}

#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq)]
enum Runtime {
    /// Canaries, looked up by handlers and by threads
    Reference,
    /// `interp_guard::locked`
    Locked,
    /// `interp_guard::bound`
    Bound,
}

impl Runtime {
    fn name(self) -> &'static str {
        match self {
            Self::Reference => "reference",
            Self::Locked => "locked",
            Self::Bound => "bound",
        }
    }
}

/// Each is a thread of its own.
const MOST_BOUND: usize = 1_000;

/// How long a drain may take before it counts as a violation: nobody here holds a guard for long.
const DRAIN_LIMIT: Duration = Duration::from_secs(20);

pub fn run(options: &Options) -> ExitCode {
    match options.runtime {
        Runtime::Reference => run_reference(options),
        Runtime::Locked => run_vms::<Locked<vms::Vm>>(options),
        Runtime::Bound if options.interpreters > MOST_BOUND => {
            eprintln!(
                "error: --runtime bound has a thread for each VM: --interpreters {MOST_BOUND} at the most"
            );
            ExitCode::from(2)
        }
        Runtime::Bound => run_vms::<Bound<vms::AtHome>>(options),
    }
}

/// For at least two interpreters, if one has to stay.
fn registry<T: Send + Sync + 'static>(options: &Options, least: usize) -> &'static Registry<T> {
    let mut registry = Registry::with_capacity(options.interpreters.max(least));
    if let Some(counters) = options.counters {
        registry = registry.counters(counters);
    }
    if options.ledger {
        registry = registry.ledger(true);
    }
    Box::leak(Box::new(registry))
}

fn run_vms<K: vms::Kind>(options: &Options) -> ExitCode {
    let registry = registry::<K>(options, 2);
    fire(registry, options, || vms::Fleet::launch(registry, options), vms::Fleet::land)
}

fn run_reference(options: &Options) -> ExitCode {
    let registry = registry::<Interpreter>(options, 1);
    let board = match board::Board::set_up(registry, options.interpreters) {
        Ok(board) => board,
        Err(RegisterError::Unavailable(_, why)) => {
            eprintln!("error: {why}\n\nTry `interp-guard doctor` to see what this machine offers.");
            return ExitCode::from(2);
        }
        Err(other) => {
            eprintln!("error: {other}");
            return ExitCode::from(1);
        }
    };
    let launch = || threads::Fleet::launch(registry, board, options);
    fire(registry, options, launch, |fleet: threads::Fleet| {
        fleet.land();
        board.clear(registry);
    })
}

/// From the launch of a fleet to what came of it.
fn fire<T: Send + Sync + 'static, F, E: Display>(
    registry: &Registry<T>,
    options: &Options,
    launch: impl FnOnce() -> Result<F, E>,
    land: impl FnOnce(F),
) -> ExitCode {
    let stop = stop_on_ctrl_c();
    let (began, clock) = (Instant::now(), tally::Clock::start());
    let fleet = match launch() {
        Ok(fleet) => fleet,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(2);
        }
    };
    watch(options, &stop);
    land(fleet);
    conclude(report::Result::collect(registry, began.elapsed(), clock.stop(), options), options)
}

fn conclude(result: report::Result, options: &Options) -> ExitCode {
    if options.json {
        crate::print(&format!("{}\n", result.json()));
        eprintln!("{}", result.verdict());
    } else {
        crate::print(&format!("{}\n{}\n", result.table(), result.verdict()));
    }
    if result.violations() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The first Ctrl-C (or SIGTERM) sets what this returns; a second one ends the process with status 130.
fn stop_on_ctrl_c() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    if let Err(error) = set_on_ctrl_c(&stop) {
        eprintln!("warning: Ctrl-C will not print the result: {error}");
    }
    stop
}

fn set_on_ctrl_c(stop: &Arc<AtomicBool>) -> std::io::Result<()> {
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, stop.clone())?;
        signal_hook::flag::register(signal, stop.clone())?;
    }
    Ok(())
}

/// Shows progress until the time is up or somebody stops the run.
fn watch(options: &Options, stop: &AtomicBool) {
    let began = Instant::now();
    let total = Duration::from_secs(options.seconds);
    let terminal = std::io::stderr().is_terminal();
    let bar = ProgressBar::with_draw_target(
        Some(options.seconds),
        if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() },
    )
    .with_style(ProgressStyle::with_template("[{bar:30}] {pos}/{len} s  {msg}").expect("a valid template"));
    let mut next_line = Duration::from_secs(1);
    while began.elapsed() < total && !stop.load(Ordering::Relaxed) {
        // Pacing of the display; nothing else waits for it.
        std::thread::sleep(Duration::from_millis(100).min(total.saturating_sub(began.elapsed())));
        bar.set_position(began.elapsed().as_secs());
        bar.set_message(report::progress());
        if !terminal && began.elapsed() >= next_line {
            eprintln!("{}/{} s  {}", next_line.as_secs(), options.seconds, report::progress());
            next_line += Duration::from_secs(1);
        }
    }
    bar.finish_and_clear();
    if stop.load(Ordering::Relaxed) {
        eprintln!("stopped after {:.1} s", began.elapsed().as_secs_f64());
    }
}
