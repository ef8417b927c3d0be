// May import: nothing.
//! The function that an address of the program's code lies in, by the symbol table of the file that it was loaded from.
//!
//! The dynamic linker knows the functions that an object exports. Most of a C extension's are `static`, and most of a
//! program's are not exported: their names are in the file, unless it was stripped. This reads no more of it than it
//! needs, keeps nothing, and believes nothing: a file that is not what it says gives no name.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Where an address lies.
#[derive(Debug)]
pub struct Function {
    /// The function's name as the compiler wrote it: of C++ and Rust, mangled.
    pub name: String,
    /// How many bytes the address is from its beginning.
    pub offset: u64,
    /// The file.
    pub file: PathBuf,
}

/// Context: normal; reads files.
pub fn function_at(address: usize) -> Option<Function> {
    let (file, offset) = mapped_at(address as u64)?;
    let object = Object(File::open(&file).ok()?);
    let (name, offset) = object.function_at(object.loaded_at(offset)?)?;
    Some(Function { name, offset, file })
}

/// The file that is mapped at an address, and which byte of it.
fn mapped_at(address: u64) -> Option<(PathBuf, u64)> {
    let maps = BufReader::new(File::open("/proc/self/maps").ok()?);
    maps.split(b'\n').map_while(Result::ok).find_map(|line| mapping(&line, address))
}

/// A line as `7f0000001000-7f0000002000 r-xp 00001000 08:01 4711   /usr/lib/libc.so.6`, if `address` lies there.
fn mapping(line: &[u8], address: u64) -> Option<(PathBuf, u64)> {
    let path = line.iter().position(|&byte| byte == b'/').and_then(|at| line.get(at..))?;
    let mut fields = std::str::from_utf8(line.get(..line.len() - path.len())?).ok()?.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let (start, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
    let offset = u64::from_str_radix(fields.nth(1)?, 16).ok()?;
    // What lies at the path of a file that was deleted is another one.
    let found = (start..end).contains(&address) && !path.ends_with(b" (deleted)");
    found.then(|| {
        Some((Path::new(OsStr::from_bytes(path)).to_owned(), offset.checked_add(address - start)?))
    })?
}

/// A file that may be an ELF one: 64 bits, little-endian.
struct Object(File);

const PROGRAM_HEADER: usize = 56;
const SECTION_HEADER: usize = 64;
const SYMBOL: usize = 24;

/// A segment that is loaded.
const PT_LOAD: u32 = 1;
/// The table of all symbols; that of the exported ones is another.
const SHT_SYMTAB: u32 = 2;
/// The symbol is a function.
const STT_FUNC: u8 = 2;

/// Longer names are cut.
const LONGEST_NAME: usize = 256;
/// Symbols that are read at a time.
const SYMBOLS: usize = 256;

impl Object {
    fn read<const N: usize>(&self, at: u64) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        self.0.read_exact_at(&mut bytes, at).ok()?;
        Some(bytes)
    }

    fn header(&self) -> Option<[u8; 64]> {
        let header = self.read::<64>(0)?;
        header.starts_with(b"\x7fELF\x02\x01").then_some(header)
    }

    /// The address that a byte of the file is linked for: that of the segment which it is loaded with.
    fn loaded_at(&self, offset: u64) -> Option<u64> {
        let header = self.header()?;
        let (table, count) = (word(&header, 32)?, half(&header, 56)?);
        (0..count.into()).find_map(|index: u64| {
            let segment = self.read::<PROGRAM_HEADER>(table.checked_add(index * PROGRAM_HEADER as u64)?)?;
            let (from, to, size) = (word(&segment, 8)?, word(&segment, 16)?, word(&segment, 32)?);
            let within = offset.checked_sub(from).filter(|&within| within < size)?;
            if int(&segment, 0)? == PT_LOAD { to.checked_add(within) } else { None }
        })
    }

    /// The name of the function at a linked address, and how far it is from the function's beginning.
    fn function_at(&self, address: u64) -> Option<(String, u64)> {
        let header = self.header()?;
        let (table, count) = (word(&header, 40)?, u64::from(half(&header, 60)?));
        let section = |index: u64| {
            let at = table.checked_add(index.checked_mul(SECTION_HEADER as u64)?)?;
            self.read::<SECTION_HEADER>(at)
        };
        let symbols = (0..count).filter_map(section).find(|section| int(section, 4) == Some(SHT_SYMTAB))?;
        let names = section(int(&symbols, 40)?.into())?;
        let (from, symbols) = (word(&symbols, 24)?, word(&symbols, 32)? / SYMBOL as u64);
        let mut chunk = vec![0; SYMBOLS * SYMBOL];
        let mut first = 0;
        while first < symbols {
            let bytes = usize::try_from(symbols - first).unwrap_or(SYMBOLS).min(SYMBOLS) * SYMBOL;
            let chunk = chunk.get_mut(..bytes)?;
            self.0.read_exact_at(chunk, from.checked_add(first.checked_mul(SYMBOL as u64)?)?).ok()?;
            for symbol in chunk.chunks_exact(SYMBOL) {
                let (begins, size) = (word(symbol, 8)?, word(symbol, 16)?);
                let within = address.checked_sub(begins).filter(|&within| within < size);
                // The upper half of the byte says how the linker sees it.
                if let (Some(within), Some(STT_FUNC)) = (within, symbol.get(4).map(|info| info & 0xf)) {
                    let name = word(&names, 24)?.checked_add(int(symbol, 0)?.into())?;
                    return Some((self.name(name)?, within));
                }
            }
            first += SYMBOLS as u64;
        }
        None
    }

    /// The text that begins at a byte of the file.
    fn name(&self, at: u64) -> Option<String> {
        let mut bytes = [0; LONGEST_NAME];
        let read = self.0.read_at(&mut bytes, at).ok()?;
        let name = bytes.get(..read)?.split(|&byte| byte == 0).next()?;
        (!name.is_empty()).then(|| String::from_utf8_lossy(name).into_owned())
    }
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn int(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[inline(never)]
    fn a_function_that_nobody_exports() -> u32 {
        std::hint::black_box(7)
    }

    #[test]
    fn a_function_that_is_not_exported_has_its_name_in_the_file() {
        let address = a_function_that_nobody_exports as *const () as usize;
        let found = function_at(address + 1).expect("the tests are not stripped");
        assert!(found.name.contains("a_function_that_nobody_exports"), "{found:?}");
        assert_eq!((found.offset, found.file), (1, std::env::current_exe().expect("it has a path")));
        assert_eq!(a_function_that_nobody_exports(), 7);
    }

    #[test]
    fn what_is_no_code_of_a_file_has_no_name() {
        let on_the_stack = 0_u8;
        let on_the_heap = Box::new(0_u8);
        for address in [0, 1, usize::MAX, (&raw const on_the_stack).addr(), (&raw const *on_the_heap).addr()]
        {
            assert!(function_at(address).is_none(), "{address:#x}");
        }
    }

    #[test]
    fn the_lines_of_maps_are_read_as_the_kernel_writes_them() {
        let line =
            b"7f0000001000-7f0000002000 r-xp 00003000 08:01 4711                       /a folder/lib\xff.so";
        let (path, offset) = mapping(line, 0x7f00_0000_1010).expect("within");
        assert_eq!((path.as_os_str().as_bytes(), offset), (&b"/a folder/lib\xff.so"[..], 0x3010));
        assert!(mapping(line, 0x7f00_0000_2000).is_none(), "the end is not within");
        let none: [&[u8]; 5] = [
            b"7f0000001000-7f0000002000 r-xp 00003000 08:01 4711                       /lib.so (deleted)",
            b"7f0000001000-7f0000002000 rw-p 00000000 00:00 0                          [heap]",
            b"7f0000001000-7f0000002000 rw-p 00000000 00:00 0 ",
            b"7f0000001000 /",
            b"",
        ];
        for line in none {
            assert!(mapping(line, 0x7f00_0000_1010).is_none(), "{line:?}");
        }
    }

    /// An object with one function, `f`, that is linked for 0x1010 and has 16 bytes; the file's byte 0x10 is linked for
    /// 0x1010.
    fn small_object() -> Vec<u8> {
        let mut file = vec![0; 64 + PROGRAM_HEADER + 2 * SECTION_HEADER + SYMBOL + 3];
        let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        let (segment, sections) = (64, 64 + PROGRAM_HEADER);
        let symbol = sections + 2 * SECTION_HEADER;
        put(0, b"\x7fELF\x02\x01");
        put(32, &(segment as u64).to_le_bytes());
        put(40, &(sections as u64).to_le_bytes());
        put(56, &1_u16.to_le_bytes());
        put(60, &2_u16.to_le_bytes());
        put(segment, &PT_LOAD.to_le_bytes());
        put(segment + 16, &0x1000_u64.to_le_bytes());
        put(segment + 32, &0x100_u64.to_le_bytes());
        put(sections + 4, &SHT_SYMTAB.to_le_bytes());
        put(sections + 24, &(symbol as u64).to_le_bytes());
        put(sections + 32, &(SYMBOL as u64).to_le_bytes());
        put(sections + 40, &1_u32.to_le_bytes());
        put(sections + SECTION_HEADER + 24, &((symbol + SYMBOL) as u64).to_le_bytes());
        put(symbol, &1_u32.to_le_bytes());
        put(symbol + 4, &[STT_FUNC]);
        put(symbol + 8, &0x1010_u64.to_le_bytes());
        put(symbol + 16, &16_u64.to_le_bytes());
        put(symbol + SYMBOL, b"\0f\0");
        file
    }

    /// What `bytes` say of the file's byte 0x14, if anything.
    fn found_in(bytes: &[u8]) -> Option<(String, u64)> {
        let path = std::env::temp_dir().join(format!("interp-guard-symbols-{}", std::process::id()));
        let mut file =
            File::options().create(true).truncate(true).read(true).write(true).open(&path).expect("a file");
        file.write_all(bytes).expect("room");
        std::fs::remove_file(&path).expect("it is there");
        let object = Object(file);
        object.function_at(object.loaded_at(0x14)?)
    }

    #[test]
    fn a_file_that_is_not_what_it_says_gives_no_name() {
        let whole = small_object();
        assert_eq!(found_in(&whole), Some(("f".to_owned(), 4)));
        // Cut anywhere. (What is cut last is the end of the name, which the end of the file ends as well.)
        for length in 0..whole.len() - 1 {
            assert_eq!(found_in(&whole[..length]), None, "{length}");
        }
        // Each byte at its largest, in turn: another answer, or none, and no panic.
        for at in 0..whole.len() {
            let mut wrong = whole.clone();
            wrong[at] = 0xff;
            let _ = found_in(&wrong);
            wrong.iter_mut().skip(at).take(8).for_each(|byte| *byte = 0xff);
            let _ = found_in(&wrong);
        }
    }
}
