"""Keeps extensions that nobody changed from crashing at exit.

Up to 3.13 CPython ends a native thread that calls into Python while Python ends. That tears C++ apart: "terminate called
without an active exception", "FATAL: exception not rethrown", a segmentation fault. ``install()`` redirects the calls of all
loaded objects: the end waits for calls that are under way, and parks who comes too late.
"""

import math
import os
import sys

from . import _native

__all__ = ["install", "status", "uninstall"]

_GRACE = 5.0


def _seconds(grace):
    if isinstance(grace, (str, bytes)) or not (hasattr(type(grace), "__float__") or hasattr(type(grace), "__index__")):
        raise TypeError(f"grace is a number of seconds, not {grace!r}")
    seconds = float(grace)
    if not 0 <= seconds < math.inf:
        raise ValueError(f"grace is a number of seconds from 0 on, not {grace!r}")
    return seconds


def install(grace=_GRACE, report=False):
    """Protects this process. To be called in the main interpreter, and best before anything else; again, it changes ``grace``.

    When Python ends, it waits at most ``grace`` seconds for native threads that are in a call into Python. Then it says who
    they are, and goes on. With ``report`` it says at exit, on standard error, what was prevented.
    """
    import threading  # noqa: F401  which notes that Python ends, also where it ends inside a call

    _native.shield_install(_seconds(grace), bool(report))


def uninstall():
    """Puts back what was redirected. Function pointers that ``ctypes`` or others got meanwhile stay as they are, and do what
    CPython's own do."""
    _native.shield_uninstall()


def status():
    """What is redirected, as a dict.

    ``installed``; ``grace``; ``functions``: the names that are redirected. ``objects``: for each loaded file that calls any,
    its path and the names. ``not_redirected``: what could not be, and why. ``came_late``: how many threads have been parked.
    """
    installed, grace, functions, objects, came_late = _native.shield_status()
    return {
        "installed": bool(installed),
        "grace": grace,
        "functions": functions,
        "objects": {path: names for path, names, _ in objects if names},
        "not_redirected": [f"{path}: {why}" for path, _, left in objects for why in left],
        "came_late": came_late,
    }


def _from_environment():
    wanted = os.environ.get("INTERP_GUARD_SHIELD", "")
    if wanted not in ("", "0", "1"):
        raise RuntimeError(f"interp_guard: INTERP_GUARD_SHIELD is {wanted!r}, but must be 0 or 1")
    if wanted == "1":
        install()


def _run(options):
    """``python -m interp_guard run``: as ``python`` itself runs a script, a folder, or a module."""
    import builtins
    import importlib.machinery
    import io
    import pkgutil
    import runpy
    import types

    install(options.grace, options.report)
    # A ``__main__`` of the program's own, as pickles and ``multiprocessing`` look for it.
    main = types.ModuleType("__main__")
    main.__builtins__ = builtins
    sys.modules["__main__"] = main
    sys.argv[:] = options.arguments
    if options.is_module:
        runpy._run_module_as_main(options.arguments[0])
        return
    script = options.arguments[0]
    # Python has put the working folder there, unless it was told not to.
    begins = 0 if getattr(sys.flags, "safe_path", sys.flags.isolated) else 1
    if pkgutil.get_importer(script) is not None:  # a folder, or a zip file
        sys.path[:begins] = [script]
        runpy._run_module_as_main("__main__", False)
        return
    sys.path[:begins] = [os.path.dirname(os.path.realpath(script))] * begins
    try:
        with io.open_code(os.path.abspath(script)) as file:
            source = file.read()
    except OSError as error:
        print(f"{sys.executable}: can't open file {script!r}: [Errno {error.errno}] {error.strerror}", file=sys.stderr)
        raise SystemExit(2) from None
    main.__file__ = script
    main.__loader__ = importlib.machinery.SourceFileLoader("__main__", script)
    exec(compile(source, script, "exec"), main.__dict__)
