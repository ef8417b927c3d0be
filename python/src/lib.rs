//! The extension module `interp_guard._native`: one table of interpreters per process, for CPython 3.9 and later.
//!
//! From the ground up; what a room may import is said in its first lines:
//!
//! | room | concept |
//! |---|---|
//! | `ground` | what differs between the versions, the registry, guards and views as words, and small helpers |
//! | `attach` | CPython as a runtime: what of ensure and release is its own |
//! | `keeper` | a bug of CPython 3.13, kept away from |
//! | `inside` | where this thread is, and a call inside a level |
//! | `holding` | what of this thread keeps an interpreter from finalizing |
//! | `signals` | real handlers that leave a call for an interpreter |
//! | `end` | the `atexit` hook, closing and draining, and what is said meanwhile |
//! | `calls` | C function pointers for ctypes and cffi that ask before Python is entered |
//! | `c` | what C sees: the function table behind `pep788.h`, and references by pointer |
//! | `fork` | what a forked child finds |
//! | `shield` | extensions that nobody changed are kept from being ended when Python is |
//! | `registering` | how interpreters get into the registry |
//! | `package` | the functions under the Python package |

mod attach;
mod c;
mod calls;
mod end;
mod fork;
mod ground;
mod holding;
mod inside;
mod keeper;
mod package;
mod registering;
mod shield;
mod signals;

use package::module;
use pyo3_ffi as ffi;
use std::ffi::c_void;
use std::sync::{Mutex, PoisonError};

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

/// A module definition. CPython writes its header, in `PyModuleDef_Init`, which one thread at a time calls.
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
    if let Some(why) = ground::python::misfit() {
        let why = ground::helpers::text(&format!("interp_guard: {why}"));
        // SAFETY: attached; neither looks into an object of ours.
        unsafe { ffi::PyErr_SetString(ffi::PyExc_ImportError, why.as_ptr()) };
        return std::ptr::null_mut();
    }
    let definition = match ground::python::minor_version() {
        ..=11 => &MODULE_3_9,
        12 => &MODULE_3_12,
        13.. => &MODULE_3_13,
    };
    /// Two interpreters may import this at once, and CPython writes the header of a definition without a lock. Only attached threads
    /// take this one, and run no Python code meanwhile.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: a static definition; the caller is attached.
    unsafe { ffi::PyModuleDef_Init(definition.0.get()) }
}
