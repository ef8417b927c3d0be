//! Trampolines: C functions, made at run time, that ask before they pass a call on.
//!
//! A C function pointer carries no data. So each callback has an entry of its own: sixteen bytes of code that find the
//! sixteen bytes of data one page further on, and jump to [`thunk`], which all share.
//!
//! ```text
//! code page, never writable    | endbr64; lea r11, [rip + PAGE]; jmp [r11] | the same        | ...
//! data page, never executable  | thunk, callback                           | thunk, callback | ...
//! ```
//!
//! The thunk saves the registers that carry arguments and asks [`enter`]. If that says no, it returns what `enter` put
//! into the frame. Else it copies the arguments that are on the stack, calls the target with all registers as they
//! were, keeps the result, and calls [`leave`]. It is a call with a frame of its own, not a jump with an exchanged
//! return address: unwinders, debuggers and shadow stacks see nothing unusual. For that it has to know how many words
//! are on the stack, which `interp_guard/_sysv.py` says.
//!
//! Entries are never given back: native code may call one at any time, for as long as the process lives.

use crate::callbacks::{Callback, enter, leave};
use std::arch::naked_asm;
use std::io;
use std::mem::offset_of;
use std::ptr::{copy_nonoverlapping, null_mut};
use std::sync::{Mutex, PoisonError};

const PAGE: usize = 4096;

/// What the code of an entry finds.
#[repr(C)]
#[derive(Clone, Copy)]
struct Entry {
    thunk: unsafe extern "C" fn(),
    callback: &'static Callback,
}

const ENTRIES: usize = PAGE / size_of::<Entry>();

/// The code of one entry. The data is at the same place in the next page; `lea` counts from its own end, at 11.
const CODE: [u8; size_of::<Entry>()] = {
    let [a, b, c, d] = (PAGE as u32 - 11).to_le_bytes();
    // endbr64; lea r11, [rip + PAGE - 11]; jmp [r11]; int3; int3
    [0xF3, 0x0F, 0x1E, 0xFA, 0x4C, 0x8D, 0x1D, a, b, c, d, 0x41, 0xFF, 0x23, 0xCC, 0xCC]
};

/// One call, on the stack of the thread that makes it.
#[repr(C, align(16))]
pub struct Frame {
    /// rdi, rsi, rdx, rcx, r8, r9, as the caller left them.
    pub integers: [u64; 6],
    /// The lower halves of xmm0 to xmm7: no argument that is supported uses more.
    floats: [u64; 8],
    /// What returns to the caller: rax, rdx, xmm0, xmm1.
    pub result: [u64; 4],
    /// What returns on the x87 stack, if `is_x87`.
    pub x87: [u8; 16],
    /// 1 for a `long double`, else 0.
    pub is_x87: u64,
    /// How many words of arguments are on the stack; written by `enter` where it lets the call pass.
    pub words: u64,
    pub callback: &'static Callback,
    /// For `leave`.
    pub pass: (u64, u64),
}

/// What every entry jumps to, with its [`Entry`] in r11.
#[unsafe(naked)]
unsafe extern "C" fn thunk() {
    naked_asm!(
        ".cfi_startproc",
        "endbr64",
        "push rbp",
        ".cfi_def_cfa_offset 16",
        ".cfi_offset rbp, -16",
        "mov rbp, rsp",
        ".cfi_def_cfa_register rbp",
        "sub rsp, {frame}",
        "mov [rsp], rdi",
        "mov [rsp + 8], rsi",
        "mov [rsp + 16], rdx",
        "mov [rsp + 24], rcx",
        "mov [rsp + 32], r8",
        "mov [rsp + 40], r9",
        "movq [rsp + {floats}], xmm0",
        "movq [rsp + {floats} + 8], xmm1",
        "movq [rsp + {floats} + 16], xmm2",
        "movq [rsp + {floats} + 24], xmm3",
        "movq [rsp + {floats} + 32], xmm4",
        "movq [rsp + {floats} + 40], xmm5",
        "movq [rsp + {floats} + 48], xmm6",
        "movq [rsp + {floats} + 56], xmm7",
        "mov rax, [r11 + {entry_callback}]",
        "mov [rsp + {callback}], rax",
        "mov rdi, rsp",
        "mov rsi, [rbp + 8]", // the caller, for the ledger
        "call {enter}",
        "test rax, rax",
        "jz 2f",
        // The arguments on the stack, in an area that keeps it aligned to 16 bytes.
        "mov rcx, [rsp + {words}]",
        "lea rdx, [rcx + 1]",
        "and rdx, -2",
        "shl rdx, 3",
        "sub rsp, rdx",
        "lea rsi, [rbp + 16]",
        "mov rdi, rsp",
        "rep movsq",
        "mov rdi, [rbp - {frame}]",
        "mov rsi, [rbp - {frame} + 8]",
        "mov rdx, [rbp - {frame} + 16]",
        "mov rcx, [rbp - {frame} + 24]",
        "mov r8, [rbp - {frame} + 32]",
        "mov r9, [rbp - {frame} + 40]",
        "movq xmm0, [rbp - {frame} + {floats}]",
        "movq xmm1, [rbp - {frame} + {floats} + 8]",
        "movq xmm2, [rbp - {frame} + {floats} + 16]",
        "movq xmm3, [rbp - {frame} + {floats} + 24]",
        "movq xmm4, [rbp - {frame} + {floats} + 32]",
        "movq xmm5, [rbp - {frame} + {floats} + 40]",
        "movq xmm6, [rbp - {frame} + {floats} + 48]",
        "movq xmm7, [rbp - {frame} + {floats} + 56]",
        "call rax",
        "lea rsp, [rbp - {frame}]",
        "mov [rsp + {result}], rax",
        "mov [rsp + {result} + 8], rdx",
        "movq [rsp + {result} + 16], xmm0",
        "movq [rsp + {result} + 24], xmm1",
        "cmp qword ptr [rsp + {is_x87}], 0",
        "je 3f",
        "fstp tbyte ptr [rsp + {x87}]", // the stack of the x87 is empty at a call
        "3:",
        "mov rdi, rsp",
        "call {leave}",
        "2:",
        "mov rax, [rsp + {result}]",
        "mov rdx, [rsp + {result} + 8]",
        "movq xmm0, [rsp + {result} + 16]",
        "movq xmm1, [rsp + {result} + 24]",
        "cmp qword ptr [rsp + {is_x87}], 0",
        "je 4f",
        "fld tbyte ptr [rsp + {x87}]",
        "4:",
        "leave",
        ".cfi_def_cfa rsp, 8",
        "ret",
        ".cfi_endproc",
        frame = const size_of::<Frame>(),
        floats = const offset_of!(Frame, floats),
        result = const offset_of!(Frame, result),
        x87 = const offset_of!(Frame, x87),
        is_x87 = const offset_of!(Frame, is_x87),
        words = const offset_of!(Frame, words),
        callback = const offset_of!(Frame, callback),
        entry_callback = const offset_of!(Entry, callback),
        enter = sym enter,
        leave = sym leave,
    )
}

/// The entries of the newest page that are not in use.
struct Free {
    next: *mut Entry,
    left: usize,
}

// SAFETY: an address of memory that is this module's for ever.
unsafe impl Send for Free {}

static FREE: Mutex<Free> = Mutex::new(Free { next: null_mut(), left: 0 });

/// The address of a C function that passes calls on as `callback` says. It stays for the life of the process.
///
/// Context: normal.
///
/// # Errors
/// No memory, or the system forbids executable memory.
pub fn function_for(callback: &'static Callback) -> io::Result<usize> {
    let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
    if free.left == 0 {
        *free = Free { next: map_pages()?, left: ENTRIES };
    }
    let entry = free.next;
    // SAFETY: an entry of a mapped data page that nobody has yet: `left` counts those behind `next`. Whoever calls its
    // code was given the address by the caller, after this.
    unsafe { entry.write(Entry { thunk, callback }) };
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

const PAGE_OF_CODE: [[u8; size_of::<Entry>()]; ENTRIES] = [CODE; ENTRIES];

/// Replaces the page by one of a file in memory, executable from the start. False with an error number.
///
/// # Safety
/// A page of a mapping that nobody else uses.
unsafe fn map_code_from_file(page: *mut libc::c_void) -> bool {
    // SAFETY: a terminated name.
    let file = unsafe { libc::memfd_create(c"interp_guard callbacks".as_ptr(), libc::MFD_CLOEXEC) };
    if file < 0 {
        return false;
    }
    let code = PAGE_OF_CODE;
    // SAFETY: writes the array's bytes to a file of its own; the caller's promise; the error number is that of what
    // failed.
    unsafe {
        let written = libc::write(file, code.as_ptr().cast(), PAGE) == PAGE as isize;
        let fixed = libc::MAP_PRIVATE | libc::MAP_FIXED;
        let mapped = written
            && libc::mmap(page, PAGE, libc::PROT_READ | libc::PROT_EXEC, fixed, file, 0) != libc::MAP_FAILED;
        let why = *libc::__errno_location();
        libc::close(file);
        *libc::__errno_location() = why;
        mapped
    }
}

/// Writes the code into the page, and makes it executable and no longer writable. False with an error number.
///
/// # Safety
/// As for [`map_code_from_file`]; the page is writable, unless that function has replaced it in vain.
unsafe fn write_code(page: *mut libc::c_void) -> bool {
    let code = PAGE_OF_CODE;
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

// The thunk counts on it.
const _: () = assert!(offset_of!(Frame, integers) == 0 && align_of::<Frame>() == 16);
const _: () = assert!(size_of::<Entry>() == 16 && offset_of!(Entry, thunk) == 0);
