//! The extension module `interp_guard._native`: one table of interpreters per process, for CPython 3.9 and later.
//!
//! | file | concept |
//! |---|---|
//! | `python` | what differs between the versions; which thread state is attached here |
//! | `table` | the process's one registry; IDs, epochs, registration |
//! | `word` | a guard and a view as one tagged word |
//! | `attach` | CPython as a runtime: what of ensure and release is its own |
//! | `shutdown` | what hooks do: close and drain; what they say while they wait |
//! | `hook` | the `atexit` callback: whether it is still there, and whether it is the end |
//! | `on_close` | what is called when an interpreter closes |
//! | `late` | what the standard library is asked for while the end waits |
//! | `deadline` | how long an end may wait for guards, where the application says so |
//! | `residents` | threads that had a guard and are still in the interpreter |
//! | `selfhold` | a wait that nobody could end |
//! | `threads` | threads' names |
//! | `keeper` | a bug of CPython 3.13, kept away from |
//! | `interrupt` | Ctrl-C during a drain |
//! | `fork` | what a forked child finds |
//! | `c_api` | the function table behind `pep788.h` |
//! | `first_version` | references by pointer, for `pep788_v1.h` |
//! | `callbacks` | C function pointers for ctypes and cffi that ask before Python is entered |
//! | `trampoline` | the machine code in front of them |
//! | `refusals` | what is raised where there is no guard |
//! | `signals` | real handlers that leave a call for an interpreter |
//! | `report` | holders, and what the machine offers |
//! | `stress` | the native part of `python -m interp_guard stress` |
//! | `module` | the functions under the Python package |

mod attach;
mod c_api;
mod callbacks;
mod deadline;
mod first_version;
mod fork;
mod hook;
mod interrupt;
mod keeper;
mod late;
mod module;
mod on_close;
mod python;
mod refusals;
mod report;
mod residents;
mod selfhold;
mod shutdown;
mod signals;
mod stress;
mod table;
mod threads;
mod trampoline;
mod word;

use pyo3_ffi as ffi;
use std::ffi::{c_int, c_void};

/// One of the three slot arrays, which differ in what they tell CPython: an unknown slot is an error up to 3.11
/// (multiple interpreters) and 3.12 (GIL). CPython writes nothing into a slot array.
#[repr(transparent)]
struct Slots<const N: usize>([ffi::PyModuleDef_Slot; N]);

// SAFETY: constant data: numbers, a function's address, and small integers dressed as pointers.
unsafe impl<const N: usize> Sync for Slots<N> {}

const EXEC: ffi::PyModuleDef_Slot =
    ffi::PyModuleDef_Slot { slot: 2, value: module::exec as *const c_void as *mut c_void };
/// `Py_mod_multiple_interpreters`: `Py_MOD_PER_INTERPRETER_GIL_SUPPORTED`.
const OWN_GIL: ffi::PyModuleDef_Slot =
    ffi::PyModuleDef_Slot { slot: 3, value: std::ptr::without_provenance_mut(2) };
/// `Py_mod_gil`: `Py_MOD_GIL_NOT_USED`.
const NO_GIL: ffi::PyModuleDef_Slot =
    ffi::PyModuleDef_Slot { slot: 4, value: std::ptr::without_provenance_mut(1) };
const END: ffi::PyModuleDef_Slot = ffi::PyModuleDef_Slot { slot: 0, value: std::ptr::null_mut() };

static SLOTS_3_9: Slots<2> = Slots([EXEC, END]);
static SLOTS_3_12: Slots<3> = Slots([EXEC, OWN_GIL, END]);
static SLOTS_3_13: Slots<4> = Slots([EXEC, OWN_GIL, NO_GIL, END]);

/// A module definition. CPython writes its header, under a lock of its own, when the module is first initialised.
#[repr(transparent)]
struct Definition(std::cell::UnsafeCell<ffi::PyModuleDef>);

// SAFETY: only CPython touches the contents, through `PyModuleDef_Init`, as for every extension module.
unsafe impl Sync for Definition {}

impl Definition {
    const fn new<const N: usize>(slots: &'static Slots<N>) -> Self {
        Self(std::cell::UnsafeCell::new(ffi::PyModuleDef {
            m_base: ffi::PyModuleDef_HEAD_INIT,
            m_name: c"interp_guard._native".as_ptr(),
            m_doc: c"The table of interpreters, shared by all extensions of this process.".as_ptr(),
            m_size: 0,
            m_methods: std::ptr::null_mut(), // added by `module::exec`
            m_slots: slots.0.as_ptr().cast_mut(),
            m_traverse: None,
            m_clear: None,
            m_free: None,
        }))
    }
}

static MODULE_3_9: Definition = Definition::new(&SLOTS_3_9);
static MODULE_3_12: Definition = Definition::new(&SLOTS_3_12);
static MODULE_3_13: Definition = Definition::new(&SLOTS_3_13);

/// What Python calls on import.
///
/// # Safety
/// Called by Python, attached.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn PyInit__native() -> *mut ffi::PyObject {
    let definition = match python::minor_version() {
        ..=11 => &MODULE_3_9,
        12 => &MODULE_3_12,
        13.. => &MODULE_3_13,
    };
    // SAFETY: a static definition; the caller is attached.
    unsafe { ffi::PyModuleDef_Init(definition.0.get()) }
}

/// Found by name in every loaded object, to tell whether a second copy of this library, and so a second table, is in
/// the process (`module::exec`).
#[unsafe(no_mangle)]
pub static INTERP_GUARD_TABLE_MARK: c_int = 1;
