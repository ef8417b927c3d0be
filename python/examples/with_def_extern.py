"""A native core that logs into Python, by cffi with a compiler. What interp-guard takes is marked.

``python with_def_extern.py`` compiles the module.
"""

import logging

import cffi

if __name__ == "__main__":
    builder = cffi.FFI()
    builder.cdef("""
        extern "Python" void sink(int level, char const *text);
        void core_start(void (*logger)(int level, char const *text), int threads);
        long core_events(void);
    """)
    builder.set_source("_def_extern", '#include "core.h"', include_dirs=["."], library_dirs=["."], libraries=["core"])
    builder.compile()
    raise SystemExit

import interp_guard  # interp-guard
from _def_extern import ffi, lib

log = logging.getLogger("core")


@ffi.def_extern()
def sink(level, text):
    log.debug("%d %s", level, ffi.string(text).decode())


logger = lib.sink
logger = interp_guard.callback(logger).pointer  # interp-guard


def start(threads):
    lib.core_start(logger, threads)


events = lib.core_events
