//! SIGUSR1 runs code in a subinterpreter that is chosen in advance: the handler leaves a pending call, and a worker runs
//! it, attached.
//!
//! `cargo run --example signal_subinterpreter`

use interp_guard::pending::{self, PendingQueue, QueueOptions};
use interp_guard::{Guard, InterpreterId, Registry, thread_state};
use nix::sys::signal::{Signal, raise};
use refruntime::Interpreter;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock};

static INTERPRETERS: Registry<Interpreter> = Registry::new();
static RAN: OnceLock<Mutex<Sender<(usize, InterpreterId)>>> = OnceLock::new();

/// Runs in the chosen interpreter, in normal context: it may do anything.
fn on_usr1(guard: &Guard<'_, Interpreter>, signal: usize) {
    assert_eq!(thread_state::current_id(), Some(guard.id()));
    let sender = RAN.get().expect("set before the handler was installed").lock().expect("not poisoned");
    sender.send((signal, guard.id())).expect("main waits");
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let _main = Interpreter::locking().register(&INTERPRETERS)?;
    let sub = Interpreter::locking().register(&INTERPRETERS)?;
    let (ran, told) = channel();
    RAN.set(Mutex::new(ran)).expect("first");

    let options = QueueOptions::new().name("SIGUSR1").runner(pending::attached);
    let queue = PendingQueue::with(&INTERPRETERS, options)?;
    let worker = queue.start_worker()?;
    let from_handler = queue.clone();
    let handler = move || {
        // Closing, or gone: then there is nothing to run. Full: this one is dropped.
        if let Ok(guard) = INTERPRETERS.lookup(sub) {
            let _ = from_handler.push(guard, on_usr1, Signal::SIGUSR1 as usize);
        }
    };
    // SAFETY: the handler looks up and pushes, which is async-signal-safe, and does nothing else. It is not unregistered,
    // so the queue is never dropped in it.
    unsafe { signal_hook::low_level::register(libc::SIGUSR1, handler) }?;

    for _ in 0..3 {
        raise(Signal::SIGUSR1)?;
        let (signal, id) = told.recv()?;
        println!("signal {signal} ran in interpreter {id}");
    }
    for (id, outcome) in INTERPRETERS.finalize_all(None) {
        outcome?;
        println!("interpreter {id} is finalized");
    }
    raise(Signal::SIGUSR1)?;
    let ran = worker.stop();
    println!("{} calls ran; the signal after the end ran nothing", ran.calls);
    Ok(())
}
