/* The ledger, as C sees it: who holds a guard, and a second close through a copy told at once. */

#include "check.h"

#include <interp_guard.h>

/* Exported by nobody: its name is in the file alone. */
__attribute__((noinline)) static void take(ig_registry *registry, ig_guard *guard) {
    OK(ig_lookup(registry, 7, guard));
    __asm__ volatile("" ::: "memory"); /* no tail call: the return address is in here */
}

int main(void) {
    watchdog(300);
    ig_registry *registry = NULL;
    int interp;
    void *back = NULL;
    uint64_t out = 0;
    size_t length = 0, whole = 0;
    char text[4096], small[8];
    ig_guard guard = IG_GUARD_INIT, another = IG_GUARD_INIT;

    OK(ig_registry_new_with(4, IG_LEDGER, &registry));
    CHECK(ig_report(registry, 7, text, sizeof text, &length) == IG_NOT_FOUND);
    OK(ig_register_with_id(registry, 7, &interp));
    take(registry, &guard);
    OK(ig_guard_dup(&guard, &another));

    CHECK(ig_finalize(registry, 7, 0, &back) == IG_TIMEOUT);
    OK(ig_report(registry, 7, text, sizeof text, &length));
    CHECK(length == strlen(text));
    puts(text);
    CHECK(strstr(text, "ledger") != NULL); /* the thread's or the program's name: both are this program's */
#ifdef __cplusplus
    CHECK(strstr(text, "  _ZL4takeP") != NULL); /* the function that called ig_lookup, as the compiler calls it */
#else
    CHECK(strstr(text, "  take+0x") != NULL);
#endif
    CHECK(strstr(text, "  main+0x") != NULL); /* and the one that called ig_guard_dup */

    OK(ig_report(registry, 7, NULL, 0, &whole));
    CHECK(whole > sizeof small);
    memset(small, 'x', sizeof small);
    OK(ig_report(registry, 7, small, sizeof small, &whole));
    CHECK(small[sizeof small - 1] == '\0' && strncmp(small, text, sizeof small - 1) == 0);
    CHECK(ig_report(registry, 7, NULL, 1, &whole) == IG_INVALID);
    CHECK(ig_report(registry, 7, text, sizeof text, NULL) == IG_INVALID);
    CHECK(ig_report(NULL, 7, text, sizeof text, &length) == IG_INVALID);

    ig_guard copy = guard;
    OK(ig_guard_close(&guard));
    CHECK(ig_guard_close(&copy) == IG_INVALID); /* told at once */
    CHECK(ig_guard_id(&copy) == -1);
    OK(ig_outstanding(registry, 7, &out));
    CHECK(out == 1); /* and nothing was counted */
    copy = another;
    OK(ig_guard_close(&another));
    CHECK(ig_guard_close(&copy) == IG_INVALID);
    OK(ig_drain(registry, 7, 0, &back));
    CHECK(back == &interp);
    OK(ig_registry_free(registry));
    puts("ledger: ok");
    return 0;
}
