/* PEP 788 for CPython 3.9 and later: its names, with its semantics, from the Python package interp-guard. This one file
 * can be copied into a project (MIT OR Apache-2.0): nothing is linked, and the package is needed at run time only.
 *
 * Include this after or instead of Python.h, and call import_interp_guard() in the extension's Py_mod_exec. On CPython
 * 3.15, unless compiled with an older Py_LIMITED_API or with PEP788_USE_TABLE defined, the names are CPython's own.
 * Otherwise they are macros (so a function's address cannot be taken) for functions in the package's table. The two kinds
 * of pointer are never interchangeable: pass IDs between extensions.
 *
 * PyInterpreterGuard *PyInterpreterGuard_FromCurrent(void)
 *     Keeps the calling thread's interpreter from finalizing until the guard is closed. NULL with an exception set if it is
 *     finalizing (interp_guard.InterpreterFinalizing: a PythonFinalizationError, before 3.13 a RuntimeError, and an
 *     interp_guard.Refused). Context: attached.
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
 *     Attaches a thread state of the guarded interpreter to the calling thread, whatever was attached before, also while
 *     that interpreter is closing and waits for the guard. NULL on failure, no exception. Context: normal.
 * PyThreadStateToken *PyThreadState_EnsureFromView(PyInterpreterView *)
 *     The same from a view; a guard is held until the release. NULL if the interpreter is finalizing or gone.
 *     Context: normal.
 * void PyThreadState_Release(PyThreadStateToken *)
 *     Undoes the ensure that returned the token. Last in, first out; anything else is a fatal error.
 *     Context: normal, attached as ensure left it.
 *
 * On every version there are the InterpGuard_* names besides, see below, and those names of the PEP's first version that do
 * not clash (PyInterpreterState_Hold, _Lookup, _Release, PyThreadState_SetDaemon, _GetDaemon), see pep788_v1.h.
 *
 * "Context" says where a function may run:
 *   attached         the calling thread has an attached thread state
 *   normal           not in a signal handler; attached or not
 *   signal-safe      anywhere, signal handlers included; takes no lock, allocates nothing, leaves errno alone
 */

/* pep788_v1.h includes this part alone. */
#ifndef INTERP_GUARD_TABLE_H
#define INTERP_GUARD_TABLE_H

#include <Python.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define INTERP_GUARD_ABI 1

/* Statuses, numbered as ig_status of the C interface. */
enum {
    INTERP_GUARD_OK = 0,
    INTERP_GUARD_NOT_FOUND = 1,       /* nobody imported interp_guard in it, or it has finalized */
    INTERP_GUARD_FINALIZING = 2,      /* it is closing and gives out no more guards */
    INTERP_GUARD_INVALID = 6,         /* not a guard, or not this thread's innermost token */
    INTERP_GUARD_TIMEOUT = 7,
    INTERP_GUARD_WOULD_DEADLOCK = 8,  /* this thread is inside an ensure of that interpreter */
    INTERP_GUARD_ALREADY_CLOSING = 9, /* another thread is draining it */
    INTERP_GUARD_INTERNAL = 11
};

/* A guard as a value: keeps one interpreter from finalizing. Zeroed, it guards nothing. A copy is not a second guard
 * (InterpGuard_Dup makes one); closing both a guard and its copy closes one guard too many. */
typedef struct InterpGuard {
    uint64_t private_word;
    int64_t private_id;
    uint64_t private_reserved[2];
} InterpGuard;

typedef void PyThreadStateToken; /* as in CPython 3.15 */

#if defined(Py_LIMITED_API) && Py_LIMITED_API + 0 < 0x03060000
PyAPI_DATA(PyObject *) PyExc_ModuleNotFoundError; /* hidden from code that asks for so old a Python, and there all the same */
#endif

struct InterpGuard_API {
    uint32_t abi;
    uint32_t size;
    void *(*guard_from_current)(void);
    void *(*guard_from_view)(void *);
    void (*guard_close)(void *);
    void *(*view_from_current)(void);
    void *(*view_from_main)(void);
    void (*view_close)(void *);
    PyThreadStateToken *(*ensure)(void *);
    PyThreadStateToken *(*ensure_from_view)(void *);
    void (*release)(PyThreadStateToken *);
    int (*lookup)(int64_t, InterpGuard *);
    int (*dup)(InterpGuard const *, InterpGuard *);
    int (*close)(InterpGuard *);
    PyInterpreterState *(*interpreter)(InterpGuard const *);
    int64_t (*id)(InterpGuard const *);
    PyThreadStateToken *(*ensure_guard)(InterpGuard const *);
    PyThreadStateToken *(*ensure_id)(int64_t);
    int (*release_checked)(PyThreadStateToken *);
    int (*drain)(int64_t, int64_t);
    int64_t (*current_id)(void);
    PyInterpreterState *(*v1_hold)(void);
    PyInterpreterState *(*v1_lookup)(int64_t);
    void (*v1_release)(PyInterpreterState *);
    int (*v1_ensure)(PyInterpreterState *, int);
    void (*v1_release_innermost)(void);
    int (*v1_set_daemon)(int);
    int (*v1_get_daemon)(void);
    void *(*v1_handle_lookup)(int64_t);
    void *(*v1_handle_dup)(void *);
    int (*v1_handle_ensure)(void *);
    PyInterpreterState *(*v1_handle_interpreter)(void *);
    int (*on_close)(int64_t, void (*)(int64_t, void *), void *);
};

/* One per shared object, whichever of its source files made the import call. */
__attribute__((weak, visibility("hidden"))) struct InterpGuard_API const *InterpGuard_api;

/* Two interpreters that import the extension at once both write it, the same. */
static inline struct InterpGuard_API const *interp_guard_api(void) {
    return __atomic_load_n(&InterpGuard_api, __ATOMIC_RELAXED);
}

/* Fills the function table and registers the interpreter that calls it. Belongs in an extension's Py_mod_exec, so that
 * it runs once in each interpreter that imports the extension. 0, or -1 with an exception set.
 * Context: attached. Nothing else in this header may be called before it has succeeded once in the process. */
static inline int import_interp_guard(void) {
    struct InterpGuard_API const *table;
    /* First, since PyCapsule_Import does not say why an import failed. */
    PyObject *package = PyImport_ImportModule("interp_guard");
    if (package == NULL) {
        if (PyErr_ExceptionMatches(PyExc_ModuleNotFoundError)) {
            PyErr_SetString(PyExc_ImportError, "this extension needs the Python package interp-guard, which is not "
                                               "installed: in a checkout of its repository, pip install ./python");
        }
        return -1;
    }
    Py_DECREF(package);
    table = (struct InterpGuard_API const *)PyCapsule_Import("interp_guard._C_API", 0);
    if (table == NULL) {
        return -1;
    }
    if (table->abi != INTERP_GUARD_ABI || table->size < sizeof(struct InterpGuard_API)) {
        PyErr_SetString(PyExc_ImportError, "the installed Python package interp-guard is older than the header that this "
                                           "extension was compiled with: in a newer checkout, pip install ./python");
        return -1;
    }
    __atomic_store_n(&InterpGuard_api, table, __ATOMIC_RELAXED);
    return 0;
}

/* Takes a guard on the interpreter that has this ID. INTERP_GUARD_OK, and *out is a guard; INTERP_GUARD_NOT_FOUND or
 * INTERP_GUARD_FINALIZING, and *out is none (closing it is harmless). Wait-free.
 * Context: signal-safe. */
static inline int InterpGuard_Lookup(int64_t id, InterpGuard *out) { return interp_guard_api()->lookup(id, out); }

/* Takes another guard of the same interpreter; succeeds also while that is closing. INTERP_GUARD_INVALID if there is no
 * guard in *guard, or if `out` is `guard`: then nothing has changed. Context: signal-safe. */
static inline int InterpGuard_Dup(InterpGuard const *guard, InterpGuard *out) {
    return interp_guard_api()->dup(guard, out);
}

/* Gives the guard up and zeroes it. INTERP_GUARD_INVALID for one that is zeroed. Context: signal-safe. */
static inline int InterpGuard_Close(InterpGuard *guard) { return interp_guard_api()->close(guard); }

/* The guarded interpreter; NULL if there is no guard in *guard. Context: signal-safe. */
static inline PyInterpreterState *InterpGuard_Interpreter(InterpGuard const *guard) {
    return interp_guard_api()->interpreter(guard);
}

/* Its ID; -1 if there is no guard in *guard. Context: signal-safe. */
static inline int64_t InterpGuard_GetID(InterpGuard const *guard) { return interp_guard_api()->id(guard); }

/* The ID of the interpreter to which the calling thread is attached. Context: attached. */
static inline int64_t InterpGuard_CurrentID(void) { return interp_guard_api()->current_id(); }

/* Attaches a thread state of the guarded interpreter to the calling thread, whatever was attached before: the same
 * interpreter, another one, or none. To be undone, on the same thread, by InterpGuard_Release. The guard stays the
 * caller's and may be closed at once: the token has one of its own. NULL if *guard is no guard, or no memory.
 * Context: normal. */
static inline PyThreadStateToken *InterpGuard_Ensure(InterpGuard const *guard) {
    return interp_guard_api()->ensure_guard(guard);
}

/* The same by ID. NULL if there is no such interpreter or it is closing; inside an ensure of that interpreter it
 * succeeds also while that is closing. Context: normal. */
static inline PyThreadStateToken *InterpGuard_EnsureID(int64_t id) { return interp_guard_api()->ensure_id(id); }

/* Undoes the ensure that returned the token: what was attached before is attached again. Last in, first out:
 * INTERP_GUARD_INVALID, and nothing happens, if the token is not that of this thread's innermost ensure, or if its thread
 * state is not attached. Ensures of one interpreter inside each other may return the same token, once each: each release of it
 * undoes the latest that is left. Context: normal, attached as ensure left it. */
static inline int InterpGuard_Release(PyThreadStateToken *token) { return interp_guard_api()->release_checked(token); }

/* Closes an interpreter for good and waits until nobody guards it; timeout_ns < 0: without limit. For the owner of a
 * subinterpreter that is about to be destroyed. Called attached, it then waits for threads that had a guard and are still in
 * the interpreter, until the timeout and for ten seconds at most, and reports who has stayed. After INTERP_GUARD_TIMEOUT it
 * is closed, and can be drained again.
 * In the main thread, Ctrl-C has the guards that are out reported, and a second one ends the process with status 130; where
 * the caller is attached to the main interpreter and Python code has set a handler, that is called once this returns.
 * Context: normal; blocks, with the GIL released. */
static inline int InterpGuard_Drain(int64_t id, int64_t timeout_ns) { return interp_guard_api()->drain(id, timeout_ns); }

/* Has `call(id, data)` called once when that interpreter closes: by its end, in the place of the package's atexit
 * callback, or by a drain. Nobody gets a guard any more then, and nobody waits yet for those that are out: so it can
 * tell the threads that hold one to come to an end. It must not wait for them: it is called with the GIL held, which
 * they may need to come to their end, and nobody reports such a wait or limits it. (Who has to join a thread here
 * releases the GIL around it.) Of several, the latest is called first, Python's interp_guard.on_close counted in. It is
 * called on the thread that closes, attached to that interpreter; where the program runs atexit._run_exitfuncs()
 * itself, with the interpreter staying open. Never where the process ends without that, as by _exit, or in a child of a
 * raw fork(). An exception that it leaves set is shown.
 * INTERP_GUARD_NOT_FOUND, INTERP_GUARD_FINALIZING, or INTERP_GUARD_INVALID for no function: then it is not called.
 * Context: attached, to any interpreter. */
static inline int InterpGuard_OnClose(int64_t id, void (*call)(int64_t id, void *data), void *data) {
    return interp_guard_api()->on_close(id, call, data);
}

#ifdef __cplusplus
}
#endif

/* The names of PEP 788's first version that mean nothing else in the final one; pep788_v1.h says what they do. */
#define PyInterpreterState_Hold() (interp_guard_api()->v1_hold())
#define PyInterpreterState_Lookup(id) (interp_guard_api()->v1_lookup(id))
#define PyInterpreterState_Release(interpreter) (interp_guard_api()->v1_release(interpreter))
#define PyThreadState_SetDaemon(is_daemon) (interp_guard_api()->v1_set_daemon(is_daemon))
#define PyThreadState_GetDaemon() (interp_guard_api()->v1_get_daemon())

#endif /* INTERP_GUARD_TABLE_H */

#ifndef INTERP_GUARD_TABLE_ONLY
#ifdef INTERP_GUARD_PEP788_V1_H
#error "pep788.h and pep788_v1.h give the same names to different things: include one of them"
#endif

#ifndef INTERP_GUARD_PEP788_H
#define INTERP_GUARD_PEP788_H

#if PY_VERSION_HEX >= 0x030F0000 && (!defined(Py_LIMITED_API) || Py_LIMITED_API + 0 >= 0x030F0000)
#define INTERP_GUARD_HAS_NATIVE 1
#endif

#ifndef INTERP_GUARD_HAS_NATIVE
typedef struct PyInterpreterGuard PyInterpreterGuard;
typedef struct PyInterpreterView PyInterpreterView;
#endif

#if !defined(INTERP_GUARD_HAS_NATIVE) || defined(PEP788_USE_TABLE)
#define PyInterpreterGuard_FromCurrent() ((PyInterpreterGuard *)interp_guard_api()->guard_from_current())
#define PyInterpreterGuard_FromView(view) ((PyInterpreterGuard *)interp_guard_api()->guard_from_view(view))
#define PyInterpreterGuard_Close(guard) (interp_guard_api()->guard_close(guard))
#define PyInterpreterView_FromCurrent() ((PyInterpreterView *)interp_guard_api()->view_from_current())
#define PyInterpreterView_FromMain() ((PyInterpreterView *)interp_guard_api()->view_from_main())
#define PyInterpreterView_Close(view) (interp_guard_api()->view_close(view))
#define PyThreadState_Ensure(guard) (interp_guard_api()->ensure(guard))
#define PyThreadState_EnsureFromView(view) (interp_guard_api()->ensure_from_view(view))
#define PyThreadState_Release(token) (interp_guard_api()->release(token))
#endif

#endif /* INTERP_GUARD_PEP788_H */
#endif /* INTERP_GUARD_TABLE_ONLY */
