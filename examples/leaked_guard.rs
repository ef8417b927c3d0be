//! A guard that somebody forgot, and what the drain says about it, without the ledger and with it.
//!
//! ```text
//! cargo run --example leaked_guard
//! ```

use interp_guard::{LookupError, Registry};
use std::time::Duration;

fn main() -> Result<(), LookupError> {
    println!("without a ledger:\n");
    leak_and_finalize(Registry::new().ledger(false))?;
    println!("\nwith one:\n");
    leak_and_finalize(Registry::new().ledger(true))
}

fn leak_and_finalize(interpreters: Registry<&'static str>) -> Result<(), LookupError> {
    let id = interpreters.register("an interpreter").expect("the registry has room");
    std::thread::scope(|scope| {
        let forgetful = || interpreters.lookup(id).map(std::mem::forget);
        let worker = std::thread::Builder::new().name("forgetful".into());
        worker.spawn_scoped(scope, forgetful).expect("a thread").join().expect("no panic")
    })?;
    let _still_needed = interpreters.lookup(id)?;
    match interpreters.finalize(id, Some(Duration::from_millis(100))) {
        Ok(_) => unreachable!("a drain never proceeds with guards out"),
        Err(report) => println!("{report}"),
    }
    Ok(())
}
