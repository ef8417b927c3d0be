//! Pythons, the staged package, and programs under a watchdog.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

/// A program that has not ended by then hangs.
fn watchdog() -> Duration {
    Duration::from_secs(if is_long() { 3600 } else { 1200 })
}

/// Are the long forms asked for?
pub fn is_long() -> bool {
    std::env::var_os("INTERP_GUARD_LONG").is_some_and(|value| !value.is_empty())
}

/// Virtual environments with the package installed, to be used in place of other Pythons and of the staged package.
fn environments() -> Option<PathBuf> {
    std::env::var_os("INTERP_GUARD_ENVIRONMENTS").map(PathBuf::from)
}

/// Is the package installed in the Pythons that are used?
pub fn are_installed() -> bool {
    environments().is_some()
}

/// Does `INTERP_GUARD_PYTHONS` say which Pythons are wanted?
pub fn are_named() -> bool {
    std::env::var_os("INTERP_GUARD_PYTHONS").is_some_and(|value| !value.is_empty())
}

/// One CPython, and how it is run.
#[derive(Clone)]
pub struct Python {
    pub executable: PathBuf,
    /// `3.14.7`; `3.14.7t` of a free-threaded one.
    pub version: String,
    /// Of a free-threaded one: is it run with a GIL? `PYTHON_GIL` says so, whatever extensions ask for.
    with_gil: Option<bool>,
    /// What the name of an extension of its own ends with.
    suffix: String,
    include: PathBuf,
}

/// What a program left behind.
pub struct Output {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// The first CPython from 3.9 on on `PATH`; with `INTERP_GUARD_PYTHONS=all` every one, the first of each version that is found, and the
/// others are named; or those whose executables it names, as `PATH` names folders. Those of the virtual environments, if there are
/// such. A free-threaded one is there twice, without the GIL and with it.
pub fn find_pythons() -> Vec<Python> {
    let pythons = find_executables();
    let ways = |python: Python| match python.with_gil {
        None => vec![python],
        Some(_) => [false, true].map(|with| Python { with_gil: Some(with), ..python.clone() }).into(),
    };
    pythons.into_iter().flat_map(ways).collect()
}

fn find_executables() -> Vec<Python> {
    let which = std::env::var("INTERP_GUARD_PYTHONS").unwrap_or_default();
    if which.contains('/') {
        let probe = |named: PathBuf| {
            Python::probe(&named).unwrap_or_else(|| panic!("{} is not used", named.display()))
        };
        return std::env::split_paths(&which).map(probe).collect();
    }
    assert!(
        matches!(&*which, "" | "all" | "first"),
        "INTERP_GUARD_PYTHONS is `all`, `first`, or executables with their folders, not `{which}`"
    );
    let bin_folders =
        |of: PathBuf| fs::read_dir(of).into_iter().flatten().flatten().map(|entry| entry.path().join("bin"));
    let mut folders: Vec<PathBuf> = Vec::new();
    if let Some(environments) = environments() {
        folders.extend(bin_folders(environments));
    } else {
        folders.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
        folders.extend(
            std::env::home_dir().into_iter().flat_map(|home| bin_folders(home.join(".pyenv/versions"))),
        );
    }
    let names = ["python3".to_owned()].into_iter();
    let names = names.chain((9..=15).map(|minor| format!("python3.{minor}")));
    let names: Vec<_> = names.chain((13..=15).map(|minor| format!("python3.{minor}t"))).collect();
    let candidates = folders.iter().flat_map(|folder| names.iter().map(move |name| folder.join(name)));
    let mut found = BTreeMap::new();
    let mut first = None;
    for executable in candidates.filter(|candidate| candidate.is_file()) {
        if let Some(python) = Python::probe(&executable) {
            first.get_or_insert(python.version.clone());
            found.entry((sort_key(&python.version), python.with_gil)).or_insert(python);
        }
    }
    if environments().is_some() {
        assert_eq!(
            found.len(),
            folders.iter().filter(|folder| folder.join("python3").is_file()).count(),
            "each is used"
        );
    }
    if which != "all" && environments().is_none() {
        found.retain(|_, python| {
            let used = Some(&python.version) == first.as_ref();
            if !used {
                eprintln!(
                    "not used without INTERP_GUARD_PYTHONS=all: CPython {} at {}",
                    python.version,
                    python.executable.display()
                );
            }
            used
        });
    }
    found.into_values().collect()
}

fn sort_key(version: &str) -> Vec<u32> {
    version.trim_end_matches('t').split('.').filter_map(|part| part.parse().ok()).collect()
}

impl Python {
    /// `None` for what is not a CPython from 3.9 on with its headers; said, since no scenario is run on it.
    fn probe(executable: &Path) -> Option<Self> {
        let script = "import sys, sysconfig, platform\n\
                      print(platform.python_implementation(), platform.python_version(), sys.executable, \
                      sysconfig.get_path('include'), sysconfig.get_config_var('Py_GIL_DISABLED') or 0, \
                      sysconfig.get_config_var('EXT_SUFFIX'), sep='\\n')";
        let output = Command::new(executable).args(["-I", "-c", script]).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        let lines: Vec<&str> = text.lines().collect();
        let [implementation, version, real, include, no_gil, suffix] = lines[..] else { return None };
        let (key, free_threaded) = (sort_key(version), no_gil != "0");
        let earliest = if free_threaded { [3, 14] } else { [3, 9] };
        if implementation != "CPython" || key.as_slice() < earliest.as_slice() {
            let kind = if free_threaded { ", free-threaded," } else { "" };
            eprintln!("not used: {implementation} {version}{kind} at {}", executable.display());
            return None;
        }
        if !Path::new(include).join("Python.h").is_file() {
            eprintln!("not used: CPython {version} at {}: no Python.h in {include}", executable.display());
            return None;
        }
        Some(Self {
            executable: real.into(),
            version: if free_threaded { format!("{version}t") } else { version.into() },
            with_gil: free_threaded.then_some(false),
            suffix: suffix.into(),
            include: include.into(),
        })
    }

    /// For a test's name: `3.14.7`, `3.14.7t`, `3.14.7t-with-gil`.
    pub fn name(&self) -> String {
        self.version.clone() + if self.with_gil == Some(true) { "-with-gil" } else { "" }
    }

    pub fn is_free_threaded(&self) -> bool {
        self.with_gil.is_some()
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.executable);
        if let Some(with_gil) = self.with_gil {
            command.env("PYTHON_GIL", if with_gil { "1" } else { "0" });
        }
        command
    }

    /// Runs a program of `tests/programs` to its end, or kills it and says so.
    pub fn run(&self, program: &str, path: &[PathBuf]) -> Result<Output, String> {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs").join(format!("{program}.py"));
        let path = std::env::join_paths(path).map_err(|error| error.to_string())?;
        let mut child = self
            .command()
            .args(["-X", "faulthandler", "-W", "error::ResourceWarning"])
            .arg(file)
            .current_dir(env!("CARGO_TARGET_TMPDIR")) // `-c` in a program looks for modules here first
            .env("PYTHONPATH", path)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(|error| format!("{}: {error}", self.executable.display()))?;
        let collect = |mut pipe: Box<dyn Read + Send>| {
            std::thread::spawn(move || {
                let mut bytes = Vec::new();
                let _ = pipe.read_to_end(&mut bytes);
                String::from_utf8_lossy(&bytes).into_owned()
            })
        };
        let stdout = collect(Box::new(child.stdout.take().ok_or("no stdout")?));
        let stderr = collect(Box::new(child.stderr.take().ok_or("no stderr")?));
        let group = child.id() as libc::pid_t;
        let (ended, watch) = mpsc::channel::<()>();
        let watchdog = std::thread::spawn(move || {
            let late = watch.recv_timeout(watchdog()) == Err(mpsc::RecvTimeoutError::Timeout);
            if late {
                // It has failed already, and nothing waits for the pause but faulthandler, which prints where it hangs.
                // SAFETY: sends signals to the process group made above.
                unsafe {
                    libc::kill(group, libc::SIGABRT);
                    libc::usleep(500_000);
                    libc::kill(-group, libc::SIGKILL);
                }
            }
            late
        });
        let status = child.wait().map_err(|error| error.to_string())?;
        // What it started and left behind would keep its output open, and go on.
        // SAFETY: sends a signal to the process group made above, if anybody is left in it.
        unsafe { libc::kill(-group, libc::SIGKILL) };
        drop(ended);
        let late = watchdog.join().unwrap_or(false);
        let output = Output {
            status,
            stdout: stdout.join().unwrap_or_default(),
            stderr: stderr.join().unwrap_or_default(),
        };
        if late {
            return Err(format!("hangs\n--- stdout\n{}\n--- stderr\n{}", output.stdout, output.stderr));
        }
        Ok(output)
    }
}

/// What the programs of `python/examples` are for, or are built with.
const LIBRARIES: &[&str] = &["cffi", "Cython", "nanobind", "pybind11", "setuptools", "uvloop"];

/// The package as Python finds it, and what is built on it.
#[derive(Clone)]
pub struct Package {
    /// A folder for what is built, which goes away in the end.
    root: PathBuf,
    /// Where Python is to look for the package; `None` where it is installed.
    path: Option<PathBuf>,
    headers: PathBuf,
    /// By version: where the C extensions for it are, or why they could not be built; and so for "PyO3", and for the
    /// libraries.
    extensions: Arc<Mutex<BTreeMap<String, Result<PathBuf, String>>>>,
}

impl Package {
    /// What the virtual environments have, if there are such; else the sources, with the library that the wheel would have, or
    /// one with debug assertions.
    pub fn find(pythons: &[Python], as_in_the_wheel: bool) -> Self {
        match pythons.first().filter(|_| environments().is_some()) {
            Some(python) => Self::installed(python),
            None => Self::stage(pythons, as_in_the_wheel),
        }
    }

    fn installed(python: &Python) -> Self {
        let ask = ["-I", "-c", "import interp_guard; print(interp_guard.get_include())"];
        let output = Command::new(&python.executable).args(ask).output().expect("Python runs");
        let said = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
        assert!(output.status.success(), "{}: {output:?}", python.executable.display());
        Self { root: working_folder(), path: None, headers: said.into(), extensions: Arc::default() }
    }

    fn stage(pythons: &[Python], as_in_the_wheel: bool) -> Self {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("interp_guard");
        let root = working_folder();
        let package = root.join("interp_guard");
        copy_folder(&sources, &package);
        let library = build_library(None, as_in_the_wheel);
        fs::copy(library, package.join(STABLE_ABI)).expect("stage the library");
        for python in pythons.iter().filter(|python| python.with_gil == Some(false)) {
            let library = build_library(Some(python), as_in_the_wheel);
            let name = format!("_native{}", python.suffix);
            fs::copy(library, package.join(name)).expect("stage the library");
        }
        Self { path: Some(root.clone()), root, headers: package.join("include"), extensions: Arc::default() }
    }

    /// Imports a package that has nothing for this Python, which is free-threaded, but the stable-ABI library: forced, as by
    /// `pip --platform`. That fails, and says why and what to do.
    pub fn check_stable_abi(&self, python: &Python) -> Result<(), String> {
        let path = self.path.as_ref().ok_or("nothing is staged")?;
        let folder = self.root.join(format!("stable-abi-{}", python.name()));
        let package = folder.join("interp_guard");
        copy_folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join("interp_guard"), &package);
        fs::copy(path.join("interp_guard").join(STABLE_ABI), package.join(STABLE_ABI))
            .expect("stage the library");
        let output = python.command().args(["-c", "import interp_guard"]).env("PYTHONPATH", &folder).output();
        let output = output.expect("Python runs");
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().last().unwrap_or_default();
        let told = last.starts_with("ImportError: interp_guard: ") && last.ends_with("pip install ./python");
        if output.status.code() == Some(1) && told {
            Ok(())
        } else {
            Err(format!("{}: {said}", output.status))
        }
    }

    /// For `PYTHONPATH`: what has the package, and what is built on it.
    pub fn search_path(&self, built: impl IntoIterator<Item = PathBuf>) -> Vec<PathBuf> {
        self.path.clone().into_iter().chain(built).collect()
    }

    pub fn remove(&self) {
        let _ = fs::remove_dir_all(&self.root);
    }

    /// The folder that has the C extension for this Python, built on first use.
    pub fn extension_for(&self, python: &Python) -> Result<PathBuf, String> {
        let mut extensions = self.extensions.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        extensions.entry(python.version.clone()).or_insert_with(|| self.build_extension(python)).clone()
    }

    /// The folder that has the current releases of the libraries for this Python, which pip installs by name on first
    /// use.
    pub fn libraries_for(&self, python: &Python) -> Result<PathBuf, String> {
        let mut extensions = self.extensions.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let name = format!("libraries for {}", python.version);
        extensions.entry(name).or_insert_with(|| self.install_libraries(python)).clone()
    }

    fn install_libraries(&self, python: &Python) -> Result<PathBuf, String> {
        let folder = self.root.join(format!("libraries-{}", python.version));
        let has_pip = Command::new(&python.executable)
            .args(["-m", "pip", "--version"])
            .output()
            .is_ok_and(|output| output.status.success());
        let mut pip = Command::new(if has_pip { &python.executable } else { Path::new("python3") });
        pip.args(["-m", "pip", "--disable-pip-version-check", "--quiet"]);
        if !has_pip {
            pip.arg("--python").arg(&python.executable);
        }
        let output = pip
            .args(["install", "--only-binary=:all:", "--target"])
            .arg(&folder)
            .args(LIBRARIES)
            .env_remove("PYTHONPATH")
            .output()
            .map_err(|error| format!("python3, for its pip: {error}"))?;
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr);
            let libraries = LIBRARIES.join(", ");
            return Err(format!(
                "pip has not installed {libraries} for CPython {}:\n{errors}",
                python.version
            ));
        }
        Ok(folder)
    }

    /// The folder that has the examples of `python/pyo3`, built on first use: stable-ABI modules for all Pythons that have a GIL, or
    /// modules for this one.
    pub fn pyo3_examples(&self, python: &Python) -> Result<PathBuf, String> {
        let python = Some(python).filter(|python| python.is_free_threaded());
        let mut extensions = self.extensions.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let name = python.map_or("PyO3".to_owned(), |python| format!("PyO3-{}", python.version));
        extensions.entry(name.clone()).or_insert_with(|| self.build_pyo3_examples(python, &name)).clone()
    }

    fn build_pyo3_examples(&self, python: Option<&Python>, name: &str) -> Result<PathBuf, String> {
        let target = target_for(python);
        let built = cargo_for(python)
            .args(["build", "--quiet", "--package", "interp-guard-pyo3", "--examples", "--target-dir"])
            .arg(&target)
            .output()
            .map_err(|error| error.to_string())?;
        if !built.status.success() {
            return Err(format!("the PyO3 examples: {}", String::from_utf8_lossy(&built.stderr)));
        }
        let folder = self.root.join(name);
        fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
        for name in ["attach_pool", "with_pyo3"] {
            let library = target.join(format!("debug/examples/lib{name}.so"));
            let file = name.to_owned() + python.map_or(".abi3.so", |python| &python.suffix);
            fs::copy(library, folder.join(file)).map_err(|error| error.to_string())?;
        }
        Ok(folder)
    }

    /// Compiles files that use every name of a header: as C and C++, with and without the limited API; pep788.h with no other
    /// file of ours beside it. One that includes both headers is refused, and told why.
    pub fn check_headers(&self, python: &Python) -> Result<(), String> {
        let alone = self.root.join(format!("vendored-{}", python.version));
        fs::create_dir_all(&alone).map_err(|error| error.to_string())?;
        fs::copy(self.headers.join("pep788.h"), alone.join("pep788.h")).map_err(|error| error.to_string())?;
        let mut languages = vec![("cc", "c", "c11"), ("c++", "c++", "c++17")];
        if is_long() {
            languages.extend([("c++", "c++", "c++11"), ("c++", "c++", "c++20")]);
        }
        for (compiler, language, standard) in languages {
            let all = [None, Some("-DPy_LIMITED_API=0x03090000"), Some("-DPy_LIMITED_API")];
            // A free-threaded Python has no limited API of an earlier one.
            for limited in if python.is_free_threaded() { &all[..1] } else { &all } {
                let compile = |source: &str, headers: &Path| {
                    Command::new(compiler)
                        .args(["-x", language, &format!("-std={standard}")])
                        .args(["-Wall", "-Wextra", "-pedantic", "-Werror", "-fsyntax-only"])
                        .args(limited)
                        .arg("-I")
                        .arg(headers)
                        .arg("-isystem") // Python's own headers are not under test
                        .arg(&python.include)
                        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/extension").join(source))
                        .output()
                        .map_err(|error| format!("{compiler}: {error}"))
                };
                for (source, headers) in [("header.c", &alone), ("header_v1.c", &self.headers)] {
                    let output = compile(source, headers)?;
                    if !output.status.success() {
                        let errors = String::from_utf8_lossy(&output.stderr);
                        return Err(format!("{source}, {compiler} -std={standard} {limited:?}: {errors}"));
                    }
                }
                let others: &[&str] =
                    if language == "c" { &["header_cffi.c"] } else { &["header_cffi.c", "classes.cpp"] };
                for source in others {
                    let output = compile(source, &self.headers)?;
                    if !output.status.success() {
                        let errors = String::from_utf8_lossy(&output.stderr);
                        return Err(format!("{source}, {compiler} -std={standard} {limited:?}: {errors}"));
                    }
                }
                for source in ["both_headers.c", "both_headers_v1_first.c"] {
                    let output = compile(source, &self.headers)?;
                    let errors = String::from_utf8_lossy(&output.stderr);
                    if output.status.success() || !errors.contains("include one of them") {
                        return Err(format!("{source}, {compiler} -std={standard}: {errors}"));
                    }
                }
            }
        }
        Ok(())
    }

    fn build_extension(&self, python: &Python) -> Result<PathBuf, String> {
        let folder = self.root.join(format!("extension-{}", python.version));
        fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/extension");
        // As somebody who knows nothing of this package builds it.
        let output = Command::new("c++")
            .args(["-std=c++17", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-pthread"])
            .arg("-isystem")
            .arg(&python.include)
            .arg(sources.join("pool.cpp"))
            .arg("-o")
            .arg(folder.join("pool.so"))
            .output()
            .map_err(|error| format!("c++: {error}"))?;
        if !output.status.success() {
            return Err(format!("pool.cpp: {}", String::from_utf8_lossy(&output.stderr)));
        }
        for name in ["ig_test", "ig_test_v1", "calls"] {
            let output = Command::new("cc")
                .args([
                    "-std=c11",
                    "-D_GNU_SOURCE",
                    "-DPEP788_USE_TABLE",
                    "-O2",
                    "-g",
                    "-Wall",
                    "-Wextra",
                    "-Werror",
                ])
                .args(["-shared", "-fPIC", "-pthread", "-I"])
                .arg(&python.include)
                .arg("-I")
                .arg(&self.headers)
                .arg(sources.join(name).with_extension("c"))
                .arg("-o")
                .arg(folder.join(name).with_extension("so"))
                .output()
                .map_err(|error| format!("cc: {error}"))?;
            if !output.status.success() {
                return Err(format!("{name}.c: {}", String::from_utf8_lossy(&output.stderr)));
            }
        }
        Ok(folder)
    }
}

/// What the library is called in the wheel for all Pythons that have a GIL.
const STABLE_ABI: &str = "_native.abi3.so";

/// Builds the library, for a free-threaded Python or for all others.
fn build_library(python: Option<&Python>, as_in_the_wheel: bool) -> PathBuf {
    // `cargo test` does not build a library that no test links: a target folder of its own, beside what it holds.
    let target = target_for(python);
    // The wheel's is what pyproject.toml says.
    let (profile, folder) = if as_in_the_wheel { ("c-library", "c-library") } else { ("dev", "debug") };
    let built = cargo_for(python)
        .args(["build", "--quiet", "--package", env!("CARGO_PKG_NAME"), "--lib"])
        .args(["--profile", profile, "--target-dir"])
        .arg(&target)
        .status()
        .expect("cargo runs");
    assert!(built.success(), "the library does not build");
    target.join(folder).join("libinterp_guard_native.so")
}

fn target_for(python: Option<&Python>) -> PathBuf {
    let name = python.map_or("library".to_owned(), |python| format!("library-{}", python.version));
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// `cargo`, which compiles for a free-threaded Python or for all others, whichever is on `PATH`.
fn cargo_for(python: Option<&Python>) -> Command {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    match python {
        Some(python) => cargo.env("PYO3_PYTHON", &python.executable).env_remove("PYO3_NO_PYTHON"),
        None => cargo.env("PYO3_NO_PYTHON", "1").env_remove("PYO3_PYTHON"),
    };
    cargo
}

fn working_folder() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("stage-{}", std::process::id()))
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("make the stage");
    for entry in fs::read_dir(from).expect("read the package").flatten() {
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy_folder(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).expect("stage a file")),
        }
    }
}
