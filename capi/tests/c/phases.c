/* Every answer that one thread can get, and misuse: a status, never a crash. */

#include "check.h"

#include <interp_guard.h>
#include <stdint.h>

static int first, second, third;

static void life_of_an_interpreter(void) {
    ig_registry *registry = NULL;
    int64_t id = -1;
    uint64_t out = 99;
    void *back = &out;
    ig_guard guard = IG_GUARD_INIT, another = {{0}}, late = {{0}};

    OK(ig_registry_new(4, &registry));
    CHECK(ig_lookup(registry, 0, &guard) == IG_NOT_FOUND); /* before the first registration */
    OK(ig_register(registry, &first, &id));
    CHECK(id >= 0);

    /* live */
    OK(ig_lookup(registry, id, &guard));
    CHECK(ig_guard_id(&guard) == id);
    CHECK(ig_guard_interpreter(&guard) == &first);
    CHECK(!ig_guard_is_closing(&guard));
    OK(ig_outstanding(registry, id, &out));
    CHECK(out == 1);
    CHECK(ig_drain(registry, id, 0, &back) == IG_INVALID);
    CHECK(back == NULL);
    CHECK(ig_registry_free(registry) == IG_INVALID);

    /* closing */
    OK(ig_close(registry, id));
    CHECK(ig_close(registry, id) == IG_ALREADY_CLOSING);
    CHECK(ig_finalize(registry, id, 0, &back) == IG_ALREADY_CLOSING);
    CHECK(ig_lookup(registry, id, &late) == IG_FINALIZING);
    CHECK(ig_guard_id(&late) == -1);
    CHECK(ig_guard_is_closing(&guard));
    OK(ig_guard_dup(&guard, &another));
    CHECK(ig_guard_interpreter(&another) == &first);
    OK(ig_outstanding(registry, id, &out));
    CHECK(out == 2);
    CHECK(ig_drain(registry, id, 0, &back) == IG_TIMEOUT);
    CHECK(ig_drain(registry, id, 1000000, &back) == IG_TIMEOUT);
    CHECK(back == NULL);
    OK(ig_guard_close(&guard));
    CHECK(ig_drain(registry, id, 0, &back) == IG_TIMEOUT);
    CHECK(ig_guard_interpreter(&another) == &first); /* one guard suffices */
    OK(ig_guard_close(&another));
    OK(ig_outstanding(registry, id, &out));
    CHECK(out == 0);

    /* drained, not yet taken */
    CHECK(ig_lookup(registry, id, &late) == IG_FINALIZING);
    CHECK(ig_registry_free(registry) == IG_INVALID);
    OK(ig_drain(registry, id, -1, &back));
    CHECK(back == &first);

    /* gone */
    CHECK(ig_lookup(registry, id, &late) == IG_NOT_FOUND);
    CHECK(ig_close(registry, id) == IG_NOT_FOUND);
    CHECK(ig_drain(registry, id, 0, &back) == IG_NOT_FOUND);
    CHECK(ig_finalize(registry, id, 0, &back) == IG_NOT_FOUND);
    CHECK(ig_outstanding(registry, id, &out) == IG_NOT_FOUND);
    CHECK(ig_register_with_id(registry, id, &first) == IG_RETIRED_ID);
    OK(ig_registry_free(registry));
}

static void a_timed_out_finalize_is_drained_later(void) {
    ig_registry *registry = NULL;
    void *back = NULL;
    ig_guard guard = IG_GUARD_INIT;

    OK(ig_registry_new(4, &registry));
    OK(ig_register_with_id(registry, 7, &first));
    OK(ig_lookup(registry, 7, &guard));
    CHECK(ig_finalize(registry, 7, 1000, &back) == IG_TIMEOUT);
    CHECK(ig_finalize(registry, 7, 0, &back) == IG_ALREADY_CLOSING); /* and the text says what to do */
    CHECK(strstr(ig_status_message(IG_ALREADY_CLOSING), "ig_drain goes on with it") != NULL);
    CHECK(ig_close(registry, 7) == IG_ALREADY_CLOSING);
    OK(ig_guard_close(&guard));
    OK(ig_drain(registry, 7, 0, &back));
    CHECK(back == &first);
    OK(ig_registry_free(registry));
}

static void registration(void) {
    ig_registry *registry = NULL;
    int64_t id = 5;
    void *back = NULL;

    CHECK(ig_registry_new(0, &registry) == IG_INVALID);
    CHECK(registry == NULL);
    CHECK(ig_registry_new(((size_t)1 << 20) + 1, &registry) == IG_INVALID);
    CHECK(ig_registry_new(SIZE_MAX, &registry) == IG_INVALID);
    CHECK(ig_registry_new(1, NULL) == IG_INVALID);
    CHECK(ig_registry_new_with(1, 0x80, &registry) == IG_INVALID);
    CHECK(ig_registry_new_with(1, IG_COUNTERS_PER_CPU | IG_COUNTERS_SHARED, &registry) == IG_INVALID);

    OK(ig_registry_new_with(2, IG_COUNTERS_SHARED, &registry));
    OK(ig_register_with_id(registry, 3, &first));
    CHECK(ig_register_with_id(registry, 3, &second) == IG_DUPLICATE_ID);
    CHECK(ig_register_with_id(registry, -1, &second) == IG_INVALID);
    CHECK(ig_register_with_id(registry, INT64_MAX, &second) == IG_INVALID);
    OK(ig_register_with_id(registry, INT64_MAX - 1, &second));
    CHECK(ig_register(registry, &third, &id) == IG_FULL);
    CHECK(id == -1);
    OK(ig_finalize(registry, 3, 0, &back));
    CHECK(back == &first);
    OK(ig_register(registry, &third, &id));
    CHECK(id != 3); /* never reused */
    OK(ig_finalize(registry, id, 0, &back));
    CHECK(back == &third);
    OK(ig_finalize(registry, INT64_MAX - 1, 0, &back));
    CHECK(back == &second);
    OK(ig_registry_free(registry));
}

static void two_registries_are_two_worlds(void) {
    ig_registry *one = NULL, *two = NULL;
    void *back = NULL;
    ig_guard guard = IG_GUARD_INIT;

    OK(ig_registry_new(1, &one));
    OK(ig_registry_new(1, &two));
    OK(ig_register_with_id(one, 1, &first));
    OK(ig_register_with_id(two, 1, &second));
    OK(ig_lookup(two, 1, &guard));
    CHECK(ig_guard_interpreter(&guard) == &second);
    OK(ig_finalize(one, 1, 0, &back));
    CHECK(back == &first);
    OK(ig_guard_close(&guard));
    OK(ig_finalize(two, 1, 0, &back));
    OK(ig_registry_free(one));
    OK(ig_registry_free(two));
}

static void misuse(void) {
    static const int64_t nobodys[] = {0, 1, 12345, -1, INT64_MIN, INT64_MAX};
    ig_registry *registry = NULL;
    int64_t id = -1;
    uint64_t out = 0;
    void *back = NULL;
    ig_guard guard = IG_GUARD_INIT, another = IG_GUARD_INIT;

    OK(ig_registry_new(4, &registry));
    for (size_t i = 0; i < sizeof nobodys / sizeof *nobodys; i++) {
        CHECK(ig_lookup(registry, nobodys[i], &guard) == IG_NOT_FOUND);
        CHECK(ig_close(registry, nobodys[i]) == IG_NOT_FOUND);
        CHECK(ig_drain(registry, nobodys[i], -1, &back) == IG_NOT_FOUND);
        CHECK(ig_finalize(registry, nobodys[i], -1, &back) == IG_NOT_FOUND);
        CHECK(ig_outstanding(registry, nobodys[i], &out) == IG_NOT_FOUND);
    }

    OK(ig_register(registry, &first, &id));
    CHECK(ig_register(registry, &first, NULL) == IG_INVALID);
    CHECK(ig_register(registry, NULL, &id) == IG_INVALID && id == -1);
    OK(ig_register(registry, &second, &id));
    CHECK(ig_lookup(registry, id, NULL) == IG_INVALID);
    CHECK(ig_drain(registry, id, 0, NULL) == IG_INVALID);
    CHECK(ig_finalize(registry, id, 0, NULL) == IG_INVALID);
    CHECK(ig_outstanding(registry, id, NULL) == IG_INVALID);
    CHECK(ig_lookup(registry, id, &guard) == IG_OK); /* still live: nothing was closed above */

    CHECK(ig_guard_dup(&guard, NULL) == IG_INVALID);
    CHECK(ig_guard_dup(&guard, &guard) == IG_INVALID);
    CHECK(ig_guard_id(&guard) == id);
    OK(ig_guard_close(&guard));
    CHECK(ig_guard_close(&guard) == IG_INVALID); /* closed */
    CHECK(ig_guard_close(&another) == IG_INVALID); /* zeroed */
    CHECK(ig_guard_close(NULL) == IG_INVALID);
    memset(&another, 0xff, sizeof another);
    CHECK(ig_guard_dup(&guard, &another) == IG_INVALID);
    CHECK(ig_guard_close(&another) == IG_INVALID); /* a failed dup zeroes */
    CHECK(ig_guard_dup(NULL, &another) == IG_INVALID);
    memset(&another, 0xff, sizeof another);
    CHECK(ig_lookup(NULL, id, &another) == IG_INVALID);
    CHECK(ig_guard_close(&another) == IG_INVALID); /* a failed lookup zeroes */
    CHECK(ig_guard_interpreter(&guard) == NULL);
    CHECK(ig_guard_interpreter(NULL) == NULL);
    CHECK(ig_guard_id(&guard) == -1);
    CHECK(ig_guard_id(NULL) == -1);
    CHECK(ig_guard_is_closing(&guard) == 0);
    CHECK(ig_guard_is_closing(NULL) == 0);

    int64_t none = 77;
    CHECK(ig_register(NULL, &first, &none) == IG_INVALID && none == -1);
    CHECK(ig_register_with_id(NULL, 9, &first) == IG_INVALID);
    CHECK(ig_register_with_id(registry, 9, NULL) == IG_INVALID);
    CHECK(ig_close(NULL, id) == IG_INVALID);
    CHECK(ig_drain(NULL, id, 0, &back) == IG_INVALID);
    CHECK(ig_finalize(NULL, id, 0, &back) == IG_INVALID);
    CHECK(ig_outstanding(NULL, id, &out) == IG_INVALID);
    CHECK(ig_registry_free(NULL) == IG_INVALID);

    CHECK(ig_registry_free(registry) == IG_INVALID); /* two interpreters are left */
    OK(ig_finalize(registry, 0, 0, &back));
    OK(ig_finalize(registry, id, 0, &back));
    OK(ig_registry_free(registry));
}

static void texts(void) {
    CHECK(strcmp(ig_status_message(IG_OK), "done") == 0);
    CHECK(strlen(ig_status_message(IG_INTERNAL)) > 10);
    CHECK(strlen(ig_status_message((ig_status)9999)) > 10);
    char mine[32];
    snprintf(mine, sizeof mine, "%d.%d.%d", IG_VERSION_MAJOR, IG_VERSION_MINOR, IG_VERSION_PATCH);
    CHECK(strcmp(ig_version(), mine) == 0);
    CHECK(IG_OK == 0 && IG_NOT_FOUND == 1 && IG_FINALIZING == 2 && IG_FULL == 3 && IG_DUPLICATE_ID == 4);
    CHECK(IG_RETIRED_ID == 5 && IG_INVALID == 6 && IG_TIMEOUT == 7 && IG_WOULD_DEADLOCK == 8);
    CHECK(IG_ALREADY_CLOSING == 9 && IG_UNAVAILABLE == 10 && IG_INTERNAL == 11);
}

int main(void) {
    watchdog(300);
    life_of_an_interpreter();
    a_timed_out_finalize_is_drained_later();
    registration();
    two_registries_are_two_worlds();
    misuse();
    texts();
    puts("phases: ok");
    return 0;
}
