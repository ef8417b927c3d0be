/* interp_guard.hpp with nothing but Python's C API: an extension module whose `check` does what its classes are for. */
#include "interp_guard.hpp"
#include <thread>
#include <type_traits>
#include <utility>

static_assert(std::is_move_constructible<interp_guard::view>::value, "a view moves");
static_assert(std::is_move_constructible<interp_guard::guard>::value, "a guard moves");
static_assert(!std::is_copy_constructible<interp_guard::guard>::value, "a guard is not copied");
static_assert(!std::is_move_constructible<interp_guard::attached>::value, "an attachment stays where it is");
static_assert(!std::is_convertible<interp_guard::attached, bool>::value, "no accidental arithmetic");

namespace {

/* How many guards of this interpreter are out, or -1. Attached. */
long holders() {
    long count = -1;
    PyObject *package = PyImport_ImportModule("interp_guard");
    PyObject *found = package ? PyObject_CallMethod(package, "holders", "i", 0) : nullptr;
    if (found) count = PyLong_AsLong(found);
    Py_XDECREF(found);
    Py_XDECREF(package);
    return count;
}

char const *on_a_thread(interp_guard::view const &here) {
    interp_guard::guard guard(here);
    interp_guard::guard moved(std::move(guard));
    if (guard || !moved || !moved.get()) return "a guard did not move";
    interp_guard::attached outer(moved);
    if (!outer || holders() != 2) return "attached by a guard: not two holders";
    interp_guard::attached inner(here.get());
    if (!inner) return "nesting was refused";
    return nullptr;
}

PyObject *check(PyObject *, PyObject *) {
    char const *wrong = nullptr;
    interp_guard::view here = interp_guard::view::current();
    interp_guard::view moved(std::move(here));
    if (here || !moved || !interp_guard::view::main()) wrong = "a view did not move";
    if (interp_guard::attached(here) || interp_guard::guard(here)) wrong = "nothing was attached or guarded";
    if (!wrong) {
        Py_BEGIN_ALLOW_THREADS;
        std::thread([&] { wrong = on_a_thread(moved); }).join();
        Py_END_ALLOW_THREADS;
    }
    if (!wrong && holders() != 0) wrong = "a guard is left";
    return wrong ? PyUnicode_FromString(wrong) : PyUnicode_FromString("");
}

PyMethodDef methods[] = {{"check", check, METH_NOARGS, nullptr}, {nullptr, nullptr, 0, nullptr}};
PyModuleDef definition = {PyModuleDef_HEAD_INIT, "classes", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};

} // namespace

PyMODINIT_FUNC PyInit_classes() { return import_interp_guard() < 0 ? nullptr : PyModule_Create(&definition); }
