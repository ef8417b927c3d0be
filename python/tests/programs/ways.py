"""Each ready-made way in: its program from ``python/examples``, which ends while native threads call Python.

What interp-guard takes is marked there, line by line. Without those lines the same program is what it was before: it
says how it ends then, and that is not asserted, since it depends on who is where.
"""

import collections
import concurrent.futures
import importlib.metadata
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile

import interp_guard

LONG = bool(os.environ.get("INTERP_GUARD_LONG"))
HERE = os.path.dirname(os.path.abspath(__file__))
EXAMPLES = os.path.join(HERE, "..", "..", "examples")
PYO3_EXAMPLES = os.path.join(HERE, "..", "..", "pyo3", "examples")
MARK = re.compile(r".*\S.*(#|//) interp-guard$")


def environment(folder):
    paths = [folder, os.environ.get("PYTHONPATH", "")]
    return dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, paths)), LD_LIBRARY_PATH=folder)


def build(folder, *command):
    done = subprocess.run(
        command, cwd=folder, env=environment(folder), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}"


def extension(folder, compiler, source, *options):
    """Compiles an extension module beside its source."""
    name = os.path.splitext(source)[0]
    includes = [".", sysconfig.get_path("include"), interp_guard.get_include()]
    build(
        folder,
        *(compiler, "-O1", "-g0", "-shared", "-fPIC", "-fvisibility=hidden", "-pthread"),
        *("-Wall", "-Werror", "-Wno-unused"),
        *[f"-I{include}" for include in includes],
        *(source, *options, "-L.", "-lcore", "-o", name + sysconfig.get_config_var("EXT_SUFFIX")),
    )


# Objects that several modules have in common.
built = {}


def compile_cython(folder, name):
    build(folder, sys.executable, "-m", "cython", f"{name}.pyx")
    extension(folder, "cc", f"{name}.c")


def compile_pybind11(folder, name):
    import pybind11

    extension(folder, "c++", f"{name}.cpp", "-std=c++17", f"-isystem{pybind11.get_include()}")


def compile_nanobind(folder, name):
    import nanobind

    options = ["-std=c++17", f"-isystem{nanobind.include_dir()}", "-fno-strict-aliasing"]
    if "nanobind" not in built:  # its own source, once
        root = os.path.dirname(os.path.abspath(nanobind.__file__))
        built["nanobind"] = os.path.join(tempfile.mkdtemp(), "nb_combined.o")
        headers = [f"-isystem{root}/ext/robin_map/include", f"-isystem{sysconfig.get_path('include')}"]
        source = os.path.join(root, "src", "nb_combined.cpp")
        hidden = ["-O1", "-fPIC", "-fvisibility=hidden", "-c", source, "-o", built["nanobind"]]
        build(folder, "c++", *options, *headers, *hidden)
    extension(folder, "c++", f"{name}.cpp", *options, built["nanobind"])


def compile_cffi(folder, name):
    build(folder, sys.executable, f"{name}.py")


COMPILE = {
    "with_ctypes": None,
    "with_cffi": None,
    "with_def_extern": compile_cffi,
    "with_cffi_source": compile_cffi,
    "with_cython": compile_cython,
    "with_pybind11": compile_pybind11,
    "with_nanobind": compile_nanobind,
    "with_pyo3": None,  # by cargo
}


def folder_with_core():
    folder = tempfile.mkdtemp()
    for examples in (EXAMPLES, PYO3_EXAMPLES):
        for file in filter(os.path.isfile, [os.path.join(examples, file) for file in os.listdir(examples)]):
            shutil.copy(file, folder)
    options = "-std=c11 -D_GNU_SOURCE -O2 -Wall -Wextra -Werror -shared -fPIC -pthread"
    build(folder, "cc", *options.split(), "core.c", "-o", "libcore.so")
    return folder


def check(source, compile):
    """Compiles a module of ``tests/extension``, and runs its ``check``, which says what is wrong."""
    folder = folder_with_core()
    shutil.copy(os.path.join(HERE, "..", "extension", source), folder)
    name = os.path.splitext(source)[0]
    compile(folder, name)
    build(folder, sys.executable, "-c", f"import {name}; wrong = {name}.check(); assert wrong == '', wrong")
    shutil.rmtree(folder)


def stage(name, guarded):
    """A folder that has the program, ready to run; and how many lines were marked."""
    folder = folder_with_core()
    (source,) = [os.path.join(folder, file) for file in os.listdir(folder) if os.path.splitext(file)[0] == name]
    with open(source) as file:
        lines = file.read().splitlines()
    kept = [line for line in lines if guarded or not MARK.match(line)]
    assert guarded or not any("interp_guard" in line for line in kept), kept
    with open(source, "w") as file:
        file.write("\n".join(kept) + "\n")
    if COMPILE[name] is not None:
        COMPILE[name](folder, name)
    return folder, sum(bool(MARK.match(line)) for line in lines)


def end(folder, name, timeout):
    """Runs the program to its end: how it ended, and what it said."""
    program = [sys.executable, "-X", "faulthandler", "main.py", name]
    process = subprocess.Popen(
        program, cwd=folder, env=environment(folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return "hang", "", ""
    if process.returncode == 0 and out != "threads 4 ended 4\n":
        return "have threads killed or parked", out, err
    return "end well" if process.returncode == 0 else f"crash (status {process.returncode})", out, err


def run(name, library):
    """The scenario of one program; ``library`` is the distribution that it is for, if it is one of Python's."""
    release = f", {library} {importlib.metadata.version(library)}" if library else ""
    workers = concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0)))

    def ends(guarded, rounds, timeout):
        folder, lines = stage(name, guarded)
        try:
            results = list(workers.map(end, [folder] * rounds, [name] * rounds, [timeout] * rounds))
        finally:
            shutil.rmtree(folder)
        return results, lines

    rounds = 200 if LONG else 8
    results, lines = ends(True, rounds, 120)
    for number, (how, out, err) in enumerate(results):
        assert how == "end well" and err == "", (name, number, how, out, err)
    print(
        f"record: {name}, {lines} lines of interp-guard: 4 native threads call while Python ends | {rounds} processes "
        f"ended with status 0, {4 * rounds} threads by themselves{release}"
    )
    if name == "with_pyo3":  # cargo has built one of it; the scenario `pyo3` shows what PyO3 does alone
        return print("ok")
    rounds = 20 if LONG else 2
    results, _ = ends(False, rounds, 5)
    for object in built.values():
        shutil.rmtree(os.path.dirname(object))
    count = collections.Counter(how for how, _, _ in results)
    how = ", ".join(f"{times} {what}" for what, times in sorted(count.items()))
    print(f"record: {name} without these lines | of {rounds} processes {how}")
    print("ok")
