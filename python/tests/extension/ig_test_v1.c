/* PEP 788's first version, by its own names: pep788_v1.h. */
#define PY_SSIZE_T_CLEAN
#include "pep788_v1.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define STRING_(x) #x
#define STRING(x) STRING_(x)
/* In a function that returns what is wrong, or NULL. */
#define CHECK(condition)                                              \
    do {                                                              \
        if (!(condition)) return "line " STRING(__LINE__) ": " #condition; \
    } while (0)

typedef const char *Wrong;
typedef Wrong (*Scenario)(void);

static PyThreadState *main_state, *sub_state;
static PyInterpreterState *sub_interpreter;
static int64_t sub_id;

static Wrong sub_begin(void) {
    main_state = PyThreadState_Get();
    sub_state = Py_NewInterpreter();
    CHECK(sub_state != NULL && PyRun_SimpleString("import interp_guard") == 0);
    sub_id = InterpGuard_CurrentID();
    sub_interpreter = PyInterpreterState_Get();
    PyThreadState_Swap(main_state);
    return NULL;
}

static void sub_end(void) {
    PyThreadState_Swap(sub_state);
    Py_EndInterpreter(sub_state);
    PyThreadState_Swap(main_state);
}

static void *scenario_thread(void *scenario) { return (void *)((Scenario)scenario)(); }

static Wrong in_native_thread(Scenario scenario) {
    pthread_t thread;
    void *wrong = "no thread";
    Py_BEGIN_ALLOW_THREADS
    if (pthread_create(&thread, NULL, scenario_thread, (void *)scenario) == 0) pthread_join(thread, &wrong);
    Py_END_ALLOW_THREADS
    return (Wrong)wrong;
}

/* --- references --------------------------------------------------------------------------------------------------- */

static Wrong references(void) {
    PyInterpreterState *held = PyInterpreterState_Hold();
    CHECK(held == PyInterpreterState_Get());
    CHECK(PyInterpreterState_Lookup(InterpGuard_CurrentID()) == held);
    PyInterpreterState_Release(held);
    PyInterpreterState_Release(held);
    PyInterpreterState_Release(held); /* one too many: nothing happens, as the drain at exit shows */
    PyInterpreterState_Release(NULL);
    CHECK(PyInterpreterState_Lookup(-1) == NULL && PyInterpreterState_Lookup(1L << 50) == NULL);
    CHECK(!PyErr_Occurred());
    CHECK(PyThreadState_Ensure(held) == -1 && PyThreadState_Ensure(NULL) == -1); /* no reference is out */

    PyInterpreterHandle *handle = PyInterpreterHandle_Create();
    CHECK(handle != NULL && PyInterpreterHandle_GetInterpreter(handle) == held);
    PyInterpreterHandle *second = PyInterpreterHandle_Dup(handle), *third = PyInterpreterHandle_Lookup(0);
    CHECK(second != NULL && third != NULL);
    PyInterpreterHandle_Close(handle);
    CHECK(PyThreadState_EnsureFromHandle(second) == 0);
    PyInterpreterHandle_Close(second);
    PyThreadState_Release();
    PyInterpreterHandle_Close(third);
    PyInterpreterHandle_Close(NULL);
    CHECK(PyInterpreterHandle_Dup(NULL) == NULL && PyInterpreterHandle_GetInterpreter(NULL) == NULL);
    CHECK(PyInterpreterHandle_Lookup(1L << 50) == NULL && PyThreadState_EnsureFromHandle(NULL) == -1);
    return NULL;
}

/* A reference holds off the drain, in any state of the interpreter; its release is found by the pointer alone. */
static Wrong across_closing(void) {
    Wrong wrong = sub_begin();
    if (wrong) return wrong;
    PyInterpreterState *first = PyInterpreterState_Lookup(sub_id), *second = PyInterpreterState_Lookup(sub_id);
    PyInterpreterHandle *handle = PyInterpreterHandle_Lookup(sub_id);
    CHECK(first == sub_interpreter && second == first && handle != NULL);
    CHECK(InterpGuard_Drain(sub_id, 1000000) == INTERP_GUARD_TIMEOUT);
    CHECK(PyInterpreterState_Lookup(sub_id) == NULL && PyInterpreterHandle_Lookup(sub_id) == NULL);
    CHECK(PyThreadState_Ensure(first) == 0); /* its own reference holds it: closing is no hindrance */
    CHECK(PyInterpreterState_Get() == sub_interpreter);
    CHECK(PyInterpreterState_Hold() == NULL && PyErr_Occurred());
    PyErr_Clear();
    PyThreadState_Release();
    CHECK(PyThreadState_Get() == main_state);
    PyInterpreterState_Release(first);
    CHECK(InterpGuard_Drain(sub_id, 1000000) == INTERP_GUARD_TIMEOUT);
    PyInterpreterState_Release(second);
    CHECK(InterpGuard_Drain(sub_id, 1000000) == INTERP_GUARD_TIMEOUT);
    PyInterpreterHandle *last = PyInterpreterHandle_Dup(handle);
    CHECK(last != NULL);
    PyInterpreterHandle_Close(handle);
    CHECK(InterpGuard_Drain(sub_id, 1000000) == INTERP_GUARD_TIMEOUT);
    PyInterpreterHandle_Close(last);
    CHECK(InterpGuard_Drain(sub_id, -1) == INTERP_GUARD_OK);
    CHECK(PyInterpreterState_Lookup(sub_id) == NULL);
    sub_end();
    return NULL;
}

/* --- thread states ------------------------------------------------------------------------------------------------ */

static Wrong nest(void) {
    CHECK(PyThreadState_GetDaemon() == -1 && PyThreadState_SetDaemon(1) == -1 && PyThreadState_SetDaemon(0) == -1);
    PyInterpreterState *main_interpreter = PyInterpreterState_Lookup(0), *sub = PyInterpreterState_Lookup(sub_id);
    CHECK(main_interpreter != NULL && sub != NULL);
    for (int i = 0; i < 50; i++) {
        CHECK(PyThreadState_Ensure(main_interpreter) == 0);
        PyThreadState *outer = PyThreadState_Get();
        CHECK(PyThreadState_Ensure(sub) == 0 && PyInterpreterState_Get() == sub);
        CHECK(PyThreadState_Ensure(main_interpreter) == 0 && PyThreadState_Get() == outer);
        CHECK(PyThreadState_Ensure(main_interpreter) == 0 && PyThreadState_Get() == outer);
        PyThreadState_Release();
        PyThreadState_Release();
        CHECK(PyInterpreterState_Get() == sub);
        PyThreadState_Release();
        CHECK(PyThreadState_Get() == outer);
        PyThreadState_Release();
        CHECK(PyGILState_GetThisThreadState() == NULL);
    }
    PyInterpreterState_Release(sub);
    PyInterpreterState_Release(main_interpreter);
    return NULL;
}

/* Each ensure has its own daemon flag, and release brings back the one before. */
static Wrong daemons(void) {
    PyInterpreterState *main_interpreter = PyInterpreterState_Lookup(0);
    CHECK(PyThreadState_Ensure(main_interpreter) == 0 && PyThreadState_GetDaemon() == 0);
    PyInterpreterState_Release(main_interpreter);
    main_interpreter = PyInterpreterState_Hold();
    CHECK(PyThreadState_SetDaemon(1) == 0 && PyThreadState_GetDaemon() == 1 && PyThreadState_SetDaemon(1) == 0);
    CHECK(PyThreadState_Ensure(main_interpreter) == 0 && PyThreadState_GetDaemon() == 0);
    PyThreadState_Release();
    /* Others are not counted under a daemon, which has nothing for them to count under. */
    PyThreadStateToken *token = InterpGuard_EnsureID(0);
    CHECK(token != NULL && PyThreadState_GetDaemon() == 0 && InterpGuard_Release(token) == INTERP_GUARD_OK);
    CHECK(PyThreadState_GetDaemon() == 1 && PyThreadState_Ensure(main_interpreter) == 0);
    PyThreadState *saved = PyEval_SaveThread();
    CHECK(PyThreadState_GetDaemon() == -1 && PyThreadState_SetDaemon(1) == -1);
    PyEval_RestoreThread(saved);
    CHECK(PyThreadState_SetDaemon(1) == 0 && PyThreadState_GetDaemon() == 1);
    CHECK(PyThreadState_SetDaemon(0) == 0 && PyThreadState_GetDaemon() == 0 && PyThreadState_SetDaemon(0) == 0);
    PyThreadState_Release();
    CHECK(PyThreadState_GetDaemon() == 1);
    PyInterpreterState_Release(main_interpreter);
    PyThreadState_Release();
    return NULL;
}

/* Up to 3.13 a daemon in a subinterpreter would be the end of the process; later it does not hold that off. */
static Wrong daemon_in_sub(void) {
    PyInterpreterState *sub = PyInterpreterState_Lookup(sub_id);
    CHECK(PyThreadState_Ensure(sub) == 0);
    PyInterpreterState_Release(sub);
#if PY_VERSION_HEX < 0x030E0000
    CHECK(PyThreadState_SetDaemon(1) == -1 && PyThreadState_GetDaemon() == 0);
#else
    CHECK(PyThreadState_SetDaemon(1) == 0 && PyThreadState_GetDaemon() == 1);
    CHECK(PyThreadState_SetDaemon(0) == 0 && PyThreadState_GetDaemon() == 0);
#endif
    PyThreadState_Release();
    return NULL;
}

#define CONSUMING_ENSURE(interpreter) (interp_guard_api()->v1_ensure((interpreter), 1)) /* as with PEP788_V1_CONSUME */

static Wrong consuming(void) {
    PyInterpreterState *main_interpreter = PyInterpreterState_Lookup(0);
    CHECK(CONSUMING_ENSURE(main_interpreter) == 0);
    CHECK(CONSUMING_ENSURE(main_interpreter) == -1); /* the reference is gone */
    PyThreadState_Release();
    return NULL;
}

/* In the child the parent's references protect nothing and release nothing; its own count. */
static Wrong in_child(PyInterpreterState *inherited, PyInterpreterHandle *handle) {
    PyInterpreterState_Release(inherited);
    CHECK(PyThreadState_Ensure(inherited) == -1 && PyInterpreterHandle_Dup(handle) == NULL);
    PyInterpreterHandle_Close(handle);
    PyInterpreterState *own = PyInterpreterState_Lookup(0);
    CHECK(own == inherited);
    CHECK(InterpGuard_Drain(0, 1000000) == INTERP_GUARD_TIMEOUT);
    PyInterpreterState_Release(own);
    CHECK(InterpGuard_Drain(0, -1) == INTERP_GUARD_OK);
    return NULL;
}

static Wrong forks(void) {
    for (int i = 0; i < 5; i++) {
        PyInterpreterState *inherited = PyInterpreterState_Lookup(0);
        PyInterpreterHandle *handle = PyInterpreterHandle_Lookup(0);
        CHECK(inherited != NULL && handle != NULL);
        pid_t child = fork();
        if (child == 0) {
            alarm(60);
            Wrong wrong = in_child(inherited, handle);
            if (wrong) dprintf(2, "child: %s\n", wrong);
            _exit(wrong != NULL);
        }
        PyInterpreterState_Release(inherited);
        PyInterpreterHandle_Close(handle);
        int status = -1;
        CHECK(child > 0 && waitpid(child, &status, 0) == child && status == 0);
    }
    return NULL;
}

static PyObject *run_scenarios(PyObject *self, PyObject *unused) {
    (void)self, (void)unused;
    Wrong wrong = references();
    if (!wrong) wrong = across_closing();
    if (!wrong) wrong = sub_begin();
    if (!wrong) wrong = in_native_thread(nest);
    if (!wrong) wrong = in_native_thread(daemons);
    if (!wrong) wrong = in_native_thread(daemon_in_sub);
    if (!wrong) wrong = in_native_thread(consuming);
    if (!wrong) sub_end();
    if (!wrong) wrong = in_native_thread(forks);
    if (wrong) return PyErr_Format(PyExc_AssertionError, "%s", wrong);
    Py_RETURN_NONE;
}

/* A native daemon thread: stays in the interpreter, running Python, until that takes it. */
static atomic_int daemon_runs;

static void *stay(void *callable) {
    PyInterpreterState *main_interpreter = PyInterpreterState_Lookup(0);
    if (main_interpreter == NULL || PyThreadState_Ensure(main_interpreter) != 0) return NULL;
    PyInterpreterState_Release(main_interpreter);
    if (PyThreadState_SetDaemon(1) != 0) return NULL;
    daemon_runs = 1;
    for (;;) Py_XDECREF(PyObject_CallObject((PyObject *)callable, NULL));
}

static PyObject *start_daemon(PyObject *self, PyObject *callable) {
    (void)self;
    Py_INCREF(callable);
    pthread_t thread;
    if (pthread_create(&thread, NULL, stay, callable) != 0) return PyErr_SetFromErrno(PyExc_OSError);
    pthread_detach(thread);
    Py_RETURN_NONE;
}

static PyObject *daemon_is_running(PyObject *self, PyObject *unused) {
    (void)self, (void)unused;
    return PyBool_FromLong(daemon_runs);
}

static PyObject *release_without_ensure(PyObject *self, PyObject *unused) {
    (void)self, (void)unused;
    PyThreadState_Release();
    Py_RETURN_NONE;
}

/* --- real signals ------------------------------------------------------------------------------------------------- */

static atomic_long delivered, found, refused, wrong_in_handler;
static _Atomic int64_t watched_id;
static long wanted;

static void on_signal(int number) {
    (void)number;
    int before = errno;
    PyInterpreterState *main_interpreter = PyInterpreterState_Lookup(0);
    PyInterpreterHandle *handle = PyInterpreterHandle_Lookup(0);
    PyInterpreterHandle *second = PyInterpreterHandle_Dup(handle);
    if (main_interpreter == NULL || second == NULL) wrong_in_handler++; /* main is live throughout */
    PyInterpreterHandle_Close(second);
    PyInterpreterHandle_Close(handle);
    PyInterpreterState_Release(main_interpreter);
    PyInterpreterState *sub = PyInterpreterState_Lookup(watched_id);
    if (sub != NULL) {
        found++;
        PyInterpreterState *again = PyInterpreterState_Lookup(watched_id);
        if (again != NULL && again != sub) wrong_in_handler++;
        PyInterpreterState_Release(again);
        PyInterpreterState_Release(sub);
    } else {
        refused++;
    }
    if (PyInterpreterState_Lookup(1L << 50) != NULL || errno != before) wrong_in_handler++;
    delivered++;
}

static long between; /* nanoseconds from signal to signal */

static Wrong aim_at_this_thread(timer_t *timer) {
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGUSR1};
    event._sigev_un._tid = gettid();
    CHECK(timer_create(CLOCK_MONOTONIC, &event, timer) == 0);
    struct itimerspec often = {{0, between}, {0, between}};
    CHECK(timer_settime(*timer, 0, &often, NULL) == 0);
    return NULL;
}

static Wrong loop_under_signals(void) {
    timer_t timer;
    Wrong wrong = aim_at_this_thread(&timer);
    while (!wrong && delivered < wanted) {
        errno = 1234;
        PyInterpreterState *reference = PyInterpreterState_Lookup(0), *second = PyInterpreterState_Lookup(0);
        PyInterpreterState_Release(second);
        if (reference == NULL || second == NULL || errno != 1234) wrong = "lookup under signals";
        if (PyThreadState_Ensure(reference) != 0) wrong = "ensure under signals";
        PyThreadState_Release();
        PyInterpreterState_Release(reference);
    }
    timer_delete(timer);
    return wrong;
}

/* signals(subs, count, between): aimed at this thread, which makes and ends subinterpreters, or at one that looks up and ensures. */
static PyObject *signals(PyObject *self, PyObject *arguments) {
    (void)self;
    int subs;
    if (!PyArg_ParseTuple(arguments, "pll", &subs, &wanted, &between)) return NULL;
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigaction(SIGUSR1, &action, NULL);
    delivered = found = refused = wrong_in_handler = 0;
    watched_id = 1; /* a subinterpreter that has ended, or none yet */
    Wrong wrong = NULL;
    if (subs) {
        timer_t timer;
        wrong = aim_at_this_thread(&timer);
        while (!wrong && delivered < wanted) {
            if (!(wrong = sub_begin())) {
                long before = found;
                watched_id = sub_id;
                while (found == before) sched_yield(); /* a signal comes */
                sub_end();
            }
        }
        timer_delete(timer);
    } else {
        wrong = in_native_thread(loop_under_signals);
    }
    if (wrong) return PyErr_Format(PyExc_AssertionError, "%s", wrong);
    return Py_BuildValue("{s:l,s:l,s:l,s:l}", "delivered", (long)delivered, "found", (long)found, "refused",
                         (long)refused, "wrong", (long)wrong_in_handler);
}

/* --- the module --------------------------------------------------------------------------------------------------- */

/* Takes a reference of the calling interpreter and releases it, or raises what that says. */
static PyObject *hold(PyObject *self, PyObject *unused) {
    (void)self, (void)unused;
    PyInterpreterState *held = PyInterpreterState_Hold();
    if (held == NULL) return NULL;
    PyInterpreterState_Release(held);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"run_scenarios", run_scenarios, METH_NOARGS, NULL},
    {"start_daemon", start_daemon, METH_O, NULL},
    {"daemon_is_running", daemon_is_running, METH_NOARGS, NULL},
    {"release_without_ensure", release_without_ensure, METH_NOARGS, NULL},
    {"hold", hold, METH_NOARGS, NULL},
    {"signals", signals, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static int exec(PyObject *module) {
    (void)module;
    return import_interp_guard();
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, (void *)exec},
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#if PY_VERSION_HEX >= 0x030D0000
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "ig_test_v1", NULL, 0, methods, slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit_ig_test_v1(void);
PyMODINIT_FUNC PyInit_ig_test_v1(void) { return PyModuleDef_Init(&definition); }
