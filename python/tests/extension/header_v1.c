/* Compiled, not run, like header.c: every name of PEP 788's first version. */
#include "pep788_v1.h"
#include "pep788_v1.h"

int use_everything(PyObject *module);
int use_everything(PyObject *module) {
    if (import_interp_guard() < 0) {
        return -1;
    }
    PyInterpreterState *held = PyInterpreterState_Hold();
    PyInterpreterState *found = PyInterpreterState_Lookup(InterpGuard_CurrentID());
    if (held == NULL || found == NULL || PyThreadState_Ensure(held) != 0) {
        return -1;
    }
    int changed = PyThreadState_SetDaemon(1);
    int daemon = PyThreadState_GetDaemon();
    PyThreadState_Release();
    PyInterpreterState_Release(found);
    PyInterpreterState_Release(held);

    PyInterpreterHandle *created = PyInterpreterHandle_Create();
    PyInterpreterHandle *looked_up = PyInterpreterHandle_Lookup(0);
    PyInterpreterHandle *second = PyInterpreterHandle_Dup(created);
    if (PyThreadState_EnsureFromHandle(second) == 0) {
        PyThreadState_Release();
    }
    PyInterpreterState *of_handle = PyInterpreterHandle_GetInterpreter(created);
    PyInterpreterHandle_Close(second);
    PyInterpreterHandle_Close(looked_up);
    PyInterpreterHandle_Close(created);

    InterpGuard value;
    (void)InterpGuard_Lookup(0, &value);
    (void)InterpGuard_Close(&value);
    return module == NULL && of_handle == NULL ? changed : daemon;
}
