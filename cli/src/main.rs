//! The `interp-guard` command: fires real signals at a live table, and says what this machine offers.

mod doctor;
mod stress;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use std::io::Write;
use std::process::ExitCode;

/// Is interpreter 7 still there, and can I keep it there while I use it? This command shows it, under real signals.
#[derive(Parser)]
#[command(name = "interp-guard", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    stress: stress::Options,
}

#[derive(Subcommand)]
enum Command {
    /// Fire real SIGUSR1 at every thread while interpreters come and go (the default)
    ///
    /// Exit status: 0 if nothing was violated, 1 if something was, 2 on bad usage. Ctrl-C stops early and still prints
    /// the result; a second Ctrl-C ends at once.
    Stress(stress::Options),
    /// Say what this machine offers: counters, rseq, membarrier, CPUs, memory
    ///
    /// Exit status: 0; 1 if no interpreter can be registered here (the first line says why not), 2 on bad usage.
    Doctor(doctor::Options),
}

/// Prints a result. Nobody may be there who reads it, or reads on.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// How wide a line of the help may be: what COLUMNS says, else the terminal, else 80.
fn width() -> usize {
    let asked = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let terminal = || terminal_size::terminal_size().map(|(width, _)| width.0.into());
    asked.filter(|&columns| columns > 0).or_else(terminal).filter(|&columns| columns > 0).unwrap_or(80)
}

fn main() -> ExitCode {
    let matches = Cli::command().term_width(width()).get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    match cli.command.unwrap_or(Command::Stress(cli.stress)) {
        Command::Stress(options) => stress::run(&options),
        Command::Doctor(options) => doctor::run(&options),
    }
}
