/* interp-guard for C++11 and later, whatever binds to Python: pybind11, nanobind, or the C API alone. Needs pep788.h
 * beside it.
 *
 *     static interp_guard::view *here;
 *
 *     void on_event() {                       // on any thread, attached or not
 *         interp_guard::attached attached(*here);
 *         if (!attached) return;              // the interpreter is finalizing or gone: touch nothing of it
 *         pybind11::gil_scoped_acquire gil;   // as before; it finds the thread attached
 *         ...
 *     }
 *
 *     PYBIND11_MODULE(name, module) {         // or NB_MODULE
 *         if (import_interp_guard() < 0) throw pybind11::error_already_set();   // nanobind::python_error()
 *         here = new interp_guard::view(interp_guard::view::current());
 *     }
 *
 * A static object with a destructor is gone before the last native thread has called: keep a view as above, for good.
 * All threads may use one view. Threads that loop until they are refused are joined where the GIL is not held and Python is
 * done with: in a static destructor or a function given to std::atexit. To have a thread that works under a guard told to
 * stop there is InterpGuard_OnClose in pep788.h. It does not join.
 *
 * What decrements a reference when it is destroyed (pybind11::object, a std::function around one) must not be destroyed
 * on a thread that was refused: release() it.
 */
#ifndef INTERP_GUARD_HPP
#define INTERP_GUARD_HPP

#include "pep788.h"

namespace interp_guard {

/* Remembers an interpreter and guards nothing. */
class view {
    PyInterpreterView *pointer;
    explicit view(PyInterpreterView *pointer) noexcept : pointer(pointer) {}

  public:
    /* The calling thread's interpreter. One without a pointer, and an exception set, on failure. Context: attached. */
    static view current() noexcept { return view(PyInterpreterView_FromCurrent()); }
    /* The main interpreter. Context: normal. */
    static view main() noexcept { return view(PyInterpreterView_FromMain()); }
    view(view &&other) noexcept : pointer(other.pointer) { other.pointer = nullptr; }
    view(view const &) = delete;
    view &operator=(view const &) = delete;
    ~view() {
        if (pointer) PyInterpreterView_Close(pointer);
    }
    explicit operator bool() const noexcept { return pointer != nullptr; }
    PyInterpreterView *get() const noexcept { return pointer; }
};

/* Keeps an interpreter from finalizing. False: it is finalizing or gone. Context: as PyInterpreterGuard_FromView. */
class guard {
    PyInterpreterGuard *pointer;

  public:
    explicit guard(PyInterpreterView *view) noexcept : pointer(view ? PyInterpreterGuard_FromView(view) : nullptr) {}
    explicit guard(view const &view) noexcept : guard(view.get()) {}
    guard(guard &&other) noexcept : pointer(other.pointer) { other.pointer = nullptr; }
    guard(guard const &) = delete;
    guard &operator=(guard const &) = delete;
    ~guard() {
        if (pointer) PyInterpreterGuard_Close(pointer);
    }
    explicit operator bool() const noexcept { return pointer != nullptr; }
    PyInterpreterGuard *get() const noexcept { return pointer; }
};

/* Attaches the calling thread, which the interpreter then waits for, until the end of the block; what was attached
 * before is attached again then. From a view: false if the interpreter is finalizing or gone, and nothing was done. From a
 * guard it succeeds then, too: the interpreter waits for that guard.
 * Context: normal; waits for the GIL. */
class attached {
    PyThreadStateToken *token;

  public:
    explicit attached(PyInterpreterView *view) noexcept : token(view ? PyThreadState_EnsureFromView(view) : nullptr) {}
    explicit attached(view const &view) noexcept : attached(view.get()) {}
    explicit attached(guard const &guard) noexcept : token(guard ? PyThreadState_Ensure(guard.get()) : nullptr) {}
    attached(attached const &) = delete; /* it ends on its own thread, and last in, first out */
    attached &operator=(attached const &) = delete;
    ~attached() {
        if (token) PyThreadState_Release(token);
    }
    explicit operator bool() const noexcept { return token != nullptr; }
};

} // namespace interp_guard

#endif /* INTERP_GUARD_HPP */
