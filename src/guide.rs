// May import: nothing.
//! Guides, and the repository's other documents, page by page.
//!
//! Guides: [a runtime's core](own_runtime), [a VM in C](c_vm), [a Python extension](python_extension), [profilers and
//! watchdogs](handlers), [a Python program that crashes at its exit](shield), [shutting down](shutdown), [event loops](event_loops), [fork], [plugins]. A VM that somebody else wrote, and that knows nothing of
//! threads: [vms].
//!
//! Not among them, since they belong to packages of their own: `capi/README.md` for C and C++, `python/README.md` and
//! `docs/python.md` for CPython. `CONTRIBUTING.md` is for whoever changes the library.

#[doc = include_str!("../ARCHITECTURE.md")]
pub mod architecture {}

#[doc = include_str!("../docs/benchmarks.md")]
/// # Charts
///
#[doc = include_str!("../docs/benchmarks/interpreters.svg")]
///
#[doc = include_str!("../docs/benchmarks/threads.svg")]
///
#[doc = include_str!("../docs/benchmarks/handler.svg")]
pub mod benchmarks {}

#[doc = include_str!("../docs/contexts.md")]
pub mod contexts {}

#[doc = include_str!("../docs/orderings.md")]
pub mod orderings {}

#[doc = include_str!("../docs/proof.md")]
pub mod proof {}

#[doc = include_str!("../docs/questions.md")]
pub mod questions {}

#[doc = include_str!("../docs/guide/c_vm.md")]
pub mod c_vm {}

#[doc = include_str!("../docs/guide/event_loops.md")]
pub mod event_loops {}

#[doc = include_str!("../docs/guide/fork.md")]
pub mod fork {}

#[doc = include_str!("../docs/guide/handlers.md")]
pub mod handlers {}

#[doc = include_str!("../docs/guide/own_runtime.md")]
pub mod own_runtime {}

#[doc = include_str!("../docs/guide/plugins.md")]
pub mod plugins {}

/// [moving]: crate::guide
///
#[doc = include_str!("../docs/guide/python_extension.md")]
pub mod python_extension {}

/// [python-extension]: crate::guide::python_extension
///
#[doc = include_str!("../docs/guide/shield.md")]
pub mod shield {}

#[doc = include_str!("../docs/guide/shutdown.md")]
pub mod shutdown {}

#[doc = include_str!("../docs/guide/vms.md")]
pub mod vms {}
