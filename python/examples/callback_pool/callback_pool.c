/* Four native threads that call back into Python, in whichever interpreter a call came from. They outlive the
 * interpreters: one that ends waits for the calls that have begun, and drops those that have not. */

#include "pep788.h"
#include <pthread.h>
#include <stdlib.h>

enum { THREADS = 4 };

typedef struct job {
    struct job *next;
    int64_t interpreter; /* the ID of the one that `callable` belongs to */
    PyObject *callable;
} job;

/* All of this is guarded by `mutex`. Nobody waits for Python while holding it. */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t more = PTHREAD_COND_INITIALIZER;
static job *first, **last = &first;
static int running;

static void *work(void *unused) {
    (void)unused;
    for (;;) {
        pthread_mutex_lock(&mutex);
        while (first == NULL) {
            pthread_cond_wait(&more, &mutex);
        }
        job *mine = first;
        first = mine->next;
        if (first == NULL) {
            last = &first;
        }
        pthread_mutex_unlock(&mutex);

        PyThreadStateToken *token = InterpGuard_EnsureID(mine->interpreter);
        if (token != NULL) {
            PyObject *result = PyObject_CallNoArgs(mine->callable);
            if (result == NULL) {
                PyErr_WriteUnraisable(mine->callable);
            }
            Py_XDECREF(result);
            Py_DECREF(mine->callable);
            InterpGuard_Release(token);
        } /* else it has closed since the job was taken. The callable is not ours to touch any more: it is leaked. */
        free(mine);
    }
    return NULL;
}

/* Called when an interpreter closes, attached to it, before it waits for its guards: its jobs that nobody has taken. */
static void drop_jobs(int64_t interpreter, void *unused) {
    (void)unused;
    job *dropped = NULL;
    pthread_mutex_lock(&mutex);
    for (job **at = &first; *at != NULL;) {
        job *this = *at;
        if (this->interpreter == interpreter) {
            *at = this->next;
            this->next = dropped;
            dropped = this;
        } else {
            at = &this->next;
        }
    }
    for (last = &first; *last != NULL; last = &(*last)->next) {
    }
    pthread_mutex_unlock(&mutex);
    while (dropped != NULL) { /* without the mutex: a destructor may submit */
        job *this = dropped;
        dropped = this->next;
        Py_DECREF(this->callable);
        free(this);
    }
}

/* A forked child has none of the threads. What was queued is its parent's. */
static void before_fork(void) { pthread_mutex_lock(&mutex); }
static void in_parent(void) { pthread_mutex_unlock(&mutex); }
static void in_child(void) {
    pthread_cond_init(&more, NULL);
    first = NULL;
    last = &first;
    running = 0;
    pthread_mutex_unlock(&mutex);
}
static void install_atfork(void) { pthread_atfork(before_fork, in_parent, in_child); }

static PyObject *submit(PyObject *module, PyObject *callable) {
    (void)module;
    if (!PyCallable_Check(callable)) {
        PyErr_SetString(PyExc_TypeError, "submit() takes a callable");
        return NULL;
    }
    job *new = malloc(sizeof *new);
    if (new == NULL) {
        return PyErr_NoMemory();
    }
    *new = (job){NULL, InterpGuard_CurrentID(), callable};
    pthread_mutex_lock(&mutex);
    while (running < THREADS) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, work, NULL) != 0) {
            break; /* fewer will do, but not none */
        }
        pthread_detach(thread);
        running++;
    }
    const int accepted = running > 0;
    if (accepted) {
        Py_INCREF(callable);
        *last = new;
        last = &new->next;
        pthread_cond_signal(&more);
    }
    pthread_mutex_unlock(&mutex);
    if (!accepted) {
        free(new);
        PyErr_SetString(PyExc_OSError, "no thread could be started");
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"submit", submit, METH_O, "Has a thread of the pool call it, without arguments."},
    {NULL, NULL, 0, NULL},
};

static int exec(PyObject *module) {
    (void)module;
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    if (import_interp_guard() < 0) {
        return -1;
    }
    pthread_once(&once, install_atfork);
    if (InterpGuard_OnClose(InterpGuard_CurrentID(), drop_jobs, NULL) != INTERP_GUARD_OK) {
        PyErr_SetString(PyExc_ImportError, "the interpreter is finalizing");
        return -1;
    }
    return 0;
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, (void *)exec},
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED}, /* the pool's state has a lock of its own */
#endif
#if PY_VERSION_HEX >= 0x030D0000
    {Py_mod_gil, Py_MOD_GIL_NOT_USED}, /* nor does it need the GIL */
#endif
    {0, NULL},
};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "callback_pool", "Native threads that call back.", 0, methods, slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit_callback_pool(void) { return PyModuleDef_Init(&definition); }
