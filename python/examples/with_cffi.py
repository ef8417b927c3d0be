"""A native core that logs into Python, by cffi without a compiler. What interp-guard takes is marked."""

import logging

import cffi
import interp_guard  # interp-guard

ffi = cffi.FFI()
ffi.cdef("void core_start(void (*logger)(int level, char const *text), int threads); long core_events(void);")
core = ffi.dlopen("libcore.so")
log = logging.getLogger("core")


@ffi.callback("void(int, char const *)")
def sink(level, text):
    log.debug("%d %s", level, ffi.string(text).decode())


sink = interp_guard.callback(sink).pointer  # interp-guard


def start(threads):
    core.core_start(sink, threads)


events = core.core_events
