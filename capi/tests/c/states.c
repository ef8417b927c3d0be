/* Ensure and release over a small runtime, allow-threads sections, and on_close. */

#include "runtime.h"

#include <sched.h>

static ig_registry *registry;
static interp a, b;

static void enter(interp *it, int64_t id) {
    rt_init(it, id);
    OK(ig_register_with_id(registry, id, it));
}

static void nesting(void) {
    uint64_t one, two, three, four;
    int daemon = -1;
    ig_guard guard = IG_GUARD_INIT;
    void *back = NULL;

    OK(ig_lookup(registry, a.id, &guard));
    CHECK(ig_current_id() == -1);
    OK(ig_ensure(&guard, &one));
    CHECK(ig_current_id() == a.id && current->of == &a);
    OK(ig_guard_close(&guard)); /* the level has its own */
    OK(ig_ensure_id(registry, b.id, &two));
    CHECK(ig_current_id() == b.id && current->of == &b);
    OK(ig_ensure_id(registry, a.id, &three));
    CHECK(ig_current_id() == a.id && current->of == &a);
    OK(ig_ensure_id(registry, a.id, &four));
    CHECK(created == 2);

    CHECK(ig_finalize(registry, a.id, -1, &back) == IG_WOULD_DEADLOCK); /* only this thread could end that */
    CHECK(ig_release(one) == IG_INVALID); /* out of order */
    CHECK(ig_release(0) == IG_INVALID);
    CHECK(ig_release(12345678) == IG_INVALID);
    OK(ig_release(four));
    CHECK(ig_release(four) == IG_INVALID);
    CHECK(ig_current_id() == a.id);
    OK(ig_release(three));
    CHECK(ig_current_id() == b.id && current->of == &b);
    OK(ig_is_daemon(registry, &daemon));
    CHECK(daemon == 0);
    OK(ig_set_daemon(registry, 1));
    OK(ig_is_daemon(registry, &daemon));
    CHECK(daemon == 1);
    OK(ig_set_daemon(registry, 0));
    OK(ig_release(two));
    CHECK(ig_current_id() == a.id && current->of == &a);
    OK(ig_release(one));
    CHECK(ig_current_id() == -1 && current == NULL);
    CHECK(created == 2 && destroyed == 2);

    CHECK(ig_set_daemon(registry, 1) == IG_INVALID);
    CHECK(ig_is_daemon(registry, &daemon) == IG_INVALID);
    CHECK(ig_ensure(&guard, &one) == IG_INVALID); /* closed above */
    CHECK(ig_ensure(NULL, &one) == IG_INVALID);
    CHECK(ig_ensure_id(registry, a.id, NULL) == IG_INVALID);
    one = 77;
    CHECK(ig_ensure_id(NULL, a.id, &one) == IG_INVALID && one == 0);
    one = 77;
    CHECK(ig_ensure_id(registry, -1, &one) == IG_NOT_FOUND && one == 0);
    CHECK(ig_ensure_id(registry, 999, &one) == IG_NOT_FOUND && one == 0);
}

static void *takes_the_lock(void *unused) {
    uint64_t token;
    (void)unused;
    OK(ig_ensure_id(registry, a.id, &token));
    OK(ig_release(token));
    return NULL;
}

/* Sections: others get in; ensures nest in them; they nest; a guard makes their end sure, a daemon's may be refused. */
static void allow_threads(void) {
    uint64_t outer, inner, section, nested, foreign;
    pthread_t other;
    void *back = NULL;

    CHECK(ig_allow_threads_begin(NULL) == IG_INVALID);
    OK(ig_allow_threads_begin(&section)); /* nothing attached: nothing to do */
    CHECK(section == 0);
    OK(ig_allow_threads_end(section));
    CHECK(ig_allow_threads_end(12345678) == IG_INVALID);

    OK(ig_ensure_id(registry, a.id, &outer));
    CHECK(ig_allow_threads_end(outer) == IG_INVALID); /* attached */
    OK(ig_allow_threads_begin(&section));
    CHECK(section != 0 && current == NULL && ig_current_id() == -1);
    CHECK(pthread_create(&other, NULL, takes_the_lock, NULL) == 0);
    CHECK(pthread_join(other, NULL) == 0); /* would hang if the lock were held */
    OK(ig_allow_threads_begin(&nested));
    CHECK(nested == 0);
    OK(ig_allow_threads_end(nested));
    CHECK(current == NULL);
    CHECK(ig_release(outer) == IG_INVALID); /* inside its own section */
    OK(ig_ensure_id(registry, a.id, &inner));
    CHECK(current != NULL && current->of == &a);
    CHECK(ig_allow_threads_end(section) == IG_INVALID); /* `inner` comes first */
    OK(ig_release(inner));
    CHECK(current == NULL);
    OK(ig_close(registry, a.id)); /* closing: the guard still makes it sure */
    OK(ig_allow_threads_end(section));
    CHECK(current != NULL && current->of == &a && ig_current_id() == a.id);
    CHECK(ig_allow_threads_end(section) == IG_INVALID); /* ended already */

    /* What the runtime's own calls have attached is not the level's to detach. */
    state *mine = current, *strange = (state *)rt_create(&b);
    rt_detach(mine);
    rt_attach(strange);
    CHECK(ig_allow_threads_begin(&foreign) == IG_INVALID && foreign == 0);
    CHECK(current == strange);
    rt_destroy(strange);
    rt_attach(mine);

    OK(ig_release(outer));
    OK(ig_drain(registry, a.id, 0, &back));
    CHECK(back == &a);
    rt_done(&a);

    /* A daemon: finalized under it, it is not attached again. */
    enter(&a, 11);
    OK(ig_ensure_id(registry, a.id, &outer));
    OK(ig_set_daemon(registry, 1));
    mine = current;
    OK(ig_allow_threads_begin(&section));
    OK(ig_finalize(registry, a.id, 0, &back));
    CHECK(ig_allow_threads_end(section) == IG_NOT_FOUND);
    CHECK(current == NULL && ig_current_id() == -1);
    CHECK(ig_allow_threads_end(section) == IG_NOT_FOUND);
    OK(ig_release(outer));
    rt_abandon(mine);
    CHECK(created == destroyed);
    rt_done(&a);
    enter(&a, 12);
}

static int attaching; /* how often a thread has come to the runtime's attach */

static void tells_and_attaches(void *it) {
    ADD(attaching);
    rt_attach(it);
}

static int detached, come_back;

static void *daemon_comes_back(void *unused) {
    uint64_t token, section;
    (void)unused;
    OK(ig_ensure_id(registry, a.id, &token));
    OK(ig_set_daemon(registry, 1));
    OK(ig_allow_threads_begin(&section));
    STORE(detached, 1);
    while (!LOAD(come_back)) {
        sched_yield();
    }
    OK(ig_allow_threads_end(section));
    OK(ig_release(token));
    return NULL;
}

/* This thread is attached, by the runtime's own calls, and so keeps a daemon from attaching: it would wait for itself. */
static void finalized_attached(void) {
    pthread_t daemon;
    ig_guard guard;
    char text[512];
    size_t length;
    void *back = NULL;

    CHECK(pthread_create(&daemon, NULL, daemon_comes_back, NULL) == 0);
    while (!LOAD(detached)) {
        sched_yield();
    }
    state *mine = (state *)rt_create(&a);
    rt_attach(mine);
    const int before = LOAD(attaching);
    STORE(come_back, 1);
    while (LOAD(attaching) == before) {
        sched_yield();
    }
    CHECK(ig_finalize(registry, a.id, -1, &back) == IG_WOULD_DEADLOCK);
    OK(ig_report(registry, a.id, text, sizeof text, &length));
    CHECK(strstr(text, "0 guards are out") != NULL && strstr(text, "1 thread is attaching as a daemon") != NULL);
    OK(ig_lookup(registry, a.id, &guard)); /* live, as it was */
    OK(ig_guard_close(&guard));
    OK(ig_close(registry, a.id));
    CHECK(ig_drain(registry, a.id, -1, &back) == IG_WOULD_DEADLOCK);
    rt_destroy(mine);
    CHECK(pthread_join(daemon, NULL) == 0);
    OK(ig_drain(registry, a.id, -1, &back));
    CHECK(back == &a);
    rt_done(&a);
    enter(&a, 13);
}

static int stop, told;

static void on_close(int64_t id, void *data) {
    ig_guard guard;
    CHECK(id == a.id && data == &told);
    CHECK(ig_lookup(registry, id, &guard) == IG_FINALIZING);
    told++;
}

/* Until the interpreter says no; whoever is inside finishes first. */
static void *worker(void *unused) {
    (void)unused;
    for (;;) {
        uint64_t token;
        const ig_status status = ig_ensure_id(registry, a.id, &token);
        if (status != IG_OK) {
            CHECK(status == IG_FINALIZING || status == IG_NOT_FOUND);
            return NULL;
        }
        a.states++; /* the lock is held */
        CHECK(current != NULL && current->of == &a);
        OK(ig_release(token));
        STORE(stop, 1);
    }
}

int main(void) {
    watchdog(300);
    pthread_t threads[3];
    uint64_t token;
    void *back = NULL;
    ig_runtime runtime;
    memset(&runtime, 0, sizeof runtime);

    OK(ig_registry_new(4, &registry));
    enter(&a, 1);
    enter(&b, 2);
    CHECK(ig_ensure_id(registry, 1, &token) == IG_INVALID); /* no runtime yet */
    CHECK(ig_allow_threads_begin(&token) == IG_INVALID);
    CHECK(ig_allow_threads_end(4711) == IG_INVALID);
    CHECK(ig_runtime_set(NULL) == IG_INVALID);
    CHECK(ig_runtime_set(&runtime) == IG_INVALID); /* incomplete */
    runtime = rt_table();
    runtime.attach = tells_and_attaches;
    OK(ig_runtime_set(&runtime));
    CHECK(ig_runtime_set(&runtime) == IG_INVALID);

    nesting();
    allow_threads();
    finalized_attached();
    OK(ig_on_close(registry, a.id, on_close, &told));
    CHECK(ig_on_close(registry, a.id, NULL, NULL) == IG_INVALID);
    CHECK(ig_on_close(registry, 77, on_close, &told) == IG_NOT_FOUND);
    for (int i = 0; i < 3; i++) {
        CHECK(pthread_create(&threads[i], NULL, worker, NULL) == 0);
    }
    while (!LOAD(stop)) {
        sched_yield();
    }
    OK(ig_finalize(registry, a.id, -1, &back));
    CHECK(back == &a && told == 1);
    for (int i = 0; i < 3; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    OK(ig_close(registry, 2));
    CHECK(ig_on_close(registry, 2, on_close, &told) == IG_FINALIZING);
    OK(ig_drain(registry, 2, 0, &back));
    OK(ig_registry_free(registry));
    CHECK(created == destroyed);
    puts("states: ok");
    return 0;
}
