# cython: language_level=3
"""Every name of ``interp_guard/__init__.pxd``, called."""

cimport interp_guard as ig
from libc.stdint cimport int64_t

ig.import_interp_guard()


cdef int call_detached(ig.PyInterpreterView *view) noexcept nogil:
    """How many of the calls went as they should, of 10."""
    cdef ig.InterpGuard found, again
    cdef int right = 0
    cdef ig.PyInterpreterGuard *guard = ig.PyInterpreterGuard_FromView(view)
    right += guard != NULL
    cdef ig.PyThreadStateToken *outer = ig.PyThreadState_Ensure(guard)
    cdef ig.PyThreadStateToken *inner = ig.PyThreadState_EnsureFromView(view)
    right += outer != NULL and inner != NULL
    ig.PyThreadState_Release(inner)
    ig.PyThreadState_Release(outer)
    ig.PyInterpreterGuard_Close(guard)
    right += ig.InterpGuard_Lookup(0, &found) == ig.INTERP_GUARD_OK
    right += ig.InterpGuard_Dup(&found, &again) == ig.INTERP_GUARD_OK
    right += ig.InterpGuard_GetID(&again) == 0 and ig.InterpGuard_Interpreter(&again) != NULL
    outer = ig.InterpGuard_Ensure(&found)
    inner = ig.InterpGuard_EnsureID(0)
    right += ig.InterpGuard_Release(inner) == ig.INTERP_GUARD_OK
    right += ig.InterpGuard_Release(outer) == ig.INTERP_GUARD_OK
    right += ig.InterpGuard_Close(&again) == ig.INTERP_GUARD_OK
    right += ig.InterpGuard_Close(&found) == ig.INTERP_GUARD_OK
    right += ig.InterpGuard_Drain(12345, 0) == ig.INTERP_GUARD_NOT_FOUND
    return right


cdef void nothing_to_do(int64_t id, void *data) noexcept:
    pass


def check():
    cdef ig.PyInterpreterGuard *guard = ig.PyInterpreterGuard_FromCurrent()
    ig.PyInterpreterGuard_Close(guard)
    cdef ig.PyInterpreterView *view = ig.PyInterpreterView_FromCurrent()
    cdef int right
    with nogil:
        right = call_detached(view)
    ig.PyInterpreterView_Close(view)
    ig.PyInterpreterView_Close(ig.PyInterpreterView_FromMain())
    assert ig.InterpGuard_CurrentID() == 0
    assert ig.InterpGuard_OnClose(12345, nothing_to_do, NULL) == ig.INTERP_GUARD_NOT_FOUND
    assert ig.INTERP_GUARD_FINALIZING == 2 and ig.INTERP_GUARD_TIMEOUT == 7
    assert ig.INTERP_GUARD_WOULD_DEADLOCK == 8 and ig.INTERP_GUARD_ALREADY_CLOSING == 9
    assert ig.INTERP_GUARD_INTERNAL == 11
    return "" if right == 10 else f"{right} of 10 calls are right"
