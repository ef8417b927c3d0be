/* SIGUSR1 for a thread, at any instruction of what it does.
 *
 * Every thread has a timer of its own, armed for a moment a few microseconds ahead, and armed again when it came: one delivery
 * per expiry, and the thread gets on in between. With `raise_it_here`, each thread raises its signals itself: for valgrind, which
 * hands out asynchronous ones some ten times in a second. */

#ifndef FIRE_H
#define FIRE_H

#include "check.h"

#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

static int raise_it_here;

/* One thread's SIGUSR1: its timer, and how often it came. */
typedef struct ticker {
    timer_t timer;
    uint64_t came;
    unsigned random;
} ticker;

static __thread ticker *of_this_thread;

/* For the end of the handler. */
static inline void came(void) { ADD(of_this_thread->came); }

static inline void set_up(ticker *mine, unsigned seed) {
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
static inline void arm(ticker *mine) {
    if (raise_it_here) {
        CHECK(raise(SIGUSR1) == 0);
        return;
    }
    struct itimerspec when;
    memset(&when, 0, sizeof when);
    mine->random = mine->random * 1664525u + 1013904223u;
    when.it_value.tv_nsec = 1 + (long)(mine->random >> 18);
    CHECK(timer_settime(mine->timer, 0, &when, NULL) == 0);
}

static inline void put_out(ticker *mine) { CHECK(timer_delete(mine->timer) == 0); }

#endif
