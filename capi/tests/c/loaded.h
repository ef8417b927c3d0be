/* Included before a program: has it load the library that LIBRARY names by dlopen when it begins, use that through pointers, and
 * dlclose it at the end. each.h, which the test writes, names every function of the header. */

#ifndef LOADED_H
#define LOADED_H

#include "check.h"

#include <dlfcn.h>
#include <interp_guard.h>

#include "each.h"

#define POINTER(name) static __typeof__(&name) loaded_##name;
EACH(POINTER)
#undef POINTER

static void *loaded;
static char loaded_path[4096];

static int is_loaded(void) {
    char line[8192];
    int found = 0;
    FILE *maps = fopen("/proc/self/maps", "r");
    CHECK(maps != NULL);
    while (fgets(line, sizeof line, maps) != NULL) {
        found |= strstr(line, loaded_path) != NULL;
    }
    fclose(maps);
    return found;
}

/* dlsym gives a data pointer; ISO C has no cast from that to a function's. */
static void find_loaded(const char *name, void *function) {
    void *found = dlsym(loaded, name);
    CHECK(found != NULL);
    memcpy(function, &found, sizeof found);
}

/* At exit, not in a destructor: the loader closes nothing any more by then. */
static void unload(void) {
    CHECK(dlclose(loaded) == 0);
    CHECK(!is_loaded());
}

__attribute__((constructor)) static void load(void) {
    const char *library = getenv("LIBRARY");
    CHECK(library != NULL && realpath(library, loaded_path) != NULL);
    CHECK(!is_loaded());
    loaded = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    if (loaded == NULL) {
        dprintf(2, "%s\n", dlerror());
        _exit(1);
    }
#define FIND(name) find_loaded(#name, &loaded_##name);
    EACH(FIND)
#undef FIND
    CHECK(atexit(unload) == 0);
}

#include "renamed.h" /* from here on, ig_lookup is loaded_ig_lookup, and so on */

#endif
