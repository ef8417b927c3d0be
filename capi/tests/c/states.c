/* Ensure and release over a small runtime: a mutex per interpreter, a thread state per ensure that needs one. And on_close. */

#include "check.h"

#include <interp_guard.h>
#include <pthread.h>
#include <sched.h>

typedef struct interp {
    int64_t id;
    pthread_mutex_t lock;
    int states; /* changed with the lock held, or before threads exist */
} interp;

typedef struct state {
    interp *of;
} state;

static __thread state *current;
static int created, destroyed;

static void *rt_attached(void) { return current; }
static int64_t rt_interpreter_of(void *it) { return ((state *)it)->of->id; }

static void *rt_create(void *it) {
    state *made = (state *)malloc(sizeof *made);
    CHECK(made != NULL);
    made->of = (interp *)it;
    __atomic_fetch_add(&created, 1, __ATOMIC_SEQ_CST);
    return made;
}

static void rt_attach(void *it) {
    CHECK(current == NULL);
    CHECK(pthread_mutex_lock(&((state *)it)->of->lock) == 0);
    current = (state *)it;
}

static void rt_detach(void *it) {
    CHECK(current == it);
    current = NULL;
    CHECK(pthread_mutex_unlock(&((state *)it)->of->lock) == 0);
}

static void rt_destroy(void *it) {
    rt_detach(it);
    free(it);
    __atomic_fetch_add(&destroyed, 1, __ATOMIC_SEQ_CST);
}

static ig_registry *registry;
static interp a, b;

static void enter(interp *it, int64_t id) {
    it->id = id;
    it->states = 0;
    CHECK(pthread_mutex_init(&it->lock, NULL) == 0);
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
    CHECK(ig_ensure_id(NULL, a.id, &one) == IG_INVALID);
    CHECK(ig_ensure_id(registry, 999, &one) == IG_NOT_FOUND && one == 0);
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
        __atomic_store_n(&stop, 1, __ATOMIC_SEQ_CST);
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
    CHECK(ig_runtime_set(NULL) == IG_INVALID);
    CHECK(ig_runtime_set(&runtime) == IG_INVALID); /* incomplete */
    runtime.attached = rt_attached;
    runtime.interpreter_of = rt_interpreter_of;
    runtime.create = rt_create;
    runtime.attach = rt_attach;
    runtime.detach = rt_detach;
    runtime.destroy = rt_destroy;
    OK(ig_runtime_set(&runtime));
    CHECK(ig_runtime_set(&runtime) == IG_INVALID);

    nesting();
    OK(ig_on_close(registry, 1, on_close, &told));
    CHECK(ig_on_close(registry, 1, NULL, NULL) == IG_INVALID);
    CHECK(ig_on_close(registry, 77, on_close, &told) == IG_NOT_FOUND);
    for (int i = 0; i < 3; i++) {
        CHECK(pthread_create(&threads[i], NULL, worker, NULL) == 0);
    }
    while (!__atomic_load_n(&stop, __ATOMIC_SEQ_CST)) {
        sched_yield();
    }
    OK(ig_finalize(registry, 1, -1, &back));
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
