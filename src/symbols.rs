// May import: nothing.
//! The function that an address of the program's code lies in, by the symbol table of the file that it was loaded from.
//!
//! The dynamic linker knows the functions that an object exports. Most of a C extension's are `static`, and most of a
//! program's are not exported: their names are in the file, unless it was stripped. This reads the tables of it alone,
//! keeps nothing, and believes nothing: a file that is not what it says gives no name.

use object::read::elf::NativeElfFile;
use object::{Object, ObjectSegment, ObjectSymbol, ReadCache, SymbolKind};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
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
    let (name, offset) = function_in(File::open(&file).ok()?, offset)?;
    Some(Function { name, offset, file })
}

/// The file that is mapped at an address, and which byte of it. (`dl_iterate_phdr` has the path as somebody gave it,
/// relative or not, and does not know that the file was deleted.)
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

/// Longer names are cut. (One that is longer than 4096 is none: `ReadCache` does not look further for its end.)
const LONGEST_NAME: usize = 256;

/// The name of the function that a byte of an object's file belongs to, and how far the byte is from its beginning.
fn function_in(file: File, offset: u64) -> Option<(String, u64)> {
    let file = ReadCache::new(file);
    let object = NativeElfFile::parse(&file).ok()?;
    // The address that the byte is linked for: that of the segment which it is loaded with.
    let address = object.segments().find_map(|segment| {
        let (from, size) = segment.file_range();
        let within = offset.checked_sub(from).filter(|&within| within < size)?;
        segment.address().checked_add(within)
    })?;
    object.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text).find_map(|function| {
        let within = address.checked_sub(function.address()).filter(|&within| within < function.size())?;
        let name = function.name_bytes().ok().filter(|name| !name.is_empty())?;
        Some((String::from_utf8_lossy(name.get(..LONGEST_NAME).unwrap_or(name)).into_owned(), within))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use object::{NativeEndian, elf, pod};
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

    /// An object with one function that is linked for 0x1010 and has 16 bytes; the file's byte 0x10 is linked for
    /// 0x1010. The file ends with the function's name.
    fn small_object(name: &[u8]) -> Vec<u8> {
        type Header = elf::FileHeader64<NativeEndian>;
        type Segment = elf::ProgramHeader64<NativeEndian>;
        type Section = elf::SectionHeader64<NativeEndian>;
        type Symbol = elf::Sym64<NativeEndian>;
        let segments = size_of::<Header>();
        let sections = segments + size_of::<Segment>();
        let symbols = sections + 3 * size_of::<Section>();
        let names = symbols + 2 * size_of::<Symbol>();
        let mut file = vec![0; names];
        let e = NativeEndian::default();

        let (header, rest) = pod::from_bytes_mut::<Header>(&mut file).expect("room");
        header.e_ident.magic = elf::ELFMAG;
        header.e_ident.class = elf::ELFCLASS64;
        header.e_ident.data = if cfg!(target_endian = "big") { elf::ELFDATA2MSB } else { elf::ELFDATA2LSB };
        header.e_ident.version = elf::EV_CURRENT;
        header.e_phoff.set(e, segments as u64);
        header.e_phentsize.set(e, size_of::<Segment>() as u16);
        header.e_phnum.set(e, 1);
        header.e_shoff.set(e, sections as u64);
        header.e_shentsize.set(e, size_of::<Section>() as u16);
        header.e_shnum.set(e, 3);
        header.e_shstrndx.set(e, elf::SymbolSection(2));

        let (segment, rest) = pod::from_bytes_mut::<Segment>(rest).expect("room");
        segment.p_type.set(e, elf::PT_LOAD);
        segment.p_vaddr.set(e, 0x1000);
        segment.p_filesz.set(e, 0x100);

        // The first section and the first symbol are none.
        let (table, rest) = pod::slice_from_bytes_mut::<Section>(rest, 3).expect("room");
        table[1].sh_type.set(e, elf::SHT_SYMTAB);
        table[1].sh_offset.set(e, symbols as u64);
        table[1].sh_size.set(e, (names - symbols) as u64);
        table[1].sh_link.set(e, 2);
        table[2].sh_type.set(e, elf::SHT_STRTAB);
        table[2].sh_offset.set(e, names as u64);
        table[2].sh_size.set(e, name.len() as u64 + 2);

        let (table, _) = pod::slice_from_bytes_mut::<Symbol>(rest, 2).expect("room");
        table[1].st_name.set(e, 1);
        table[1].st_info = elf::SymbolInfo::new(elf::STB_LOCAL, elf::STT_FUNC);
        table[1].st_value.set(e, 0x1010);
        table[1].st_size.set(e, 16);

        [&file, &b"\0"[..], name, b"\0"].concat()
    }

    /// What `bytes` say of the file's byte 0x14, if anything.
    fn found_in(bytes: &[u8]) -> Option<(String, u64)> {
        let path = std::env::temp_dir().join(format!(
            "interp-guard-symbols-{}-{:?}",
            std::process::id(),
            std::thread::current().id()
        ));
        let mut file =
            File::options().create(true).truncate(true).read(true).write(true).open(&path).expect("a file");
        file.write_all(bytes).expect("room");
        std::fs::remove_file(&path).expect("it is there");
        function_in(file, 0x14)
    }

    #[test]
    fn a_file_that_is_not_what_it_says_gives_no_name() {
        let whole = small_object(b"f");
        assert_eq!(found_in(&whole), Some(("f".to_owned(), 4)));
        // Cut anywhere.
        for length in 0..whole.len() {
            assert_eq!(found_in(&whole[..length]), None, "{length}");
        }
        // Of 32 bits; of the other byte order; without sections.
        for (at, byte) in [(4, 1), (5, whole[5] ^ 3), (60, 0)] {
            let mut other = whole.clone();
            other[at] = byte;
            assert_eq!(found_in(&other), None, "{at}");
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

    #[test]
    fn a_long_name_is_cut() {
        for (length, shown) in [(256, Some(256)), (257, Some(256)), (3000, Some(256)), (5000, None)] {
            let found = found_in(&small_object(&vec![b'f'; length]));
            assert_eq!(found.map(|(name, _)| name.len()), shown, "{length}");
        }
    }
}
