/* Signals delivered to threads that take and give up guards, while interpreters come and go.
 *
 *     storm SIGNALS [WORKERS] [self]
 *
 * One interpreter lives throughout, one is closing throughout, one is gone, one never was, and one is registered and
 * finalized all the while. Each SIGUSR1 handler, and each SIGUSR2 handler nested in it, looks all of them up and checks what
 * it gets. Canaries are never freed, so that a broken promise reads a dead canary.
 *
 * Every thread has a timer of its own, armed for a moment a few microseconds ahead, so that SIGUSR1 comes at any instruction of
 * what it does, and armed again when it came: one delivery per expiry, and the thread gets on in between. With `self`, each
 * thread raises its signals itself: for valgrind, which hands out asynchronous ones some ten times in a second. */

#include "check.h"

#include <interp_guard.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

enum { ALIVE = 0x600d, DEAD = 0xdead, POOL = 4096, MOST_WORKERS = 16 };

typedef struct interp {
    int64_t id;
    uint64_t canary;
} interp;

static ig_registry *registry;
static interp permanent, closing, gone, pool[POOL];
static int64_t current = -1; /* the one that comes and goes */
static const int64_t never = (int64_t)1 << 40;

static int self; /* no timers */
static uint64_t wanted, delivered, nested, lookups, hits, violations;

#define LOAD(place) __atomic_load_n(&(place), __ATOMIC_SEQ_CST)
#define STORE(place, value) __atomic_store_n(&(place), (value), __ATOMIC_SEQ_CST)
#define ADD(place) __atomic_fetch_add(&(place), 1, __ATOMIC_SEQ_CST)

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

/* One thread's SIGUSR1: its timer, and how often it came. */
typedef struct ticker {
    timer_t timer;
    uint64_t came;
    unsigned random;
} ticker;

static __thread ticker *of_this_thread;

static void on_usr1(int number) {
    const int before = errno;
    (void)number;
    look();
    if (ADD(delivered) % 8 == 0) {
        raise(SIGUSR2);
    }
    look();
    ADD(of_this_thread->came);
    errno = before;
}

static void set_up(ticker *mine, unsigned seed) {
    struct sigevent event;
    memset(&event, 0, sizeof event);
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = SIGUSR1;
    event.sigev_notify_thread_id = (pid_t)syscall(SYS_gettid);
    of_this_thread = mine;
    mine->came = 0;
    mine->random = seed;
    CHECK(timer_create(CLOCK_MONOTONIC, &event, &mine->timer) == 0);
}

/* The next signal comes within the next 16 microseconds, or at once. */
static void arm(ticker *mine) {
    if (self) {
        CHECK(raise(SIGUSR1) == 0);
        return;
    }
    struct itimerspec when;
    memset(&when, 0, sizeof when);
    mine->random = mine->random * 1664525u + 1013904223u;
    when.it_value.tv_nsec = 1 + (long)(mine->random >> 18);
    CHECK(timer_settime(mine->timer, 0, &when, NULL) == 0);
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
    CHECK(timer_delete(mine->timer) == 0);
    return NULL;
}

static void install_handlers(void) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_flags = SA_RESTART;
    action.sa_handler = on_usr1;
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
    action.sa_handler = on_usr2;
    CHECK(sigaction(SIGUSR2, &action, NULL) == 0);
}

static void enter(interp *it) {
    STORE(it->canary, ALIVE);
    OK(ig_register(registry, it, &it->id));
}

int main(int argc, char **argv) {
    watchdog(1200);
    wanted = (uint64_t)argument(argc, argv, 1, 10000);
    const int workers = (int)argument(argc, argv, 2, 3);
    self = argc > 3 && strcmp(argv[3], "self") == 0;
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
    install_handlers();

    static ticker tickers[MOST_WORKERS + 1];
    pthread_t threads[MOST_WORKERS];
    for (int i = 0; i < workers; i++) {
        tickers[i].random = 77u + (unsigned)i;
        CHECK(pthread_create(&threads[i], NULL, worker, &tickers[i]) == 0);
    }
    ticker *mine = &tickers[workers];
    set_up(mine, 4711);

    while (LOAD(delivered) < wanted) {
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
    CHECK(timer_delete(mine->timer) == 0);
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
    CHECK(nested > 0 && finalized > 0);
    CHECK(LOAD(mine->came) > 0);
    return 0;
}
