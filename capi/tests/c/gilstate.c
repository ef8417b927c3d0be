/* The legacy contract: in as a daemon, and parked for good where the main interpreter has gone. */

#include "runtime.h"

#include <sched.h>

static ig_registry *registry;
static interp first, second, gone;
static int before, after; /* threads that came to their ensure, and past it */

static void *comes_too_late(void *unused) {
    uint64_t token;
    (void)unused;
    ADD(before);
    OK(ig_gilstate_ensure(registry, &token));
    ADD(after);
    return NULL;
}

static void nesting(void) {
    uint64_t outer, inner, other;
    int daemon = -1;
    int64_t id = -1;
    void *back = NULL;

    OK(ig_gilstate_ensure(registry, &outer));
    CHECK(ig_current_id() == first.id && current->of == &first);
    OK(ig_is_daemon(registry, &daemon));
    CHECK(daemon == 1);
    OK(ig_ensure_id(registry, second.id, &other));
    OK(ig_gilstate_ensure(registry, &inner));
    CHECK(ig_current_id() == first.id && current->of == &first);
    CHECK(ig_gilstate_release(outer) == IG_INVALID); /* out of order */
    OK(ig_gilstate_release(inner));
    CHECK(ig_gilstate_release(inner) == IG_INVALID);
    CHECK(ig_current_id() == second.id && current->of == &second);
    OK(ig_release(other));
    OK(ig_gilstate_release(outer));
    CHECK(ig_current_id() == -1 && current == NULL && created == destroyed);

    /* It guards nothing. */
    OK(ig_gilstate_ensure(registry, &outer));
    rt_init(&gone, first.id + 2);
    OK(ig_register(registry, &gone, &id));
    OK(ig_finalize(registry, id, -1, &back));
    OK(ig_gilstate_release(outer));
    rt_done(&gone);
}

/* With an argument: without the thread that never ends. */
int main(int argc, char **argv) {
    watchdog(300);
    uint64_t token = 77;
    void *back = NULL;
    ig_runtime table = rt_table();

    OK(ig_registry_new(4, &registry));
    CHECK(ig_gilstate_ensure(registry, &token) == IG_INVALID && token == 0); /* no runtime */
    OK(ig_runtime_set(&table));
    token = 77;
    CHECK(ig_gilstate_ensure(registry, &token) == IG_NOT_FOUND && token == 0); /* nothing was ever registered */
    CHECK(ig_gilstate_ensure(NULL, &token) == IG_INVALID);
    CHECK(ig_gilstate_release(0) == IG_INVALID);

    rt_init(&first, 1);
    rt_init(&second, 2);
    OK(ig_register_with_id(registry, 1, &first));
    OK(ig_register_with_id(registry, 2, &second));
    CHECK(ig_gilstate_ensure(registry, NULL) == IG_INVALID);
    first.barren = 1;
    token = 77;
    CHECK(ig_gilstate_ensure(registry, &token) == IG_UNAVAILABLE && token == 0);
    first.barren = 0;
    nesting();

    OK(ig_finalize(registry, 1, -1, &back));
    OK(ig_finalize(registry, 2, -1, &back));
    (void)argv;
    CHECK(ig_parked() == 0);
    if (argc > 1) {
        OK(ig_registry_free(registry));
        puts("gilstate: ok");
        return 0;
    }
    pthread_t late;
    CHECK(pthread_create(&late, NULL, comes_too_late, NULL) == 0);
    CHECK(pthread_detach(late) == 0);
    while (ig_parked() == 0) {
        sched_yield();
    }
    CHECK(before == 1 && after == 0);
    puts("gilstate: ok"); /* the registry stays: a thread is in it */
    return 0;
}
