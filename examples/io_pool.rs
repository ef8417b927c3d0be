//! A pool of I/O threads that call back into an interpreter while the program shuts down: they are told, and end.
//!
//! `cargo run --example io_pool`

use interp_guard::thread_state::{self, EnsureError};
use interp_guard::{InterpreterId, Registry};
use refruntime::{Interpreter, Object};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

static INTERPRETERS: Registry<Interpreter> = Registry::new();

/// What the interpreter's code left with the pool: where to report, and in which interpreter.
struct Callback {
    interpreter: InterpreterId,
    received: Object,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let id = Interpreter::locking().register(&INTERPRETERS)?;
    let attached = thread_state::ensure_id(&INTERPRETERS, id)?;
    let callback = Arc::new(Callback { interpreter: id, received: Object::new(0) });
    drop(attached);

    let delivered = Arc::new(AtomicUsize::new(0));
    let pool: Vec<_> = (0..4)
        .map(|number| {
            let (callback, delivered) = (callback.clone(), delivered.clone());
            std::thread::Builder::new().name(format!("io-{number}")).spawn(move || io(&callback, &delivered))
        })
        .collect::<Result<_, _>>()?;

    while delivered.load(Ordering::Relaxed) < 1000 {
        std::thread::yield_now(); // the program's work
    }
    let interpreter = INTERPRETERS.finalize(id, None)?; // waits for those who are inside, lets nobody else in
    drop(interpreter);

    let mut sum = 0;
    for thread in pool {
        let name = thread.thread().name().unwrap_or_default().to_owned();
        let (calls, refused) = thread.join().map_err(|_| "an I/O thread panicked")?;
        println!("{name}: {calls} calls, then: {refused}");
        sum += calls;
    }
    println!("shut down; {sum} calls reached the interpreter, and no thread hangs in it");
    Ok(())
}

/// One I/O thread: until the interpreter has no more use for it.
fn io(callback: &Callback, delivered: &AtomicUsize) -> (usize, EnsureError) {
    let mut calls = 0;
    loop {
        let bytes = std::fs::read("/proc/self/stat").map_or(0, |text| text.len()); // some I/O, without the interpreter
        match thread_state::ensure_id(&INTERPRETERS, callback.interpreter) {
            Ok(_attached) => {
                callback.received.add(bytes as i64);
                calls += 1;
                delivered.fetch_add(1, Ordering::Relaxed);
            }
            Err(refused) => return (calls, refused),
        }
    }
}
