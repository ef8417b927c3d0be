# cython: language_level=3
"""A native core that logs into Python, by Cython. What interp-guard takes is marked."""

import logging

cimport interp_guard  # interp-guard

cdef extern from "core.h" nogil:
    ctypedef void (*core_logger)(int level, const char *text) noexcept
    void core_start(core_logger logger, int threads)
    long core_events()

log = logging.getLogger("core")

interp_guard.import_interp_guard()  # interp-guard
cdef interp_guard.PyInterpreterView *here = interp_guard.PyInterpreterView_FromCurrent()  # interp-guard


cdef void sink(int level, const char *text) noexcept with gil:
    log.debug("%d %s", level, text.decode())


cdef void guarded(int level, const char *text) noexcept nogil:  # interp-guard
    cdef interp_guard.PyThreadStateToken *token = interp_guard.PyThreadState_EnsureFromView(here)  # interp-guard
    if token != NULL:  # interp-guard
        sink(level, text)  # interp-guard
        interp_guard.PyThreadState_Release(token)  # interp-guard


def start(int threads):
    cdef core_logger logger = sink
    logger = guarded  # interp-guard
    core_start(logger, threads)


def events():
    return core_events()
