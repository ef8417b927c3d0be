//! VMs of both kinds, under a pool and under signals, to their end: with a lock each, and with a thread each. No `unsafe`.
//!
//! ```text
//! cargo run --example vms
//! ```
//!
//! The tests run it under memcheck, too: nothing is used that is gone, and nothing is left, not even of a job that was
//! thrown away.
#![forbid(unsafe_code)]

use interp_guard::bound::{self, Bound, CallError, Loop};
use interp_guard::locked::{Locked, WithError};
use interp_guard::pending::{PendingQueue, WorkerOptions};
use interp_guard::thread_state::{self, EnsureError};
use interp_guard::{Guard, InterpreterId, LookupError, Registry, signal};
use std::error::Error;
use std::rc::Rc;
use std::thread;

/// Any thread may use it, one at a time. What it keeps is on the heap, so that memcheck sees whose it is.
struct Vm {
    name: String,
    lines: Vec<String>,
}

/// It stays on its thread: `Rc` is not `Send`.
struct AtHome {
    lines: Rc<Vec<String>>,
}

static LOCKED: Registry<Locked<Vm>> = Registry::with_capacity(16);
static BOUND: Registry<Bound<AtHome>> = Registry::with_capacity(16);

fn main() -> Result<(), Box<dyn Error>> {
    let (jobs, signals) = with_a_lock_each()?;
    println!("with a lock each: {jobs} jobs, {signals} signals");
    let (jobs, thrown_away) = with_a_thread_each()?;
    println!("with a thread each: {jobs} jobs, {thrown_away} thrown away");
    Ok(())
}

fn on_signal(vm: &Guard<'_, Locked<Vm>>, number: usize) {
    vm.with(|vm| vm.lines.push(format!("signal {number} in {}", vm.name))).expect("guarded");
}

/// How many jobs ran, and how many signals' calls.
fn with_a_lock_each() -> Result<(usize, usize), Box<dyn Error>> {
    let queue = PendingQueue::new(&LOCKED)?;
    let worker = queue.start_worker()?;
    let handler = signal::on_signal_current(&queue, libc::SIGUSR1, on_signal, 10)?;
    let vm = |name: &str| Locked::new(Vm { name: name.into(), lines: Vec::new() });
    let ids: Vec<InterpreterId> = ["main", "mail", "news"]
        .map(|name| LOCKED.register_named(name, vm(name)))
        .into_iter()
        .collect::<Result<_, _>>()?;
    let pool: Vec<_> = (0..3)
        .map(|number| {
            let ids = ids.clone();
            thread::spawn(move || {
                for turn in 0_usize.. {
                    match job(ids[turn % ids.len()], number, turn) {
                        Ok(()) => {}
                        Err(WithError::Ensure(EnsureError::Finalizing | EnsureError::NotFound)) => {
                            return turn;
                        }
                        Err(other) => panic!("{other}"),
                    }
                }
                unreachable!()
            })
        })
        .collect();
    // A panic inside goes through, and the VM can be used again.
    let id = ids[1];
    thread::spawn(move || LOCKED.with(id, |vm| panic!("{} is asked to", vm.name)))
        .join()
        .expect_err("it panics");
    while LOCKED.with(ids[2], |vm| vm.lines.len())? < 20 {
        thread::yield_now();
    }

    let mut lines = Vec::new();
    for (_, vm) in LOCKED.finalize_all(None) {
        lines.extend(vm?.into_inner().expect("nobody has it").lines);
    }
    let jobs: usize = pool.into_iter().map(|thread| thread.join().expect("no panic")).sum();
    let left = usize::try_from(handler.counts().left)?;
    handler.uninstall();
    worker.stop();
    assert_eq!(lines.len(), jobs + left);
    Ok((jobs, left))
}

/// A signal comes to each, and finds the VM that is attached.
fn job(id: InterpreterId, number: usize, turn: usize) -> Result<(), WithError> {
    let attached = thread_state::ensure_id(&LOCKED, id)?;
    attached.try_with(|vm| vm.lines.push(format!("job {turn} of {number} in {}", vm.name)))?;
    signal_hook::low_level::raise(libc::SIGUSR1).expect("raised");
    attached.allow_threads(thread::yield_now).expect("guarded");
    Ok(())
}

/// How many jobs ran, and how many were thrown away.
fn with_a_thread_each() -> Result<(usize, usize), Box<dyn Error>> {
    let make = |id: InterpreterId| AtHome { lines: Rc::new(vec![format!("VM {id}")]) };
    let push = |line: String| move |vm: &mut AtHome| Rc::make_mut(&mut vm.lines).push(line);
    let mut jobs = 0;
    for round in 0..3 {
        let thread = bound::start(&BOUND, WorkerOptions::new().name("a VM's"), make)?;
        let id = thread.id();
        let pool: Vec<_> = (0..3)
            .map(|number| {
                thread::spawn(move || {
                    for turn in 0..20 {
                        let line = format!("job {turn} of {number} in round {round}");
                        match turn % 2 {
                            0 => BOUND.call(id, push(line)).expect("it is served"),
                            _ => BOUND.post(id, push(line)).expect("there is room"),
                        }
                    }
                })
            })
            .collect();
        pool.into_iter().for_each(|thread| thread.join().expect("no panic"));
        let panicked = BOUND.call(id, |vm| panic!("{} is asked to", vm.lines[0]));
        assert!(matches!(panicked, Err(CallError::Panicked(_))));
        jobs += BOUND.call(id, |vm| vm.lines.len() - 1)?;
        drop(BOUND.finalize(id, None)?);
        thread.join().expect("no panic");
        assert_eq!(BOUND.lookup(id).err(), Some(LookupError::NotFound));
    }

    // A loop that is dropped: what it was sent is dropped with it, and so are the guards that waited there.
    let vm = Loop::new(&BOUND, make)?;
    let id = vm.id();
    for number in 0..5 {
        BOUND.post(id, push(format!("job {number}, which never runs"))).expect("there is room");
    }
    let vm = vm.into_inner();
    assert_eq!((vm.lines.len(), BOUND.outstanding(id)), (1, Some(0)));
    drop(BOUND.finalize(id, None)?);
    Ok((jobs, 5))
}
