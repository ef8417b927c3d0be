//! Boa: a context stays on the thread that made it, so it is [`Bound`], and other threads send it jobs.
//!
//! In `examples/runtimes`: `cargo run --release -p boa`

#![forbid(unsafe_code)]

use boa_engine::{Context, JsObject, JsValue, Source, js_string};
use interp_guard::bound::{self, Bound, CallError, Refused, Thread};
use interp_guard::pending::WorkerOptions;
use interp_guard::{Guard, InterpreterId, Registry, signal};
use runtimes::{NAMES, Run, cost};
use std::error::Error;
use std::process::ExitCode;

type Vms = Registry<Bound<Context>>;

static VMS: Vms = Registry::new();
/// It says who took its guards.
static AUDITED: Vms = Registry::new().ledger(true);

fn make(_id: InterpreterId) -> Context {
    let mut vm = Context::default();
    vm.eval(Source::from_bytes(runtimes::JAVASCRIPT)).expect("the script is right");
    vm
}

fn function(vm: &mut Context, name: &str) -> JsObject {
    let function = vm.global_object().get(js_string!(name), vm).expect("no getter");
    function.as_callable().expect("the script has it")
}

fn run(vm: &mut Context, function: &JsObject) -> u64 {
    let returned = function.call(&JsValue::undefined(), &[], vm);
    returned.expect("no exception").as_number().expect("it returns a number") as u64
}

fn run_by_name(vm: &mut Context, name: &str) -> u64 {
    let function = function(vm, name);
    run(vm, &function)
}

fn costs(vm: &mut Context) {
    let [nothing, turns] = ["nothing", "turns"].map(|name| function(vm, name));
    cost("on its thread: the cheapest script call, nothing()", || run(vm, &nothing));
    cost("on its thread: a loop of 100 turns", || run(vm, &turns));
}

/// A pending call: what the handler of SIGUSR1 left, on the context's thread.
fn on_usr1(vm: &Guard<'_, Bound<Context>>, _data: usize) {
    vm.with(|vm| run_by_name(vm, "signal")).expect("it runs on the context's thread");
}

/// From any thread: sends a job, and waits for its answer.
fn call(id: InterpreterId, name: &'static str) -> Result<u64, String> {
    VMS.call(id, move |vm| run_by_name(vm, name)).map_err(|why| match why {
        CallError::Refused(Refused::Lookup(_)) => why.to_string(),
        other => panic!("{other}"),
    })
}

/// A thread with a context. A profiler's signal is let through to its scripts.
fn start(vms: &'static Vms, name: &str) -> Result<Thread<Context>, Box<dyn Error>> {
    let options = WorkerOptions::new().name(name).unblocked(&[libc::SIGPROF]);
    let thread = bound::start(vms, options, make)?;
    vms.set_name(thread.id(), name)?;
    Ok(thread)
}

fn program(run: Run) -> Result<(), Box<dyn Error>> {
    let threads = NAMES.into_iter().map(|name| start(&VMS, name)).collect::<Result<Vec<_>, _>>()?;
    let ids: Vec<_> = threads.iter().map(Thread::id).collect();
    let handler = signal::on_signal(threads[1].queue(), libc::SIGUSR1, ids[1], on_usr1, 0)?;
    if run == Run::Show {
        cost("lookup, and the guard's close", || VMS.lookup(ids[0]).expect("live"));
        cost("a job that does nothing, and its answer", || VMS.call(ids[0], |_| ()).expect("live"));
        VMS.call(ids[0], costs)?;
        runtimes::leak(&AUDITED, start(&AUDITED, "leaky")?.id())?;
    }
    runtimes::live_and_end(&VMS, &ids, ids[1], call, run)?;
    for thread in threads {
        thread.join().map_err(|_| "a context panicked when it was dropped")?;
    }
    handler.uninstall();
    Ok(())
}

fn main() -> ExitCode {
    runtimes::main(program)
}
