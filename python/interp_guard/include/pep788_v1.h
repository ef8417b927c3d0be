/* The names of PEP 788's first version, for CPython 3.9 and later, from the Python package interp-guard: references by
 * interpreter pointer, and by handle. For those who followed the discussion; new code is better off with pep788.h.
 *
 * Include this after or instead of Python.h, and call import_interp_guard() in the extension's Py_mod_exec. The names are
 * macros (so a function's address cannot be taken) for functions in the package's table, on every version: they never are
 * CPython's own, which has some of them with another meaning from 3.15 on. So pep788.h cannot be included as well; but this
 * header needs it beside itself, for what the two share.
 *
 * A *reference* keeps an interpreter from finalizing. It is the interpreter's pointer, and no more: the references to one
 * interpreter are interchangeable. In a child of fork() those of the parent protect nothing, and releasing one there
 * does nothing, unless the child has references of its own: it would release one of those.
 *
 * PyInterpreterState *PyInterpreterState_Hold(void)
 *     A reference to the calling thread's interpreter. NULL with an exception set if it is finalizing
 *     (interp_guard.InterpreterFinalizing, as in pep788.h) or nobody imported the package in it. Context: attached.
 * PyInterpreterState *PyInterpreterState_Lookup(int64_t id)
 *     A reference to the interpreter that has this ID, which is PyInterpreterState_GetID's until the process initialises
 *     Python a second time, and InterpGuard_CurrentID's always. NULL, no exception, if it is finalizing, gone, or unknown.
 *     Wait-free. Context: signal-safe.
 * void PyInterpreterState_Release(PyInterpreterState *)
 *     Gives a reference up. The pointer must be one: a dangling one is read. One release too many does nothing where that can
 *     be noticed, which is when no reference is left. NULL does nothing. With INTERP_GUARD_LEDGER=1 it looks through
 *     all references that are out. Context: signal-safe.
 * int PyThreadState_Ensure(PyInterpreterState *)
 *     Attaches a thread state of that interpreter to the calling thread, whatever was attached before: the same
 *     interpreter, another one, or none. The caller has a reference. It keeps it: this is where the discussion ended; the
 *     first draft took it over, and so does this header where PEP788_V1_CONSUME is defined before it is included.
 *     0, or -1 (no memory, or no reference), no exception: then nothing changed. Context: normal.
 * void PyThreadState_Release(void)
 *     Undoes this thread's innermost ensure: what was attached before is attached again. A fatal error on a thread that
 *     is in none, or whose state is not attached. Context: normal, attached as ensure left it.
 * int PyThreadState_SetDaemon(int is_daemon)
 *     1: this thread's innermost ensure no longer keeps its interpreter from finalizing; CPython then ends or parks the
 *     thread when it next attaches. 0: it does again. Either lasts until that ensure's release; no other ensure of this
 *     thread is changed. 0, or -1, no exception: no ensure, not attached, the interpreter is finalizing, or, up to CPython
 *     3.13, a subinterpreter, whose end CPython aborts then. Context: normal, attached as ensure left it.
 * int PyThreadState_GetDaemon(void)
 *     1 where nothing of this header keeps the attached interpreter for this thread, also on threads without an ensure; 0
 *     where the innermost ensure does; -1 where nothing is attached. Context: normal.
 *
 * The handle form: a handle is a reference of its own, told from others, and right across fork() too.
 *
 * PyInterpreterHandle *PyInterpreterHandle_Create(void)               as PyInterpreterState_Hold. Context: attached.
 * PyInterpreterHandle *PyInterpreterHandle_Lookup(int64_t id)         as PyInterpreterState_Lookup. Context: signal-safe.
 * PyInterpreterHandle *PyInterpreterHandle_Dup(PyInterpreterHandle *) one more, also while the interpreter is closing; NULL
 *                                                                     for a handle from before a fork. Context: signal-safe.
 * void PyInterpreterHandle_Close(PyInterpreterHandle *)               gives it up; NULL does nothing. Context: signal-safe.
 * PyInterpreterState *PyInterpreterHandle_GetInterpreter(PyInterpreterHandle *)
 *     The pointer, which is no reference of its own and good as long as the handle. For PyThreadState_Ensure there has to be
 *     a reference: PyThreadState_EnsureFromHandle is ensure for a handle. Context: signal-safe.
 * int PyThreadState_EnsureFromHandle(PyInterpreterHandle *)
 *     0, or -1. To be undone by PyThreadState_Release(). The handle stays the caller's. Context: normal.
 */
#ifndef INTERP_GUARD_PEP788_V1_H
#define INTERP_GUARD_PEP788_V1_H

#ifdef INTERP_GUARD_PEP788_H
#error "pep788.h and pep788_v1.h give the same names to different things: include one of them"
#endif

#define INTERP_GUARD_TABLE_ONLY
#include "pep788.h"
#undef INTERP_GUARD_TABLE_ONLY

typedef struct PyInterpreterHandle PyInterpreterHandle;

#ifdef PEP788_V1_CONSUME
#define PyThreadState_Ensure(interpreter) (interp_guard_api()->v1_ensure((interpreter), 1))
#else
#define PyThreadState_Ensure(interpreter) (interp_guard_api()->v1_ensure((interpreter), 0))
#endif
#define PyThreadState_Release() (interp_guard_api()->v1_release_innermost())

#define PyInterpreterHandle_Create() ((PyInterpreterHandle *)interp_guard_api()->guard_from_current())
#define PyInterpreterHandle_Lookup(id) ((PyInterpreterHandle *)interp_guard_api()->v1_handle_lookup(id))
#define PyInterpreterHandle_Dup(handle) ((PyInterpreterHandle *)interp_guard_api()->v1_handle_dup(handle))
#define PyInterpreterHandle_Close(handle) (interp_guard_api()->guard_close(handle))
#define PyThreadState_EnsureFromHandle(handle) (interp_guard_api()->v1_handle_ensure(handle))
#define PyInterpreterHandle_GetInterpreter(handle) (interp_guard_api()->v1_handle_interpreter(handle))

#endif /* INTERP_GUARD_PEP788_V1_H */
