/* Lua in C: a lock for each state, which the library takes by `lock_per_vm`. */

#define _POSIX_C_SOURCE 200809L

#include "common.h"

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

static ig_registry *registry;
static int64_t ids[VMS];

static void *vm_new(void) {
    lua_State *lua = luaL_newstate();
    CHECK(lua != NULL);
    luaL_openlibs(lua);
    CHECK(luaL_dofile(lua, SCRIPT) == LUA_OK);
    return lua;
}

static void vm_free(void *vm) { lua_close(vm); }

/* In the attached interpreter. */
static int64_t run(const char *function) {
    lua_State *lua = attached_vm();
    CHECK(lua_getglobal(lua, function) == LUA_TFUNCTION);
    CHECK(lua_pcall(lua, 0, 1, 0) == LUA_OK);
    const int64_t returned = lua_tointeger(lua, -1);
    lua_pop(lua, 1);
    return returned;
}

/* From any thread: attaches, calls, detaches. */
static ig_status call(int64_t id, const char *function, int64_t *returned) {
    uint64_t token;
    const ig_status status = ig_ensure_id(registry, id, &token);
    if (status == IG_OK) {
        *returned = run(function);
        CHECK(ig_release(token) == IG_OK);
    }
    return status;
}

/* A pending call, on a normal thread, attached to the guard's interpreter. */
static void signalled(ig_guard *guard, void *unused) {
    (void)unused;
    CHECK(ig_current_id() == ig_guard_id(guard));
    run("signal");
}

static void nothing(void) { run("nothing"); }
static void turns(void) { run("turns"); }

static void costs(void) {
    uint64_t token;
    costs_of_guards(registry, ids[0]);
    CHECK(ig_ensure_id(registry, ids[0], &token) == IG_OK);
    cost("attached: the cheapest script call, nothing() by name", nothing);
    cost("attached: a loop of 100 turns", turns);
    CHECK(ig_release(token) == IG_OK);
}

void program(int show) {
    CHECK(ig_runtime_set(&lock_per_vm) == IG_OK && ig_registry_new(16, &registry) == IG_OK);
    for (int i = 0; i < VMS; i++) {
        ids[i] = add(registry, names[i], vm_new());
    }
    on_usr1(registry, ids[1], signalled);
    if (show) {
        ig_registry *audited; /* it says who took its guards */
        costs();
        CHECK(ig_registry_new_with(16, IG_LEDGER, &audited) == IG_OK);
        leak(audited, add(audited, "leaky", vm_new()));
    }
    live_and_end(registry, ids, ids[1], call, vm_free, show);
}
