/* The end of all interpreters at once: told one by one, in order, and none is lost. */

#include "check.h"

#include <interp_guard.h>
#include <pthread.h>
#include <sched.h>

enum { MOST = 8 };

static ig_registry *registry;
static int interps[MOST];

/* What ig_finalize_all has told. */
typedef struct {
    int told;
    int64_t id[MOST];
    ig_status status[MOST];
    void *interp[MOST];
} log_of_all;

static void each(int64_t id, ig_status status, void *interp, void *data) {
    log_of_all *log = (log_of_all *)data;
    CHECK(log->told < MOST);
    CHECK((status == IG_OK) == (interp != NULL));
    log->id[log->told] = id;
    log->status[log->told] = status;
    log->interp[log->told++] = interp;
}

static void registered(int64_t from, int64_t to) {
    for (int64_t id = from; id <= to; id++) {
        OK(ig_register_with_id(registry, id, &interps[id % MOST]));
    }
}

static void told(const log_of_all *log, int which, int64_t id, ig_status status) {
    CHECK(which < log->told);
    CHECK(log->id[which] == id);
    CHECK(log->status[which] == status);
    CHECK(log->interp[which] == (status == IG_OK ? &interps[id % MOST] : NULL));
}

static void none_and_nonsense(void) {
    log_of_all log = {0, {0}, {IG_OK}, {NULL}};
    CHECK(ig_finalize_all(NULL, 0, each, &log) == IG_INVALID);
    OK(ig_finalize_all(registry, 0, each, &log)); /* there is none */
    CHECK(log.told == 0);
    registered(0, 0);
    CHECK(ig_finalize_all(registry, 0, NULL, &log) == IG_INVALID);
    ig_guard guard;
    OK(ig_lookup(registry, 0, &guard)); /* nothing was closed */
    OK(ig_guard_close(&guard));
    OK(ig_finalize_all(registry, 0, each, &log));
    CHECK(log.told == 1);
    told(&log, 0, 0, IG_OK);
}

/* The latest registered first, the main interpreter last. */
static void in_order(void) {
    log_of_all log = {0, {0}, {IG_OK}, {NULL}};
    registered(10, 13);
    OK(ig_set_main(registry, 12));
    OK(ig_close(registry, 11)); /* closed already, and left: taken up */
    OK(ig_finalize_all(registry, -1, each, &log));
    CHECK(log.told == 4);
    told(&log, 0, 13, IG_OK);
    told(&log, 1, 11, IG_OK);
    told(&log, 2, 10, IG_OK);
    told(&log, 3, 12, IG_OK);
}

/* Two are guarded. The others are handed back, and these two later: nothing is lost. */
static void some_are_late(void) {
    log_of_all log = {0, {0}, {IG_OK}, {NULL}};
    ig_guard guards[2] = {IG_GUARD_INIT, IG_GUARD_INIT};
    void *back = NULL;
    registered(20, 23);
    OK(ig_lookup(registry, 21, &guards[0]));
    OK(ig_lookup(registry, 22, &guards[1]));
    CHECK(ig_finalize_all(registry, 1000000, each, &log) == IG_TIMEOUT);
    CHECK(log.told == 4);
    told(&log, 0, 23, IG_OK);
    told(&log, 1, 22, IG_TIMEOUT);
    told(&log, 2, 21, IG_TIMEOUT);
    told(&log, 3, 20, IG_OK);
    CHECK(ig_guard_interpreter(&guards[0]) == &interps[21 % MOST]); /* untouched */

    OK(ig_guard_close(&guards[0]));
    OK(ig_drain(registry, 21, 0, &back));
    CHECK(back == &interps[21 % MOST]);
    OK(ig_guard_close(&guards[1]));
    OK(ig_finalize_all(registry, 0, each, &log));
    CHECK(log.told == 5);
    told(&log, 4, 22, IG_OK);
}

/* What a pool does: on_close tells it, and it gives its guard up. Nobody registers meanwhile. */
static ig_guard held_by_the_pool;

static void wind_down(int64_t id, void *data) {
    int64_t fresh = 0;
    (void)id;
    *(int *)data += 1;
    CHECK(ig_register(registry, &interps[0], &fresh) == IG_FINALIZING);
    CHECK(ig_register_named(registry, "late", &interps[0], &fresh) == IG_FINALIZING);
    CHECK(ig_register_with_id(registry, 39, &interps[0]) == IG_FINALIZING);
    OK(ig_guard_close(&held_by_the_pool));
}

/* Called when it is over: the registry is open again, and may be used. */
static void starts_anew(int64_t id, ig_status status, void *interp, void *data) {
    CHECK(id == 30 && status == IG_OK);
    OK(ig_register(registry, interp, (int64_t *)data));
}

static void told_to_wind_down(void) {
    int calls = 0;
    int64_t next = -1;
    void *back = NULL;
    registered(30, 30);
    OK(ig_lookup(registry, 30, &held_by_the_pool));
    OK(ig_on_close(registry, 30, wind_down, &calls));
    OK(ig_finalize_all(registry, -1, starts_anew, &next));
    CHECK(calls == 1);
    OK(ig_finalize(registry, next, 0, &back));
    CHECK(back == &interps[30 % MOST]);
}

/* Another thread drains one: that is left to it. */
static int64_t its_own = 40;

static void *drainer(void *argument) {
    void *back = NULL;
    ig_status status;
    (void)argument;
    do {
        sched_yield();
        status = ig_drain(registry, its_own, -1, &back);
    } while (status == IG_ALREADY_CLOSING);
    CHECK(status == IG_OK);
    CHECK(back == &interps[its_own % MOST]);
    return NULL;
}

static void another_thread_drains_one(void) {
    log_of_all log = {0, {0}, {IG_OK}, {NULL}};
    ig_guard guard = IG_GUARD_INIT;
    pthread_t thread;
    void *back = NULL;
    ig_status status;
    registered(40, 41);
    OK(ig_lookup(registry, its_own, &guard));
    OK(ig_close(registry, its_own));
    CHECK(pthread_create(&thread, NULL, drainer, NULL) == 0);
    do { /* until it has the drain */
        sched_yield();
        status = ig_drain(registry, its_own, 0, &back);
    } while (status == IG_TIMEOUT);
    CHECK(status == IG_ALREADY_CLOSING);
    CHECK(ig_finalize_all(registry, 0, each, &log) == IG_ALREADY_CLOSING);
    CHECK(log.told == 2);
    told(&log, 0, 41, IG_OK);
    told(&log, 1, its_own, IG_ALREADY_CLOSING);
    OK(ig_guard_close(&guard));
    CHECK(pthread_join(thread, NULL) == 0);
}

int main(void) {
    watchdog(300);
    OK(ig_registry_new(MOST, &registry));
    none_and_nonsense();
    in_order();
    some_are_late();
    told_to_wind_down();
    another_thread_drains_one();
    OK(ig_registry_free(registry));
    puts("finalize_all: ok");
    return 0;
}
