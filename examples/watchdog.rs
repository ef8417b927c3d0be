//! A watchdog that reports who keeps an interpreter from finalizing, and goes on waiting.
//!
//! `cargo run --example watchdog`

use interp_guard::{DrainError, Registry, thread_state};
use refruntime::Interpreter;
use std::sync::mpsc::channel;
use std::time::Duration;

static INTERPRETERS: Registry<Interpreter> = Registry::new().ledger(true);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let id = Interpreter::locking().register(&INTERPRETERS)?;
    let (inside, entered) = channel();
    let busy = std::thread::Builder::new().name("busy".into()).spawn(move || {
        let attached = thread_state::ensure_id(&INTERPRETERS, id).expect("live");
        inside.send(()).expect("main waits");
        attached.allow_threads(std::thread::park).expect("guarded");
    })?;
    entered.recv()?;

    let mut closing = INTERPRETERS.close(id)?;
    let interpreter = loop {
        closing = match closing.drain(Some(Duration::from_millis(100))) {
            Ok(interpreter) => break interpreter,
            Err(DrainError::Timeout(late)) => {
                println!("{late}");
                busy.thread().unpark(); // the report makes the holder let go
                late.into_closing()
            }
            Err(error) => return Err(error.into()),
        };
    };
    drop(interpreter);
    println!("interpreter {id} is finalized");
    busy.join().map_err(|_| "the busy thread panicked")?;
    Ok(())
}
