//! Trampolines: C functions, made at run time, that ask before they pass a call on.
//!
//! A C function pointer carries no data. So each [`Gate`] has an entry of its own: sixteen bytes of code that find the
//! sixteen bytes of data one page further on, and jump to [`thunk`], which all gates of a kind share. The machine code is in `arch`.
//!
//! ```text
//! code page, never writable    | find the data, jump to the thunk | the same        | ...
//! data page, never executable  | thunk, gate                      | thunk, gate     | ...
//! ```
//!
//! The thunk saves the registers that carry arguments and asks [`Gate::enter`]. If that says no, it returns what `enter` put
//! into the frame. Else it copies the arguments that are on the stack, calls the target with all registers as they
//! were, keeps the result, and calls [`Gate::leave`]. It is a call with a frame of its own, not a jump with an exchanged
//! return address: unwinders, debuggers and shadow stacks see nothing unusual. For that it has to know how many words
//! are on the stack, which `interp_guard/_sysv.py` says, or `_aapcs64.py`.
//!
//! Entries are never given back: native code may call one at any time, for as long as the process lives.

use super::arch::{self, CODE, PAGE, Registers};
use crate::ground::helpers::keeping_errno;
use std::ffi::c_void;
use std::io;
use std::mem::offset_of;
use std::ptr::{copy_nonoverlapping, null_mut};
use std::sync::{Mutex, PoisonError};

/// Who is asked.
pub trait Gate: Sized + Sync + 'static {
    /// What `enter` leaves for `leave`.
    type Pass;

    /// The address to pass the call on to; or 0, and what it returns is in the frame.
    ///
    /// # Safety
    /// Called by the thunk, with the frame of the call: its gate is set, and the arguments.
    unsafe extern "C" fn enter(frame: *mut Frame<Self>, caller: usize) -> usize;

    /// The call is over, and what it returned is in the frame.
    ///
    /// # Safety
    /// Called by the thunk, with the frame of a call for which [`enter`](Self::enter) answered an address.
    unsafe extern "C" fn leave(frame: *mut Frame<Self>);
}

/// What the code of an entry finds.
#[repr(C)]
#[derive(Clone, Copy)]
struct Entry {
    thunk: unsafe extern "C" fn(),
    /// A `&'static G`, for the thunk of `G`.
    gate: *const c_void,
}

const ENTRIES: usize = PAGE / size_of::<Entry>();

/// One call, on the stack of the thread that makes it.
#[repr(C, align(16))]
pub struct Frame<G: Gate> {
    pub registers: Registers,
    /// How many words of arguments are on the stack; written by `enter` where it lets the call pass.
    pub words: u64,
    pub gate: &'static G,
    /// For `leave`.
    pub pass: G::Pass,
}

/// What every entry jumps to.
#[unsafe(naked)]
unsafe extern "C" fn thunk<G: Gate>() {
    arch::thunk!(G)
}

/// The entries of the newest page that are not in use.
struct Free {
    next: *mut Entry,
    left: usize,
}

// SAFETY: an address of memory that is this module's for ever.
unsafe impl Send for Free {}

static FREE: Mutex<Free> = Mutex::new(Free { next: null_mut(), left: 0 });

/// The thunk counts on it.
const fn fits<G: Gate>() {
    assert!(offset_of!(Frame<G>, registers) == 0 && align_of::<Frame<G>>() == 16);
}

/// The address of a C function that passes calls on as `gate` says. It stays for the life of the process.
///
/// Context: normal.
///
/// # Errors
/// No memory, or the system forbids executable memory.
pub fn function_for<G: Gate>(gate: &'static G) -> io::Result<usize> {
    const { fits::<G>() };
    let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
    if free.left == 0 {
        *free = Free { next: map_pages()?, left: ENTRIES };
    }
    let entry = free.next;
    // SAFETY: an entry of a mapped data page that nobody has yet: `left` counts those behind `next`. Whoever calls its
    // code was given the address by the caller, after this.
    unsafe { entry.write(Entry { thunk: thunk::<G>, gate: std::ptr::from_ref(gate).cast() }) };
    *free = Free { next: entry.wrapping_add(1), left: free.left - 1 };
    Ok(entry as usize - PAGE)
}

/// Maps a page of code and a page of data behind it, and returns the latter.
fn map_pages() -> io::Result<*mut Entry> {
    let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping.
    let code =
        unsafe { libc::mmap(null_mut(), 2 * PAGE, libc::PROT_READ | libc::PROT_WRITE, anonymous, -1, 0) };
    if code == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // Where one way is forbidden the other may not be: a service manager forbids the second, for one.
    // SAFETY: the first page of a new mapping that nobody else knows.
    let done = unsafe { map_code_from_file(code) || write_code(code) };
    if !done {
        let why = io::Error::last_os_error();
        // SAFETY: the mapping from above, which nobody uses.
        unsafe { libc::munmap(code, 2 * PAGE) };
        return Err(why);
    }
    Ok(code.wrapping_byte_add(PAGE).cast())
}

static PAGE_OF_CODE: [[u8; size_of::<Entry>()]; ENTRIES] = [CODE; ENTRIES];

/// Replaces the page by one of a file in memory, executable from the start. False with an error number.
///
/// # Safety
/// A page of a mapping that nobody else uses.
unsafe fn map_code_from_file(page: *mut libc::c_void) -> bool {
    // Not by its name in the C library, which glibc has had since 2.27 only.
    // SAFETY: a terminated name.
    let file = unsafe {
        libc::syscall(libc::SYS_memfd_create, c"interp_guard callbacks".as_ptr(), libc::MFD_CLOEXEC)
    };
    let Ok(file @ 0..) = libc::c_int::try_from(file) else { return false };
    let code = &PAGE_OF_CODE;
    // SAFETY: writes the array's bytes to a file of its own; the caller's promise; the error number is that of what
    // failed.
    unsafe {
        let written = libc::write(file, code.as_ptr().cast(), PAGE) == PAGE as isize;
        let fixed = libc::MAP_PRIVATE | libc::MAP_FIXED;
        let mapped = written
            && libc::mmap(page, PAGE, libc::PROT_READ | libc::PROT_EXEC, fixed, file, 0) != libc::MAP_FAILED;
        keeping_errno(|| libc::close(file));
        mapped
    }
}

/// Writes the code into the page, and makes it executable and no longer writable. False with an error number.
///
/// # Safety
/// As for [`map_code_from_file`]; the page is writable, unless that function has replaced it in vain.
unsafe fn write_code(page: *mut libc::c_void) -> bool {
    let code = &PAGE_OF_CODE;
    let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
    // SAFETY: the caller's promise. Mapped anew, since a failed MAP_FIXED may have unmapped it.
    unsafe {
        if libc::mmap(page, PAGE, libc::PROT_READ | libc::PROT_WRITE, anonymous, -1, 0) == libc::MAP_FAILED {
            return false;
        }
        copy_nonoverlapping(code.as_ptr().cast::<u8>(), page.cast::<u8>(), PAGE);
        libc::mprotect(page, PAGE, libc::PROT_READ | libc::PROT_EXEC) == 0
    }
}

const _: () = assert!(size_of::<Entry>() == 16 && offset_of!(Entry, thunk) == 0); // the code counts on it
