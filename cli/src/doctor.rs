//! `interp-guard doctor`: what this machine offers, and what the library makes of it.

use interp_guard::Registry;
use interp_guard::foreign::{self, Fact};
use serde_json::{Map, Value};
use std::process::ExitCode;

#[derive(clap::Args)]
pub struct Options {
    /// Print one JSON object and nothing else
    #[arg(long)]
    json: bool,
}

pub fn run(options: &Options) -> ExitCode {
    let found = foreign::examine(&Registry::<u8>::new());
    if options.json {
        let facts = found.sections.iter().flat_map(|section| &section.facts);
        let facts = facts.map(|(name, fact)| ((*name).to_owned(), value(fact))).collect::<Map<_, _>>();
        crate::print(&format!("{}\n", Value::Object(facts)));
    } else {
        crate::print(&found.to_string());
    }
    if found.is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn value(fact: &Fact) -> Value {
    match fact {
        Fact::Words(words) => words.as_str().into(),
        Fact::Number(number) => (*number).into(),
        Fact::Unknown => Value::Null,
    }
}
