//! interp-guard against its peers and against the machine's floors: two bare locked adds, two restartable sequences.
//!
//! One process, many short interleaved rounds; every figure is the median over the rounds, also as a ratio to the floor
//! measured in the same round. `docs/benchmarks.md` says what was found.

mod arch;
mod churn;
mod clock;
mod cold;
mod floors;
mod handler;
mod measure;
#[allow(clippy::module_inception)]
mod peers;
mod row;
mod writes;

use clock::{answered, opaque};
use measure::{Effort, Summary, Task, compare};
use peers::{
    ArcSwap, DashMap, Epoch, HalfLock, List, Nothing, Ours, Papaya, PapayaPin, ParkingLot, Peer,
    SharedCounter, StdRwLock,
};
use row::Row;
use std::hint::black_box;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

const HELP: &str = "\
Measures interp-guard against its peers and against the machine's floor (two bare locked adds).

Usage: cargo bench --bench peers [-- OPTIONS]

  --quick        fewer rounds: about half of the minute that it takes on an idle machine
  --json FILE    writes every figure to FILE, an array of
                 {name, kind, case, interpreters, threads, ns, floor_ratio}
  --help         this text

ns is CPU time per operation and thread, the median over interleaved rounds; in the cases
cold-*, in-handler*, wake and churn-read* it is elapsed time. floor_ratio is ns over the
floor of the same round. The table, which shows the quartiles of ns too, goes to stdout,
progress to stderr.
";

fn main() -> ExitCode {
    let mut arguments = pico_args::Arguments::from_env();
    if arguments.contains(["-h", "--help"]) {
        print!("{HELP}");
        return ExitCode::SUCCESS;
    }
    let quick = arguments.contains("--quick");
    let json: Option<PathBuf> = match arguments.opt_value_from_str("--json") {
        Ok(json) => json,
        Err(error) => return usage(&error.to_string()),
    };
    // Cargo says `--bench` to every benchmark.
    let unknown: Vec<_> = arguments.finish().into_iter().filter(|argument| argument != "--bench").collect();
    if let Some(argument) = unknown.first() {
        return usage(&format!("unknown argument {argument:?}"));
    }
    if let Some(missing) = interp_guard::platform::missing_for_per_cpu() {
        eprintln!("this machine cannot count per CPU: it lacks {missing}");
        return ExitCode::FAILURE;
    }
    let rows = Bench::new(quick).run();
    print!("{}", table(&rows));
    if let Some(path) = json {
        let text = serde_json::to_string_pretty(&rows).expect("rows are plain data");
        if let Err(error) = std::fs::write(&path, text + "\n") {
            eprintln!("{}: {error}", path.display());
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn usage(what: &str) -> ExitCode {
    eprintln!("{what}\n\n{HELP}");
    ExitCode::from(2)
}

struct Bench {
    quick: bool,
    single: Effort,
    threaded: Effort,
    /// The floor as measured right before the cases that do not run in rounds with it.
    floor_ns: f64,
    rows: Vec<Row>,
    done: usize,
}

/// IDs that lie `stride` apart.
fn ids(count: usize, stride: i64) -> Vec<i64> {
    (0..count as i64).map(|n| n * stride).collect()
}

/// `visit` of one fixed ID, or of IDs in turn, each thread's beginning elsewhere.
fn visits<'a, P: Peer>(peer: &'a P, targets: &[i64]) -> Task<'a> {
    let targets: Vec<P::Key> = targets.iter().map(|&id| P::key(id)).collect();
    let run: Box<dyn Fn(usize, u64) + Sync + 'a> = match *targets {
        [only] => Box::new(move |_, n| {
            for _ in 0..n {
                answered(peer.visit(opaque(only)));
            }
        }),
        _ => Box::new(move |thread, n| {
            let mut at = thread * 7919 % targets.len();
            for _ in 0..n {
                answered(peer.visit(targets[at]));
                at += 1;
                if at == targets.len() {
                    at = 0;
                }
            }
        }),
    };
    Task { name: P::NAME, kind: P::KIND, run }
}

/// One ID for each thread.
fn visits_apart<'a, P: Peer>(peer: &'a P, apart: &[i64]) -> Task<'a> {
    let apart: Vec<P::Key> = apart.iter().map(|&id| P::key(id)).collect();
    let run = Box::new(move |thread: usize, n| {
        let key = apart[thread % apart.len()];
        for _ in 0..n {
            answered(peer.visit(opaque(key)));
        }
    });
    Task { name: P::NAME, kind: P::KIND, run }
}

/// Every candidate, holding the same IDs.
struct Field {
    per_cpu: Ours<false>,
    shared: Ours<true>,
    counter: SharedCounter,
    std: StdRwLock,
    parking_lot: ParkingLot,
    dashmap: DashMap,
    papaya: Papaya,
    papaya_pin: PapayaPin,
    arc_swap: ArcSwap,
    epoch: Epoch,
    half_lock: HalfLock,
    list: List,
}

macro_rules! every {
    ($field:expr, $with:expr) => {{
        let Field {
            per_cpu,
            shared,
            counter,
            std,
            parking_lot,
            dashmap,
            papaya,
            papaya_pin,
            arc_swap,
            epoch,
            half_lock,
            list,
        } = $field;
        let with = $with;
        vec![
            with.call(per_cpu),
            with.call(shared),
            with.call(counter),
            with.call(std),
            with.call(parking_lot),
            with.call(dashmap),
            with.call(papaya),
            with.call(papaya_pin),
            with.call(arc_swap),
            with.call(epoch),
            with.call(half_lock),
            with.call(list),
        ]
    }};
}

impl Field {
    fn with(ids: &[i64]) -> Self {
        Self {
            per_cpu: Peer::with(ids),
            shared: Peer::with(ids),
            counter: Peer::with(ids),
            std: Peer::with(ids),
            parking_lot: Peer::with(ids),
            dashmap: Peer::with(ids),
            papaya: Peer::with(ids),
            papaya_pin: Peer::with(ids),
            arc_swap: Peer::with(ids),
            epoch: Peer::with(ids),
            half_lock: Peer::with(ids),
            list: Peer::with(ids),
        }
    }

    fn visits<'a>(&'a self, targets: &'a [i64]) -> Vec<Task<'a>> {
        struct With<'a>(&'a [i64]);
        impl<'a> With<'a> {
            fn call<P: Peer>(&self, peer: &'a P) -> (Task<'a>, bool) {
                (visits(peer, self.0), P::WALKS && self.0.len() > 1)
            }
        }
        // A walk to one ID after another says nothing that the oldest and the newest do not.
        every!(self, With(targets)).into_iter().filter(|(_, skip)| !skip).map(|(task, _)| task).collect()
    }

    fn visits_apart<'a>(&'a self, apart: &'a [i64]) -> Vec<Task<'a>> {
        struct With<'a>(&'a [i64]);
        impl<'a> With<'a> {
            fn call<P: Peer>(&self, peer: &'a P) -> Task<'a> {
                visits_apart(peer, self.0)
            }
        }
        every!(self, With(apart))
    }
}

/// An ID that nobody has.
const NOBODY: i64 = 1 << 40;

impl Bench {
    fn new(quick: bool) -> Self {
        let effort = |rounds, turn_ns| Effort { rounds, attempts: if quick { 2 } else { 4 }, turn_ns };
        Self {
            quick,
            single: if quick { effort(25, 40e3) } else { effort(101, 80e3) },
            threaded: if quick { effort(15, 150e3) } else { effort(51, 300e3) },
            floor_ns: f64::NAN,
            rows: Vec::new(),
            done: 0,
        }
    }

    fn pick<T>(&self, quick: T, full: T) -> T {
        if self.quick { quick } else { full }
    }

    fn progress(&mut self, what: &str) {
        self.done += 1;
        if std::io::stderr().is_terminal() {
            eprint!("\r\x1b[K[{:>3}] {what}", self.done);
        } else {
            eprintln!("[{:>3}] {what}", self.done);
        }
    }

    fn compare(&mut self, case: &str, interpreters: usize, threads: usize, tasks: &[Task<'_>]) {
        self.progress(&format!("{case}, {interpreters} interpreters, {threads} threads"));
        let effort = if threads == 1 { self.single } else { self.threaded };
        let rows = compare(case, interpreters, threads, effort, tasks);
        self.rows.extend(rows);
    }

    /// A figure that was not measured in rounds with the floor.
    fn record(&mut self, name: &str, kind: &str, case: &str, interpreters: usize, of: Summary) {
        let Summary { ns, quartiles } = of;
        let (name, kind, case) = (name.into(), kind.into(), case.into());
        self.rows.push(Row {
            name,
            kind,
            case,
            interpreters,
            threads: 1,
            ns,
            quartiles,
            floor_ratio: ns / self.floor_ns,
        });
    }

    fn run(mut self) -> Vec<Row> {
        // First, while the process is small: everything is flushed before every sample.
        self.measure_floor();
        self.cold();
        self.in_handler();
        self.write_side();
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        for interpreters in [1, 10, 1000, 65_536] {
            self.reads(interpreters, cpus);
        }
        self.churn();
        if std::io::stderr().is_terminal() {
            eprintln!("\r\x1b[K");
        }
        self.rows
    }

    fn measure_floor(&mut self) {
        self.floor_ns = compare("floor", 0, 1, self.single, &[])[0].ns;
    }

    fn reads(&mut self, interpreters: usize, cpus: usize) {
        let dense = ids(interpreters, 1);
        let field = Field::with(&dense);
        // The first registered: for a list that is kept newest first, the furthest.
        let oldest = &dense[..1];
        self.compare("hit", interpreters, 1, &field.visits(oldest));
        self.compare("hit", interpreters, cpus, &field.visits(oldest));
        self.compare("hit", interpreters, 2 * cpus, &field.visits(oldest));
        self.compare("miss", interpreters, 1, &field.visits(&[NOBODY]));
        if interpreters > 1 {
            self.compare("hit-newest", interpreters, 1, &field.visits(&dense[interpreters - 1..]));
            let step = (interpreters / (2 * cpus)).max(1);
            let apart: Vec<i64> =
                (0..2 * cpus).map(|thread| dense[(1 + thread * step) % interpreters]).collect();
            self.compare("hit-different", interpreters, cpus, &field.visits_apart(&apart));
            self.compare("hit-different", interpreters, 2 * cpus, &field.visits_apart(&apart));
            let random = shuffled(&dense);
            self.compare("hit-random", interpreters, 1, &field.visits(&random));
            let absent: Vec<i64> = random.iter().map(|id| id + NOBODY).collect();
            self.compare("miss-random", interpreters, 1, &field.visits(&absent));
        }
        self.clone_and_closing(interpreters, &field);
        drop(field);
        if interpreters > 1 {
            self.strided(interpreters);
        }
    }

    /// Guards that are cloned and dropped, against an `Arc`; and lookups of an interpreter that is closing.
    fn clone_and_closing(&mut self, interpreters: usize, field: &Field) {
        fn clones<'a, T: Clone + Sync + 'a>(name: &'static str, kind: &'static str, held: T) -> Task<'a> {
            let run = Box::new(move |_, n| {
                for _ in 0..n {
                    drop(black_box(&held).clone());
                }
            });
            Task { name, kind, run }
        }
        let (per_cpu, shared) = (&field.per_cpu.0, &field.shared.0);
        let id = interp_guard::InterpreterId::try_from(0).expect("an ID");
        let held = (per_cpu.lookup(id).expect("live"), shared.lookup(id).expect("live"));
        let tasks = [
            clones(Ours::<false>::NAME, "ours", held.0),
            clones(Ours::<true>::NAME, "ours", held.1),
            clones("Arc", "reference", std::sync::Arc::new(0)),
        ];
        self.compare("clone", interpreters, 1, &tasks);
        drop(tasks);
        let closing = (per_cpu.close(id).expect("live"), shared.close(id).expect("live"));
        let oldest = [0];
        self.compare(
            "closing",
            interpreters,
            1,
            &[visits(&field.per_cpu, &oldest), visits(&field.shared, &oldest)],
        );
        drop(closing);
    }

    /// IDs that lie apart, among them strides that plain Fibonacci hashing piles up.
    fn strided(&mut self, interpreters: usize) {
        for stride in [2, 64, 1000, 17_711, 65_536] {
            let strided = ids(interpreters, stride);
            let order = shuffled(&strided);
            let (per_cpu, shared) = (Ours::<false>::with(&strided), Ours::<true>::with(&strided));
            let case = format!("hit-random-stride-{stride}");
            self.compare(&case, interpreters, 1, &[visits(&per_cpu, &order), visits(&shared, &order)]);
        }
    }

    fn cold(&mut self) {
        let interpreters = 1000;
        let dense = ids(interpreters, 1);
        let field = Field::with(&dense);
        let rounds = self.pick(15, 61);
        for (case, target) in [("cold-hit", [dense[0]]), ("cold-miss", [NOBODY])] {
            self.progress(&format!("{case}, {interpreters} interpreters"));
            let mut tasks = field.visits(&target);
            tasks.insert(0, visits(&Nothing, &target));
            let operations: Vec<Box<dyn Fn()>> =
                tasks.iter().map(|task| Box::new(|| (task.run)(0, 1)) as Box<dyn Fn()>).collect();
            let operations: Vec<&dyn Fn()> = operations.iter().map(|operation| &**operation).collect();
            let times = cold::times(rounds, &operations);
            for (task, times) in tasks[1..].iter().zip(times) {
                self.record(task.name, task.kind, case, interpreters, times);
            }
        }
    }

    fn in_handler(&mut self) {
        self.measure_floor();
        self.progress("in a SIGUSR1 handler");
        for trips in handler::round_trips(self.pick(30_000, 200_000)) {
            for (case, ns) in ["in-handler", "in-handler-p99", "in-handler-p99.99"].into_iter().zip(trips.ns)
            {
                self.record(trips.name, trips.kind, case, 1, Summary::only(ns));
            }
        }
    }

    fn write_side(&mut self) {
        for live in [1, 1000, 65_536] {
            self.measure_floor();
            self.progress(&format!("finalize-idle, {live} others"));
            for figure in writes::finalize_idle(self.pick(200, 1000), live) {
                self.record(figure.name, figure.kind, figure.case, figure.interpreters, figure.times);
            }
        }
        self.measure_floor();
        self.progress("wake");
        for figure in writes::wake(self.pick(300, 3000)) {
            self.record(figure.name, figure.kind, figure.case, figure.interpreters, figure.times);
        }
    }

    fn churn(&mut self) {
        for live in [1000, 65_536] {
            self.measure_floor();
            self.churn_of::<Ours<false>>(live);
            self.churn_of::<Ours<true>>(live);
            self.churn_of::<StdRwLock>(live);
            self.churn_of::<ParkingLot>(live);
            self.churn_of::<DashMap>(live);
            self.churn_of::<Papaya>(live);
            self.churn_of::<ArcSwap>(live);
        }
    }

    fn churn_of<P: Peer>(&mut self, live: usize) {
        self.progress(&format!("churn-read, {live} interpreters, {}", P::NAME));
        if let Some((quiet, churned)) = churn::read_p99::<P>(live, self.pick(3000, 20_000)) {
            self.record(P::NAME, P::KIND, "churn-read-quiet", live, Summary::only(quiet));
            self.record(P::NAME, P::KIND, "churn-read", live, Summary::only(churned));
        }
    }
}

/// The same in an order without a pattern, the same each time.
fn shuffled(ids: &[i64]) -> Vec<i64> {
    let mut ids = ids.to_vec();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for at in (1..ids.len()).rev() {
        // Xorshift.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ids.swap(at, (state % (at as u64 + 1)) as usize);
    }
    ids
}

/// One line for each figure, grouped by case.
fn table(rows: &[Row]) -> String {
    use std::fmt::Write;
    let group = |row: &Row| (row.case.clone(), row.interpreters, row.threads);
    let mut groups = Vec::new();
    for row in rows {
        if !groups.contains(&group(row)) {
            groups.push(group(row));
        }
    }
    let mut text = String::new();
    for this in groups {
        let (case, interpreters, threads) = &this;
        let _ = writeln!(text, "\n{case}, {interpreters} interpreters, {threads} threads");
        for row in rows.iter().filter(|row| group(row) == this) {
            let Row { name, kind, ns, quartiles, floor_ratio, .. } = row;
            let quartiles = quartiles.map_or(String::new(), |[low, high]| format!("{low:.2} to {high:.2}"));
            let _ =
                writeln!(text, "  {name:<32} {kind:<10} {ns:>12.2} ns {floor_ratio:>10.2} x   {quartiles}");
        }
    }
    text
}
