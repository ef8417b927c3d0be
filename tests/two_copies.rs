//! Two copies of the library in one process, the test's and a plugin's: what each sees of the other, as
//! `docs/guide/plugins.md` says. The plugin is built with `panic = "abort"`, this test with unwinding.
#![allow(missing_docs)]

use interp_guard::pending::PendingQueue;
use interp_guard::{Guard, Registry, signal, thread_state};
use refruntime::Interpreter;
use std::ffi::{CString, c_void};
use std::mem;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

static INTERPRETERS: Registry<Interpreter> = Registry::new();

struct Plugin(*mut c_void);

impl Plugin {
    /// Builds it, and loads it as a program loads a plugin.
    fn load() -> Self {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("plugin");
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/plugin/Cargo.toml");
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--locked", "--target-dir"]).arg(&target);
        cargo.arg("--manifest-path").arg(manifest);
        assert!(cargo.status().expect("cargo starts").success(), "the plugin does not build");
        let library = target.join("debug/libplugin.so").into_os_string().into_encoded_bytes();
        let library = CString::new(library).expect("a path");
        // SAFETY: the plugin's initialisers are those of Rust's standard library.
        let handle = unsafe { libc::dlopen(library.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        assert!(!handle.is_null(), "the plugin does not load");
        Self(handle)
    }

    fn symbol(&self, name: &str) -> *mut c_void {
        let name = CString::new(format!("plugin_{name}")).expect("a name");
        // SAFETY: the library is loaded, and is never closed.
        let found = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        assert!(!found.is_null(), "{name:?}");
        found
    }
}

macro_rules! call {
    ($plugin:expr, $name:literal ( $($argument:expr),* ) as $type:ty) => {{
        // SAFETY: tests/fixtures/plugin exports this function with this type.
        let function = unsafe { mem::transmute::<*mut c_void, $type>($plugin.symbol($name)) };
        function($($argument),*)
    }};
}

type Ask = extern "C" fn() -> i64;
type Has = extern "C" fn(i64) -> bool;

static SEEN: AtomicI64 = AtomicI64::new(-2);
static SIGNALS: AtomicU64 = AtomicU64::new(0);

/// What the test's copy says is attached.
extern "C" fn look() {
    SEEN.store(thread_state::current_id().map_or(-1, i64::from), Ordering::SeqCst);
}

#[test]
#[ignore = "builds the library a second time: .ci/steps/32-slow runs it"]
fn each_has_registries_threads_and_handlers_of_its_own() {
    let plugin = Plugin::load();
    let ours = Interpreter::locking().register(&INTERPRETERS).expect("there is room");
    let theirs = call!(plugin, "register"() as Ask);

    // The IDs are the same, and name two interpreters.
    assert_eq!(i64::from(ours), theirs);
    drop(INTERPRETERS.finalize(ours, None).expect("nobody has it"));
    assert!(call!(plugin, "has"(theirs) as Has));

    // What one attaches the other does not see, on the same thread and nested.
    let ours = Interpreter::locking().register(&INTERPRETERS).expect("there is room");
    let attached = thread_state::ensure_id(&INTERPRETERS, ours).expect("it is live");
    assert_eq!(call!(plugin, "current_id"() as Ask), -1);
    drop(attached);
    assert!(call!(plugin, "attached"(theirs, look) as extern "C" fn(i64, extern "C" fn()) -> bool));
    assert_eq!(SEEN.load(Ordering::SeqCst), -1);

    // Of one signal, both handlers run.
    let count = || {
        SIGNALS.fetch_add(1, Ordering::SeqCst);
    };
    // SAFETY: an atomic addition is async-signal-safe.
    unsafe { signal::in_handler(libc::SIGUSR1, count) }.expect("installed").keep();
    assert!(call!(plugin, "count_signals"(libc::SIGUSR1) as extern "C" fn(i32) -> bool));
    // SAFETY: it sends a signal to this thread, which has a handler.
    unsafe { libc::raise(libc::SIGUSR1) };
    assert_eq!(SIGNALS.load(Ordering::SeqCst), 1);
    assert_eq!(call!(plugin, "signals"() as extern "C" fn() -> u64), 1);

    assert!(call!(plugin, "finalize"(theirs) as Has));
    drop(INTERPRETERS.finalize(ours, None).expect("nobody has it"));
}

const CHILD: &str = "INTERP_GUARD_TEST_PANICS";

#[test]
#[ignore = "builds the library a second time: .ci/steps/32-slow runs it"]
fn a_panic_that_one_contains_ends_the_process_from_the_other() {
    if std::env::var_os(CHILD).is_some() {
        let plugin = Plugin::load();
        let id = call!(plugin, "register"() as Ask);
        call!(plugin, "call_that_panics"(id) as extern "C" fn(i64) -> u64);
        return; // with status 0: it has not ended the process
    }
    let child = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "a_panic_that_one_contains_ends_the_process_from_the_other"])
        .args(["--include-ignored", "--test-threads", "1"])
        .env(CHILD, "1")
        .output()
        .expect("it runs");
    assert_eq!(child.status.signal(), Some(libc::SIGABRT), "{child:?}");

    // The same call here, where panics unwind.
    static HERE: Registry<()> = Registry::new();
    let id = HERE.register(()).expect("there is room");
    let queue = PendingQueue::new(&HERE).expect("a queue");
    let panics = |_: &Guard<'_, ()>, _| panic!("this panic belongs to a test");
    assert!(queue.push(HERE.lookup(id).expect("it is live"), panics, 0).is_ok());
    assert_eq!(queue.run_pending().panics, 1);
    HERE.finalize(id, None).expect("the call's guard is given up");
}
