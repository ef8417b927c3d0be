//! Installing the library, compiling programs against it, running them.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Does `INTERP_GUARD_LONG` ask for the long form?
pub fn long_form() -> bool {
    std::env::var_os("INTERP_GUARD_LONG").is_some_and(|value| value != "0" && !value.is_empty())
}

/// A program that the test needs. Fails the test, in plain words, where it is missing.
pub fn tool(name: &str, package: &str) -> Command {
    let found = Command::new(name).arg("--version").output().is_ok();
    assert!(found, "{name} is needed for this test and was not found: apt-get install {package}");
    Command::new(name)
}

/// Runs a program that must succeed, and shows what it said.
pub fn run(command: &mut Command) {
    println!("{}", output(command).trim_end());
}

/// What a program that must succeed says on standard output.
pub fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{said}{complained}", output.status);
    said
}

/// Runs a program under memcheck: an error or a leak makes it fail.
pub fn under_valgrind(program: impl AsRef<OsStr>, arguments: &[&str]) {
    let mut command = tool("valgrind", "valgrind");
    command.args(["--quiet", "--error-exitcode=99", "--fair-sched=yes", "--leak-check=full"]);
    command.args([
        "--show-leak-kinds=definite,indirect,possible",
        "--errors-for-leak-kinds=definite,indirect,possible",
    ]);
    run(command.arg(program).args(arguments));
}

#[derive(Clone, Copy, Debug)]
pub enum Language {
    C,
    Cxx,
}

/// Against which of the installed libraries a program is linked.
#[derive(Clone, Copy, Debug)]
pub enum Link {
    Shared,
    /// Our library's code in the program, the C library shared.
    Static,
    /// The C library's code too.
    WhollyStatic,
    /// Not linked: loaded by `dlopen` when the program begins, and closed at its end (`loaded.h`).
    Loaded,
}

impl Language {
    fn compiler(self) -> Command {
        let (variable, name, package) = match self {
            Self::C => ("CC", "cc", "gcc"),
            Self::Cxx => ("CXX", "c++", "g++"),
        };
        let mut compiler = tool(&std::env::var(variable).unwrap_or_else(|_| name.into()), package);
        match self {
            Self::C => compiler.args(["-x", "c", "-std=c11"]),
            Self::Cxx => compiler.args(["-x", "c++", "-std=c++17"]),
        };
        compiler.args(["-Wall", "-Wextra", "-Werror", "-pedantic", "-g", "-O2", "-pthread"]);
        compiler
    }
}

/// Where the library is installed.
pub struct Installed {
    prefix: PathBuf,
    programs: PathBuf,
    /// What `make install` said.
    #[allow(dead_code, reason = "the benchmark does not ask")]
    pub said: String,
}

/// Installs the library, once for all tests of this process.
pub fn installed() -> &'static Installed {
    static INSTALLED: OnceLock<Installed> = OnceLock::new();
    INSTALLED.get_or_init(Installed::make)
}

impl Installed {
    fn make() -> Self {
        // A folder per test or benchmark: two of them may run at a time.
        let temporary = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let folder = temporary.join("capi").join(env!("CARGO_CRATE_NAME"));
        let prefix = folder.join("prefix");
        let programs = folder.join("programs");
        // Nothing of an earlier run: CMake's cache would find the library without looking for it.
        if folder.exists() {
            fs::remove_dir_all(&folder).unwrap();
        }
        fs::create_dir_all(&programs).unwrap();
        let said = output(&mut Self::make_at("install", &prefix));
        Self { prefix, programs, said }
    }

    fn make_at(target: &str, prefix: &Path) -> Command {
        let mut make = tool("make", "make");
        make.arg("--no-print-directory").arg("-C").arg(env!("CARGO_MANIFEST_DIR")).arg(target);
        make.arg(format!("PREFIX={}", prefix.display()));
        // A target folder of its own: cargo may hold the lock of the one that this test was built in.
        let built = Path::new(env!("CARGO_TARGET_TMPDIR")).join("capi/target");
        make.arg(format!("CARGO_TARGET_DIR={}", built.display()));
        make.env("CARGO", env!("CARGO"));
        // Flags meant for the crates under test, coverage or a sanitizer say, are not what is installed.
        for variable in
            ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET", "MAKEFLAGS", "DESTDIR", "LIBDIR"]
        {
            make.env_remove(variable);
        }
        make
    }

    /// `make check` on what is installed, or on what is not.
    #[allow(dead_code, reason = "the benchmark does not check")]
    pub fn check(&self, installed: bool) -> Command {
        Self::make_at(
            "check",
            &if installed { self.prefix.clone() } else { self.programs.join("nothing here") },
        )
    }

    pub fn library(&self, name: &str) -> PathBuf {
        self.prefix.join("lib").join(name)
    }

    pub fn include(&self, name: &str) -> PathBuf {
        self.prefix.join("include").join(name)
    }

    fn pkg_config(&self, arguments: &[&str]) -> Vec<String> {
        let mut command = tool("pkg-config", "pkg-config");
        command.args(arguments).arg("interp_guard").env("PKG_CONFIG_PATH", self.library("pkgconfig"));
        output(&mut command).split_whitespace().map(str::to_owned).collect()
    }

    /// What the linker is told.
    fn libraries(&self, link: Link) -> Vec<String> {
        match link {
            Link::Loaded => vec!["-ldl".into()],
            Link::Shared => {
                let rpath = format!("-Wl,-rpath,{}", self.prefix.join("lib").display());
                self.pkg_config(&["--libs"]).into_iter().chain([rpath]).collect()
            }
            Link::Static | Link::WhollyStatic => {
                // pkg-config has no word for "this one static": the linker prefers a shared library where both are.
                let libs = self.pkg_config(&["--static", "--libs"]);
                let this = |flag: String| match flag.as_str() {
                    "-linterp_guard" => "-l:libinterp_guard.a".to_owned(),
                    _ => flag,
                };
                let wholly = matches!(link, Link::WhollyStatic).then(|| "-static".to_owned());
                libs.into_iter().map(this).chain(wholly).collect()
            }
        }
    }

    fn source(name: &str) -> PathBuf {
        let package = Path::new(env!("CARGO_MANIFEST_DIR"));
        let file = if name.contains('.') { name.to_owned() } else { format!("{name}.c") };
        let folders = ["tests/c", "examples"].map(|folder| package.join(folder).join(&file));
        folders.into_iter().find(|path| path.exists()).unwrap_or_else(|| panic!("no program {file}"))
    }

    /// Compiles `tests/c/NAME.c` or `examples/NAME.c` against the installed library.
    pub fn compile(&self, name: &str, language: Language, link: Link) -> PathBuf {
        let program = self.programs.join(format!("{name}-{language:?}-{link:?}-{}", unique()));
        let mut compiler = language.compiler();
        if let Link::Loaded = link {
            compiler.arg("-I").arg(self.every_function()).args(["-include", "loaded.h"]);
            compiler.arg("-I").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c"));
        }
        compiler.arg(Self::source(name)).args(["-x", "none"]).arg("-o").arg(&program);
        compiler.args(self.pkg_config(&["--cflags"])).args(self.libraries(link));
        run(&mut compiler);
        program
    }

    /// Runs a program that `compile` made.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env("LIBRARY", self.library("libinterp_guard.so"));
        // A backtrace would map the library's file for its names, and keep it mapped.
        command.env("RUST_BACKTRACE", "0");
        command
    }

    /// A folder with `each.h` in it, for `loaded.h`: every function of the header.
    fn every_function(&self) -> PathBuf {
        let header = fs::read_to_string(self.include("interp_guard.h")).unwrap();
        let names: Vec<&str> = crate::header::functions(&header).into_iter().map(|(_, name)| name).collect();
        let each: String = names.iter().map(|name| format!(" X({name})")).collect();
        let renamed: String = names.iter().map(|name| format!("#define {name} loaded_{name}\n")).collect();
        let folder = self.programs.join("each");
        fs::create_dir_all(&folder).unwrap();
        // Whole, also where another test's compiler reads it meanwhile.
        let made = folder.join(format!("each-{}", unique()));
        fs::write(&made, format!("#define EACH(X){each}\n")).unwrap();
        fs::rename(&made, folder.join("each.h")).unwrap();
        fs::write(&made, renamed).unwrap();
        fs::rename(&made, folder.join("renamed.h")).unwrap();
        folder
    }

    /// Compiles a C program's text.
    pub fn compile_text(&self, name: &str, text: &str, link: Link) -> PathBuf {
        let source = self.programs.join(format!("{name}-{}.c", unique()));
        fs::write(&source, text).expect("the program is written");
        self.compile(source.to_str().expect("UTF-8"), Language::C, link)
    }

    /// Compiles a program that loads the library at run time.
    pub fn compile_unlinked(&self, name: &str) -> PathBuf {
        let program = self.programs.join(format!("{name}-{}", unique()));
        let mut compiler = Language::C.compiler();
        compiler
            .arg(Self::source(name))
            .arg("-o")
            .arg(&program)
            .args(self.pkg_config(&["--cflags"]))
            .args(["-rdynamic", "-ldl"]); // so that the library finds this program's __tls_get_addr
        run(&mut compiler);
        program
    }

    /// A library to be loaded at run time, made of `source`. With `Link::Static` our library's code is in it, and is called as
    /// directly as in a program.
    #[allow(dead_code, reason = "the benchmark uses it")]
    pub fn compile_plugin(&self, source: &Path, name: &str, link: Link) -> PathBuf {
        let plugin = self.programs.join(format!("{name}-{link:?}.so"));
        let mut compiler = Language::C.compiler();
        compiler.args(["-fPIC", "-shared", "-Wl,-Bsymbolic", "-o"]).args([&plugin, source]);
        compiler.args(self.pkg_config(&["--cflags"])).args(["-x", "none"]);
        compiler.args(self.libraries(link));
        run(&mut compiler);
        plugin
    }

    /// A shared and a static library made of this C text.
    pub fn build_library(&self, name: &str, source: &str) -> [PathBuf; 2] {
        let file = |extension| self.programs.join(format!("{name}.{extension}"));
        let [text, object, shared, archive] = ["c", "o", "so", "a"].map(file);
        fs::write(&text, source).unwrap();
        let mut compiler = Language::C.compiler();
        run(compiler.args(["-fPIC", "-c", "-o"]).args([&object, &text]));
        let mut linker = tool(&std::env::var("CC").unwrap_or_else(|_| "cc".into()), "gcc");
        run(linker.args(["-shared", "-o"]).args([&shared, &object]));
        if archive.exists() {
            fs::remove_file(&archive).unwrap();
        }
        run(tool("ar", "binutils").arg("rcs").args([&archive, &object]));
        [shared, archive]
    }

    /// A file that consists of nothing but `#include <HEADER>`.
    pub fn check_header(&self, language: Language, header: &str) {
        let source = self.programs.join(format!("{header}-{language:?}"));
        fs::write(&source, format!("#include <{header}>\n")).unwrap();
        let mut compiler = language.compiler();
        run(compiler.arg("-fsyntax-only").args(self.pkg_config(&["--cflags"])).arg(source));
    }

    /// Builds and runs a project that finds the library with `find_package`.
    pub fn build_with_cmake(&self) {
        let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c/cmake");
        let build = self.programs.join("cmake");
        let mut configure = tool("cmake", "cmake");
        configure.arg("-S").arg(project).arg("-B").arg(&build);
        run(configure.arg(format!("-DCMAKE_PREFIX_PATH={}", self.prefix.display())));
        run(tool("cmake", "cmake").arg("--build").arg(&build));
        for program in ["with_shared", "with_static"] {
            run(&mut Command::new(build.join(program)));
        }
    }
}

/// Tests run side by side, and each compiles its own.
fn unique() -> usize {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    // Relaxed: distinct numbers are all that is asked.
    NEXT.fetch_add(1, Ordering::Relaxed)
}
