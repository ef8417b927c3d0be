#include "interp_guard_cffi.h"

int64_t everything(void (*function)(void));
int64_t everything(void (*function)(void)) {
    int64_t id = interp_guard_import();
    PyThreadStateToken *token = interp_guard_enter();
    if (token != NULL) {
        function();
        interp_guard_exit(token);
    }
    return id;
}
