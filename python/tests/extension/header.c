/* Compiled, not run: as C and C++, with and without the limited API, as the only and as the second header. Uses every
 * name as an author of an extension written for 3.15 would. */
#include "pep788.h"
#include "pep788.h"

static void closes(int64_t id, void *data) { *(int64_t *)data = id; }

int use_everything(PyObject *module);
int use_everything(PyObject *module) {
    if (import_interp_guard() < 0) {
        return -1;
    }
    PyInterpreterView *view = PyInterpreterView_FromCurrent();
    PyInterpreterView *main_view = PyInterpreterView_FromMain();
    PyInterpreterGuard *guard = PyInterpreterGuard_FromCurrent();
    PyInterpreterGuard *second = PyInterpreterGuard_FromView(view);
    PyThreadStateToken *token = PyThreadState_Ensure(guard);
    PyThreadStateToken *inner = PyThreadState_EnsureFromView(main_view);
    if (view == NULL || main_view == NULL || guard == NULL || second == NULL || token == NULL || inner == NULL) {
        return -1;
    }
    PyThreadState_Release(inner);
    PyThreadState_Release(token);
    PyInterpreterGuard_Close(second);
    PyInterpreterGuard_Close(guard);
    PyInterpreterView_Close(main_view);
    PyInterpreterView_Close(view);

    InterpGuard value, copy;
    if (InterpGuard_Lookup(InterpGuard_CurrentID(), &value) != INTERP_GUARD_OK) {
        return -1;
    }
    if (InterpGuard_Dup(&value, &copy) == INTERP_GUARD_OK) {
        PyThreadStateToken *level = InterpGuard_Ensure(&copy);
        (void)InterpGuard_Release(level);
        (void)InterpGuard_Release(InterpGuard_EnsureID(InterpGuard_GetID(&copy)));
        (void)InterpGuard_Interpreter(&copy);
        (void)InterpGuard_Close(&copy);
    }
    (void)InterpGuard_Close(&value);
    static int64_t closed;
    if (InterpGuard_OnClose(InterpGuard_CurrentID(), closes, &closed) != INTERP_GUARD_OK) {
        return -1;
    }

    PyInterpreterState *held = PyInterpreterState_Hold();
    PyInterpreterState *found = PyInterpreterState_Lookup(InterpGuard_CurrentID());
    if (PyThreadState_GetDaemon() == 0 && PyThreadState_SetDaemon(1) == 0) {
        (void)PyThreadState_SetDaemon(0);
    }
    PyInterpreterState_Release(found);
    PyInterpreterState_Release(held);
    return module == NULL ? InterpGuard_Drain(7, 0) : 0;
}
