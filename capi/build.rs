//! Names the shared library as programs that are linked against it will ask for it.

fn main() {
    // Programs linked against 0.x.y work with every later 0.x: statuses and names are only added.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libinterp_guard.so.0");
    println!("cargo::rerun-if-changed=build.rs");
}
