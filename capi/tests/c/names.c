/* Names of interpreters: in the report, copied, not unique, and gone with the interpreter. */

#include "check.h"

#include <interp_guard.h>

static ig_registry *registry;

/* Is this how interpreter `id` is reported? */
static void reported_as(int64_t id, const char *expected) {
    char text[1024];
    size_t length = 0;
    OK(ig_report(registry, id, text, sizeof text, &length));
    if (strncmp(text, expected, strlen(expected)) != 0) {
        dprintf(2, "not as expected, %s:\n%s\n", expected, text);
        _exit(1);
    }
}

int main(void) {
    watchdog(300);
    int interp;
    void *back = NULL;
    int64_t mail = 0, news = 0, nameless = 0, refused = 0;
    char name[] = "mail";

    OK(ig_registry_new(4, &registry));
    OK(ig_register_named(registry, name, &interp, &mail));
    memset(name, 'x', sizeof name - 1); /* it was copied */
    reported_as(mail, "interpreter 0 \"mail\": 0 guards are out\n");
    OK(ig_register_named(registry, "mail", &interp, &news)); /* not unique */
    reported_as(news, "interpreter 1 \"mail\": 0 guards are out\n");
    OK(ig_register_named(registry, NULL, &interp, &nameless));
    reported_as(nameless, "interpreter 2: 0 guards are out\n");

    /* One with an ID of its own is named afterwards. */
    OK(ig_register_with_id(registry, 7, &interp));
    OK(ig_set_name(registry, 7, "seven"));
    reported_as(7, "interpreter 7 \"seven\": 0 guards are out\n");
    OK(ig_set_name(registry, 7, "\xff\"\n"));
    reported_as(7, "interpreter 7 \"\xef\xbf\xbd\\\"\\n\": 0 guards are out\n");
    OK(ig_set_name(registry, 7, ""));
    reported_as(7, "interpreter 7: 0 guards are out\n");
    OK(ig_set_name(registry, 7, "seven"));
    OK(ig_set_name(registry, 7, NULL));
    reported_as(7, "interpreter 7: 0 guards are out\n");

    CHECK(ig_register_named(registry, "one too many", &interp, &refused) == IG_FULL);
    CHECK(refused == -1);
    CHECK(ig_register_named(registry, "nothing", NULL, &refused) == IG_INVALID);
    CHECK(ig_register_named(registry, "nowhere", &interp, NULL) == IG_INVALID);
    CHECK(ig_register_named(NULL, "nowhere", &interp, &refused) == IG_INVALID);
    CHECK(ig_set_name(NULL, 7, "seven") == IG_INVALID);
    CHECK(ig_set_name(registry, 8, "eight") == IG_NOT_FOUND);
    CHECK(ig_set_name(registry, -1, "nobody") == IG_NOT_FOUND);

    /* Closing it has its name still, and may get another one. */
    OK(ig_close(registry, mail));
    reported_as(mail, "interpreter 0 \"mail\": 0 guards are out\n");
    OK(ig_set_name(registry, mail, "old mail"));
    reported_as(mail, "interpreter 0 \"old mail\": 0 guards are out\n");
    OK(ig_drain(registry, mail, 0, &back));
    CHECK(ig_set_name(registry, mail, "mail") == IG_NOT_FOUND);
    OK(ig_finalize(registry, news, 0, &back));
    OK(ig_finalize(registry, nameless, 0, &back));
    OK(ig_finalize(registry, 7, 0, &back));
    OK(ig_registry_free(registry));
    puts("names: ok");
    return 0;
}
