/* The extension behind the scenarios: native threads, subinterpreters made by Py_NewInterpreter, real signals.
 * Written as for CPython 3.15, with the one added include and the one import call. */
#define PY_SSIZE_T_CLEAN
#include "pep788.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
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

/* --- subinterpreters ------------------------------------------------------------------------------------------- */

typedef struct {
    PyThreadState *main, *state;
    PyInterpreterState *interpreter;
    int64_t id;
    PyInterpreterView *view;
} Sub;

/* Makes a subinterpreter that has imported the package, and leaves it, detached. Called attached to main. */
static Wrong sub_begin(Sub *sub, int own_gil) {
    sub->main = PyThreadState_Get();
    if (own_gil) {
#if PY_VERSION_HEX >= 0x030C0000
        PyInterpreterConfig config = {.check_multi_interp_extensions = 1, .gil = PyInterpreterConfig_OWN_GIL};
        config.allow_threads = 1;
        PyStatus status = Py_NewInterpreterFromConfig(&sub->state, &config);
        CHECK(!PyStatus_Exception(status));
#else
        return "no own GIL before 3.12";
#endif
    } else {
        sub->state = Py_NewInterpreter();
    }
    CHECK(sub->state != NULL);
    CHECK(PyRun_SimpleString("import interp_guard, ig_test") == 0);
    sub->interpreter = PyInterpreterState_Get();
    sub->id = InterpGuard_CurrentID();
    sub->view = PyInterpreterView_FromCurrent();
    CHECK(sub->view != NULL);
    PyThreadState_Swap(sub->main);
    return NULL;
}

static void sub_end(Sub *sub) {
    PyThreadState_Swap(sub->state);
    Py_EndInterpreter(sub->state);
    PyThreadState_Swap(sub->main);
}

/* --- native threads --------------------------------------------------------------------------------------------- */

static void *scenario_thread(void *scenario) { return (void *)((Scenario)scenario)(); }

/* Runs it in a thread that Python has never seen, with the GIL released meanwhile. Called attached. */
static Wrong in_native_thread(Scenario scenario) {
    pthread_t thread;
    void *wrong = "no thread";
    Py_BEGIN_ALLOW_THREADS
    if (pthread_create(&thread, NULL, scenario_thread, (void *)scenario) == 0) {
        pthread_join(thread, &wrong);
    }
    Py_END_ALLOW_THREADS
    return (Wrong)wrong;
}

/* What the thread-specific "gilstate" has: NULL on a thread without a state. */
static PyThreadState *bound(void) { return PyGILState_GetThisThreadState(); }

/* --- scenarios --------------------------------------------------------------------------------------------------- */

static Wrong two_guards(void) {
    PyInterpreterGuard *first = PyInterpreterGuard_FromCurrent();
    PyInterpreterGuard *second = PyInterpreterGuard_FromCurrent();
    CHECK(first != NULL && second != NULL);
    PyInterpreterGuard_Close(first);
    PyThreadState *before = PyThreadState_Get();
    PyThreadStateToken *token = PyThreadState_Ensure(second); /* not consumed */
    CHECK(token != NULL && PyThreadState_Get() == before);
    PyInterpreterGuard_Close(second); /* the token has its own */
    PyThreadState_Release(token);
    CHECK(PyThreadState_Get() == before);

    InterpGuard value, copy;
    int64_t id = InterpGuard_CurrentID();
    CHECK(InterpGuard_Lookup(id, &value) == INTERP_GUARD_OK);
    CHECK(InterpGuard_Interpreter(&value) == PyInterpreterState_Get());
    CHECK(InterpGuard_GetID(&value) == id);
    CHECK(InterpGuard_Dup(&value, &copy) == INTERP_GUARD_OK);
    CHECK(InterpGuard_Close(&value) == INTERP_GUARD_OK);
    CHECK(InterpGuard_Close(&value) == INTERP_GUARD_INVALID); /* zeroed */
    CHECK(InterpGuard_Dup(&value, &value) == INTERP_GUARD_INVALID);
    CHECK(InterpGuard_Interpreter(&value) == NULL && InterpGuard_GetID(&value) == -1);
    CHECK(InterpGuard_Ensure(&value) == NULL);
    CHECK(InterpGuard_Close(NULL) == INTERP_GUARD_INVALID);
    CHECK(InterpGuard_Close(&copy) == INTERP_GUARD_OK);
    memset(&value, 0xA5, sizeof(value));
    CHECK(InterpGuard_Lookup(-1, &value) == INTERP_GUARD_NOT_FOUND);
    CHECK(InterpGuard_Close(&value) == INTERP_GUARD_INVALID);
    CHECK(InterpGuard_Lookup(0, &value) == INTERP_GUARD_OK && InterpGuard_Dup(&value, &value) == INTERP_GUARD_INVALID);
    CHECK(InterpGuard_GetID(&value) == 0 && InterpGuard_Close(&value) == INTERP_GUARD_OK);
    CHECK(InterpGuard_Lookup(123456, &value) == INTERP_GUARD_NOT_FOUND);
    CHECK(InterpGuard_Close(&value) == INTERP_GUARD_INVALID);
    return NULL;
}

static Wrong view_outlives(int own_gil) {
    Sub sub;
    Wrong wrong = sub_begin(&sub, own_gil);
    if (wrong) return wrong;
    PyInterpreterGuard *guard = PyInterpreterGuard_FromView(sub.view);
    CHECK(guard != NULL);
    PyInterpreterGuard_Close(guard);
    sub_end(&sub);
    CHECK(PyInterpreterGuard_FromView(sub.view) == NULL && !PyErr_Occurred());
    CHECK(PyThreadState_EnsureFromView(sub.view) == NULL);
    InterpGuard value;
    CHECK(InterpGuard_Lookup(sub.id, &value) == INTERP_GUARD_NOT_FOUND);
    PyInterpreterView_Close(sub.view);
    return NULL;
}

static Wrong view_outlives_legacy(void) { return view_outlives(0); }

static Wrong detached_nested(void) {
    CHECK(bound() == NULL);
    PyInterpreterView *view = PyInterpreterView_FromMain();
    PyThreadStateToken *outer = PyThreadState_EnsureFromView(view);
    CHECK(outer != NULL);
    PyThreadState *state = PyThreadState_Get();
    CHECK(state == bound());
    PyThreadStateToken *inner = PyThreadState_EnsureFromView(view);
    CHECK(inner != NULL && PyThreadState_Get() == state);
    PyGILState_STATE legacy = PyGILState_Ensure();
    CHECK(PyThreadState_Get() == state);
    PyGILState_Release(legacy);
    PyThreadState *saved = PyEval_SaveThread(); /* "allow threads", and ensure inside it */
    PyThreadStateToken *again = PyThreadState_EnsureFromView(view);
    CHECK(again != NULL && PyThreadState_Get() == state);
    PyThreadState_Release(again);
    PyEval_RestoreThread(saved); /* would deadlock were it still attached */
    PyThreadState_Release(inner);
    CHECK(PyThreadState_Get() == state);
    PyThreadState_Release(outer);
    CHECK(bound() == NULL);
    PyInterpreterView_Close(view);
    return NULL;
}

static Wrong nested_loops(void) {
    PyInterpreterView *view = PyInterpreterView_FromMain();
    for (int i = 0; i < 300; i++) {
        PyThreadStateToken *outer = PyThreadState_EnsureFromView(view);
        CHECK(outer != NULL);
        PyThreadState *state = PyThreadState_Get();
        for (int j = 0; j < 5; j++) {
            PyThreadStateToken *attached = PyThreadState_EnsureFromView(view);
            CHECK(attached != NULL && PyThreadState_Get() == state);
            PyThreadState *saved = PyEval_SaveThread();
            PyThreadStateToken *detached = PyThreadState_EnsureFromView(view);
            CHECK(detached != NULL && PyThreadState_Get() == state);
            PyThreadState_Release(detached);
            PyEval_RestoreThread(saved);
            PyThreadState_Release(attached);
        }
        CHECK(PyRun_SimpleString("sum(range(10))") == 0);
        PyThreadState_Release(outer);
        CHECK(bound() == NULL);
    }
    return NULL;
}

static Sub shared_sub;

/* Main, sub, main, sub on one thread; each release restores what was attached before. */
static Wrong cross(void) {
    PyInterpreterView *main_view = PyInterpreterView_FromMain();
    PyThreadStateToken *a = PyThreadState_EnsureFromView(main_view);
    CHECK(a != NULL && InterpGuard_CurrentID() == 0);
    PyThreadState *in_main = PyThreadState_Get();
    PyThreadStateToken *b = PyThreadState_EnsureFromView(shared_sub.view);
    CHECK(b != NULL && InterpGuard_CurrentID() == shared_sub.id);
    PyThreadState *in_sub = PyThreadState_Get();
    CHECK(PyInterpreterState_Get() == shared_sub.interpreter);
    PyThreadStateToken *c = PyThreadState_EnsureFromView(main_view);
    CHECK(c != NULL && PyThreadState_Get() == in_main);
    PyThreadStateToken *d = PyThreadState_EnsureFromView(shared_sub.view);
    CHECK(d != NULL && PyThreadState_Get() == in_sub);
    CHECK(PyRun_SimpleString("import interp_guard\nassert interp_guard.current() != 0") == 0);
    CHECK(InterpGuard_Release(c) == INTERP_GUARD_INVALID); /* out of order: told, and nothing happened */
    CHECK(InterpGuard_Release(NULL) == INTERP_GUARD_INVALID);
    CHECK(PyThreadState_Get() == in_sub);
    PyThreadState_Release(d);
    CHECK(PyThreadState_Get() == in_main);
    PyThreadState *saved = PyEval_SaveThread();
    CHECK(InterpGuard_Release(c) == INTERP_GUARD_INVALID); /* detached: told */
    PyEval_RestoreThread(saved);
    PyThreadState_Release(c);
    CHECK(PyThreadState_Get() == in_sub);
    PyThreadState_Release(b);
    CHECK(PyThreadState_Get() == in_main);
    CHECK(PyRun_SimpleString("import interp_guard\nassert interp_guard.current() == 0") == 0);
    PyThreadState_Release(a);
    return NULL;
}

static Wrong cross_many(void) {
    for (int i = 0; i < 100; i++) {
        Wrong wrong = cross();
        if (wrong) return wrong;
        CHECK(bound() == NULL);
    }
    return NULL;
}

/* A thread that has a state of its own, detached, finds it again. */
static Wrong own_state(void) {
    PyGILState_STATE legacy = PyGILState_Ensure();
    PyThreadState *own = PyEval_SaveThread();
    PyInterpreterView *main_view = PyInterpreterView_FromMain();
    for (int i = 0; i < 50; i++) {
        PyThreadStateToken *token = PyThreadState_EnsureFromView(main_view);
        CHECK(token != NULL && PyThreadState_Get() == own);
        PyThreadState_Release(token);
        token = PyThreadState_EnsureFromView(shared_sub.view);
        CHECK(token != NULL && PyThreadState_Get() != own && InterpGuard_CurrentID() == shared_sub.id);
        PyThreadState_Release(token);
        CHECK(bound() == own);
        PyGILState_STATE inner = PyGILState_Ensure();
        CHECK(PyThreadState_Get() == own);
        PyGILState_Release(inner);
    }
    PyEval_RestoreThread(own);
    PyGILState_Release(legacy);
    CHECK(bound() == NULL);
    return NULL;
}

static Wrong crossing(int own_gil) {
    Wrong wrong = sub_begin(&shared_sub, own_gil);
    if (wrong) return wrong;
    PyThreadState *before = PyThreadState_Get();
    if ((wrong = in_native_thread(cross_many))) return wrong;
    if ((wrong = in_native_thread(own_state))) return wrong;
    for (int i = 0; i < 100; i++) {
        if ((wrong = cross())) return wrong; /* on the main thread, attached */
        CHECK(PyThreadState_Get() == before && bound() == before);
    }
    sub_end(&shared_sub);
    return NULL;
}

static Wrong crossing_legacy(void) { return crossing(0); }

#if PY_VERSION_HEX >= 0x030C0000
static Wrong view_outlives_own_gil(void) { return view_outlives(1); }
static Wrong crossing_own_gil(void) { return crossing(1); }
#endif

#if PY_VERSION_HEX >= 0x030C0000
/* Two threads go to each other's interpreter at once, each from its own, and stay. There are more thread states each time: a
 * free-threaded CPython stops all threads of an interpreter when there are more than ever. Each is attached when the other begins. */
#define PAIRS 36

static Sub each[2];
static pthread_barrier_t both_attached, both_have_crossed, all_leave;

static Wrong cross_over(int from) {
    PyThreadStateToken *here = InterpGuard_EnsureID(each[from].id);
    CHECK(here != NULL);
    PyThreadState *state = PyThreadState_Get();
    pthread_barrier_wait(&both_attached);
    PyThreadStateToken *there = InterpGuard_EnsureID(each[!from].id);
    CHECK(there != NULL && InterpGuard_CurrentID() == each[!from].id);
    PyThreadState *saved = PyEval_SaveThread();
    pthread_barrier_wait(&both_have_crossed);
    pthread_barrier_wait(&all_leave);
    PyEval_RestoreThread(saved);
    PyThreadState_Release(there);
    CHECK(PyThreadState_Get() == state);
    PyThreadState_Release(here);
    return NULL;
}

static Wrong cross_from_first(void) { return cross_over(0); }
static Wrong cross_from_second(void) { return cross_over(1); }

static Wrong cross_each_other(void) {
    Wrong wrong = NULL;
    for (int at = 0; at < 2; at++) {
        if ((wrong = sub_begin(&each[at], 1))) return wrong;
    }
    pthread_barrier_init(&both_attached, NULL, 2);
    pthread_barrier_init(&both_have_crossed, NULL, 3);
    pthread_barrier_init(&all_leave, NULL, 2 * PAIRS + 1);
    pthread_t threads[2 * PAIRS];
    PyThreadState *state = PyEval_SaveThread();
    for (int pair = 0; pair < PAIRS; pair++) {
        CHECK(pthread_create(&threads[2 * pair], NULL, scenario_thread, (void *)cross_from_first) == 0);
        CHECK(pthread_create(&threads[2 * pair + 1], NULL, scenario_thread, (void *)cross_from_second) == 0);
        pthread_barrier_wait(&both_have_crossed);
    }
    pthread_barrier_wait(&all_leave);
    for (int at = 0; at < 2 * PAIRS; at++) {
        void *result = NULL;
        pthread_join(threads[at], &result);
        if (result != NULL) wrong = (Wrong)result;
    }
    PyEval_RestoreThread(state);
    sub_end(&each[1]);
    sub_end(&each[0]);
    return wrong;
}
#endif

/* While an interpreter is closing, who is inside it goes on; who is outside is refused; its drain says for whom. */
static pthread_barrier_t inside, closed;

static Wrong go_on_inside(void) {
    PyThreadStateToken *token = InterpGuard_EnsureID(shared_sub.id);
    CHECK(token != NULL);
    PyThreadState *saved = PyEval_SaveThread();
    pthread_barrier_wait(&inside);
    pthread_barrier_wait(&closed);
    InterpGuard value;
    CHECK(InterpGuard_Lookup(shared_sub.id, &value) == INTERP_GUARD_FINALIZING);
    CHECK(PyInterpreterGuard_FromView(shared_sub.view) == NULL);
    PyThreadStateToken *again = InterpGuard_EnsureID(shared_sub.id); /* detached, inside a level: re-attaches */
    CHECK(again != NULL);
    CHECK(PyInterpreterGuard_FromCurrent() == NULL && PyErr_Occurred());
    PyErr_Clear();
    CHECK(PyRun_SimpleString("sum(range(10))") == 0);
    PyThreadStateToken *nested = PyThreadState_EnsureFromView(shared_sub.view);
    CHECK(nested != NULL);
    CHECK(InterpGuard_Drain(shared_sub.id, -1) == INTERP_GUARD_WOULD_DEADLOCK);
    PyThreadState_Release(nested);
    PyThreadState_Release(again);
    PyEval_RestoreThread(saved);
    PyThreadState_Release(token);
    return NULL;
}

static Wrong closing(void) {
    Wrong wrong = sub_begin(&shared_sub, 0);
    if (wrong) return wrong;
    pthread_barrier_init(&inside, NULL, 2);
    pthread_barrier_init(&closed, NULL, 2);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, scenario_thread, (void *)go_on_inside) == 0);
    Py_BEGIN_ALLOW_THREADS
    pthread_barrier_wait(&inside);
    Py_END_ALLOW_THREADS
    CHECK(InterpGuard_Drain(shared_sub.id, 1000000) == INTERP_GUARD_TIMEOUT);
    void *result = NULL;
    Py_BEGIN_ALLOW_THREADS
    pthread_barrier_wait(&closed);
    Py_END_ALLOW_THREADS
    CHECK(InterpGuard_Drain(shared_sub.id, -1) == INTERP_GUARD_OK);
    CHECK(InterpGuard_Drain(shared_sub.id, -1) == INTERP_GUARD_NOT_FOUND);
    Py_BEGIN_ALLOW_THREADS
    pthread_join(thread, &result);
    Py_END_ALLOW_THREADS
    sub_end(&shared_sub);
    return (Wrong)result;
}

/* A thread-specific destructor that ensures, after the library's own thread-locals are gone. */
static pthread_key_t late_key;
static atomic_int late_ensures;

static void ensure_late(void *round) {
    PyThreadStateToken *token = PyThreadState_EnsureFromView(PyInterpreterView_FromMain());
    if (token != NULL) {
        late_ensures++;
        PyThreadState_Release(token);
    }
    if ((size_t)round > 1) {
        pthread_setspecific(late_key, (void *)((size_t)round - 1)); /* and in the next round of destructors */
    }
}

static Wrong leave_a_destructor(void) {
    PyThreadStateToken *token = PyThreadState_EnsureFromView(PyInterpreterView_FromMain());
    CHECK(token != NULL);
    PyThreadState_Release(token);
    CHECK(pthread_setspecific(late_key, (void *)3) == 0);
    return NULL;
}

static Wrong thread_destructor(void) {
    CHECK(pthread_key_create(&late_key, ensure_late) == 0);
    Wrong wrong = in_native_thread(leave_a_destructor);
    if (wrong) return wrong;
    CHECK(late_ensures == 3);
    return NULL;
}

static Wrong detached_nested_thread(void) { return in_native_thread(detached_nested); }
static Wrong nested_loops_thread(void) { return in_native_thread(nested_loops); }

static Wrong thread_id_offset(void) {
#if PY_VERSION_HEX < 0x030C0000
    /* What the library reads by number (src/python.rs). */
    CHECK(offsetof(PyThreadState, thread_id) == (PY_VERSION_HEX < 0x030B0000 ? 176 : 152));
#endif
    return NULL;
}

static const struct {
    const char *name;
    Scenario run;
} scenarios[] = {
    {"thread_id_offset", thread_id_offset},
    {"two_guards", two_guards},
    {"view_outlives", view_outlives_legacy},
    {"detached_nested", detached_nested_thread},
    {"nested_loops", nested_loops_thread},
    {"crossing", crossing_legacy},
#if PY_VERSION_HEX >= 0x030C0000
    {"view_outlives_own_gil", view_outlives_own_gil},
    {"crossing_own_gil", crossing_own_gil},
    {"cross_each_other", cross_each_other},
#endif
    {"closing", closing},
    {"thread_destructor", thread_destructor},
};

/* --- what Python programs call ------------------------------------------------------------------------------------- */

static PyObject *run_scenarios(PyObject *self, PyObject *unused) {
    (void)self, (void)unused;
    PyObject *names = PyList_New(0);
    for (size_t i = 0; names && i < sizeof scenarios / sizeof *scenarios; i++) {
        Wrong wrong = scenarios[i].run();
        if (wrong) {
            return PyErr_Format(PyExc_AssertionError, "%s: %s", scenarios[i].name, wrong);
        }
        PyObject *name = PyUnicode_FromString(scenarios[i].name);
        PyList_Append(names, name);
        Py_XDECREF(name);
    }
    return names;
}

/* Ensure and release for the calling interpreter, as a destructor would. Did it attach? */
static PyObject *ensure_release(PyObject *self, PyObject *unused) {
    (void)self, (void)unused;
    PyInterpreterView *view = PyInterpreterView_FromCurrent();
    if (view == NULL) return NULL;
    PyThreadStateToken *token = PyThreadState_EnsureFromView(view);
    if (token != NULL) PyThreadState_Release(token);
    PyInterpreterView_Close(view);
    return PyBool_FromLong(token != NULL);
}

static PyObject *to_call;

static Wrong call_it(void) {
    PyThreadStateToken *token = PyThreadState_EnsureFromView(PyInterpreterView_FromMain());
    CHECK(token != NULL);
    PyObject *result = PyObject_CallObject(to_call, NULL);
    if (result == NULL) PyErr_Print();
    Py_XDECREF(result);
    PyThreadState_Release(token);
    CHECK(result != NULL);
    return NULL;
}

static PyObject *call_in_native_thread(PyObject *self, PyObject *callable) {
    (void)self;
    to_call = callable;
    Wrong wrong = in_native_thread(call_it);
    if (wrong) return PyErr_Format(PyExc_AssertionError, "%s", wrong);
    Py_RETURN_NONE;
}

/* A pool of native threads that call a Python function until they are refused. */
typedef struct {
    pthread_t thread;
    int64_t id;
    PyObject *callable;
    atomic_int ended;
} Worker;

static Worker workers[4096];
static atomic_int workers_started;
static atomic_long calls;
static int legacy_pool;
static int pool_pause_us;

static void *pool_thread(void *argument) {
    Worker *worker = (Worker *)argument;
    for (;;) {
        PyThreadStateToken *token = NULL;
        PyGILState_STATE legacy = PyGILState_LOCKED;
        if (legacy_pool) {
            legacy = PyGILState_Ensure();
        } else if ((token = InterpGuard_EnsureID(worker->id)) == NULL) {
            break;
        }
        PyObject *result = PyObject_CallFunction(worker->callable, "s", "a line\n");
        if (result == NULL) PyErr_Clear();
        Py_XDECREF(result);
        calls++;
        if (legacy_pool) {
            PyGILState_Release(legacy);
        } else {
            PyThreadState_Release(token);
        }
        if (pool_pause_us != 0) usleep(pool_pause_us);
    }
    worker->ended = 1;
    return NULL;
}

/* After Python is gone, in exit(): every thread must have come to its own end. */
static pid_t pool_process;

static void join_pool(void) {
    if (getpid() != pool_process) return; /* a forked child, which has none of them */
    struct timespec deadline;
    clock_gettime(CLOCK_REALTIME, &deadline);
    deadline.tv_sec += legacy_pool ? 2 : 60;
    int hang = 0, killed = 0, n = workers_started;
    for (int i = 0; i < n; i++) {
        if (pthread_timedjoin_np(workers[i].thread, NULL, &deadline) != 0) {
            hang++;
        } else if (!workers[i].ended) {
            killed++;
        }
    }
    printf("threads %d calls %ld hang %d killed %d\n", n, (long)calls, hang, killed);
    fflush(stdout);
    if (hang || killed) _exit(99);
}

/* start_pool(threads, callable, legacy, pause_us = 0): for the calling interpreter; each thread pauses between its calls. */
static PyObject *start_pool(PyObject *self, PyObject *arguments) {
    (void)self;
    int threads;
    PyObject *callable;
    if (!PyArg_ParseTuple(arguments, "iOi|i", &threads, &callable, &legacy_pool, &pool_pause_us)) return NULL;
    if (workers_started == 0) atexit(join_pool);
    pool_process = getpid();
    for (int i = 0; i < threads; i++) {
        int at = atomic_fetch_add(&workers_started, 1);
        if (at >= (int)(sizeof workers / sizeof *workers)) {
            PyErr_SetString(PyExc_RuntimeError, "too many workers");
            return NULL;
        }
        Py_INCREF(callable); /* for good: the interpreter may be gone when the thread is */
        workers[at].id = InterpGuard_CurrentID();
        workers[at].callable = callable;
        if (pthread_create(&workers[at].thread, NULL, pool_thread, &workers[at]) != 0) abort();
    }
    Py_RETURN_NONE;
}

static PyObject *pool_calls(PyObject *self, PyObject *unused) {
    (void)self, (void)unused;
    return PyLong_FromLong(calls);
}

/* sub_cycle(code): makes a subinterpreter, runs the code in it, and ends it. */
static PyObject *sub_cycle(PyObject *self, PyObject *code) {
    (void)self;
    const char *text = PyUnicode_AsUTF8(code);
    if (text == NULL) return NULL;
    Sub sub;
    Wrong wrong = sub_begin(&sub, 0);
    if (!wrong) {
        PyThreadState_Swap(sub.state);
        if (PyRun_SimpleString(text) != 0) wrong = "the code raised";
        PyThreadState_Swap(sub.main);
        sub_end(&sub);
    }
    if (wrong) return PyErr_Format(PyExc_AssertionError, "%s", wrong);
    Py_RETURN_NONE;
}

/* --- real signals ---------------------------------------------------------------------------------------------------- */

static atomic_long delivered, found, finalizing, not_found, in_handler_wrong;
static int by_view;
static _Atomic int64_t watched_id;
static PyInterpreterView *_Atomic watched_view;
static atomic_int stop;

static void on_signal(int number) {
    (void)number;
    int before = errno;
    int64_t ids[3] = {0, watched_id, (int64_t)1 << 50};
    for (int i = 0; i < 3; i++) {
        if (by_view && i < 2) {
            PyInterpreterView *view = i == 0 ? PyInterpreterView_FromMain() : watched_view;
            PyInterpreterGuard *guard = view == NULL ? NULL : PyInterpreterGuard_FromView(view);
            if (guard != NULL) {
                found++;
                PyInterpreterGuard_Close(guard);
            } else {
                not_found++; /* or finalizing: a view does not say */
                in_handler_wrong += i == 0; /* main is live throughout */
            }
            continue;
        }
        InterpGuard guard, second;
        switch (InterpGuard_Lookup(ids[i], &guard)) {
        case INTERP_GUARD_OK:
            found++;
            if (InterpGuard_GetID(&guard) != ids[i] || InterpGuard_Interpreter(&guard) == NULL ||
                InterpGuard_Dup(&guard, &second) != 0 || InterpGuard_Close(&guard) != 0 ||
                InterpGuard_Close(&second) != 0 || i == 2) {
                in_handler_wrong++;
            }
            break;
        case INTERP_GUARD_FINALIZING:
            finalizing++;
            in_handler_wrong += i != 1;
            break;
        default:
            not_found++;
            in_handler_wrong += i == 0;
        }
    }
    if (errno != before) in_handler_wrong++;
    delivered++;
}

/* A timer at one thread, often, but so that it gets on between two signals. */
static Wrong aim_at_this_thread(timer_t *timer, long every_ns) {
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGUSR1};
    event._sigev_un._tid = gettid();
    CHECK(timer_create(CLOCK_MONOTONIC, &event, timer) == 0);
    struct itimerspec often = {{0, every_ns}, {0, every_ns}};
    CHECK(timer_settime(*timer, 0, &often, NULL) == 0);
    return NULL;
}

static long wanted;

static int enough(void) {
    if (delivered >= wanted) stop = 1;
    return stop;
}

static void *loop_on_guards(void *unused) {
    (void)unused;
    timer_t timer;
    Wrong wrong = aim_at_this_thread(&timer, 15000);
    while (!wrong && !enough()) {
        InterpGuard guard, second;
        errno = 1234;
        if (InterpGuard_Lookup(0, &guard) != 0 || InterpGuard_Dup(&guard, &second) != 0) in_handler_wrong++;
        InterpGuard_Close(&guard);
        InterpGuard_Close(&second);
        PyInterpreterGuard *third = PyInterpreterGuard_FromView(PyInterpreterView_FromMain());
        if (third == NULL) in_handler_wrong++;
        PyInterpreterGuard_Close(third);
        if (errno != 1234) in_handler_wrong++;
    }
    timer_delete(timer);
    return (void *)wrong;
}

static void *loop_on_ensure(void *unused) {
    (void)unused;
    timer_t timer;
    Wrong wrong = aim_at_this_thread(&timer, 15000);
    while (!wrong && !enough()) {
        PyThreadStateToken *token = PyThreadState_EnsureFromView(PyInterpreterView_FromMain());
        if (token == NULL) {
            in_handler_wrong++;
            continue;
        }
        PyThreadStateToken *nested = InterpGuard_EnsureID(0);
        if (nested == NULL || InterpGuard_Release(nested) != 0) in_handler_wrong++;
        PyThreadState_Release(token);
    }
    timer_delete(timer);
    return (void *)wrong;
}

/* signals(target, by_view, count): target is "guards", "ensure" or "subs". */
static PyObject *signals(PyObject *self, PyObject *arguments) {
    (void)self;
    const char *target;
    long count;
    if (!PyArg_ParseTuple(arguments, "sil", &target, &by_view, &count)) return NULL;
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigaction(SIGUSR1, &action, NULL);
    delivered = found = finalizing = not_found = in_handler_wrong = 0;
    stop = 0;
    watched_id = (int64_t)1 << 39; /* nobody's, until there is a subinterpreter */
    watched_view = NULL;
    wanted = count;
    Wrong wrong = NULL;
    long cycles = 0;
    if (strcmp(target, "subs") == 0) {
        timer_t timer;
        wrong = aim_at_this_thread(&timer, 40000);
        while (!wrong && !enough()) {
            Sub sub;
            if (!(wrong = sub_begin(&sub, 0))) {
                watched_id = sub.id;
                watched_view = sub.view;
                sub_end(&sub);
            }
            cycles++;
        }
        timer_delete(timer);
    } else {
        void *(*loop)(void *) = strcmp(target, "ensure") == 0 ? loop_on_ensure : loop_on_guards;
        pthread_t looping[3];
        Py_BEGIN_ALLOW_THREADS
        for (int i = 0; i < 3; i++) {
            if (pthread_create(&looping[i], NULL, loop, NULL) != 0) abort();
        }
        for (int i = 0; i < 3; i++) {
            void *result;
            pthread_join(looping[i], &result);
            if (result != NULL) wrong = (Wrong)result;
        }
        Py_END_ALLOW_THREADS
    }
    if (wrong) return PyErr_Format(PyExc_AssertionError, "%s", wrong);
    return Py_BuildValue("{s:l,s:l,s:l,s:l,s:l,s:l}", "delivered", (long)delivered, "found", (long)found,
                         "finalizing", (long)finalizing, "not_found", (long)not_found, "wrong",
                         (long)in_handler_wrong, "cycles", cycles);
}

/* --- ends that ought not to be ------------------------------------------------------------------------------------------ */

static InterpGuard kept;

/* Leaves an ensure level on the calling thread. */
static PyObject *leave_level(PyObject *self, PyObject *unused) {
    (void)self, (void)unused;
    return PyBool_FromLong(InterpGuard_EnsureID(InterpGuard_CurrentID()) != NULL);
}

/* Leaves a guard of the calling interpreter; give_back gives it up. */
static PyObject *leave_guard(PyObject *self, PyObject *unused) {
    (void)self, (void)unused;
    return PyLong_FromLong(InterpGuard_Lookup(InterpGuard_CurrentID(), &kept));
}

/* Takes a guard of the calling interpreter and closes it, or raises what that says. */
static PyObject *from_current(PyObject *self, PyObject *unused) {
    (void)self, (void)unused;
    PyInterpreterGuard *guard = PyInterpreterGuard_FromCurrent();
    if (guard == NULL) return NULL;
    PyInterpreterGuard_Close(guard);
    Py_RETURN_NONE;
}

static void *give_back_when_told(void *unused) {
    (void)unused;
    char told;
    while (read(0, &told, 1) < 0 && errno == EINTR) {
    }
    InterpGuard_Close(&kept);
    return NULL;
}

/* Closes the guard that leave_guard left, on a thread of its own, when there is something to read on standard input. */
static PyObject *give_back(PyObject *self, PyObject *unused) {
    (void)self, (void)unused;
    pthread_t thread;
    pthread_create(&thread, NULL, give_back_when_told, NULL);
    pthread_detach(thread);
    Py_RETURN_NONE;
}

/* Drains an interpreter without limit: the status. */
static PyObject *drain(PyObject *self, PyObject *id) {
    (void)self;
    return PyLong_FromLong(InterpGuard_Drain(PyLong_AsLongLong(id), -1));
}

/* The same, on a thread that Python has never seen: the status. */
static int64_t to_drain;
static int drained;
static Wrong drain_it(void) {
    drained = InterpGuard_Drain(to_drain, -1);
    return NULL;
}

static PyObject *drain_unattached(PyObject *self, PyObject *id) {
    (void)self;
    to_drain = PyLong_AsLongLong(id);
    in_native_thread(drain_it);
    return PyLong_FromLong(drained);
}

/* on_close(id, code): has that run when the interpreter closes, in it; "raise" leaves an exception. The status. */
static void run_code(int64_t id, void *code) {
    if (id != InterpGuard_CurrentID() || PyRun_SimpleString(code) != 0) _exit(99);
    if (strstr(code, "raise") != NULL) PyErr_SetString(PyExc_ValueError, "left by an on_close function");
    free(code);
}

static PyObject *on_close(PyObject *self, PyObject *arguments) {
    (void)self;
    long long id;
    const char *code = NULL;
    if (!PyArg_ParseTuple(arguments, "Lz", &id, &code)) return NULL;
    char *copy = code == NULL ? NULL : strdup(code);
    int status = InterpGuard_OnClose(id, code == NULL ? NULL : run_code, copy);
    if (status != INTERP_GUARD_OK) free(copy);
    return PyLong_FromLong(status);
}

/* What a host does that has an interpreter for each script: runs it in a new subinterpreter, and closes that while
 * threads that the script started still run. `drain_first`: 0, or 1: by InterpGuard_Drain, from inside; 2: from the main
 * interpreter. */
static PyObject *host_script(PyObject *self, PyObject *arguments) {
    (void)self;
    const char *script;
    int drain_first;
    if (!PyArg_ParseTuple(arguments, "si", &script, &drain_first)) return NULL;
    Sub sub;
    Wrong wrong = sub_begin(&sub, 0);
    if (wrong) return PyErr_Format(PyExc_AssertionError, "%s", wrong);
    PyThreadState_Swap(sub.state);
    int failed = PyRun_SimpleString(script), status = 0;
    if (drain_first == 1) status = InterpGuard_Drain(sub.id, -1);
    PyThreadState_Swap(sub.main);
    if (drain_first == 2) status = InterpGuard_Drain(sub.id, -1);
    sub_end(&sub);
    return Py_BuildValue("ii", failed, status);
}

/* Closes a guard and then, zeroed, again: the status of the second. */
static PyObject *close_twice(PyObject *self, PyObject *unused) {
    (void)self, (void)unused;
    InterpGuard guard;
    InterpGuard_Lookup(InterpGuard_CurrentID(), &guard);
    InterpGuard_Close(&guard);
    return PyLong_FromLong(InterpGuard_Close(&guard));
}

/* Closes a guard and then a copy of it: the status of the second. */
static PyObject *close_copy(PyObject *self, PyObject *unused) {
    (void)self, (void)unused;
    InterpGuard guard, copy;
    InterpGuard_Lookup(InterpGuard_CurrentID(), &guard);
    copy = guard;
    InterpGuard_Close(&guard);
    return PyLong_FromLong(InterpGuard_Close(&copy));
}

/* Four threads whose guards overlap, so that there is never a moment without one, until they are refused. */
static atomic_long longest_hold, holds;

static long nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000L + now.tv_nsec;
}

static void *overlap(void *unused) {
    (void)unused;
    InterpGuard guard;
    while (InterpGuard_Lookup(shared_sub.id, &guard) == INTERP_GUARD_OK) {
        long began = nanoseconds();
        struct timespec half = {0, 500000};
        nanosleep(&half, NULL); /* the hold under test */
        long took = nanoseconds() - began, longest = longest_hold;
        while (took > longest && !atomic_compare_exchange_weak(&longest_hold, &longest, took)) {
        }
        holds++;
        InterpGuard_Close(&guard);
    }
    return NULL;
}

/* (how long the drain took, the longest hold), in nanoseconds. */
static PyObject *starve(PyObject *self, PyObject *unused) {
    (void)self, (void)unused;
    pthread_t threads[4];
    longest_hold = holds = 0;
    Wrong wrong = sub_begin(&shared_sub, 0);
    if (wrong) return PyErr_Format(PyExc_AssertionError, "%s", wrong);
    for (int i = 0; i < 4; i++) pthread_create(&threads[i], NULL, overlap, NULL);
    while (holds < 20) sched_yield();
    long began = nanoseconds();
    int status = InterpGuard_Drain(shared_sub.id, -1);
    long took = nanoseconds() - began;
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    sub_end(&shared_sub);
    if (status != 0) return PyErr_Format(PyExc_AssertionError, "drain: %d", status);
    return Py_BuildValue("ll", took, (long)longest_hold);
}

/* Python once more, after it has ended: what was stored before names nobody. */
static PyInterpreterView *old_main, *old_sub;
static int64_t old_sub_id;

static Wrong second_epoch(void) {
    InterpGuard guard;
    CHECK(PyInterpreterGuard_FromView(old_main) == NULL && PyThreadState_EnsureFromView(old_main) == NULL);
    Py_Initialize();
    CHECK(InterpGuard_Lookup(0, &guard) == INTERP_GUARD_NOT_FOUND);
    CHECK(PyRun_SimpleString("import interp_guard, ig_test\nassert interp_guard.current() == 1 << 40\n") == 0);
    CHECK(InterpGuard_CurrentID() == (int64_t)1 << 40);
    CHECK(InterpGuard_Lookup(0, &guard) == INTERP_GUARD_NOT_FOUND);
    CHECK(PyInterpreterGuard_FromView(old_main) == NULL && PyThreadState_EnsureFromView(old_main) == NULL);
    CHECK(InterpGuard_Lookup((int64_t)1 << 40, &guard) == INTERP_GUARD_OK && InterpGuard_Close(&guard) == 0);
    Sub sub;
    Wrong wrong = sub_begin(&sub, 0);
    if (wrong) return wrong;
    CHECK(sub.id == (((int64_t)1 << 40) | old_sub_id)); /* CPython's own number is the same as before */
    CHECK(PyInterpreterGuard_FromView(old_sub) == NULL);
    PyInterpreterGuard *fresh = PyInterpreterGuard_FromView(sub.view);
    CHECK(fresh != NULL);
    PyInterpreterGuard_Close(fresh);
    sub_end(&sub);
    CHECK(Py_FinalizeEx() == 0);
    return "reached";
}

static void initialize_again(void) {
    Wrong wrong = second_epoch();
    printf("second epoch: %s\n", wrong);
    fflush(stdout);
    _exit(strcmp(wrong, "reached") != 0);
}

static PyObject *reinitialize_at_exit(PyObject *self, PyObject *unused) {
    (void)self, (void)unused;
    Sub sub;
    Wrong wrong = sub_begin(&sub, 0);
    if (wrong) return PyErr_Format(PyExc_AssertionError, "%s", wrong);
    old_main = PyInterpreterView_FromMain();
    old_sub = sub.view;
    old_sub_id = sub.id;
    sub_end(&sub);
    atexit(initialize_again);
    return PyLong_FromLongLong(sub.id);
}

/* --- fork ---------------------------------------------------------------------------------------------------------------- */

static Wrong in_raw_child(InterpGuard *inherited) {
    InterpGuard guard, copy;
    CHECK(InterpGuard_Ensure(inherited) == NULL && InterpGuard_Dup(inherited, &copy) == INTERP_GUARD_INVALID);
    CHECK(InterpGuard_Close(inherited) == INTERP_GUARD_OK); /* protects nothing here, and counts nothing */
    CHECK(InterpGuard_Lookup(0, &guard) == INTERP_GUARD_OK);
    CHECK(InterpGuard_Dup(&guard, &copy) == INTERP_GUARD_OK && InterpGuard_Close(&guard) == INTERP_GUARD_OK);
    CHECK(InterpGuard_Drain(0, 1000000) == INTERP_GUARD_TIMEOUT); /* one is out: this child's own */
    CHECK(InterpGuard_Lookup(0, &guard) == INTERP_GUARD_FINALIZING);
    CHECK(InterpGuard_Close(&copy) == INTERP_GUARD_OK);
    CHECK(InterpGuard_Drain(0, -1) == INTERP_GUARD_OK);
    CHECK(InterpGuard_Lookup(0, &guard) == INTERP_GUARD_NOT_FOUND);
    return NULL;
}

static long forks_to_do;

static Wrong fork_raw(void) {
    for (long i = 0; i < forks_to_do; i++) {
        InterpGuard inherited;
        CHECK(InterpGuard_Lookup(0, &inherited) == INTERP_GUARD_OK);
        pid_t child = fork();
        if (child == 0) {
            alarm(60);
            Wrong wrong = in_raw_child(&inherited);
            if (wrong) dprintf(2, "child: %s\n", wrong);
            _exit(wrong != NULL);
        }
        InterpGuard_Close(&inherited);
        int status = -1;
        CHECK(child > 0 && waitpid(child, &status, 0) == child);
        CHECK(status == 0);
    }
    return NULL;
}

/* Forks by fork(2), from a thread that Python has never seen. */
static PyObject *raw_forks(PyObject *self, PyObject *count) {
    (void)self;
    forks_to_do = PyLong_AsLong(count);
    Wrong wrong = in_native_thread(fork_raw);
    if (wrong) return PyErr_Format(PyExc_AssertionError, "%s", wrong);
    Py_RETURN_NONE;
}

/* --- costs --------------------------------------------------------------------------------------------------------------- */

static _Alignas(64) long private_line;

static void locked_adds(void) {
    long one = 1, two = 1;
    __asm__ volatile("lock xaddq %0, %1" : "+r"(one), "+m"(private_line)::"memory");
    __asm__ volatile("lock xaddq %0, %1" : "+r"(two), "+m"(private_line)::"memory");
}

static void by_lookup(void) {
    InterpGuard guard;
    InterpGuard_Lookup(0, &guard);
    InterpGuard_Close(&guard);
}

static PyInterpreterView *measured_view;

/* What two calls through the function table cost, whatever they do. */
static void empty_calls(void) {
    PyInterpreterView_Close(measured_view);
    PyInterpreterView_Close(measured_view);
}

static void from_view(void) { PyInterpreterGuard_Close(PyInterpreterGuard_FromView(measured_view)); }
static void current_once(void) { PyInterpreterGuard_Close(PyInterpreterGuard_FromCurrent()); }
static void ensure_once(void) { PyThreadState_Release(PyThreadState_EnsureFromView(measured_view)); }
static void legacy_once(void) { PyGILState_Release(PyGILState_Ensure()); }

/* Nanoseconds per call of each operation, in rounds that are short and close together, so that the operations of one see
 * the same machine. */
enum { FLOOR, CALLS, LOOKUP, VIEW, CURRENT, NESTED, LEGACY_NESTED, REATTACH, LEGACY_REATTACH, FRESH, LEGACY_FRESH, COSTS };
enum { ROUNDS = 500 };
static double costs_ns[ROUNDS][COSTS];

static double measure(void (*operation)(void), int times) {
    long began = nanoseconds();
    for (int i = 0; i < times; i++) operation();
    return (double)(nanoseconds() - began) / times;
}

static Wrong measure_round(double *ns) {
    ns[FLOOR] = measure(locked_adds, 2000);
    ns[CALLS] = measure(empty_calls, 2000);
    ns[LOOKUP] = measure(by_lookup, 2000);
    ns[VIEW] = measure(from_view, 2000);
    ns[FRESH] = measure(ensure_once, 200);
    ns[LEGACY_FRESH] = measure(legacy_once, 200);
    PyGILState_STATE legacy = PyGILState_Ensure();
    ns[CURRENT] = measure(current_once, 2000);
    PyThreadState *own = PyEval_SaveThread();
    ns[REATTACH] = measure(ensure_once, 500);
    ns[LEGACY_REATTACH] = measure(legacy_once, 500);
    PyEval_RestoreThread(own);
    ns[LEGACY_NESTED] = measure(legacy_once, 2000);
    PyThreadStateToken *token = PyThreadState_EnsureFromView(measured_view);
    CHECK(token != NULL);
    ns[NESTED] = measure(ensure_once, 2000);
    PyThreadState_Release(token);
    PyGILState_Release(legacy);
    return NULL;
}

static Wrong measure_all(void) {
    Wrong wrong = NULL;
    measured_view = PyInterpreterView_FromMain();
    for (int i = 0; i < ROUNDS && !wrong; i++) wrong = measure_round(costs_ns[i]);
    return wrong;
}

/* A list of the rounds' costs. */
static PyObject *costs(PyObject *self, PyObject *unused) {
    (void)self, (void)unused;
    Wrong wrong = in_native_thread(measure_all);
    if (wrong) return PyErr_Format(PyExc_AssertionError, "%s", wrong);
    PyObject *rounds = PyList_New(0);
    for (int i = 0; rounds && i < ROUNDS; i++) {
        double *ns = costs_ns[i];
        PyObject *round = Py_BuildValue(
            "{s:d,s:d,s:d,s:d,s:d,s:d,s:d,s:d,s:d,s:d,s:d}", "floor", ns[FLOOR], "calls", ns[CALLS], "lookup", ns[LOOKUP], "view", ns[VIEW],
            "current", ns[CURRENT], "nested", ns[NESTED], "PyGILState nested", ns[LEGACY_NESTED], "re-attach",
            ns[REATTACH], "PyGILState re-attach", ns[LEGACY_REATTACH], "fresh", ns[FRESH], "PyGILState fresh",
            ns[LEGACY_FRESH]);
        PyList_Append(rounds, round);
        Py_XDECREF(round);
    }
    return rounds;
}

/* costs_among(n): with n subinterpreters live, what a guard by ID costs: of the main interpreter, of the oldest and the
 * newest subinterpreter, and one that is refused; and the floor. They stay until end_many(). */
static Sub many[1000];
static int live_subs;
static int64_t measured_id;

static void by_measured_id(void) {
    InterpGuard guard;
    InterpGuard_Lookup(measured_id, &guard);
    InterpGuard_Close(&guard);
}

static PyObject *costs_among(PyObject *self, PyObject *count) {
    (void)self;
    long wanted_subs = PyLong_AsLong(count);
    for (; live_subs < wanted_subs && live_subs < 1000; live_subs++) {
        Wrong wrong = sub_begin(&many[live_subs], 0);
        if (wrong) return PyErr_Format(PyExc_AssertionError, "%d: %s", live_subs, wrong);
    }
    int64_t ids[] = {0, many[0].id, many[live_subs - 1].id, (int64_t)1 << 39};
    double took[4];
    for (int i = 0; i < 4; i++) {
        measured_id = ids[i];
        took[i] = measure(by_measured_id, 20000);
    }
    return Py_BuildValue("ddddd", measure(locked_adds, 20000), took[0], took[1], took[2], took[3]);
}

static PyObject *end_many(PyObject *self, PyObject *unused) {
    (void)self, (void)unused;
    while (live_subs > 0) sub_end(&many[--live_subs]);
    Py_RETURN_NONE;
}

/* --- the module -------------------------------------------------------------------------------------------------------- */

static PyMethodDef methods[] = {
    {"run_scenarios", run_scenarios, METH_NOARGS, NULL},
    {"ensure_release", ensure_release, METH_NOARGS, NULL},
    {"call_in_native_thread", call_in_native_thread, METH_O, NULL},
    {"start_pool", start_pool, METH_VARARGS, NULL},
    {"pool_calls", pool_calls, METH_NOARGS, NULL},
    {"sub_cycle", sub_cycle, METH_O, NULL},
    {"signals", signals, METH_VARARGS, NULL},
    {"raw_forks", raw_forks, METH_O, NULL},
    {"costs", costs, METH_NOARGS, NULL},
    {"costs_among", costs_among, METH_O, NULL},
    {"end_many", end_many, METH_NOARGS, NULL},
    {"leave_level", leave_level, METH_NOARGS, NULL},
    {"from_current", from_current, METH_NOARGS, NULL},
    {"leave_guard", leave_guard, METH_NOARGS, NULL},
    {"give_back", give_back, METH_NOARGS, NULL},
    {"drain", drain, METH_O, NULL},
    {"drain_unattached", drain_unattached, METH_O, NULL},
    {"on_close", on_close, METH_VARARGS, NULL},
    {"host_script", host_script, METH_VARARGS, NULL},
    {"close_twice", close_twice, METH_NOARGS, NULL},
    {"close_copy", close_copy, METH_NOARGS, NULL},
    {"starve", starve, METH_NOARGS, NULL},
    {"reinitialize_at_exit", reinitialize_at_exit, METH_NOARGS, NULL},
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
    PyModuleDef_HEAD_INIT, "ig_test", NULL, 0, methods, slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit_ig_test(void);
PyMODINIT_FUNC PyInit_ig_test(void) { return PyModuleDef_Init(&definition); }
