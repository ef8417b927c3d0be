//! x86-64 (System V ABI).

use std::ffi::c_int;

/// How far the data of an entry lies behind its code. A multiple of every page size there is.
pub const PAGE: usize = 4096;

/// The code of one entry. `lea` counts from its own end, at 11.
pub const CODE: [u8; 16] = {
    let [a, b, c, d] = (PAGE as u32 - 11).to_le_bytes();
    // endbr64; lea r11, [rip + PAGE - 11]; jmp [r11]; int3; int3
    [0xF3, 0x0F, 0x1E, 0xFA, 0x4C, 0x8D, 0x1D, a, b, c, d, 0x41, 0xFF, 0x23, 0xCC, 0xCC]
};

/// What a call brings in registers, and what returns in them.
#[repr(C, align(16))]
pub struct Registers {
    /// rdi, rsi, rdx, rcx, r8, r9, as the caller left them.
    integers: [u64; 6],
    /// The lower halves of xmm0 to xmm7: no argument that is supported uses more.
    floats: [u64; 8],
    /// What returns to the caller: rax, rdx, xmm0, xmm1.
    result: [u64; 4],
    /// What returns on the x87 stack, if `is_x87`.
    x87: [u8; 16],
    /// 1 for a `long double`, else 0.
    is_x87: u64,
}

/// What a refused call returns, and where.
pub enum Default {
    /// rax, rdx, xmm0, xmm1: whichever the caller looks at.
    InRegisters([u64; 4]),
    /// A `long double`.
    OnX87([u8; 16]),
    /// Where the caller says, by a hidden first argument.
    InMemory(Box<[u8]>),
}

/// The numbers of `_sysv.py`.
const IN_REGISTERS: c_int = 0;
const ON_X87: c_int = 1;
const IN_MEMORY: c_int = 2;

impl Default {
    /// As `_sysv.py` says it. `None` if it means nothing.
    pub fn of(form: c_int, bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u64::from_ne_bytes(bytes.get(8 * at..8 * at + 8)?.try_into().ok()?));
        match form {
            IN_REGISTERS => Some(Self::InRegisters([word(0)?, word(1)?, word(2)?, word(3)?])),
            ON_X87 => Some(Self::OnX87(bytes.try_into().ok()?)),
            IN_MEMORY => Some(Self::InMemory(bytes.into())),
            _ => None,
        }
    }
}

impl Registers {
    /// What is called returns as `default` would be.
    pub fn will_return_as(&mut self, default: &Default) {
        self.is_x87 = matches!(default, Default::OnX87(_)).into();
    }

    /// Returns `default`.
    ///
    /// # Safety
    /// The registers are those of a call to a function whose result is of the default's type.
    pub unsafe fn answer(&mut self, default: &Default) {
        match default {
            Default::InRegisters(words) => self.result = *words,
            Default::OnX87(bytes) => (self.result, self.x87) = ([0; 4], *bytes),
            Default::InMemory(bytes) => {
                let [there, ..] = self.integers;
                // SAFETY: the hidden argument of a function that returns a value of this size: the caller's memory for it.
                unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), there as *mut u8, bytes.len()) };
                self.result = [there, 0, 0, 0];
            }
        }
    }
}

pub const FLOATS: usize = std::mem::offset_of!(Registers, floats);
pub const RESULT: usize = std::mem::offset_of!(Registers, result);
pub const X87: usize = std::mem::offset_of!(Registers, x87);
pub const IS_X87: usize = std::mem::offset_of!(Registers, is_x87);

/// The body of `thunk`, entered with its `Entry` in r11. Registers lie at the head of a `Frame`.
macro_rules! thunk {
    ($gate:ident) => {
        std::arch::naked_asm!(
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
            "mov rax, [r11 + {entry_gate}]",
            "mov [rsp + {gate}], rax",
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
            frame = const size_of::<Frame<$gate>>(),
            floats = const arch::FLOATS,
            result = const arch::RESULT,
            x87 = const arch::X87,
            is_x87 = const arch::IS_X87,
            words = const std::mem::offset_of!(Frame<$gate>, words),
            gate = const std::mem::offset_of!(Frame<$gate>, gate),
            entry_gate = const std::mem::offset_of!(Entry, gate),
            enter = sym $gate::enter,
            leave = sym $gate::leave,
        )
    };
}
pub(crate) use thunk;
