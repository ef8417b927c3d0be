/* Draining with several threads: two drainers, a waiting one woken by a thread and by a signal handler, and a guard closed
 * twice through a copy. */

#include "check.h"

#include <interp_guard.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>

static ig_registry *registry;
static int interp;
static ig_guard guard;

/* Drains without limit, however often another thread has the drain for a moment. */
static void *drainer(void *argument) {
    const int64_t id = *(int64_t *)argument;
    void *back = NULL;
    ig_status status;
    do {
        sched_yield();
        status = ig_drain(registry, id, -1, &back);
    } while (status == IG_ALREADY_CLOSING);
    CHECK(status == IG_OK);
    CHECK(back == &interp);
    return NULL;
}

/* Returns when the drainer has the drain: until then this thread's own attempts time out. Yields, so that the drainer's
 * attempts do not all meet this thread's. */
static void until_draining(int64_t id) {
    void *back = NULL;
    ig_status status;
    do {
        sched_yield();
        status = ig_drain(registry, id, 0, &back);
        CHECK(status == IG_TIMEOUT || status == IG_ALREADY_CLOSING);
    } while (status == IG_TIMEOUT);
}

static void on_signal(int number) {
    (void)number;
    OK(ig_guard_close(&guard));
}

static void drained_by_another_thread(int64_t id, int in_handler) {
    pthread_t thread;
    void *back = NULL;

    OK(ig_register_with_id(registry, id, &interp));
    OK(ig_lookup(registry, id, &guard));
    OK(ig_close(registry, id));
    CHECK(pthread_create(&thread, NULL, drainer, &id) == 0);
    until_draining(id);
    CHECK(ig_close(registry, id) == IG_ALREADY_CLOSING);
    CHECK(ig_finalize(registry, id, 0, &back) == IG_ALREADY_CLOSING);
    if (in_handler) {
        CHECK(raise(SIGUSR1) == 0);
    } else {
        OK(ig_guard_close(&guard));
    }
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(ig_drain(registry, id, 0, &back) == IG_NOT_FOUND);
}

/* The registry of this one cannot be freed any more: nobody knows which guards are out. */
static ig_registry *unbalanced;

static void closed_twice_through_a_copy(void) {
    void *back = NULL;
    OK(ig_registry_new_with(1, IG_COUNTERS_SHARED, &unbalanced));
    OK(ig_register_with_id(unbalanced, 1, &interp));
    OK(ig_lookup(unbalanced, 1, &guard));
    ig_guard copy = guard;
    OK(ig_guard_close(&guard));
    OK(ig_guard_close(&copy)); /* nothing can be told here; the drain finds out */
    CHECK(ig_finalize(unbalanced, 1, -1, &back) == IG_INVALID);
    CHECK(back == NULL);
    CHECK(ig_drain(unbalanced, 1, -1, &back) == IG_INVALID);
    CHECK(ig_registry_free(unbalanced) == IG_INVALID);
}

int main(void) {
    watchdog(300);
    handle(SIGUSR1, on_signal, 0);

    OK(ig_registry_new(4, &registry));
    for (int64_t id = 0; id < 200; id++) {
        drained_by_another_thread(id, id % 2 == 0);
    }
    OK(ig_registry_free(registry));
    closed_twice_through_a_copy();
    puts("drain: ok");
    return 0;
}
