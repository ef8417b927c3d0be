//! Builds what the C program links with: Lua, from the sources that the crate `lua-src` brings, and `libinterp_guard.a`,
//! as `make -C capi` builds it for everybody. Needs a C compiler, make and binutils.

use std::env;
use std::error::Error;
use std::path::PathBuf;
use std::process::Command;

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../../..");
    let library = out.join("interp_guard");
    let made = Command::new("make")
        .args(["--no-print-directory", "-C"])
        .arg(root.join("capi"))
        .env("CARGO", env::var("CARGO")?)
        .env("CARGO_TARGET_DIR", &library)
        .env_remove("MAKEFLAGS")
        .status()
        .map_err(|why| format!("`make`, which builds the C library, does not start: {why}"))?;
    if !made.success() {
        return Err(format!("make -C capi: {made}").into());
    }

    let lua = lua_src::Build::new().try_build(lua_src::Lua54)?;
    cc::Build::new()
        .std("c11")
        .warnings_into_errors(true)
        .flags(["-Wall", "-Wextra"])
        .include(root.join("capi/include"))
        .include(lua.include_dir())
        .define("SCRIPT", format!("\"{}\"", root.join("examples/runtimes/src/script.lua").display()).as_str())
        .files(["src/lua.c", "src/common.c"])
        .link_lib_modifier("+whole-archive") // `main` is in it
        .try_compile("lua_in_c")?;
    // After what needs them.
    lua.print_cargo_metadata();
    println!("cargo::rustc-link-search=native={}", library.join("c-library").display());
    println!("cargo::rustc-link-lib=static=interp_guard");
    println!("cargo::rustc-link-lib=m");
    for path in ["build.rs", "src", "../../../src", "../../../capi", "../../../Cargo.toml"] {
        println!("cargo::rerun-if-changed={path}");
    }
    Ok(())
}
