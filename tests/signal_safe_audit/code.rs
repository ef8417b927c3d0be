//! The core's object file, decoded: instructions, where each of them can go, and the restartable sequences.

use iced_x86::{
    Code as Op, Decoder, DecoderOptions, FlowControl, Formatter, Instruction, IntelFormatter, OpKind,
};
use object::read::archive::ArchiveFile;
use object::{Object, ObjectSection, ObjectSymbol, Relocation, RelocationTarget, SectionIndex, SectionKind};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// An address in an object file that is not linked yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    pub section: usize,
    pub offset: u64,
}

/// Where a call, a jump or an address leads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    Inside(Place),
    /// An undefined symbol.
    Outside(String),
}

/// One instruction and what its relocation says.
pub struct Step {
    pub instruction: Instruction,
    /// What the relocation inside the instruction refers to.
    relocated: Option<Target>,
    /// Does the relocation ask for a thread-local?
    pub thread_local: bool,
}

/// A restartable sequence, from its descriptor in `__rseq_cs`.
#[derive(Clone, Copy, Debug)]
pub struct Sequence {
    pub start: Place,
    /// After the committing instruction.
    pub end: Place,
    pub abort: Place,
}

/// See the module.
pub struct Code {
    steps: BTreeMap<Place, Step>,
    names: BTreeMap<Place, String>,
    pub sequences: Vec<Sequence>,
    pub undefined: Vec<String>,
}

impl Code {
    /// Reads the one object file in a Rust library archive.
    pub fn read(archive: &Path) -> Self {
        let bytes = std::fs::read(archive).expect("the fixture was built");
        let members = ArchiveFile::parse(&*bytes).expect("an archive").members();
        let objects: Vec<&[u8]> = members
            .map(|member| member.expect("a member"))
            .filter(|member| member.name().ends_with(b".o"))
            .map(|member| member.data(&*bytes).expect("the member's bytes"))
            .collect();
        let [object] = objects[..] else { panic!("{} object files: one was to be expected", objects.len()) };
        Self::decode(&object::File::parse(object).expect("an ELF object"))
    }

    fn decode(file: &object::File<'_>) -> Self {
        let mut code = Self {
            steps: BTreeMap::new(),
            names: BTreeMap::new(),
            sequences: Vec::new(),
            undefined: Vec::new(),
        };
        for symbol in file.symbols() {
            let name = demangled(symbol.name().unwrap_or_default());
            match symbol.section_index() {
                Some(section) if !name.is_empty() && symbol.kind() == object::SymbolKind::Text => {
                    code.names.insert(place(section, symbol.address()), name);
                }
                None if symbol.is_undefined() && !name.is_empty() => code.undefined.push(name),
                _ => {}
            }
        }
        code.undefined.sort();
        for section in file.sections() {
            if section.name() == Ok("__rseq_cs") {
                code.sequences = sequences(file, &section);
            } else if section.kind() == SectionKind::Text {
                code.decode_section(file, &section);
            }
        }
        code
    }

    fn decode_section(&mut self, file: &object::File<'_>, section: &object::Section<'_, '_>) {
        let relocations: HashMap<u64, Relocation> = section.relocations().collect();
        let bytes = section.data().expect("the section's bytes");
        for instruction in Decoder::new(64, bytes, DecoderOptions::NONE) {
            let (begin, end) = (instruction.ip(), instruction.next_ip());
            let relocation = (begin..end).find_map(|at| Some((at, relocations.get(&at)?)));
            let relocated = relocation.map(|(at, relocation)| target(file, relocation, end - at));
            let thread_local = relocation.is_some_and(|(_, relocation)| is_thread_local(relocation));
            let step = Step { instruction, relocated, thread_local };
            self.steps.insert(place(section.index(), begin), step);
        }
    }

    /// Where the function with this exported name begins.
    pub fn function(&self, name: &str) -> Place {
        let found = self.names.iter().find(|(_, known)| *known == name);
        *found.unwrap_or_else(|| panic!("the fixture exports no {name}")).0
    }

    /// The function in which `at` lies.
    pub fn name(&self, at: Place) -> &str {
        let before = self.names.range(..=at).next_back().filter(|(place, _)| place.section == at.section);
        before.map_or("?", |(_, name)| name)
    }

    pub fn step(&self, at: Place) -> &Step {
        self.steps.get(&at).unwrap_or_else(|| panic!("no instruction begins at {}", self.show(at)))
    }

    /// The instruction at `at` as a person reads it.
    pub fn show(&self, at: Place) -> String {
        let mut text = format!("{}+{:#x}: ", self.name(at), at.offset);
        if let Some(step) = self.steps.get(&at) {
            IntelFormatter::new().format(&step.instruction, &mut text);
        }
        text
    }
}

impl Step {
    /// Where this instruction's branch or call leads; `None` if the machine code does not say.
    pub fn target(&self, at: Place) -> Option<Target> {
        if let Some(target) = &self.relocated {
            return Some(target.clone());
        }
        match self.instruction.op0_kind() {
            OpKind::NearBranch64 => {
                Some(Target::Inside(Place { offset: self.instruction.near_branch64(), ..at }))
            }
            _ => None,
        }
    }

    pub fn flow(&self) -> FlowControl {
        // A system call comes back; the decoder counts it among the calls.
        match self.instruction.code() {
            Op::Syscall => FlowControl::Next,
            _ => self.instruction.flow_control(),
        }
    }

    /// Does it lock the bus? An exchange with memory does so without a prefix.
    pub fn locks(&self) -> bool {
        let exchange = matches!(self.instruction.mnemonic(), iced_x86::Mnemonic::Xchg);
        let memory = (0..self.instruction.op_count()).any(|i| self.instruction.op_kind(i) == OpKind::Memory);
        self.instruction.has_lock_prefix() || (exchange && memory)
    }
}

fn place(section: SectionIndex, offset: u64) -> Place {
    Place { section: section.0, offset }
}

fn demangled(name: &str) -> String {
    format!("{:#}", rustc_demangle::demangle(name))
}

/// What a relocation refers to; `rest` is how far the instruction goes on after the relocated bytes begin, which is what
/// the addend of a relative one makes up for.
fn target(file: &object::File<'_>, relocation: &Relocation, rest: u64) -> Target {
    let addend = relocation.addend().wrapping_add(rest as i64) as u64;
    let inside = |section, offset: u64| Target::Inside(place(section, offset.wrapping_add(addend)));
    match relocation.target() {
        RelocationTarget::Symbol(index) => {
            let symbol = file.symbol_by_index(index).expect("the relocation's symbol");
            match symbol.section_index() {
                Some(section) => inside(section, symbol.address()),
                None => Target::Outside(demangled(symbol.name().unwrap_or("?"))),
            }
        }
        RelocationTarget::Section(section) => inside(section, 0),
        other => panic!("a relocation to {other:?}"),
    }
}

fn is_thread_local(relocation: &Relocation) -> bool {
    use object::elf;
    let object::RelocationFlags::Elf { r_type } = relocation.flags() else { return false };
    [
        elf::R_X86_64_TLSGD,
        elf::R_X86_64_TLSLD,
        elf::R_X86_64_DTPOFF32,
        elf::R_X86_64_DTPOFF64,
        elf::R_X86_64_GOTTPOFF,
        elf::R_X86_64_TPOFF32,
        elf::R_X86_64_TPOFF64,
        elf::R_X86_64_GOTPC32_TLSDESC,
        elf::R_X86_64_TLSDESC_CALL,
    ]
    .contains(&r_type)
}

/// A descriptor: version and flags, start, length, abort address; 32 bytes. The two addresses are relocations.
fn sequences(file: &object::File<'_>, section: &object::Section<'_, '_>) -> Vec<Sequence> {
    let relocations: HashMap<u64, Relocation> = section.relocations().collect();
    let bytes = section.data().expect("the descriptors");
    assert_eq!(bytes.len() % 32, 0, "a descriptor is 32 bytes");
    let address = |at: u64| match target(file, &relocations[&at], 0) {
        Target::Inside(place) => place,
        Target::Outside(name) => panic!("a restartable sequence in {name}"),
    };
    let sequence = |at: u64| {
        let length = &bytes[at as usize + 16..at as usize + 24];
        let length = u64::from_le_bytes(length.try_into().expect("eight bytes"));
        let start = address(at + 8);
        Sequence { start, end: Place { offset: start.offset + length, ..start }, abort: address(at + 24) }
    };
    (0..bytes.len() as u64).step_by(32).map(sequence).collect()
}
