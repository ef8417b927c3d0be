/* PEP 788 for CPython 3.9 and later: its names, with its semantics, from the Python package interp-guard.
 *
 * Include this after or instead of Python.h, and call import_interp_guard() in the extension's Py_mod_exec. On CPython
 * 3.15, unless compiled with an older Py_LIMITED_API or with PEP788_USE_TABLE defined, the names are CPython's own.
 * Otherwise they are macros (so a function's address cannot be taken) for functions in the package's table. The two kinds
 * of pointer are never interchangeable: pass IDs between extensions.
 *
 * PyInterpreterGuard *PyInterpreterGuard_FromCurrent(void)
 *     Keeps the calling thread's interpreter from finalizing until the guard is closed. NULL with an exception set if it is
 *     finalizing (PythonFinalizationError, RuntimeError before 3.13). Context: attached.
 * PyInterpreterGuard *PyInterpreterGuard_FromView(PyInterpreterView *)
 *     The same for the interpreter of a view. NULL, no exception, if it is finalizing or gone.
 *     Context: signal-safe where the names are ours; CPython's own is not.
 * void PyInterpreterGuard_Close(PyInterpreterGuard *)
 *     Context: signal-safe where the names are ours.
 * PyInterpreterView *PyInterpreterView_FromCurrent(void)
 *     Remembers the calling thread's interpreter. NULL with an exception set on failure. Context: attached.
 * PyInterpreterView *PyInterpreterView_FromMain(void)
 *     Remembers the main interpreter. Context: normal; signal-safe where the names are ours.
 * void PyInterpreterView_Close(PyInterpreterView *)
 *     Context: normal; signal-safe where the names are ours.
 * PyThreadStateToken *PyThreadState_Ensure(PyInterpreterGuard *)
 *     Attaches a thread state of the guarded interpreter to the calling thread, whatever was attached before. NULL on
 *     failure, no exception. Context: normal.
 * PyThreadStateToken *PyThreadState_EnsureFromView(PyInterpreterView *)
 *     The same from a view; the token has a guard of its own. NULL if the interpreter is finalizing or gone.
 *     Context: normal.
 * void PyThreadState_Release(PyThreadStateToken *)
 *     Undoes exactly the ensure that returned the token. Last in, first out; anything else is a fatal error.
 *     Context: normal, attached as ensure left it.
 */
#ifndef INTERP_GUARD_PEP788_H
#define INTERP_GUARD_PEP788_H

#ifdef INTERP_GUARD_PEP788_V1_H
#error "pep788.h and pep788_v1.h give the same names to different things: include one of them"
#endif

#include "interp_guard_table.h"

#if PY_VERSION_HEX >= 0x030F0000 && (!defined(Py_LIMITED_API) || Py_LIMITED_API + 0 >= 0x030F0000)
#define INTERP_GUARD_HAS_NATIVE 1
#endif

#ifndef INTERP_GUARD_HAS_NATIVE
typedef struct PyInterpreterGuard PyInterpreterGuard;
typedef struct PyInterpreterView PyInterpreterView;
#endif

#if !defined(INTERP_GUARD_HAS_NATIVE) || defined(PEP788_USE_TABLE)
#define PyInterpreterGuard_FromCurrent() ((PyInterpreterGuard *)InterpGuard_api->guard_from_current())
#define PyInterpreterGuard_FromView(view) ((PyInterpreterGuard *)InterpGuard_api->guard_from_view(view))
#define PyInterpreterGuard_Close(guard) (InterpGuard_api->guard_close(guard))
#define PyInterpreterView_FromCurrent() ((PyInterpreterView *)InterpGuard_api->view_from_current())
#define PyInterpreterView_FromMain() ((PyInterpreterView *)InterpGuard_api->view_from_main())
#define PyInterpreterView_Close(view) (InterpGuard_api->view_close(view))
#define PyThreadState_Ensure(guard) (InterpGuard_api->ensure(guard))
#define PyThreadState_EnsureFromView(view) (InterpGuard_api->ensure_from_view(view))
#define PyThreadState_Release(token) (InterpGuard_api->release(token))
#endif

#endif /* INTERP_GUARD_PEP788_H */
