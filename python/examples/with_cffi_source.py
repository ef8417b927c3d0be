"""A native core that logs into Python, by cffi with C code in between. What interp-guard takes is marked.

``python with_cffi_source.py`` compiles the module.
"""

import logging

import cffi

if __name__ == "__main__":
    import interp_guard  # interp-guard

    builder = cffi.FFI()
    builder.cdef("""
        extern "Python" void sink(int level, char const *text);
        void start(int threads);
        long core_events(void);
    """)
    builder.cdef(interp_guard.cffi_cdef())  # interp-guard
    folders = ["."]
    folders.append(interp_guard.get_include())  # interp-guard
    builder.set_source(
        "_cffi_source",
        """
        #include "core.h"
        #include "interp_guard_cffi.h"  // interp-guard
        static void sink(int level, char const *text);
        static void logger(int level, char const *text) {
            PyThreadStateToken *token = interp_guard_enter();  // interp-guard
            if (token == NULL) return;                         // interp-guard
            if (level >= 0) sink(level, text);
            interp_guard_exit(token);  // interp-guard
        }
        static void start(int threads) { core_start(logger, threads); }
        """,
        include_dirs=folders,
        library_dirs=["."],
        libraries=["core"],
    )
    builder.compile()
    raise SystemExit

from _cffi_source import ffi, lib

lib.interp_guard_import()  # interp-guard
log = logging.getLogger("core")


@ffi.def_extern()
def sink(level, text):
    log.debug("%d %s", level, ffi.string(text).decode())


start = lib.start
events = lib.core_events
