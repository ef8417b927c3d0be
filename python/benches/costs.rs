//! What guards, ensure and release cost, on every CPython of this machine: against `PyGILState_*` of the same Python and
//! against two bare locked adds, in the same run. `cargo bench -p interp-guard-python`.

#[path = "../tests/support/mod.rs"]
#[allow(dead_code)]
mod support;

fn main() {
    let pythons = support::find_pythons();
    let package = support::Package::find(&pythons, true);
    for python in pythons {
        let measured = package
            .extension_for(&python)
            .and_then(|extension| python.run("costs", &package.search_path(Some(extension))));
        match measured {
            Ok(output) => print!("CPython {}\n{}{}", python.version, output.stdout, output.stderr),
            Err(why) => println!("CPython {}: {why}", python.version),
        }
    }
    package.remove();
}
