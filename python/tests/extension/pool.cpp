// An extension that knows nothing of interp_guard: native threads that call Python whenever they like, until the process
// ends. What C++ makes of a thread that CPython ends is part of it: `noexcept`, destructors, a pool that is joined.

#include <Python.h>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <unistd.h>
#include <vector>

namespace {

PyObject *called;
std::atomic<long> calls{0};

void call() {
    PyObject *result = PyObject_CallNoArgs(called);
    if (result == nullptr)
        PyErr_Clear();
    else
        Py_DECREF(result);
    calls.fetch_add(1);
}

// As most do it.
void by_gilstate() noexcept {
    for (;;) {
        PyGILState_STATE state = PyGILState_Ensure();
        call();
        PyGILState_Release(state);
    }
}

// As pybind11 does it.
void by_own_state(PyInterpreterState *interpreter) noexcept {
    for (;;) {
        PyEval_AcquireThread(PyThreadState_New(interpreter));
        call();
        PyThreadState_Clear(PyThreadState_Get());
        PyThreadState_DeleteCurrent();
    }
}

// One state for a thread's life, and short sections without the GIL.
void by_sections() noexcept {
    PyGILState_Ensure();
    for (;;) {
        call();
        PyThreadState *state = PyEval_SaveThread();
        PyEval_RestoreThread(state);
    }
}

// The same with the other pair.
void by_acquire(PyInterpreterState *interpreter) noexcept {
    PyThreadState *state = PyThreadState_New(interpreter);
    for (;;) {
        PyEval_AcquireThread(state);
        call();
        PyEval_ReleaseThread(state);
    }
}

void keep(PyObject *callable) {
    Py_INCREF(callable);
    called = callable;
}

PyObject *start(PyObject *, PyObject *arguments) {
    PyObject *callable;
    const char *way;
    int threads;
    if (!PyArg_ParseTuple(arguments, "Osi", &callable, &way, &threads))
        return nullptr;
    keep(callable);
    PyInterpreterState *interpreter = PyThreadState_GetInterpreter(PyThreadState_Get());
    for (int number = 0; number < threads; number++) {
        switch (*way) {
        case 'g': std::thread(by_gilstate).detach(); break;
        case 'o': std::thread(by_own_state, interpreter).detach(); break;
        case 's': std::thread(by_sections).detach(); break;
        case 'a': std::thread(by_acquire, interpreter).detach(); break;
        default: return PyErr_Format(PyExc_ValueError, "no way %s", way);
        }
    }
    Py_RETURN_NONE;
}

PyObject *counted(PyObject *, PyObject *) { return PyLong_FromLong(calls.load()); }

// One call from a thread of its own.
PyObject *call_once(PyObject *, PyObject *callable) {
    keep(callable);
    std::thread([]() noexcept {
        PyGILState_STATE state = PyGILState_Ensure();
        call();
        PyGILState_Release(state);
    }).detach();
    Py_RETURN_NONE;
}

// A thread that ensures once, and sleeps for its life without the GIL.
PyObject *sleeper(PyObject *, PyObject *callable) {
    keep(callable);
    std::thread([]() noexcept {
        PyGILState_Ensure();
        PyThreadState *state = PyEval_SaveThread();
        PyEval_RestoreThread(state);
        call();
        PyEval_SaveThread();
        for (;;)
            pause();
    }).detach();
    Py_RETURN_NONE;
}

// Reads a byte without the GIL, on the calling thread, below a function that must not be unwound.
void read_byte(int file) noexcept {
    PyThreadState *state = PyEval_SaveThread();
    char byte;
    if (read(file, &byte, 1) < 0)
        abort();
    PyEval_RestoreThread(state);
}

PyObject *wait_for_byte(PyObject *, PyObject *file) {
    read_byte(static_cast<int>(PyLong_AsLong(file)));
    Py_RETURN_NONE;
}

// A pool that is joined when the process exits, as a static object's destructor does.
struct Joined {
    std::vector<std::thread> threads;
    std::atomic<bool> stop{false};
    ~Joined() {
        stop = true;
        for (std::thread &thread : threads)
            thread.join();
        if (!threads.empty()) {
            std::fputs("joined\n", stdout);
            std::fflush(stdout);
        }
    }
} joined;

PyObject *start_joined(PyObject *, PyObject *arguments) {
    PyObject *callable;
    int threads;
    if (!PyArg_ParseTuple(arguments, "Oi", &callable, &threads))
        return nullptr;
    keep(callable);
    for (int number = 0; number < threads; number++)
        joined.threads.emplace_back([]() {
            while (!joined.stop) {
                PyGILState_STATE state = PyGILState_Ensure();
                call();
                PyGILState_Release(state);
            }
        });
    Py_RETURN_NONE;
}

// Stops and joins the pool, detached.
PyObject *join(PyObject *, PyObject *) {
    Py_BEGIN_ALLOW_THREADS;
    joined.stop = true;
    for (std::thread &thread : joined.threads)
        thread.join();
    joined.threads.clear();
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

// Ends the process, as an embedder's thread may, inside an ensure and a section.
PyObject *end_inside(PyObject *, PyObject *) {
    PyThreadState *state = PyEval_SaveThread();
    (void)state;
    PyGILState_Ensure();
    exit(Py_FinalizeEx() < 0 ? 120 : 0);
}

// What ctypes or cffi made of a Python function, called by native threads.
void by_pointer(void (*function)()) noexcept {
    for (;;) {
        function();
        calls.fetch_add(1);
    }
}

PyObject *start_pointer(PyObject *, PyObject *arguments) {
    unsigned long long address;
    int threads;
    if (!PyArg_ParseTuple(arguments, "Ki", &address, &threads))
        return nullptr;
    for (int number = 0; number < threads; number++)
        std::thread(by_pointer, reinterpret_cast<void (*)()>(address)).detach();
    Py_RETURN_NONE;
}

// A pointer to the function in data, which may be somebody else's already.
PyGILState_STATE (*volatile in_data)() = PyGILState_Ensure;
PyGILState_STATE others() { return PyGILState_Ensure(); }

PyObject *hook(PyObject *, PyObject *) {
    in_data = others;
    Py_RETURN_NONE;
}

// Where the function is, by the table and by the data.
PyObject *where(PyObject *, PyObject *) {
    return Py_BuildValue(
        "KK", reinterpret_cast<unsigned long long>(&PyGILState_Ensure), reinterpret_cast<unsigned long long>(in_data)
    );
}

// When the process exits and Python is gone, Python is initialised again and runs this.
char *program;

PyObject *begin_again(PyObject *, PyObject *text) {
    program = strdup(PyUnicode_AsUTF8(text));
    atexit([]() {
        Py_InitializeEx(0);
        if (PyRun_SimpleString(program) != 0)
            _exit(9);
        if (Py_FinalizeEx() < 0)
            _exit(8);
    });
    Py_RETURN_NONE;
}

// What one pair of calls takes, in nanoseconds: nested, attached again, from nothing, and a section without the GIL.
template <typename Call> double cost(int rounds, Call call) {
    auto begin = std::chrono::steady_clock::now();
    for (int round = 0; round < rounds; round++)
        call();
    return std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - begin).count() / rounds;
}

void pair() { PyGILState_Release(PyGILState_Ensure()); }

PyObject *costs(PyObject *, PyObject *) {
    double nested = cost(200000, pair), section = cost(50000, []() { PyEval_RestoreThread(PyEval_SaveThread()); });
    double again = 0, fresh = 0;
    Py_BEGIN_ALLOW_THREADS;
    again = cost(50000, pair);
    std::thread([&fresh]() { fresh = cost(20000, pair); }).join();
    Py_END_ALLOW_THREADS;
    return Py_BuildValue("dddd", nested, again, fresh, section);
}

PyMethodDef methods[] = {
    {"start", start, METH_VARARGS, "start(callable, way, threads): they call it for ever."},
    {"calls", counted, METH_NOARGS, "How many calls there were."},
    {"call_once", call_once, METH_O, "A thread calls it once."},
    {"sleeper", sleeper, METH_O, "A thread calls it, and sleeps inside its ensure."},
    {"wait_for_byte", wait_for_byte, METH_O, "Reads a byte from a descriptor, without the GIL."},
    {"start_joined", start_joined, METH_VARARGS, "start_joined(callable, threads): joined at exit."},
    {"join", join, METH_NOARGS, "Joins them."},
    {"end_inside", end_inside, METH_NOARGS, "Finalizes inside an ensure, and exits."},
    {"costs", costs, METH_NOARGS, "(nested, attached again, from nothing, a section): nanoseconds."},
    {"start_pointer", start_pointer, METH_VARARGS, "start_pointer(address, threads): they call it for ever."},
    {"hook", hook, METH_NOARGS, "Has a pointer lead to a function of its own."},
    {"where", where, METH_NOARGS, "Where PyGILState_Ensure is."},
    {"begin_again", begin_again, METH_O, "Runs this when Python is gone, in another one."},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef definition = {PyModuleDef_HEAD_INIT, "pool", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};

} // namespace

PyMODINIT_FUNC PyInit_pool() { return PyModule_Create(&definition); }
