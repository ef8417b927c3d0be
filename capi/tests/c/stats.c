/* What a registry's finalizers have done, counted for operators. */

#include "check.h"

#include <interp_guard.h>

static void nothing(int64_t id, ig_status status, void *interp, void *data) {
    (void)id, (void)status, (void)interp, (void)data;
}

int main(void) {
    watchdog(300);
    ig_registry *registry = NULL;
    ig_statistics now;
    ig_guard guard = IG_GUARD_INIT;
    int interp;
    void *back = NULL;

    OK(ig_registry_new(4, &registry));
    memset(&now, 0xff, sizeof now);
    OK(ig_stats(registry, &now, sizeof now));
    CHECK(now.closings == 0 && now.drains == 0 && now.timeouts == 0);
    CHECK(now.drain_ns == 0 && now.longest_drain_ns == 0);

    for (int64_t id = 0; id < 4; id++) {
        OK(ig_register_with_id(registry, id, &interp));
    }
    OK(ig_lookup(registry, 0, &guard));
    CHECK(ig_finalize(registry, 0, 2000000, &back) == IG_TIMEOUT);
    CHECK(ig_drain(registry, 0, 0, &back) == IG_TIMEOUT);
    OK(ig_stats(registry, &now, sizeof now));
    CHECK(now.closings == 1 && now.drains == 0 && now.timeouts == 2);
    OK(ig_guard_close(&guard));
    OK(ig_drain(registry, 0, 0, &back));
    OK(ig_finalize(registry, 1, 0, &back));
    OK(ig_finalize_all(registry, 0, nothing, NULL));
    OK(ig_stats(registry, &now, sizeof now));
    CHECK(now.closings == 4 && now.drains == 4 && now.timeouts == 2);
    CHECK(now.longest_drain_ns > 0 && now.longest_drain_ns <= now.drain_ns);

    /* A program of a later version, which knows of more: what is not known here is 0. */
    struct {
        ig_statistics known;
        uint64_t later[2], beyond;
    } larger;
    memset(&larger, 0xff, sizeof larger);
    OK(ig_stats(registry, &larger.known, sizeof larger.known + sizeof larger.later));
    CHECK(memcmp(&larger.known, &now, sizeof now) == 0);
    CHECK(larger.later[0] == 0 && larger.later[1] == 0 && larger.beyond == UINT64_MAX);

    CHECK(ig_stats(registry, &now, sizeof now - 1) == IG_INVALID);
    CHECK(ig_stats(registry, NULL, sizeof now) == IG_INVALID);
    CHECK(ig_stats(NULL, &now, sizeof now) == IG_INVALID);
    OK(ig_registry_free(registry));
    puts("stats: ok");
    return 0;
}
