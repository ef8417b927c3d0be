//! An extension module whose threads call Python until it finalizes: copy from here.
//!
//! ```python
//! import attach_pool
//! attach_pool.start(8, print)     # eight native threads; the program may end whenever it wants
//! ```
//!
//! When the process is at its end, after Python is gone, it says what became of the threads.

use interp_guard_pyo3::{Finalizing, View, attach};
use pyo3::prelude::*;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

static CALLS: AtomicU64 = AtomicU64::new(0);
static RAISED: AtomicU64 = AtomicU64::new(0);
static THREADS: Mutex<Vec<JoinHandle<Finalizing>>> = Mutex::new(Vec::new());

/// Starts native threads that call `callable` with a line of text, each as often as it can.
#[pyfunction]
fn start(py: Python<'_>, threads: usize, callable: Py<PyAny>) -> PyResult<()> {
    let view = View::current(py)?;
    let mut running = THREADS.lock().unwrap_or_else(PoisonError::into_inner);
    if running.is_empty() {
        // SAFETY: a plain function.
        unsafe { libc::atexit(report) };
    }
    for number in 0..threads {
        let callable = callable.clone_ref(py);
        running.push(std::thread::spawn(move || call_until_it_ends(view, number, &callable)));
    }
    Ok(())
}

fn call_until_it_ends(view: View, number: usize, callable: &Py<PyAny>) -> Finalizing {
    loop {
        let called = attach(view, |py| {
            let result = callable.call1(py, (format!("a line of thread {number}\n"),));
            // Inside an attach, a detach and an attach in that are as safe.
            py.detach(|| attach(view, |_| ()))?;
            Ok(result.is_ok())
        });
        match called.and_then(|inner| inner) {
            Ok(true) => CALLS.fetch_add(1, Relaxed),
            Ok(false) => RAISED.fetch_add(1, Relaxed),
            Err(finalizing) => return finalizing,
        };
    }
}

/// For comparison: the same with PyO3's own attach.
#[pyfunction]
fn start_unguarded(py: Python<'_>, threads: usize, callable: Py<PyAny>) {
    // SAFETY: a plain function.
    unsafe { libc::atexit(report_unguarded) };
    for _ in 0..threads {
        let callable = callable.clone_ref(py);
        std::thread::spawn(move || {
            UNGUARDED.fetch_add(1, Relaxed);
            loop {
                let raised = Python::attach(|py| callable.call1(py, ("a line\n",)).is_err());
                if raised { &RAISED } else { &CALLS }.fetch_add(1, Relaxed);
            }
        });
    }
}

static UNGUARDED: AtomicU64 = AtomicU64::new(0);

/// They never end: Python has parked or killed them, or ended the process before this is called.
extern "C" fn report_unguarded() {
    println!("{} threads were never told", UNGUARDED.load(Relaxed));
}

/// How often the threads have called.
#[pyfunction]
fn calls() -> u64 {
    CALLS.load(Relaxed)
}

/// Attaches in ways that are easily got wrong; says what went wrong.
#[pyfunction]
fn check(py: Python<'_>) -> PyResult<Option<&'static str>> {
    let view = View::current(py)?;
    let guard = view.guard().expect("live");
    if guard.clone().view().id() != view.id() || format!("{guard:?} {view:?}") != "Guard(0) View(0)" {
        return Ok(Some("a guard and its view differ"));
    }
    if attach(view, |inner| inner.version_info().major) != Ok(3) {
        return Ok(Some("an attached thread attaches"));
    }
    let panicked = py.detach(|| {
        std::thread::spawn(move || {
            let hook = std::panic::take_hook();
            std::panic::set_hook(Box::new(|_| {}));
            let result = std::panic::catch_unwind(|| attach(view, |_| panic!("on purpose")));
            std::panic::set_hook(hook);
            // The thread is detached again, and can attach again.
            result.is_err()
                && guard.attach(|py| py.eval(c"6 * 7", None, None)?.extract()).unwrap().ok() == Some(42)
        })
        .join()
    });
    Ok((panicked.ok() != Some(true)).then_some("a panic left the thread attached, or could not attach again"))
}

extern "C" fn report() {
    let threads = std::mem::take(&mut *THREADS.lock().unwrap_or_else(PoisonError::into_inner));
    let (started, ended) =
        (threads.len(), threads.into_iter().filter_map(|thread| thread.join().ok()).count());
    println!(
        "threads {started} told that Python finalizes {ended} calls {} raised {}",
        CALLS.load(Relaxed),
        RAISED.load(Relaxed)
    );
}

/// Native threads that call Python until it finalizes.
#[pymodule]
fn attach_pool(module: &Bound<'_, PyModule>) -> PyResult<()> {
    View::current(module.py())?; // registers the interpreter, and says at import if the package is missing
    module.add_function(wrap_pyfunction!(start, module)?)?;
    module.add_function(wrap_pyfunction!(start_unguarded, module)?)?;
    module.add_function(wrap_pyfunction!(calls, module)?)?;
    module.add_function(wrap_pyfunction!(check, module)?)
}
