/* The library loaded by dlopen, used by threads that were there before, and unloaded again, over and over.
 *
 *     unload LIBRARY ROUNDS
 *
 * What handlers may call reaches no lazily allocated thread-local: this program has a __tls_get_addr of its own, through which
 * the library must go for one, and which counts. Afterwards nothing of it may be left: no mapping, and in no thread a pointer to a restartable sequence that lay in it, which
 * would kill the thread at its next preemption. */

#include "check.h"

#include <dlfcn.h>
#include <interp_guard.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>

enum { THREADS = 3 };

typedef struct library {
    ig_status (*registry_new)(size_t, ig_registry **);
    ig_status (*registry_free)(ig_registry *);
    ig_status (*enter)(ig_registry *, void *, int64_t *);
    ig_status (*lookup)(ig_registry *, int64_t, ig_guard *);
    ig_status (*dup)(const ig_guard *, ig_guard *);
    ig_status (*close)(ig_guard *);
    int64_t (*current_id)(void);
    ig_status (*finalize)(ig_registry *, int64_t, int64_t, void **);
    ig_status (*pending_new)(ig_registry *, size_t, const char *, unsigned, ig_pending **);
    ig_status (*pending_free)(ig_pending *);
    ig_status (*pending_push)(ig_pending *, ig_guard *, void (*)(ig_guard *, void *), void *);
    ig_status (*pending_run)(ig_pending *, ig_ran *);
    ig_status (*pending_start_worker)(ig_pending *);
    ig_status (*pending_stop_worker)(ig_pending *, ig_ran *);
} library;

static library lib;
static ig_registry *registry;
static ig_pending *queue;
static int64_t id;
static int interp;
static int loaded, done;
static uint64_t handled[THREADS];
static __thread int self; /* which of the workers */
static pthread_barrier_t begin, end, unloaded;

/* dlsym gives a data pointer; ISO C has no cast from that to a function's. */
static void find(void *handle, const char *name, void *function) {
    void *found = dlsym(handle, name);
    CHECK(found != NULL);
    memcpy(function, &found, sizeof found);
}

/* How often this thread has asked for a thread-local of a library that was loaded at run time; its memory is allocated at the
 * first time. */
static __thread uint64_t asked;
static void *(*loaders)(void *);

#ifdef __cplusplus
extern "C"
#endif
void *__tls_get_addr(void *which);

void *__tls_get_addr(void *which) {
    asked++;
    return loaders(which);
}

static void use(void) {
    ig_guard guard, another;
    const uint64_t before = asked;
    CHECK(lib.lookup(registry, id, &guard) == IG_OK);
    CHECK(lib.dup(&guard, &another) == IG_OK);
    CHECK(lib.close(&guard) == IG_OK);
    CHECK(lib.close(&another) == IG_OK);
    CHECK(lib.lookup(registry, id + 1, &guard) == IG_NOT_FOUND);
    CHECK(lib.current_id() == -1);
    CHECK(asked == before);
}

static uint64_t pushed;
static int worker_runs;

static void on_call(ig_guard *guard, void *data) {
    CHECK(lib.close(guard) == IG_OK && data == &pushed);
    STORE(worker_runs, 1);
}

static void leave_a_call(void) {
    ig_guard guard;
    const uint64_t before = asked;
    CHECK(lib.lookup(registry, id, &guard) == IG_OK);
    if (lib.pending_push(queue, &guard, on_call, &pushed) == IG_OK) {
        ADD(pushed);
    } else {
        CHECK(lib.close(&guard) == IG_OK);
    }
    CHECK(asked == before);
}

static void on_signal(int number) {
    (void)number;
    if (LOAD(loaded)) {
        use();
        leave_a_call();
    }
    ADD(handled[self]);
}

/* This thread's rseq_cs; 0 where the C library registered none. */
static uint64_t sequence_left_behind(void) {
    const ptrdiff_t *offset = (const ptrdiff_t *)dlsym(RTLD_DEFAULT, "__rseq_offset");
    const unsigned *size = (const unsigned *)dlsym(RTLD_DEFAULT, "__rseq_size");
    if (offset == NULL || size == NULL || *size == 0) {
        return 0;
    }
    const char *thread;
    uint64_t sequence;
    __asm__("mov %%fs:0, %0" : "=r"(thread));
    memcpy(&sequence, thread + *offset + 8, sizeof sequence);
    return sequence;
}

static void wait_at(pthread_barrier_t *barrier) {
    const int result = pthread_barrier_wait(barrier);
    CHECK(result == 0 || result == PTHREAD_BARRIER_SERIAL_THREAD);
}

static void *worker(void *argument) {
    self = (int)(intptr_t)argument;
    for (;;) {
        wait_at(&begin);
        if (LOAD(done)) {
            return NULL;
        }
        for (int i = 0; i < 2000; i++) {
            use();
        }
        wait_at(&end);
        wait_at(&unloaded);
        CHECK(sequence_left_behind() == 0);
        for (int i = 0; i < 100; i++) {
            sched_yield(); /* preempted: the kernel looks at rseq_cs */
        }
    }
}

/* Starts a worker and stops it. A thread that starts one keeps the library mapped until it ends: so this one does. */
static void *serve(void *unused) {
    ig_ran ran;
    (void)unused;
    CHECK(lib.pending_start_worker(queue) == IG_OK);
    while (!LOAD(worker_runs)) {
        sched_yield();
    }
    CHECK(lib.pending_stop_worker(queue, &ran) == IG_OK);
    CHECK(ran.calls >= 1);
    return NULL;
}

static int is_mapped(const char *path) {
    char line[4096];
    int found = 0;
    FILE *maps = fopen("/proc/self/maps", "r");
    CHECK(maps != NULL);
    while (fgets(line, sizeof line, maps) != NULL) {
        found |= strstr(line, path) != NULL;
    }
    fclose(maps);
    return found;
}

int main(int argc, char **argv) {
    watchdog(1200);
    CHECK(argc == 3);
    char path[4096];
    CHECK(realpath(argv[1], path) != NULL);
    CHECK(pthread_barrier_init(&begin, NULL, THREADS + 1) == 0);
    CHECK(pthread_barrier_init(&end, NULL, THREADS + 1) == 0);
    CHECK(pthread_barrier_init(&unloaded, NULL, THREADS + 1) == 0);
    handle(SIGUSR1, on_signal, 0);
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        CHECK(pthread_create(&threads[i], NULL, worker, (void *)(intptr_t)i) == 0);
    }
    find(RTLD_NEXT, "__tls_get_addr", &loaders);
    const long rounds = argument(argc, argv, 2, 20);
    for (long round = 0; round < rounds; round++) {
        CHECK(!is_mapped(path));
        void *handle = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
        if (handle == NULL) {
            dprintf(2, "%s\n", dlerror());
            return 1;
        }
        CHECK(is_mapped(path));
        find(handle, "ig_registry_new", &lib.registry_new);
        find(handle, "ig_registry_free", &lib.registry_free);
        find(handle, "ig_register", &lib.enter);
        find(handle, "ig_lookup", &lib.lookup);
        find(handle, "ig_guard_dup", &lib.dup);
        find(handle, "ig_guard_close", &lib.close);
        find(handle, "ig_current_id", &lib.current_id);
        find(handle, "ig_finalize", &lib.finalize);
        find(handle, "ig_pending_new", &lib.pending_new);
        find(handle, "ig_pending_free", &lib.pending_free);
        find(handle, "ig_pending_push", &lib.pending_push);
        find(handle, "ig_pending_run", &lib.pending_run);
        find(handle, "ig_pending_start_worker", &lib.pending_start_worker);
        find(handle, "ig_pending_stop_worker", &lib.pending_stop_worker);
        CHECK(lib.registry_new(4, &registry) == IG_OK);
        CHECK(lib.enter(registry, &interp, &id) == IG_OK);
        CHECK(lib.pending_new(registry, 256, NULL, 0, &queue) == IG_OK);
        STORE(pushed, 0);
        STORE(worker_runs, 0);
        pthread_t serving;
        CHECK(pthread_create(&serving, NULL, serve, NULL) == 0);
        STORE(loaded, 1);
        wait_at(&begin);
        for (int i = 0; i < 200; i++) {
            /* The first access of these threads to the library is, for some of them, in a handler. */
            CHECK(pthread_kill(threads[i % THREADS], SIGUSR1) == 0);
        }
        wait_at(&end);
        STORE(loaded, 0);
        /* A handler that found it loaded ends before its thread handles this one: see to it that each has. */
        for (int i = 0; i < THREADS; i++) {
            const uint64_t seen = LOAD(handled[i]);
            CHECK(pthread_kill(threads[i], SIGUSR1) == 0);
            while (LOAD(handled[i]) == seen) {
                sched_yield();
            }
        }
        leave_a_call(); /* the signals above may all have come late */
        CHECK(pthread_join(serving, NULL) == 0);
        void *back = NULL;
        ig_ran ran;
        leave_a_call();
        CHECK(lib.pending_run(queue, &ran) == IG_OK && ran.calls >= 1);
        CHECK(lib.finalize(registry, id, -1, &back) == IG_OK);
        CHECK(back == &interp);
        CHECK(lib.pending_free(queue) == IG_OK);
        CHECK(lib.registry_free(registry) == IG_OK);
        CHECK(sequence_left_behind() == 0);
        CHECK(dlclose(handle) == 0);
        CHECK(!is_mapped(path)); /* really gone: nothing pins it */
        wait_at(&unloaded);
    }
    STORE(done, 1);
    wait_at(&begin);
    for (int i = 0; i < THREADS; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    CHECK(asked > 0); /* by this thread's calls in normal context: so it would have been noticed */
    printf("unload: %ld rounds; normal calls asked for thread-locals %llu times, signal-safe ones never\n", rounds,
           (unsigned long long)asked);
    return 0;
}
