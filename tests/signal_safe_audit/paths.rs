//! Every path from a root to its end, and how long it is.
//!
//! Calls are followed into the callee. A path may take each conditional branch up to a given number of times: a limit of
//! `displacement + 1` covers everything that a lookup can do, since its only loop probes at most `displacement` slots.
//!
//! The ledger is walked like everything else, but not measured: a path that records a guard, or strikes one out, steps over
//! the function that does so.
//!
//! A *mode branch* is one of whose two ways exactly one runs straight into a restartable sequence: it asks for the
//! counter mode. The mode never changes, so a path that answers twice differently does not exist and is left out.

use crate::code::{Code, Place, Sequence, Target};
use iced_x86::{Code as Op, FlowControl, OpKind};
use std::collections::HashMap;

/// The no-ops with which the fixture's roots end a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    Hit,
    NotFound,
    Finalizing,
}

/// How a path counts guards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    PerCpu,
    Shared,
}

/// What is known of one path, or of the part that has been walked.
#[derive(Clone, Copy, Debug, Default)]
pub struct Path {
    pub instructions: u32,
    pub outcome: Option<Outcome>,
    /// `None`: it came to no mode branch.
    pub mode: Option<Mode>,
    pub sequences: u32,
    /// Aborts, and CPU numbers that are no stripe.
    pub spares: u32,
    /// Locked instructions, those for the spare stripe and for the wake word apart.
    pub locks: u32,
    pub wakes: u32,
}

#[derive(Clone)]
struct Walker<'c> {
    code: &'c Code,
    at: Place,
    callers: Vec<Place>,
    taken: HashMap<(Place, Vec<Place>), u32>,
    /// Between an abort and the locked add on the spare stripe.
    aborted: bool,
    path: Path,
}

/// All paths from `root` that take no branch more than `limit` times in one call.
pub fn paths(code: &Code, root: Place, limit: u32) -> Vec<Path> {
    let walker = Walker {
        code,
        at: root,
        callers: Vec::new(),
        taken: HashMap::new(),
        aborted: false,
        path: Path::default(),
    };
    let (mut ahead, mut ended) = (vec![walker], Vec::new());
    while let Some(mut walker) = ahead.pop() {
        while walker.advance(limit, &mut ahead) {}
        if walker.callers.is_empty() && walker.code.step(walker.at).flow() == FlowControl::Return {
            ended.push(walker.path);
        }
    }
    ended
}

impl Walker<'_> {
    /// One instruction. Ways not taken now go to `ahead`. False at the end, and where a path does not exist.
    fn advance(&mut self, limit: u32, ahead: &mut Vec<Self>) -> bool {
        let code = self.code;
        if in_ledger(code, self.at) {
            // Called or jumped to at the end of its caller: either way, it returns to the latest one.
            let Some(caller) = self.callers.pop() else { return false };
            self.at = caller;
            return true;
        }
        let step = code.step(self.at);
        let after = Place { offset: step.instruction.next_ip(), ..self.at };
        self.path.instructions += 1;
        self.note();
        // The last instruction of a sequence commits, or the kernel makes it abort.
        if let Some(sequence) = code.sequences.iter().find(|sequence| sequence.end == after) {
            let mut abort = self.clone();
            abort.at = sequence.abort;
            abort.spare();
            ahead.push(abort);
        }
        match step.flow() {
            FlowControl::Return => match self.callers.pop() {
                Some(caller) => self.at = caller,
                None => return false,
            },
            FlowControl::Call | FlowControl::IndirectCall => match step.target(self.at) {
                Some(Target::Inside(callee)) => {
                    self.callers.push(after);
                    self.at = callee;
                }
                _ => self.at = after,
            },
            FlowControl::UnconditionalBranch | FlowControl::IndirectBranch => match step.target(self.at) {
                Some(Target::Inside(place)) => self.at = place,
                _ => return false,
            },
            FlowControl::ConditionalBranch => {
                let taken = self.taken.entry((self.at, self.callers.clone())).or_default();
                *taken += 1;
                if *taken > limit {
                    return false;
                }
                let Some(Target::Inside(jump)) = step.target(self.at) else { return false };
                let (mut jumped, branch) = (self.clone(), self.at);
                (jumped.at, self.at) = (jump, after);
                if code.sequences.iter().any(|sequence| inside(sequence, branch)) {
                    jumped.spare();
                } else if let Some(per_cpu) = mode_branch(code, after, jump) {
                    let exists = jumped.in_mode(if per_cpu == jump { Mode::PerCpu } else { Mode::Shared });
                    if exists {
                        ahead.push(jumped);
                    }
                    return self.in_mode(if per_cpu == after { Mode::PerCpu } else { Mode::Shared });
                }
                ahead.push(jumped);
            }
            _ => self.at = after,
        }
        true
    }

    fn note(&mut self) {
        let step = self.code.step(self.at);
        if self.code.sequences.iter().any(|sequence| sequence.start == self.at) {
            self.path.sequences += 1;
        }
        if step.locks() {
            if std::mem::take(&mut self.aborted) {
                // counted by `spare`
            } else if self.code.name(self.at).contains("Wake::notify") {
                self.path.wakes += 1;
            } else {
                self.path.locks += 1;
            }
        }
        if matches!(step.instruction.code(), Op::Nop_rm32) && step.instruction.op0_kind() == OpKind::Memory {
            self.path.outcome = match step.instruction.memory_displacement64() {
                0x5A_FE01 => Some(Outcome::Hit),
                0x5A_FE02 => Some(Outcome::NotFound),
                0x5A_FE03 => Some(Outcome::Finalizing),
                _ => self.path.outcome,
            };
        }
    }

    fn spare(&mut self) {
        self.path.spares += 1;
        self.aborted = true;
    }

    fn in_mode(&mut self, mode: Mode) -> bool {
        *self.path.mode.get_or_insert(mode) == mode
    }
}

fn in_ledger(code: &Code, at: Place) -> bool {
    let name = code.name(at);
    name.contains("Table::record") || name.contains("RawGuard::give_up_recorded")
}

fn inside(sequence: &Sequence, at: Place) -> bool {
    (sequence.start..sequence.end).contains(&at)
}

/// If this is a mode branch: the way to the restartable sequence.
fn mode_branch(code: &Code, one: Place, other: Place) -> Option<Place> {
    match (runs_into_sequence(code, one), runs_into_sequence(code, other)) {
        (true, false) => Some(one),
        (false, true) => Some(other),
        _ => None,
    }
}

fn runs_into_sequence(code: &Code, mut at: Place) -> bool {
    loop {
        if code.sequences.iter().any(|sequence| sequence.start == at) {
            return true;
        }
        let step = code.step(at);
        at = match (step.flow(), step.target(at)) {
            (FlowControl::Next, _) => Place { offset: step.instruction.next_ip(), ..at },
            (FlowControl::UnconditionalBranch, Some(Target::Inside(place))) => place,
            _ => return false,
        };
    }
}
