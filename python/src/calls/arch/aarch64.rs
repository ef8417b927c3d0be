//! AArch64 (AAPCS64).

use std::ffi::c_int;

/// How far the data of an entry lies behind its code. A multiple of every page size there is.
pub const PAGE: usize = 65536;

/// The code of one entry. `adr` counts from itself, at 4.
pub const CODE: [u8; 16] = {
    let adr = 0x1000_0010 | (PAGE as u32 - 4) >> 2 << 5;
    // bti c; adr x16, PAGE - 4; ldr x17, [x16]; br x17
    let ([a, b, c, d], [e, f, g, h]) = (0xD503_245F_u32.to_le_bytes(), adr.to_le_bytes());
    let ([i, j, k, l], [m, n, o, p]) = (0xF940_0211_u32.to_le_bytes(), 0xD61F_0220_u32.to_le_bytes());
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
};

/// What a call brings in registers, and what returns in them.
#[repr(C, align(16))]
pub struct Registers {
    /// x0 to x7, as the caller left them.
    integers: [u64; 8],
    /// x8: where to put a result that is returned in memory.
    place: u64,
    /// v0 to v7.
    vectors: [u128; 8],
    /// What returns to the caller.
    result: InRegisters,
}

/// x0, x1, and v0 to v3: whichever the caller looks at.
#[repr(C, align(16))]
#[derive(Clone, Copy)]
pub struct InRegisters {
    integers: [u64; 2],
    vectors: [u128; 4],
}

/// What a refused call returns, and where.
pub enum Default {
    /// In registers.
    InRegisters(InRegisters),
    /// Where the caller says, in x8.
    InMemory(Box<[u8]>),
}

/// The numbers of `_aapcs64.py`.
const IN_REGISTERS: c_int = 0;
const IN_MEMORY: c_int = 2;

impl Default {
    /// As `_aapcs64.py` says it. `None` if it means nothing.
    pub fn of(form: c_int, bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u64::from_le_bytes(bytes.get(8 * at..8 * at + 8)?.try_into().ok()?));
        let vector =
            |at: usize| Some(u128::from_le_bytes(bytes.get(16 * at + 16..16 * at + 32)?.try_into().ok()?));
        match form {
            IN_REGISTERS => Some(Self::InRegisters(InRegisters {
                integers: [word(0)?, word(1)?],
                vectors: [vector(0)?, vector(1)?, vector(2)?, vector(3)?],
            })),
            IN_MEMORY => Some(Self::InMemory(bytes.into())),
            _ => None,
        }
    }
}

impl Registers {
    /// What is called returns as `default` would be: in these registers in any case.
    pub fn will_return_as(&mut self, _default: &Default) {}

    /// Returns `default`.
    ///
    /// # Safety
    /// The registers are those of a call to a function whose result is of the default's type.
    pub unsafe fn answer(&mut self, default: &Default) {
        match default {
            Default::InRegisters(result) => self.result = *result,
            Default::InMemory(bytes) => {
                // SAFETY: that of a function that returns a value of this size: the caller's memory for it.
                unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.place as *mut u8, bytes.len()) };
                self.result = InRegisters { integers: [self.place, 0], vectors: [0; 4] };
            }
        }
    }
}

pub const PLACE: usize = std::mem::offset_of!(Registers, place);
pub const VECTORS: usize = std::mem::offset_of!(Registers, vectors);
pub const RESULT: usize = std::mem::offset_of!(Registers, result);

/// The body of `thunk`, entered with its `Entry` in x16. Registers lie at the head of a `Frame`.
macro_rules! thunk {
    ($gate:ident) => {
        std::arch::naked_asm!(
            ".cfi_startproc",
            "hint #34", // bti c
            "stp x29, x30, [sp, #-16]!",
            ".cfi_def_cfa_offset 16",
            ".cfi_offset x29, -16",
            ".cfi_offset x30, -8",
            "mov x29, sp",
            ".cfi_def_cfa x29, 16",
            "sub sp, sp, #{frame}",
            "stp x0, x1, [sp]",
            "stp x2, x3, [sp, #16]",
            "stp x4, x5, [sp, #32]",
            "stp x6, x7, [sp, #48]",
            "str x8, [sp, #{place}]",
            "stp q0, q1, [sp, #{vectors}]",
            "stp q2, q3, [sp, #{vectors} + 32]",
            "stp q4, q5, [sp, #{vectors} + 64]",
            "stp q6, q7, [sp, #{vectors} + 96]",
            "ldr x9, [x16, #{entry_gate}]",
            "str x9, [sp, #{gate}]",
            "mov x0, sp",
            "mov x1, x30", // the caller, for the ledger
            "bl {enter}",
            "cbz x0, 2f",
            "mov x16, x0",
            // The arguments on the stack, in an area that keeps it aligned to 16 bytes.
            "ldr x9, [sp, #{words}]",
            "add x10, x9, #1",
            "and x10, x10, #-2",
            "sub sp, sp, x10, lsl #3",
            "add x10, x29, #16",
            "mov x11, sp",
            "3:",
            "cbz x9, 4f",
            "ldr x12, [x10], #8",
            "str x12, [x11], #8",
            "sub x9, x9, #1",
            "b 3b",
            "4:",
            "sub x9, x29, #{frame}",
            "ldp x0, x1, [x9]",
            "ldp x2, x3, [x9, #16]",
            "ldp x4, x5, [x9, #32]",
            "ldp x6, x7, [x9, #48]",
            "ldr x8, [x9, #{place}]",
            "ldp q0, q1, [x9, #{vectors}]",
            "ldp q2, q3, [x9, #{vectors} + 32]",
            "ldp q4, q5, [x9, #{vectors} + 64]",
            "ldp q6, q7, [x9, #{vectors} + 96]",
            "blr x16",
            "sub sp, x29, #{frame}",
            "stp x0, x1, [sp, #{result}]",
            "stp q0, q1, [sp, #{result} + 16]",
            "stp q2, q3, [sp, #{result} + 48]",
            "mov x0, sp",
            "bl {leave}",
            "2:",
            "ldp x0, x1, [sp, #{result}]",
            "ldp q0, q1, [sp, #{result} + 16]",
            "ldp q2, q3, [sp, #{result} + 48]",
            "mov sp, x29",
            ".cfi_def_cfa sp, 16",
            "ldp x29, x30, [sp], #16",
            ".cfi_def_cfa_offset 0",
            ".cfi_restore x29",
            ".cfi_restore x30",
            "ret",
            ".cfi_endproc",
            frame = const size_of::<Frame<$gate>>(),
            place = const arch::PLACE,
            vectors = const arch::VECTORS,
            result = const arch::RESULT,
            words = const std::mem::offset_of!(Frame<$gate>, words),
            gate = const std::mem::offset_of!(Frame<$gate>, gate),
            entry_gate = const std::mem::offset_of!(Entry, gate),
            enter = sym $gate::enter,
            leave = sym $gate::leave,
        )
    };
}
pub(crate) use thunk;
