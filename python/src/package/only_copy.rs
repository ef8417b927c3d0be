//! One table per process: a second copy of this library is refused.

use std::ffi::{CStr, CString, c_int, c_void};
use std::sync::atomic::{AtomicBool, Ordering};

/// Found by name in every loaded object, to tell whether a second copy of this library, and so a second table, is in
/// the process.
#[unsafe(no_mangle)]
pub static INTERP_GUARD_TABLE_MARK: c_int = 1;

/// A second copy of this library, loaded from another path, would have a table of its own, and the guards of one would
/// mean nothing to the other. The later of the two to be imported finds that out.
pub fn only_copy() -> Result<(), String> {
    static CHECKED: AtomicBool = AtomicBool::new(false);
    /// Collects the names. Looks no further: the dynamic linker has one of its locks here, and to take the other inside it would be
    /// the opposite order of a `dlopen`.
    unsafe extern "C" fn collect(info: *mut libc::dl_phdr_info, _: usize, names: *mut c_void) -> c_int {
        // SAFETY: called by dl_iterate_phdr with a valid info and with the pointer given below; the name is null or terminated.
        unsafe {
            let (name, names) = ((*info).dlpi_name, &mut *names.cast::<Vec<CString>>());
            if !name.is_null() && *name != 0 {
                names.push(CStr::from_ptr(name).to_owned());
            }
        }
        0
    }
    // Relaxed: at the worst it is checked twice.
    if CHECKED.load(Ordering::Relaxed) {
        return Ok(());
    }
    let mut names: Vec<CString> = Vec::new();
    // SAFETY: `collect` fits, and `names` outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(collect), (&raw mut names).cast()) };
    for name in names {
        // SAFETY: a terminated name; RTLD_NOLOAD finds what is loaded still. The mark is found only in a copy of this library,
        // also where the object is one that depends on it.
        let mark = unsafe {
            let object = libc::dlopen(name.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD);
            if object.is_null() {
                continue;
            }
            let mark = libc::dlsym(object, c"INTERP_GUARD_TABLE_MARK".as_ptr());
            libc::dlclose(object);
            mark
        };
        if !mark.is_null() && !std::ptr::addr_eq(mark, &raw const INTERP_GUARD_TABLE_MARK) {
            let path = name.to_string_lossy();
            return Err(format!("another copy is loaded from {path}; there can be one table per process"));
        }
    }
    CHECKED.store(true, Ordering::Relaxed);
    Ok(())
}
