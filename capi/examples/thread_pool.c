/* A pthread pool at shutdown.
 *
 *     cc thread_pool.c -pthread $(pkg-config --cflags --libs interp_guard) && ./a.out
 *
 * The pool outlives the interpreters whose jobs it runs. A job names its interpreter by ID; the worker that takes it asks
 * whether it is still there. So jobs may still be queued, or running, or come in late, when an interpreter is finalized: the
 * running ones are waited for, the others get a clear no. */

#define _POSIX_C_SOURCE 200809L

#include <interp_guard.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

enum { WORKERS = 4, JOBS = 10000 };

typedef struct interpreter {
    atomic_long done;
    atomic_int destroyed;
} interpreter;

static ig_registry *registry;

/* The pool: jobs are interpreter IDs. */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t more = PTHREAD_COND_INITIALIZER;
static int64_t jobs[2 * JOBS];
static int queued, taken, over;
static atomic_long ran, refused, left_early;

static void submit(int64_t id) {
    pthread_mutex_lock(&mutex);
    jobs[queued++] = id;
    pthread_cond_signal(&more);
    pthread_mutex_unlock(&mutex);
}

/* A job in small steps. A long holder looks now and then whether somebody waits for it. */
static void work(const ig_guard *guard) {
    interpreter *it = ig_guard_interpreter(guard);
    for (int step = 0; step < 100; step++) {
        if (it->destroyed) {
            abort(); /* cannot be: the guard is out */
        }
        if (ig_guard_is_closing(guard)) {
            left_early++;
            return;
        }
    }
    it->done++;
    ran++;
}

static void *worker(void *unused) {
    (void)unused;
    for (;;) {
        pthread_mutex_lock(&mutex);
        while (taken == queued && !over) {
            pthread_cond_wait(&more, &mutex);
        }
        if (taken == queued) {
            pthread_mutex_unlock(&mutex);
            return NULL;
        }
        const int64_t id = jobs[taken++];
        pthread_mutex_unlock(&mutex);

        ig_guard guard;
        if (ig_lookup(registry, id, &guard) == IG_OK) {
            work(&guard);
            ig_guard_close(&guard);
        } else {
            refused++;
        }
    }
}

/* Called by ig_finalize, before it waits. */
static void on_close(int64_t id, void *data) {
    atomic_store((atomic_int *)data, 1);
    printf("interpreter %lld closes\n", (long long)id);
}

int main(void) {
    static interpreter one, two;
    static atomic_int told;
    int64_t first, second;
    pthread_t threads[WORKERS];
    void *back;
    if (ig_registry_new(16, &registry) != IG_OK || ig_register(registry, &one, &first) != IG_OK ||
        ig_register(registry, &two, &second) != IG_OK || ig_on_close(registry, first, on_close, &told) != IG_OK) {
        return 1;
    }
    for (int i = 0; i < WORKERS; i++) {
        if (pthread_create(&threads[i], NULL, worker, NULL) != 0) {
            return 1;
        }
    }
    for (int i = 0; i < JOBS; i++) {
        submit(i % 2 == 0 ? first : second);
    }

    /* The first one ends now, whatever the pool is at; a minute is an age for such jobs. */
    const ig_status status = ig_finalize(registry, first, 60000000000, &back);
    if (status != IG_OK) {
        char report[1024];
        size_t length;
        fprintf(stderr, "%s\n", ig_status_message(status));
        if (ig_report(registry, first, report, sizeof report, &length) == IG_OK) {
            fprintf(stderr, "%s\n", report); /* who holds it, if the ledger is on: INTERP_GUARD_LEDGER=1 */
        }
        return 1;
    }
    ((interpreter *)back)->destroyed = 1; /* nobody has it any more */

    for (int i = 0; i < JOBS; i++) {
        submit(i % 2 == 0 ? first : second); /* the pool does not know; it need not */
    }
    pthread_mutex_lock(&mutex);
    over = 1;
    pthread_cond_broadcast(&more);
    pthread_mutex_unlock(&mutex);
    for (int i = 0; i < WORKERS; i++) {
        pthread_join(threads[i], NULL);
    }
    printf("%ld jobs ran, %ld left early, %ld were refused\n", (long)ran, (long)left_early, (long)refused);
    const int right = told && two.done == JOBS && refused >= JOBS / 2 && ran + left_early + refused == 2 * JOBS;
    return right && ig_finalize(registry, second, 0, &back) == IG_OK && ig_registry_free(registry) == IG_OK ? 0 : 1;
}
