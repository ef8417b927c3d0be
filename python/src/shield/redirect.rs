//! Pointing the objects' tables to our functions, and back.
//!
//! Ours is left as it is. So is CPython's own, but for two calls: by `dlsym` it finds the `PyInit` of a module
//! that it has loaded, and what the module calls is redirected before that runs; with `pthread_exit` it ends
//! threads.
//!
//! A word that leads to neither the real function nor to the object's own code is somebody else's, a profiler's
//! perhaps. It is left alone, and named.

use super::locked::Locked;
use super::objects::{self, Changes, Listed, Object};
use super::table::Function;
use std::ffi::c_void;
use std::sync::OnceLock;

/// What has been done.
struct Done {
    /// Are the tables to lead to us?
    wanted: bool,
    /// What the process had when it was last gone through.
    changes: Changes,
    objects: Vec<Redirected>,
}

/// What became of one object that uses a function of ours.
#[derive(Clone)]
pub struct Redirected {
    listed: Listed,
    pub path: String,
    /// The functions that lead to us.
    pub names: Vec<&'static str>,
    /// Those that do not, and why.
    pub left: Vec<String>,
}

static DONE: Locked<Done> = Locked::new(Done { wanted: false, changes: Changes::NONE, objects: Vec::new() });

type Functions = &'static [&'static Function];

/// What is redirected.
static FUNCTIONS: OnceLock<Functions> = OnceLock::new();

fn functions() -> impl Iterator<Item = &'static Function> {
    FUNCTIONS.get().into_iter().flat_map(|functions| functions.iter().copied())
}

/// Finds the real functions, and redirects what there is to those of ours.
///
/// # Safety
/// They do what the callers of the real ones expect, and may be called from now on.
pub unsafe fn install(functions: Functions) -> Result<(), String> {
    FUNCTIONS.get_or_init(|| functions);
    find_real()?;
    DONE.with(|done| done.wanted = true);
    all();
    Ok(())
}

/// Puts back what there was.
pub fn uninstall() {
    DONE.with(|done| done.wanted = false);
    for listed in objects::list() {
        let Some(object) = Object::open(&listed) else { continue };
        for slot in object.slots() {
            let Some(function) = function_named(slot.name) else { continue };
            DONE.with(|done| {
                if !done.wanted && slot.value() == function.ours as usize {
                    // SAFETY: a slot of this object; what CPython has under that name; the lock is held.
                    unsafe { object.write(slot.at, function.real() as usize) };
                }
            });
        }
    }
    DONE.with(|done| {
        if !done.wanted {
            done.objects.clear();
        }
    });
}

/// Redirects what has been loaded since the last time.
pub fn what_was_loaded() {
    let changes = objects::changes();
    let known = DONE.with(|done| {
        let is_new = done.wanted && done.changes != changes;
        // What was taken away may have been loaded again, at the same place.
        let known: &[_] = if changes.only_added_since(done.changes) { &done.objects } else { &[] };
        is_new.then(|| known.iter().map(|object| object.listed.clone()).collect::<Vec<_>>())
    });
    if let Some(known) = known {
        redirect(changes, &known);
    }
}

/// Goes through all objects, also those that are known: the linker may have bound a call in the same moment.
pub fn all() {
    redirect(objects::changes(), &[]);
}

fn redirect(changes: Changes, known: &[Listed]) {
    let mut seen = Vec::new();
    let listed = objects::list();
    for listed in listed.iter().filter(|listed| !known.contains(listed)) {
        // Loaded by no `dlopen`, such as what the kernel adds: it calls nobody.
        let Some(object) = Object::open(listed) else { continue };
        seen.push(redirect_in(&object, listed));
    }
    DONE.with(|done| {
        done.objects.retain(|object| listed.contains(&object.listed));
        for object in seen {
            match done.objects.iter_mut().find(|known| known.listed == object.listed) {
                Some(known) => *known = object,
                None => done.objects.push(object),
            }
        }
        done.changes = changes;
    });
}

fn redirect_in(object: &Object, listed: &Listed) -> Redirected {
    let mut redirected =
        Redirected { listed: listed.clone(), path: object.path(), names: Vec::new(), left: Vec::new() };
    if object.has(redirect_in as *const () as usize) {
        return redirected;
    }
    let is_python = functions().any(|function| function.is_pythons() && object.has(function.real() as usize));
    for slot in object.slots() {
        let Some(function) = function_named(slot.name) else { continue };
        if !function.is_for(is_python) {
            continue;
        }
        let name = function.name.to_str().unwrap_or_default();
        // The linker is asked before the lock is taken: whoever has the linker's own may wait for ours.
        let value = slot.value();
        let leads_to_ours = value == function.ours as usize;
        let is_bound_later = slot.is_lazy && object.has(value);
        let why_not = if !leads_to_ours && !is_bound_later && !is_real(function, value as *mut c_void) {
            let whose = objects::name_at(value).unwrap_or_else(|| "code of no object".into());
            Some(format!("{name} leads to {whose} already"))
        } else {
            DONE.with(|done| {
                let write = done.wanted && !leads_to_ours;
                // SAFETY: a slot of this object; ours does what callers of the function expect; the lock is
                // held.
                let failed = write && !unsafe { object.write(slot.at, function.ours as usize) };
                failed.then(|| format!("{name}: the table cannot be written to"))
            })
        };
        match why_not {
            None if !redirected.names.contains(&name) => redirected.names.push(name),
            None => {}
            Some(why) => redirected.left.push(why),
        }
    }
    if is_python {
        for function in functions().filter(|function| function.is_for(true)) {
            let name = function.name.to_str().unwrap_or_default();
            if !redirected.names.contains(&name) && !redirected.left.iter().any(|left| left.starts_with(name))
            {
                redirected.left.push(format!("{name}: CPython's own table has no such entry"));
            }
        }
    }
    redirected
}

fn function_named(name: &std::ffi::CStr) -> Option<&'static Function> {
    functions().find(|function| function.name == name)
}

/// Does this address lead to the real function? In an executable that is not position-independent, the address
/// of a function may be that of code of the executable's own that leads there.
pub fn is_real(function: &Function, address: *mut c_void) -> bool {
    // SAFETY: dlsym with a terminated name.
    address == function.real()
        || !address.is_null() && address == unsafe { libc::dlsym(libc::RTLD_DEFAULT, function.name.as_ptr()) }
}

/// Where the real functions are.
fn find_real() -> Result<(), String> {
    for function in functions() {
        let name = function.name.as_ptr();
        // SAFETY: dlsym with a terminated name.
        let mut found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name) };
        if function.is_pythons() && !objects::is_defined_at(found) {
            let in_object = |listed: Listed| {
                let object = Object::open(&listed)?;
                // SAFETY: a handle, and a terminated name.
                let found = unsafe { libc::dlsym(object.handle(), name) };
                objects::is_defined_at(found).then_some(found)
            };
            found = objects::list().into_iter().find_map(in_object).unwrap_or(std::ptr::null_mut());
        }
        if found.is_null() {
            return Err(format!("this Python has no {}", function.name.to_string_lossy()));
        }
        function.set_real(found);
    }
    Ok(())
}

/// What has become of each object that uses a function of ours.
pub fn objects() -> Vec<Redirected> {
    DONE.with(|done| {
        let concerned = |object: &&Redirected| !object.names.is_empty() || !object.left.is_empty();
        done.objects.iter().filter(concerned).cloned().collect()
    })
}

pub fn before_fork() {
    DONE.take();
}

pub fn after_fork() {
    DONE.give_back();
}
