#include "core.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <unistd.h>

static core_logger log_to;
static atomic_int running, ended, stop;
static atomic_long events;

static void *work(void *unused) {
    for (; !atomic_load(&stop); usleep(50)) {
        log_to(1, "event");
        atomic_fetch_add(&events, 1);
    }
    atomic_fetch_add(&ended, 1);
    return unused;
}

void core_start(core_logger logger, int threads) {
    log_to = logger;
    for (int n = 0; n < threads; n++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, work, NULL) == 0) {
            pthread_detach(thread);
            atomic_fetch_add(&running, 1);
        }
    }
}

long core_events(void) { return atomic_load(&events); }

/* At the end of the process, after Python: the threads log still, and so does this. Then it says what became of them;
 * one that Python has killed or parked never gets to its own end. */
__attribute__((destructor)) static void at_end(void) {
    int const started = atomic_load(&running);
    if (started == 0) return;
    log_to(2, "core unloaded");
    long const before = atomic_load(&events);
    for (int n = 0; n < 20000 && atomic_load(&events) < before + 100; n++) usleep(1000);
    atomic_store(&stop, 1);
    for (int n = 0; n < 20000 && atomic_load(&ended) < started; n++) usleep(1000);
    printf("threads %d ended %d\n", started, atomic_load(&ended));
    fflush(stdout);
}
