/* For the C source of a cffi module (set_source); what Python calls of it is in interp_guard.cffi_cdef(). A function
 * that cffi calls has the GIL released, so that import_interp_guard cannot be called as it is.
 *
 *     lib.interp_guard_import()               in Python, after the import of the module
 *
 *     PyThreadStateToken *token = interp_guard_enter();    in C, on any thread, around a call of an extern "Python"
 *     if (token == NULL) return;                           function; NULL: the interpreter is finalizing or gone
 *     ...
 *     interp_guard_exit(token);
 */
#ifndef INTERP_GUARD_CFFI_H
#define INTERP_GUARD_CFFI_H

#include "pep788.h"

/* The interpreter that called interp_guard_import last. A module that serves several keeps the numbers itself. */
static int64_t interp_guard_imported_in = -1;

/* import_interp_guard() for a caller that is detached. The interpreter's ID, or -1: what was wrong goes to
 * sys.unraisablehook. Context: normal; a thread of Python. */
__attribute__((unused)) static int64_t interp_guard_import(void) {
    PyGILState_STATE state = PyGILState_Ensure();
    int64_t id = -1;
    if (import_interp_guard() == 0) {
        id = InterpGuard_CurrentID();
        __atomic_store_n(&interp_guard_imported_in, id, __ATOMIC_RELAXED);
    } else {
        PyErr_WriteUnraisable(NULL);
    }
    PyGILState_Release(state);
    return id;
}

/* Attaches the calling thread to that interpreter. NULL if that is finalizing, gone, or was never imported in.
 * Context: normal. */
__attribute__((unused)) static PyThreadStateToken *interp_guard_enter(void) {
    int64_t id = __atomic_load_n(&interp_guard_imported_in, __ATOMIC_RELAXED);
    return id < 0 ? NULL : InterpGuard_EnsureID(id);
}

/* Undoes it. Context: normal, attached as interp_guard_enter left it. */
__attribute__((unused)) static void interp_guard_exit(PyThreadStateToken *token) { InterpGuard_Release(token); }

#endif /* INTERP_GUARD_CFFI_H */
