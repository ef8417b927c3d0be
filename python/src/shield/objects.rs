//! The objects of the process, and their tables: which words of an object hold the address of a function that
//! it calls.
//!
//! All from memory, by the dynamic segment, which stripping leaves alone. The relocations are those of a call
//! through the procedure linkage table ([`JUMP_SLOT`], bound at the first call or at once), of a call through
//! the global offset table ([`GLOB_DAT`]), and of a pointer in data ([`POINTER`]).

use object::NativeEndian as NE;
use object::elf::{self, Dyn64, ProgramHeader64, Rela64, Sym64};
use std::ffi::{CStr, CString, c_int, c_void};
use std::ptr::null;

#[cfg(target_arch = "aarch64")]
use elf::{R_AARCH64_ABS64 as POINTER, R_AARCH64_GLOB_DAT as GLOB_DAT, R_AARCH64_JUMP_SLOT as JUMP_SLOT};
#[cfg(target_arch = "x86_64")]
use elf::{R_X86_64_64 as POINTER, R_X86_64_GLOB_DAT as GLOB_DAT, R_X86_64_JUMP_SLOT as JUMP_SLOT};

/// An object, as the dynamic linker lists it.
#[derive(Clone, PartialEq, Eq)]
pub struct Listed {
    base: usize, // compared first, and nearly always different
    pub name: CString,
    headers: usize,
    count: u16,
}

/// How often objects have been added to the process, and taken away.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Changes {
    added: u64,
    removed: u64,
}

impl Changes {
    /// Before there was anything.
    pub const NONE: Self = Self { added: 0, removed: 0 };

    /// Has nothing been taken away since?
    pub fn only_added_since(self, before: Self) -> bool {
        self.removed == before.removed
    }
}

/// How many changes there were.
pub fn changes() -> Changes {
    unsafe extern "C" fn first(info: *mut libc::dl_phdr_info, _: usize, found: *mut c_void) -> c_int {
        // SAFETY: called by dl_iterate_phdr with a valid info and with the pointer given below.
        unsafe {
            *found.cast::<Changes>() = Changes { added: (*info).dlpi_adds, removed: (*info).dlpi_subs };
        }
        1
    }
    let mut found = Changes::NONE;
    // SAFETY: `first` fits, and `found` outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(first), (&raw mut found).cast()) };
    found
}

/// All of them. Looks no further: the dynamic linker has one of its locks here, and to take the other inside it
/// would be the opposite order of a `dlopen`.
pub fn list() -> Vec<Listed> {
    unsafe extern "C" fn collect(info: *mut libc::dl_phdr_info, _: usize, list: *mut c_void) -> c_int {
        // SAFETY: called by dl_iterate_phdr with a valid info and with the pointer given below; the name is
        // null or terminated.
        unsafe {
            let (info, list) = (&*info, &mut *list.cast::<Vec<Listed>>());
            let name = if info.dlpi_name.is_null() { c"" } else { CStr::from_ptr(info.dlpi_name) };
            list.push(Listed {
                name: name.to_owned(),
                base: info.dlpi_addr as usize,
                headers: info.dlpi_phdr.expose_provenance(),
                count: info.dlpi_phnum,
            });
        }
        0
    }
    let mut list: Vec<Listed> = Vec::new();
    // SAFETY: `collect` fits, and `list` outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(collect), (&raw mut list).cast()) };
    list
}

// musl has it too, and `libc` only glibc's.
const RTLD_DI_LINKMAP: c_int = 2;
unsafe extern "C" {
    fn dlinfo(handle: *mut c_void, request: c_int, answer: *mut c_void) -> c_int;
}

/// What `dlinfo` tells of an object: the beginning of `struct link_map`.
#[repr(C)]
struct LinkMap {
    base: usize,
    name: *const libc::c_char,
    dynamic: usize,
}

/// An object that stays loaded, and has been relocated, as long as this lives.
pub struct Object {
    handle: *mut c_void,
    listed: Listed,
    dynamic: usize,
}

impl Object {
    /// `None` if it is gone, or none that `dlopen` knows, such as what the kernel adds.
    ///
    /// Waits for other threads that load objects, as `dlopen` and `dlsym` do: so it is not in the middle of
    /// being relocated.
    pub fn open(listed: &Listed) -> Option<Self> {
        let name = if listed.name.is_empty() { null() } else { listed.name.as_ptr() };
        // SAFETY: null or a terminated name; loads nothing.
        let handle = unsafe { libc::dlopen(name, libc::RTLD_LAZY | libc::RTLD_NOLOAD) };
        if handle.is_null() {
            return None;
        }
        let mut map: *const LinkMap = null();
        // SAFETY: a handle; a pointer is written.
        let known = unsafe { dlinfo(handle, RTLD_DI_LINKMAP, (&raw mut map).cast()) } == 0;
        // SAFETY: the dynamic linker's, there as long as the handle is.
        let map = unsafe { map.as_ref() }.filter(|_| known);
        let object = Self { handle, listed: listed.clone(), dynamic: map.map_or(0, |map| map.dynamic) };
        // Another of the same name has come in its place?
        let is_it = map.is_some_and(|map| map.base == listed.base) && object.dynamic != 0;
        let headers = if is_it { object.headers() } else { &[] };
        let segment = headers.iter().find(|header| header.p_type.get(NE) == elf::PT_DYNAMIC)?;
        (listed.base.wrapping_add(segment.p_vaddr.get(NE) as usize) == object.dynamic).then_some(object)
    }

    /// What to call it.
    pub fn path(&self) -> String {
        match self.listed.name.is_empty() {
            true => {
                std::env::current_exe().map_or("the executable".into(), |path| path.display().to_string())
            }
            false => self.listed.name.to_string_lossy().into_owned(),
        }
    }

    pub fn handle(&self) -> *mut c_void {
        self.handle
    }

    fn headers(&self) -> &[ProgramHeader64<NE>] {
        // SAFETY: mapped, since the object is loaded, and read-only; the linker says how many there are. The
        // type has no alignment of its own to keep beyond what the file has.
        unsafe {
            std::slice::from_raw_parts(
                std::ptr::with_exposed_provenance(self.listed.headers),
                self.listed.count.into(),
            )
        }
    }

    /// Does this address lie in it?
    pub fn has(&self, address: usize) -> bool {
        let at = address.wrapping_sub(self.listed.base) as u64;
        let within = |header: &&ProgramHeader64<NE>| {
            header.p_type.get(NE) == elf::PT_LOAD
                && at.wrapping_sub(header.p_vaddr.get(NE)) < header.p_memsz.get(NE)
        };
        self.headers().iter().any(|header| within(&header))
    }

    /// The entries of the dynamic segment: tag and value.
    fn entries(&self) -> impl Iterator<Item = (elf::DynamicTag, usize)> {
        let first: *const Dyn64<NE> = std::ptr::with_exposed_provenance(self.dynamic);
        // SAFETY: mapped, and ended by DT_NULL.
        let entries = (0..).map(move |at| unsafe { &*first.add(at) });
        entries
            .map(|entry| (entry.d_tag.get(NE), entry.d_val.get(NE) as usize))
            .take_while(|(tag, _)| *tag != elf::DT_NULL)
    }

    /// The words that hold addresses of functions from elsewhere, with the functions' names.
    pub fn slots(&self) -> Vec<Slot<'_>> {
        let value = |tag| self.entries().find(|(found, _)| *found == tag).map_or(0, |(_, value)| value);
        // The linker has made most of these addresses in this process; the others are from the object's
        // beginning.
        let address = |tag| match value(tag) {
            0 => 0,
            at if at < self.listed.base => at + self.listed.base,
            at => at,
        };
        let (symbols, strings) = (address(elf::DT_SYMTAB), address(elf::DT_STRTAB));
        let mut slots = Vec::new();
        if symbols == 0 || strings == 0 {
            return slots;
        }
        let symbols: *const Sym64<NE> = std::ptr::with_exposed_provenance(symbols);
        let strings: *const libc::c_char = std::ptr::with_exposed_provenance(strings);
        let tables = [
            (address(elf::DT_RELA), value(elf::DT_RELASZ)),
            // Relocations of another form are not this machine's.
            (address(elf::DT_JMPREL), value(elf::DT_PLTRELSZ)),
        ];
        for (table, bytes) in tables.into_iter().filter(|(table, _)| *table != 0) {
            // SAFETY: the object's own table, mapped, of this size, read by the linker as well.
            let table: &[Rela64<NE>] = unsafe {
                let first = std::ptr::with_exposed_provenance(table);
                std::slice::from_raw_parts(first, bytes / size_of::<Rela64<NE>>())
            };
            for relocation in table {
                let info = relocation.r_info.get(NE);
                let kind = elf::RelocationType(info as u32);
                let is_lazy = kind == JUMP_SLOT;
                let is_data = kind == POINTER && relocation.r_addend.get(NE) == 0;
                if !is_lazy && !is_data && kind != GLOB_DAT {
                    continue;
                }
                // SAFETY: the relocation's own symbol, which the linker has read, and its name, which is
                // terminated.
                let name = unsafe {
                    let symbol = &*symbols.add((info >> 32) as usize);
                    CStr::from_ptr(strings.add(symbol.st_name.get(NE) as usize))
                };
                let at = self.listed.base.wrapping_add(relocation.r_offset.get(NE) as usize);
                slots.push(Slot { name, at, is_lazy });
            }
        }
        slots
    }

    /// May the word at this address be written to? `Some(true)`: if its page is made writable for the moment.
    fn protection(&self, address: usize) -> Option<bool> {
        let at = address.wrapping_sub(self.listed.base) as u64;
        let headers = || self.headers().iter();
        let relro = headers().find(|header| header.p_type.get(NE) == elf::PT_GNU_RELRO);
        let is_read_only = relro.is_some_and(|relro| {
            let (from, size) = (relro.p_vaddr.get(NE), relro.p_memsz.get(NE));
            (page(from)..page(from + size)).contains(&at) // as the dynamic linker rounds
        });
        let is_data = headers().any(|header| {
            header.p_type.get(NE) == elf::PT_LOAD
                && header.p_flags.get(NE).0 & elf::PF_W.0 != 0
                && at.wrapping_sub(header.p_vaddr.get(NE)) < header.p_memsz.get(NE)
        });
        is_data.then_some(is_read_only)
    }

    /// Writes a word, whatever protects its page. False if that cannot be done.
    ///
    /// # Safety
    /// The word is one of [`slots`](Self::slots), and `value` the address of a function that does what its
    /// callers expect. One thread at a time.
    pub unsafe fn write(&self, slot: usize, value: usize) -> bool {
        let Some(is_read_only) = self.protection(slot) else { return false };
        let start = page(slot as u64) as usize;
        let protect = |how| {
            // SAFETY: a page of the object's data that holds addresses of functions, and that nobody writes to
            // but the linker while it binds, which is over where the page is read-only.
            unsafe { libc::mprotect(std::ptr::with_exposed_provenance_mut(start), PAGE as usize, how) == 0 }
        };
        if is_read_only && !protect(libc::PROT_READ | libc::PROT_WRITE) {
            return false;
        }
        // SAFETY: mapped and writable; aligned, as the linker wants it; others read and write it as a whole.
        let word =
            unsafe { std::sync::atomic::AtomicUsize::from_ptr(std::ptr::with_exposed_provenance_mut(slot)) };
        // Release: whoever calls through it finds what the function needs, which was set up before.
        word.store(value, std::sync::atomic::Ordering::Release);
        if is_read_only {
            protect(libc::PROT_READ);
        }
        true
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        // SAFETY: opened by `open`.
        unsafe { libc::dlclose(self.handle) };
    }
}

/// A word that holds the address of a function.
pub struct Slot<'o> {
    pub name: &'o CStr,
    pub at: usize,
    /// May it lead to the object's own code, which has the linker look for the function at the first call?
    pub is_lazy: bool,
}

impl Slot<'_> {
    pub fn value(&self) -> usize {
        // SAFETY: mapped, as long as the object that it was found in is borrowed; aligned; others write it as a
        // whole.
        let word = unsafe {
            std::sync::atomic::AtomicUsize::from_ptr(std::ptr::with_exposed_provenance_mut(self.at))
        };
        word.load(std::sync::atomic::Ordering::Relaxed) // compared only
    }
}

const PAGE: u64 = 4096;

fn page(address: u64) -> u64 {
    address & !(PAGE - 1)
}

/// musl has nothing that tells, and no shield: `face` refuses.
#[cfg(not(target_env = "gnu"))]
pub fn is_defined_at(_: *mut c_void) -> bool {
    false
}

/// Does an object define the function at this address? Not where it only has code that leads there.
#[cfg(target_env = "gnu")]
pub fn is_defined_at(address: *mut c_void) -> bool {
    const RTLD_DL_SYMENT: c_int = 1;
    // SAFETY: plain data; zero is a valid value to write over.
    let mut found: libc::Dl_info = unsafe { std::mem::zeroed() };
    let mut symbol: *mut c_void = std::ptr::null_mut();
    // SAFETY: takes any address, and only compares it; both are writable.
    let known = unsafe { libc::dladdr1(address, &mut found, &mut symbol, RTLD_DL_SYMENT) } != 0;
    // SAFETY: null, or an entry of the symbol table of an object that is loaded: one that has CPython, or the C
    // library.
    let symbol = unsafe { symbol.cast::<Sym64<NE>>().as_ref() };
    known
        && found.dli_saddr == address
        && symbol.is_some_and(|symbol| symbol.st_shndx.get(NE) != elf::SHN_UNDEF)
}

/// Which object has this address, as `dladdr` says.
pub fn name_at(address: usize) -> Option<String> {
    // SAFETY: plain data; zero is a valid value to write over.
    let mut found: libc::Dl_info = unsafe { std::mem::zeroed() };
    // SAFETY: takes any address, and only compares it; `found` is writable.
    let known = unsafe { libc::dladdr(std::ptr::without_provenance(address), &mut found) } != 0;
    // SAFETY: terminated, the linker's.
    (known && !found.dli_fname.is_null())
        .then(|| unsafe { CStr::from_ptr(found.dli_fname) }.to_string_lossy().into_owned())
}
