#define _GNU_SOURCE

#include "common.h"

#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { THREADS = 4, HANGS = 60 /* seconds */ };

const char *const names[VMS] = {"alpha", "beta", "gamma"};

/* ---- a lock for each VM ---- */

typedef struct thread_state {
    interpreter *interp;
} thread_state;

static _Thread_local thread_state *attached;

static void *vm_attached(void) { return attached; }
static int64_t vm_interpreter_of(void *state) { return ((thread_state *)state)->interp->id; }

static void *vm_create(void *interp) {
    thread_state *state = malloc(sizeof *state);
    if (state != NULL) {
        state->interp = interp;
    }
    return state; /* NULL: ig_ensure answers IG_UNAVAILABLE */
}

static void vm_attach(void *state) {
    pthread_mutex_lock(&((thread_state *)state)->interp->lock);
    attached = state;
}

static void vm_detach(void *state) {
    attached = NULL;
    pthread_mutex_unlock(&((thread_state *)state)->interp->lock);
}

static void vm_destroy(void *state) {
    vm_detach(state);
    free(state);
}

const ig_runtime lock_per_vm = {vm_attached, vm_interpreter_of, vm_create, vm_attach, vm_detach, vm_destroy};

void *attached_vm(void) { return attached->interp->vm; }

int64_t add(ig_registry *registry, const char *name, void *vm) {
    interpreter *it = malloc(sizeof *it);
    CHECK(it != NULL);
    it->vm = vm;
    CHECK(pthread_mutex_init(&it->lock, NULL) == 0);
    CHECK(ig_register_named(registry, name, it, &it->id) == IG_OK);
    return it->id;
}

/* ---- a signal ---- */

static ig_registry *signalled_in;
static _Atomic int64_t signalled_id;
static ig_pending *from_handlers;
static void (*to_run)(ig_guard *guard, void *unused);

/* It may not call a VM. It leaves a call. */
static void handler(int number) {
    ig_guard guard;
    (void)number;
    if (ig_lookup(signalled_in, signalled_id, &guard) == IG_OK &&
        ig_pending_push(from_handlers, &guard, to_run, NULL) != IG_OK) {
        ig_guard_close(&guard); /* full: the signal is lost */
    }
}

void on_usr1(ig_registry *registry, int64_t id, void (*run)(ig_guard *guard, void *unused)) {
    const struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
    signalled_in = registry;
    signalled_id = id;
    to_run = run;
    CHECK(ig_pending_new(registry, 64, "SIGUSR1", IG_PENDING_ATTACHED, &from_handlers) == IG_OK);
    CHECK(ig_pending_start_worker(from_handlers) == IG_OK);
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
}

/* ---- the pool ---- */

typedef struct worker {
    pthread_t thread;
    const int64_t *ids;
    script_call *call;
    int64_t calls[VMS], last[VMS]; /* of each interpreter; and what the last call returned */
    ig_status refused[VMS];        /* IG_OK while it is not */
} worker;

static worker pool[THREADS];
static sem_t begun;  /* a thread has called each interpreter */
static sem_t worked; /* a thread has gone round again */

static void *work(void *argument) {
    worker *mine = argument;
    for (long round = 0, left = VMS; left > 0; round++) {
        for (int at = 0; at < VMS; at++) {
            if (mine->refused[at] != IG_OK) {
                continue;
            }
            mine->refused[at] = mine->call(mine->ids[at], "job", &mine->last[at]);
            if (mine->refused[at] == IG_OK) {
                mine->calls[at]++;
            } else {
                CHECK(mine->refused[at] == IG_FINALIZING || mine->refused[at] == IG_NOT_FOUND);
                left--;
            }
        }
        int waiting;
        if (round == 0) {
            sem_post(&begun);
        }
        if (sem_getvalue(&worked, &waiting) == 0 && waiting == 0) {
            sem_post(&worked);
        }
    }
    return NULL;
}

static void wait_for(sem_t *semaphore) {
    while (sem_wait(semaphore) != 0) { /* a signal came */
    }
}

/* No call was lost, and none ran twice. */
static void join(void) {
    for (int i = 0; i < THREADS; i++) {
        CHECK(pthread_join(pool[i].thread, NULL) == 0);
    }
    for (int at = 0; at < VMS; at++) {
        int64_t calls = 0, last = 0;
        for (int i = 0; i < THREADS; i++) {
            calls += pool[i].calls[at];
            last = pool[i].last[at] > last ? pool[i].last[at] : last;
        }
        CHECK(calls == last);
        const char *refused = ig_status_message(pool[0].refused[at]);
        printf("%s: %lld calls of %d threads, then: %s\n", names[at], (long long)calls, THREADS, refused);
    }
}

/* ---- the sampler: SIGPROF by the CPU time of the process ---- */

static atomic_long samples[VMS + 1]; /* by ID; the last one: of threads that are in none */

/* Async-signal-safe: ig_current_id is, and the rest is atomic. */
static void sample(int number) {
    const int64_t id = ig_current_id();
    (void)number;
    samples[id >= 0 && id < VMS ? id : VMS]++;
}

static void sample_each(long microseconds) {
    const struct itimerval timer = {{0, microseconds}, {0, microseconds}};
    struct sigaction action = {.sa_handler = sample, .sa_flags = SA_RESTART};
    CHECK(sigaction(SIGPROF, &action, NULL) == 0);
    CHECK(setitimer(ITIMER_PROF, &timer, NULL) == 0);
}

/* Have fifty been taken, and one of each interpreter? */
static int sampled(void) {
    long taken = samples[VMS];
    for (int at = 0; at < VMS; at++) {
        if (samples[at] == 0) {
            return 0;
        }
        taken += samples[at];
    }
    return taken >= 50;
}

/* ---- the life and the end ---- */

static atomic_int over;

static void *fire(void *unused) {
    while (!over) {
        kill(getpid(), SIGUSR1);
        sched_yield();
    }
    return unused;
}

static void ended(int64_t id, ig_status status, void *interp, void *destroy) {
    interpreter *it = interp;
    if (status != IG_OK) {
        fprintf(stderr, "interpreter %lld: %s\n", (long long)id, ig_status_message(status));
        return; /* ig_finalize_all says so, too */
    }
    ((void (*)(void *))destroy)(it->vm); /* nobody else has it */
    pthread_mutex_destroy(&it->lock);
    free(it);
    printf("interpreter %lld has ended\n", (long long)id);
}

void live_and_end(ig_registry *registry, const int64_t ids[VMS], int64_t signalled, script_call *call,
                  void (*destroy)(void *vm), int show) {
    pthread_t firing;
    int64_t ran = 0;
    CHECK(sem_init(&begun, 0, 0) == 0 && sem_init(&worked, 0, 0) == 0);
    sample_each(1000);
    for (int i = 0; i < THREADS; i++) {
        pool[i].ids = ids;
        pool[i].call = call;
        CHECK(pthread_create(&pool[i].thread, NULL, work, &pool[i]) == 0);
    }
    for (int i = 0; i < THREADS; i++) {
        wait_for(&begun);
    }
    kill(getpid(), SIGUSR1);
    while (call(signalled, "signals", &ran) == IG_OK && ran == 0) {
        wait_for(&worked);
    }
    for (int at = 0; at < VMS; at++) {
        CHECK(call(ids[at], "signals", &ran) == IG_OK && (ran > 0) == (ids[at] == signalled));
        printf("%s: its signal() ran %lld times\n", names[at], (long long)ran);
    }
    while (show && !sampled()) {
        wait_for(&worked);
    }
    if (show) {
        printf("samples: alpha %ld, beta %ld, gamma %ld, in none %ld\n", samples[0], samples[1], samples[2],
               samples[VMS]);
    }

    /* The pool goes on calling, and signals and samples go on coming. */
    CHECK(pthread_create(&firing, NULL, fire, NULL) == 0);
    CHECK(ig_finalize_all(registry, 30000000000, ended, (void *)destroy) == IG_OK);
    join();
    over = 1;
    CHECK(pthread_join(firing, NULL) == 0);
    sample_each(0);
    CHECK(signal(SIGUSR1, SIG_IGN) != SIG_ERR); /* this thread was the last to get it: no handler runs any more */
    CHECK(ig_pending_free(from_handlers) == IG_OK && ig_registry_free(registry) == IG_OK);
}

typedef struct forgotten {
    ig_registry *registry;
    int64_t id;
} forgotten;

static void *forget(void *argument) {
    const forgotten *it = argument;
    ig_guard guard;
    pthread_setname_np(pthread_self(), "forgetful");
    CHECK(ig_lookup(it->registry, it->id, &guard) == IG_OK);
    return NULL; /* nobody closes it */
}

void leak(ig_registry *registry, int64_t id) {
    pthread_t forgetful;
    forgotten it = {registry, id};
    char text[1024];
    size_t length;
    void *interp;
    CHECK(pthread_create(&forgetful, NULL, forget, &it) == 0 && pthread_join(forgetful, NULL) == 0);
    CHECK(ig_finalize(registry, id, 100000000, &interp) == IG_TIMEOUT);
    CHECK(ig_report(registry, id, text, sizeof text, &length) == IG_OK);
    printf("a guard was forgotten: %s\n", text);
}

void cost(const char *what, void (*f)(void)) {
    enum { TURNS = 5000 };
    static int head;
    double best = 1e18;
    if (!head++) {
        printf("one call, with nobody else about, best of five rounds of %d:\n", TURNS);
    }
    for (int round = 0; round < 5; round++) {
        struct timespec from, to;
        clock_gettime(CLOCK_MONOTONIC, &from);
        for (int turn = 0; turn < TURNS; turn++) {
            f();
        }
        clock_gettime(CLOCK_MONOTONIC, &to);
        const double took = (double)(to.tv_sec - from.tv_sec) * 1e9 + (double)(to.tv_nsec - from.tv_nsec);
        best = took < best ? took : best;
    }
    printf("  %-55s %8.1f ns\n", what, best / TURNS);
}

static ig_registry *costs_in;
static int64_t costs_id;

static void lookup_and_close(void) {
    ig_guard guard;
    CHECK(ig_lookup(costs_in, costs_id, &guard) == IG_OK && ig_guard_close(&guard) == IG_OK);
}

static void ensure_and_release(void) {
    uint64_t token;
    CHECK(ig_ensure_id(costs_in, costs_id, &token) == IG_OK && ig_release(token) == IG_OK);
}

void costs_of_guards(ig_registry *registry, int64_t id) {
    costs_in = registry;
    costs_id = id;
    cost("ig_lookup and ig_guard_close", lookup_and_close);
    cost("ig_ensure_id and ig_release", ensure_and_release);
}

/* ---- arguments ---- */

static int ends(long count) {
    long hang = 0;
    for (long number = 0; number < count; number++) {
        int status;
        const pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            alarm(HANGS); /* by default it ends the process */
            CHECK(freopen("/dev/null", "w", stdout) != NULL);
            program(0);
            exit(0);
        }
        CHECK(waitpid(child, &status, 0) == child);
        if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM) {
            hang++;
        } else if (status != 0) {
            fprintf(stderr, "end %ld: status %#x\n", number, (unsigned)status);
            return 1;
        }
    }
    printf("%ld ended, %ld hang\n", count - hang, hang);
    return hang != 0;
}

int main(int count, char **arguments) {
    if (count == 1) {
        program(1);
        return 0;
    }
    if (count == 3 && strcmp(arguments[1], "--ends") == 0) {
        char *end;
        const long number = strtol(arguments[2], &end, 10);
        if (end != arguments[2] && *end == '\0' && number >= 0) {
            return ends(number);
        }
    }
    fprintf(stderr, "usage: %s [--ends N]\n", arguments[0]);
    return 1;
}
