/* A handler that looks an interpreter up.
 *
 *     cc sigaction.c $(pkg-config --cflags --libs interp_guard) && ./a.out
 *
 * A sampling profiler: SIGPROF comes as CPU time passes, wherever the program is: also in the middle of ig_register, ig_lookup or
 * ig_finalize. The handler asks for the interpreter that is being profiled and, while it has it, counts the sample in it. */

#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <interp_guard.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/time.h>

typedef struct interpreter {
    atomic_long samples; /* what a handler touches is atomic: the guard keeps the memory, it is no lock */
} interpreter;

static ig_registry *registry;
static _Atomic int64_t profiled;
static atomic_long refused;

static void on_sample(int signal) {
    (void)signal;
    ig_guard guard;
    if (ig_lookup(registry, profiled, &guard) == IG_OK) {
        interpreter *it = ig_guard_interpreter(&guard);
        it->samples++;
        ig_guard_close(&guard); /* touches errno no more than ig_lookup does */
    } else {
        refused++; /* closing, or gone: leave it alone */
    }
}

static void burn_until(atomic_long *count, long many) {
    while (*count < many) {
    }
}

int main(void) {
    interpreter first = {0}, second = {0};
    int64_t id;
    void *back;
    if (ig_registry_new(16, &registry) != IG_OK || ig_register(registry, &first, &id) != IG_OK) {
        return 1;
    }
    profiled = id;

    struct sigaction action = {.sa_handler = on_sample, .sa_flags = SA_RESTART};
    const struct itimerval often = {.it_interval = {.tv_usec = 1000}, .it_value = {.tv_usec = 1000}};
    sigemptyset(&action.sa_mask);
    if (sigaction(SIGPROF, &action, NULL) != 0 || setitimer(ITIMER_PROF, &often, NULL) != 0) {
        perror("profiling");
        return 1;
    }
    burn_until(&first.samples, 20);

    /* Samples go on coming while it is finalized. When ig_finalize has returned, no handler has it, and none gets it. */
    if (ig_finalize(registry, id, -1, &back) != IG_OK || back != &first) {
        return 1;
    }
    const long at_the_end = first.samples;
    burn_until(&refused, 20);
    if (first.samples != at_the_end) {
        return 1;
    }

    if (ig_register(registry, &second, &id) != IG_OK) {
        return 1;
    }
    profiled = id;
    burn_until(&second.samples, 20);

    if (ig_finalize(registry, id, -1, &back) != IG_OK) {
        return 1;
    }
    /* The registry goes last, and only when no handler can be in it any more. */
    signal(SIGPROF, SIG_IGN);
    printf("%ld samples of the first interpreter, %ld when there was none, %ld of the second\n", at_the_end,
           (long)refused, (long)second.samples);
    return ig_registry_free(registry) == IG_OK ? 0 : 1;
}
