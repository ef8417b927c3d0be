//! Lua: a state is `Send`, so [`Locked`] lends it to one thread at a time.
//!
//! In `examples/runtimes`: `cargo run --release -p lua`

#![forbid(unsafe_code)]

use interp_guard::locked::{Locked, WithError};
use interp_guard::pending::PendingQueue;
use interp_guard::thread_state::{self, EnsureError};
use interp_guard::{Guard, InterpreterId, Registry, signal};
use mlua::{Function, Lua};
use runtimes::{NAMES, Run, cost};
use std::error::Error;
use std::process::ExitCode;

static VMS: Registry<Locked<Vm>> = Registry::new();
/// It says who took its guards.
static AUDITED: Registry<Locked<Vm>> = Registry::new().ledger(true);

struct Vm(Lua);

impl Vm {
    fn new() -> mlua::Result<Self> {
        let lua = Lua::new();
        lua.load(runtimes::LUA).exec()?;
        Ok(Self(lua))
    }

    fn function(&self, name: &str) -> Function {
        self.0.globals().get(name).expect("the script has it")
    }

    fn call(&mut self, name: &str) -> u64 {
        self.function(name).call(()).expect("it returns a number")
    }
}

/// A pending call: what the handler of SIGUSR1 left, on a normal thread.
fn on_usr1(vm: &Guard<'_, Locked<Vm>>, _data: usize) {
    vm.with(|vm| vm.call("signal")).expect("guarded");
}

/// From any thread: attaches, calls, detaches.
fn call(id: InterpreterId, name: &'static str) -> Result<u64, String> {
    VMS.with(id, |vm| vm.call(name)).map_err(|why| match why {
        WithError::Ensure(EnsureError::Finalizing | EnsureError::NotFound) => why.to_string(),
        other => panic!("{other}"),
    })
}

fn costs(id: InterpreterId) -> Result<(), WithError> {
    cost("lookup, and the guard's close", || VMS.lookup(id).expect("live"));
    cost("ensure and release", || thread_state::ensure_id(&VMS, id).expect("live"));
    cost("`with`, of a function that does nothing", || VMS.with(id, |_| ()).expect("live"));
    VMS.with(id, |vm| {
        let (nothing, turns) = (vm.function("nothing"), vm.function("turns"));
        cost("inside: the cheapest script call, nothing()", || nothing.call::<()>(()).expect("no error"));
        cost("inside: a loop of 100 turns", || turns.call::<()>(()).expect("no error"));
    })
}

fn program(run: Run) -> Result<(), Box<dyn Error>> {
    let mut ids = Vec::new();
    for name in NAMES {
        ids.push(VMS.register_named(name, Locked::new(Vm::new()?))?);
    }
    let queue = PendingQueue::new(&VMS)?;
    let worker = queue.start_worker()?;
    let handler = signal::on_signal(&queue, libc::SIGUSR1, ids[1], on_usr1, 0)?;
    if run == Run::Show {
        costs(ids[0])?;
        runtimes::leak(&AUDITED, AUDITED.register_named("leaky", Locked::new(Vm::new()?))?)?;
    }
    runtimes::live_and_end(&VMS, &ids, ids[1], call, run)?;
    handler.uninstall();
    worker.stop();
    Ok(())
}

fn main() -> ExitCode {
    runtimes::main(program)
}
