/* Signals delivered to threads that take and give up guards, while interpreters come and go.
 *
 *     storm SIGNALS [WORKERS] [self]
 *
 * One interpreter lives throughout, one is closing throughout, one is gone, one never was, and one is registered and
 * finalized all the while. Each SIGUSR1 handler, and each SIGUSR2 handler nested in it, looks all of them up and checks what
 * it gets. Canaries are never freed, so that a broken promise reads a dead canary.
 *
 * The signals come from a timer per thread, or with `self` from the threads themselves: see fire.h. */

#include "fire.h"

#include <interp_guard.h>

enum { ALIVE = 0x600d, DEAD = 0xdead, POOL = 4096, MOST_WORKERS = 16 };

typedef struct interp {
    int64_t id;
    uint64_t canary;
} interp;

static ig_registry *registry;
static interp permanent, closing, gone, pool[POOL];
static int64_t current = -1; /* the one that comes and goes */
static const int64_t never = (int64_t)1 << 40;

static uint64_t wanted, delivered, nested, lookups, hits, violations;

static void expect(int so) {
    if (!so) {
        ADD(violations);
    }
}

static int alive(const ig_guard *guard, int64_t id) {
    const interp *it = (const interp *)ig_guard_interpreter(guard);
    return ig_guard_id(guard) == id && it != NULL && LOAD(it->id) == id && LOAD(it->canary) == ALIVE;
}

static void look(void) {
    ig_guard guard, another, none;
    const int64_t id = LOAD(current);

    errno = 4711;
    expect(ig_lookup(registry, permanent.id, &guard) == IG_OK && alive(&guard, permanent.id));
    expect(ig_lookup(registry, closing.id, &none) == IG_FINALIZING);
    expect(ig_lookup(registry, gone.id, &none) == IG_NOT_FOUND);
    expect(ig_lookup(registry, never, &none) == IG_NOT_FOUND);
    expect(ig_guard_close(&none) == IG_INVALID);
    expect(ig_guard_close(&guard) == IG_OK);
    expect(ig_guard_close(&guard) == IG_INVALID);
    if (id >= 0 && ig_lookup(registry, id, &guard) == IG_OK) {
        expect(alive(&guard, id));
        expect(ig_guard_dup(&guard, &another) == IG_OK);
        expect(ig_guard_close(&guard) == IG_OK);
        expect(alive(&another, id));
        expect(ig_guard_close(&another) == IG_OK);
        ADD(hits);
    }
    expect(errno == 4711);
    __atomic_fetch_add(&lookups, 5, __ATOMIC_RELAXED);
}

static void on_usr2(int number) {
    const int before = errno;
    (void)number;
    look();
    ADD(nested);
    errno = before;
}

static void on_usr1(int number) {
    const int before = errno;
    (void)number;
    look();
    if (ADD(delivered) % 8 == 0) {
        raise(SIGUSR2);
    }
    look();
    came();
    errno = before;
}

static void take_and_give_up(void) {
    ig_guard guard, another;
    if (ig_lookup(registry, permanent.id, &guard) == IG_OK) {
        expect(ig_guard_dup(&guard, &another) == IG_OK);
        expect(alive(&guard, permanent.id) && alive(&another, permanent.id));
        expect(ig_guard_close(&guard) == IG_OK);
        expect(ig_guard_close(&another) == IG_OK);
    } else {
        expect(0);
    }
    const int64_t id = LOAD(current);
    if (id >= 0 && ig_lookup(registry, id, &guard) == IG_OK) {
        expect(alive(&guard, id));
        expect(ig_guard_close(&guard) == IG_OK);
    }
}

static void *worker(void *argument) {
    ticker *mine = (ticker *)argument;
    set_up(mine, mine->random);
    while (LOAD(delivered) < wanted) {
        const uint64_t before = LOAD(mine->came);
        arm(mine);
        do {
            take_and_give_up();
        } while (LOAD(mine->came) == before);
    }
    put_out(mine);
    return NULL;
}

static void enter(interp *it) {
    STORE(it->canary, ALIVE);
    OK(ig_register(registry, it, &it->id));
}

int main(int argc, char **argv) {
    watchdog(1200);
    wanted = (uint64_t)argument(argc, argv, 1, 10000);
    const int workers = (int)argument(argc, argv, 2, 3);
    raise_it_here = argc > 3 && strcmp(argv[3], "self") == 0;
    CHECK(workers >= 0 && workers <= MOST_WORKERS);

    ig_guard keeps_closing = IG_GUARD_INIT;
    void *back = NULL;
    uint64_t finalized = 0;
    OK(ig_registry_new(16, &registry));
    enter(&permanent);
    enter(&closing);
    enter(&gone);
    OK(ig_lookup(registry, closing.id, &keeps_closing));
    OK(ig_close(registry, closing.id));
    OK(ig_finalize(registry, gone.id, -1, &back));
    handle(SIGUSR1, on_usr1, SA_RESTART);
    handle(SIGUSR2, on_usr2, SA_RESTART);

    static ticker tickers[MOST_WORKERS + 1];
    pthread_t threads[MOST_WORKERS];
    for (int i = 0; i < workers; i++) {
        tickers[i].random = 77u + (unsigned)i;
        CHECK(pthread_create(&threads[i], NULL, worker, &tickers[i]) == 0);
    }
    ticker *mine = &tickers[workers];
    set_up(mine, 4711);

    /* That signals come here too, and meet the one that comes and goes, is waited for. */
    while (LOAD(delivered) < wanted || LOAD(mine->came) == 0 || LOAD(hits) == 0) {
        interp *it = &pool[finalized % POOL];
        const int64_t id = 1000 + (int64_t)finalized;
        ig_guard late;
        STORE(it->id, id);
        STORE(it->canary, ALIVE);
        arm(mine); /* comes somewhere in what follows, or is put off by the next round */
        OK(ig_register_with_id(registry, id, it));
        STORE(current, id);
        look();
        if (finalized % 2 == 0) {
            OK(ig_close(registry, id));
            expect(ig_lookup(registry, id, &late) == IG_FINALIZING);
            OK(ig_drain(registry, id, -1, &back));
        } else {
            OK(ig_finalize(registry, id, -1, &back));
        }
        STORE(it->canary, DEAD);
        expect(back == it);
        expect(ig_lookup(registry, id, &late) == IG_NOT_FOUND);
        finalized++;
    }
    put_out(mine);
    for (int i = 0; i < workers; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }

    OK(ig_guard_close(&keeps_closing));
    OK(ig_drain(registry, closing.id, 0, &back));
    OK(ig_finalize(registry, permanent.id, 0, &back)); /* 0: nothing may be out any more */
    OK(ig_registry_free(registry));
    printf("storm: %llu signals delivered, %llu nested, %llu lookups in all, %llu hits on the one that comes and goes, "
           "%llu finalized by a thread that took %llu of the signals, %llu violations\n",
           (unsigned long long)delivered, (unsigned long long)nested, (unsigned long long)lookups,
           (unsigned long long)hits, (unsigned long long)finalized,
           (unsigned long long)mine->came, (unsigned long long)violations);
    CHECK(violations == 0);
    CHECK(delivered >= wanted);
    CHECK(nested > 0);
    return 0;
}
