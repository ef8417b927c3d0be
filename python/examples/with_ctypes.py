"""A native core that logs into Python, by ctypes. What interp-guard takes is marked."""

import ctypes
import logging

import interp_guard  # interp-guard

core = ctypes.CDLL("libcore.so")
core.core_events.restype = ctypes.c_long
LOGGER = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p)
log = logging.getLogger("core")


@interp_guard.callback  # interp-guard
@LOGGER
def sink(level, text):
    log.debug("%d %s", level, text.decode())


def start(threads):
    core.core_start(sink, threads)


events = core.core_events
