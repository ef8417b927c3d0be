/* What every program here needs. C11 and C++17 alike. */

#ifndef CHECK_H
#define CHECK_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* c++ defines it by itself */
#endif

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Fails the program: by _exit, so that it may be used in a forked child too. */
#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            dprintf(2, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                     \
            _exit(1);                                                                              \
        }                                                                                          \
    } while (0)

/* A call that must succeed. */
#define OK(call)                                                                                   \
    do {                                                                                           \
        const ig_status status_of_call = (call);                                                   \
        if (status_of_call != IG_OK) {                                                             \
            dprintf(2, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, ig_status_message(status_of_call)); \
            _exit(1);                                                                              \
        }                                                                                          \
    } while (0)

#define LOAD(place) __atomic_load_n(&(place), __ATOMIC_SEQ_CST)
#define STORE(place, value) __atomic_store_n(&(place), (value), __ATOMIC_SEQ_CST)
#define ADD(place) __atomic_fetch_add(&(place), 1, __ATOMIC_SEQ_CST)

/* The failure deadline: SIGALRM ends a program that hangs. */
static inline void watchdog(unsigned seconds) { alarm(seconds); }

static inline void handle(int signal, void (*handler)(int), int flags) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_flags = flags;
    action.sa_handler = handler;
    CHECK(sigaction(signal, &action, NULL) == 0);
}

static inline long argument(int argc, char **argv, int which, long otherwise) {
    return argc > which ? atol(argv[which]) : otherwise;
}

#endif
