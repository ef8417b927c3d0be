/* The main interpreter, asked for in a signal handler too, and named anew. */

#include "check.h"

#include <interp_guard.h>
#include <signal.h>

static ig_registry *registry;
static volatile int64_t seen;

static void on_signal(int number) {
    (void)number;
    seen = ig_main(registry);
}

static int64_t in_a_handler(void) {
    seen = -2;
    CHECK(raise(SIGUSR1) == 0);
    return seen;
}

int main(void) {
    watchdog(300);
    handle(SIGUSR1, on_signal, 0);

    int interp;
    void *back = NULL;
    int64_t first = -1, second = -1, third = -1;
    CHECK(ig_main(NULL) == -1);
    OK(ig_registry_new(4, &registry));
    CHECK(ig_main(registry) == -1 && in_a_handler() == -1);
    CHECK(ig_set_main(registry, 0) == IG_NOT_FOUND);
    CHECK(ig_set_main(NULL, 0) == IG_INVALID);

    OK(ig_register(registry, &interp, &first));
    OK(ig_register(registry, &interp, &second));
    CHECK(ig_main(registry) == first && in_a_handler() == first);
    OK(ig_set_main(registry, second));
    CHECK(ig_main(registry) == second && in_a_handler() == second);

    OK(ig_close(registry, first));
    CHECK(ig_set_main(registry, first) == IG_FINALIZING);
    CHECK(ig_set_main(registry, 4711) == IG_NOT_FOUND);
    CHECK(ig_set_main(registry, -1) == IG_NOT_FOUND);
    CHECK(ig_main(registry) == second); /* as it was */
    OK(ig_drain(registry, first, 0, &back));
    OK(ig_finalize(registry, second, 0, &back));
    CHECK(ig_main(registry) == -1 && in_a_handler() == -1);

    OK(ig_register(registry, &interp, &third)); /* the first in an empty registry again */
    CHECK(ig_main(registry) == third);
    OK(ig_finalize(registry, third, 0, &back));
    OK(ig_registry_free(registry));
    puts("main_interpreter: ok");
    return 0;
}
