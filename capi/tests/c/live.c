/* The walk over the live interpreters, in normal context and in a signal handler. */

#include "check.h"

#include <interp_guard.h>
#include <signal.h>

enum { MOST = 100 };

static ig_registry *registry;

/* What the walk has met: how often each ID, and how many could be guarded. Plain memory: one thread. */
typedef struct {
    int met[MOST];
    int guarded;
} walked;

static void one(int64_t id, void *data) {
    walked *so_far = (walked *)data;
    ig_guard guard;
    CHECK(id >= 0 && id < MOST);
    so_far->met[id]++;
    if (ig_lookup(registry, id, &guard) == IG_OK) {
        so_far->guarded++;
        ig_guard_close(&guard);
    }
}

static walked in_the_handler;
static volatile sig_atomic_t answered;

static void on_signal(int number) {
    (void)number;
    memset(&in_the_handler, 0, sizeof in_the_handler);
    answered = ig_for_each_live(registry, one, &in_the_handler) == IG_OK;
}

/* Meets exactly the IDs from `from` on, each once. */
static void meets(const walked *so_far, int from) {
    for (int id = 0; id < MOST; id++) {
        CHECK(so_far->met[id] == (id >= from));
    }
    CHECK(so_far->guarded == MOST - from);
}

static void meets_from(int from) {
    walked here;
    memset(&here, 0, sizeof here);
    OK(ig_for_each_live(registry, one, &here));
    meets(&here, from);
    answered = 0;
    CHECK(raise(SIGUSR1) == 0);
    CHECK(answered);
    meets(&in_the_handler, from);
}

int main(void) {
    watchdog(300);
    handle(SIGUSR1, on_signal, 0);

    int interp;
    void *back = NULL;
    int64_t id = -1;
    OK(ig_registry_new(MOST, &registry));
    meets_from(MOST); /* nobody */
    CHECK(ig_for_each_live(NULL, one, NULL) == IG_INVALID);
    CHECK(ig_for_each_live(registry, NULL, NULL) == IG_INVALID);
    for (int expected = 0; expected < MOST; expected++) {
        OK(ig_register(registry, &interp, &id));
        CHECK(id == expected);
    }
    meets_from(0);
    for (id = 0; id < MOST; id++) {
        OK(ig_close(registry, id)); /* one that closes is not live */
        meets_from((int)id + 1);
        OK(ig_drain(registry, id, 0, &back));
    }
    OK(ig_registry_free(registry));
    puts("live: ok");
    return 0;
}
