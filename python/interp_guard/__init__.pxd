# For Cython: `cimport interp_guard`, with interp_guard.get_include() among the include folders. pep788.h says what each
# does. Call import_interp_guard() once at the top of the module.

from libc.stdint cimport int64_t

cdef extern from "pep788.h":
    ctypedef struct PyInterpreterGuard:
        pass
    ctypedef struct PyInterpreterView:
        pass
    ctypedef struct PyInterpreterState:
        pass
    ctypedef void PyThreadStateToken
    ctypedef struct InterpGuard:
        pass

    enum:
        INTERP_GUARD_OK
        INTERP_GUARD_NOT_FOUND
        INTERP_GUARD_FINALIZING
        INTERP_GUARD_INVALID
        INTERP_GUARD_TIMEOUT
        INTERP_GUARD_WOULD_DEADLOCK
        INTERP_GUARD_ALREADY_CLOSING
        INTERP_GUARD_INTERNAL

    # Attached.
    int import_interp_guard() except -1
    PyInterpreterGuard *PyInterpreterGuard_FromCurrent() except NULL
    PyInterpreterView *PyInterpreterView_FromCurrent() except NULL
    int64_t InterpGuard_CurrentID()

    # On any thread, attached or not.
    PyInterpreterGuard *PyInterpreterGuard_FromView(PyInterpreterView *) nogil
    void PyInterpreterGuard_Close(PyInterpreterGuard *) nogil
    PyInterpreterView *PyInterpreterView_FromMain() nogil
    void PyInterpreterView_Close(PyInterpreterView *) nogil
    PyThreadStateToken *PyThreadState_Ensure(PyInterpreterGuard *) nogil
    PyThreadStateToken *PyThreadState_EnsureFromView(PyInterpreterView *) nogil
    void PyThreadState_Release(PyThreadStateToken *) nogil
    int InterpGuard_Lookup(int64_t, InterpGuard *) nogil
    int InterpGuard_Dup(const InterpGuard *, InterpGuard *) nogil
    int InterpGuard_Close(InterpGuard *) nogil
    PyInterpreterState *InterpGuard_Interpreter(const InterpGuard *) nogil
    int64_t InterpGuard_GetID(const InterpGuard *) nogil
    PyThreadStateToken *InterpGuard_Ensure(const InterpGuard *) nogil
    PyThreadStateToken *InterpGuard_EnsureID(int64_t) nogil
    int InterpGuard_Release(PyThreadStateToken *) nogil
    int InterpGuard_Drain(int64_t, int64_t) nogil
    int InterpGuard_OnClose(int64_t, void (*)(int64_t, void *) noexcept, void *)
