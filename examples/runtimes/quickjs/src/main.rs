//! QuickJS: with the feature `parallel` a context is `Send`, so [`Locked`] lends it to one thread at a time.
//!
//! In `examples/runtimes`: `cargo run --release -p quickjs`

#![forbid(unsafe_code)]

use interp_guard::locked::{Locked, WithError};
use interp_guard::pending::PendingQueue;
use interp_guard::thread_state::{self, EnsureError};
use interp_guard::{Guard, InterpreterId, Registry, signal};
use rquickjs::{Context, Function, Runtime};
use runtimes::{NAMES, Run, cost};
use std::error::Error;
use std::process::ExitCode;

static VMS: Registry<Locked<Vm>> = Registry::new();
/// It says who took its guards.
static AUDITED: Registry<Locked<Vm>> = Registry::new().ledger(true);

/// A context of a runtime of its own.
struct Vm(Context);

impl Vm {
    fn new() -> rquickjs::Result<Self> {
        let context = Context::full(&Runtime::new()?)?;
        context.with(|js| js.eval::<(), _>(runtimes::JAVASCRIPT))?;
        Ok(Self(context))
    }

    fn call(&mut self, name: &str) -> u64 {
        let call = |js: rquickjs::Ctx| js.globals().get::<_, Function>(name)?.call(());
        self.0.with(call).expect("the script has it, and it returns a number")
    }

    fn costs(&mut self) -> rquickjs::Result<()> {
        self.0.with(|js| {
            let [nothing, turns] = ["nothing", "turns"].map(|name| js.globals().get::<_, Function>(name));
            let (nothing, turns) = (nothing?, turns?);
            cost("inside: the cheapest script call, nothing()", || {
                nothing.call::<_, u64>(()).expect("a number")
            });
            cost("inside: a loop of 100 turns", || turns.call::<_, u64>(()).expect("a number"));
            Ok(())
        })
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

fn program(run: Run) -> Result<(), Box<dyn Error>> {
    let mut ids = Vec::new();
    for name in NAMES {
        ids.push(VMS.register_named(name, Locked::new(Vm::new()?))?);
    }
    let id = ids[0];
    let queue = PendingQueue::new(&VMS)?;
    let worker = queue.start_worker()?;
    let handler = signal::on_signal(&queue, libc::SIGUSR1, ids[1], on_usr1, 0)?;
    if run == Run::Show {
        cost("lookup, and the guard's close", || VMS.lookup(id).expect("live"));
        cost("ensure and release", || thread_state::ensure_id(&VMS, id).expect("live"));
        cost("`with`, of a function that does nothing", || VMS.with(id, |_| ()).expect("live"));
        VMS.with(id, Vm::costs)??;
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
