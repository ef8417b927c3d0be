"""Why the native part cannot be imported, where that is because it was built for other Pythons than this one."""

import os
import sys
from importlib.machinery import EXTENSION_SUFFIXES


def explain():
    """Raises an ``ImportError`` that says so; returns if that is not why."""
    here = set(os.listdir(os.path.dirname(os.path.abspath(__file__))))
    if any("_native" + suffix in here for suffix in EXTENSION_SUFFIXES):
        return  # it is there, and has said itself what is wrong
    others = ", ".join(sorted(name for name in here if name.startswith("_native."))) or "none"
    raise ImportError(
        f"interp_guard: its native part is not there for this Python, {sys.version}: _native{EXTENSION_SUFFIXES[0]} is "
        f"missing (there: {others}). Build it with this Python, in a checkout of its repository, by pip install ./python",
        name="interp_guard._native",
    ) from None
