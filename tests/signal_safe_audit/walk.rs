//! Everything that the machine code can reach from a root, and what there is to object to in it.

use crate::code::{Code, Place, Target};
use iced_x86::{Code as Op, FlowControl};
use std::collections::BTreeSet;

/// What the roots reach.
#[derive(Default)]
pub struct Reached {
    pub places: BTreeSet<Place>,
    pub system_calls: BTreeSet<Place>,
    pub locks: BTreeSet<Place>,
    /// What must not be there, as a person reads it.
    pub objections: Vec<String>,
}

/// Walks from `roots`. A restartable sequence that is reached makes its abort address a root too.
pub fn walk(code: &Code, roots: impl IntoIterator<Item = Place>, allowed: &[&str]) -> Reached {
    let mut reached = Reached::default();
    let mut ahead: Vec<Place> = roots.into_iter().collect();
    while let Some(at) = ahead.pop() {
        if !reached.places.insert(at) {
            continue;
        }
        ahead.extend(code.sequences.iter().filter(|sequence| sequence.start == at).map(|s| s.abort));
        let step = code.step(at);
        let after = Place { offset: step.instruction.next_ip(), ..at };
        let mut object = |what: &str| reached.objections.push(format!("{what}: {}", code.show(at)));
        if step.thread_local {
            object("a thread-local");
        }
        if step.locks() {
            reached.locks.insert(at);
        }
        if step.instruction.code() == Op::Syscall {
            reached.system_calls.insert(at);
        }
        match step.flow() {
            FlowControl::Next => ahead.push(after),
            FlowControl::Return => {}
            flow @ (FlowControl::UnconditionalBranch
            | FlowControl::ConditionalBranch
            | FlowControl::Call
            | FlowControl::IndirectBranch
            | FlowControl::IndirectCall) => {
                match step.target(at) {
                    Some(Target::Inside(place)) => ahead.push(place),
                    Some(Target::Outside(name)) if allowed.contains(&name.as_str()) => {}
                    Some(Target::Outside(name)) => object(&format!("leads out of the core to `{name}`")),
                    None => object("leads who knows where"),
                }
                if !matches!(flow, FlowControl::UnconditionalBranch | FlowControl::IndirectBranch) {
                    ahead.push(after);
                }
            }
            FlowControl::Interrupt | FlowControl::XbeginXabortXend | FlowControl::Exception => {
                object("traps")
            }
        }
    }
    if reached.system_calls.len() > 1 {
        let sites = reached.system_calls.iter().map(|&at| code.show(at)).collect::<Vec<_>>().join("; ");
        reached.objections.push(format!("more than one system-call site: {sites}"));
    }
    reached
}
