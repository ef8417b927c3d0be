//! What the environment and the machine can refuse, each in a process of its own.
#![allow(missing_docs)]

mod again;

use again::{again, in_child};
use interp_guard::{Counters, Missing, RegisterError, Registry, SetupError, platform};

#[test]
fn the_variable_chooses_the_mode() {
    if !in_child() {
        return again("the_variable_chooses_the_mode", &[("INTERP_GUARD_COUNTERS", "shared")]);
    }
    let registry = Registry::new();
    registry.register(()).expect("registered");
    assert_eq!(registry.layout().map(|layout| layout.counters), Some(Counters::Shared));
    let asked = Registry::new().counters(platform::best_counters());
    asked.register(()).expect("registered");
    assert_eq!(
        asked.layout().map(|layout| layout.counters),
        Some(platform::best_counters()),
        "the builder wins"
    );
}

#[test]
fn an_unreadable_variable_is_reported_and_the_interpreter_comes_back() {
    if !in_child() {
        return again(
            "an_unreadable_variable_is_reported_and_the_interpreter_comes_back",
            &[("INTERP_GUARD_COUNTERS", "per-thread")],
        );
    }
    let registry = Registry::new();
    let refused = registry.register("mine").expect_err("not a mode");
    let text = refused.to_string();
    for part in ["INTERP_GUARD_COUNTERS", "per-thread", "shared"] {
        assert!(text.contains(part), "{text}");
    }
    assert!(matches!(refused, RegisterError::Unavailable("mine", SetupError::Variable { .. })));
    // SAFETY: this process runs this one test, on this thread and libtest's waiting one.
    unsafe { std::env::remove_var("INTERP_GUARD_COUNTERS") };
    registry.register("mine").expect("the cause has passed");
}

#[test]
fn what_the_machine_lacks_is_said() {
    if !in_child() {
        let unregistered = [("GLIBC_TUNABLES", "glibc.pthread.rseq=0"), ("INTERP_GUARD_COUNTERS", "per-cpu")];
        return again("what_the_machine_lacks_is_said", &unregistered);
    }
    assert_eq!(platform::missing_for_per_cpu(), Some(Missing::Rseq));
    let refused = Registry::new().register(()).expect_err("no restartable sequences");
    assert!(refused.to_string().contains("restartable sequences"), "{refused}");
    assert!(matches!(refused, RegisterError::Unavailable((), SetupError::Counters(Missing::Rseq))));
    // SAFETY: as above.
    unsafe { std::env::remove_var("INTERP_GUARD_COUNTERS") };
    let registry = Registry::new();
    let id = registry.register(1).expect("falls back");
    assert_eq!(registry.layout().map(|layout| layout.counters), Some(Counters::Shared));
    let guards: Vec<_> = (0..100).map(|_| registry.lookup(id).expect("live")).collect();
    assert_eq!(registry.outstanding(id), Some(100), "counted on hashed stripes");
    drop(guards);
    assert_eq!(registry.finalize(id, None).ok(), Some(1));
}

#[test]
fn no_memory_is_an_error_and_can_pass() {
    if !in_child() {
        return again("no_memory_is_an_error_and_can_pass", &[]);
    }
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (soft, hard) = getrlimit(Resource::RLIMIT_AS).expect("a limit");
    let registry = Registry::with_capacity(1 << 20); // some 160 MiB of address space
    setrlimit(Resource::RLIMIT_AS, 64 << 20, hard).expect("lowered");
    let refused = registry.register("mine").expect_err("no memory");
    setrlimit(Resource::RLIMIT_AS, soft, hard).expect("raised again");
    let RegisterError::Unavailable("mine", SetupError::Memory { bytes, errno }) = refused else {
        panic!("{refused}")
    };
    assert!(bytes > 64 << 20 && errno == libc::ENOMEM, "{bytes} {errno}");
    registry.register("mine").expect("the cause has passed");
}
