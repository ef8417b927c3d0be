/* Forks from a process whose other threads hold guards, wherever they are in taking them and giving them up.
 *
 *     fork CHILDREN
 *
 * Every child keeps one guard, finalizes every interpreter, and exits in time. Then forks around two registries, which are asked
 * and answered in any order, and by two threads in opposite ones. */

#include "check.h"

#include <interp_guard.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>

enum { THREADS = 4, INTERPS = 3 };

static ig_registry *registry;
static int interps[INTERPS];
static int64_t ids[INTERPS];
static int stop, held;

/* Holds one guard throughout, and takes and gives up others. */
static void *holder(void *argument) {
    const int which = *(int *)argument;
    ig_guard kept, guard, another;
    OK(ig_lookup(registry, ids[which % INTERPS], &kept));
    ADD(held);
    for (unsigned round = 0; !LOAD(stop); round++) {
        if (round % 64 == 0) {
            sched_yield(); /* lets the forking thread get on where there are fewer processors than threads */
        }
        for (int i = 0; i < INTERPS; i++) {
            OK(ig_lookup(registry, ids[i], &guard));
            OK(ig_guard_dup(&guard, &another));
            OK(ig_guard_close(&guard));
            OK(ig_guard_close(&another));
        }
    }
    OK(ig_guard_close(&kept));
    return NULL;
}

static void child(ig_guard guards[2]) {
    void *back = NULL;
    uint64_t out = 99;
    watchdog(300);
    OK(ig_after_fork_child(registry, &guards[0], 1));
    OK(ig_outstanding(registry, ids[0], &out));
    CHECK(out == 1); /* the kept one, and none of the threads' */
    OK(ig_guard_close(&guards[1])); /* inherited and not kept: counts nothing */
    OK(ig_outstanding(registry, ids[0], &out));
    CHECK(out == 1);
    CHECK(ig_finalize(registry, ids[0], 0, &back) == IG_TIMEOUT);
    CHECK(ig_guard_interpreter(&guards[0]) == &interps[0]);
    OK(ig_guard_close(&guards[0]));
    OK(ig_drain(registry, ids[0], 0, &back));
    CHECK(back == &interps[0]);
    for (int i = 1; i < INTERPS; i++) {
        OK(ig_finalize(registry, ids[i], 0, &back));
        CHECK(back == &interps[i]);
    }
    OK(ig_registry_free(registry));
    _exit(0);
}

static ig_registry *two[2];

static int is_blocked(int number) {
    sigset_t mask;
    CHECK(pthread_sigmask(SIG_SETMASK, NULL, &mask) == 0);
    return sigismember(&mask, number);
}

static void in_any_order(int first) {
    OK(ig_before_fork(two[0]));
    OK(ig_before_fork(two[1]));
    CHECK(is_blocked(SIGUSR1));
    const pid_t pid = fork();
    if (pid == 0) {
        watchdog(300);
        int64_t id;
        void *back = NULL;
        OK(ig_after_fork_child(two[first], NULL, 0));
        CHECK(is_blocked(SIGUSR1));
        OK(ig_after_fork_child(two[!first], NULL, 0));
        CHECK(!is_blocked(SIGUSR1));
        for (int i = 0; i < 2; i++) {
            OK(ig_register(two[i], &interps[0], &id)); /* its mutex was given back */
            OK(ig_finalize(two[i], id, 0, &back));
            OK(ig_registry_free(two[i]));
        }
        OK(ig_registry_free(registry));
        _exit(0);
    }
    OK(ig_after_fork_parent(two[first]));
    CHECK(is_blocked(SIGUSR1));
    OK(ig_after_fork_parent(two[!first]));
    CHECK(!is_blocked(SIGUSR1));
    int status = -1;
    CHECK(pid > 0 && waitpid(pid, &status, 0) == pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static pthread_barrier_t begin;

/* Asks in one order; the other thread asks in the other one. */
static void *asks(void *argument) {
    const int first = *(int *)argument;
    for (int round = 0; round < 1000; round++) {
        const int waited = pthread_barrier_wait(&begin);
        CHECK(waited == 0 || waited == PTHREAD_BARRIER_SERIAL_THREAD);
        OK(ig_before_fork(two[first]));
        sched_yield();
        OK(ig_before_fork(two[!first]));
        OK(ig_after_fork_parent(two[first])); /* as if fork had failed */
        OK(ig_after_fork_parent(two[!first]));
    }
    return NULL;
}

static void two_registries(void) {
    pthread_t threads[2];
    int first[2] = {0, 1};
    OK(ig_registry_new(4, &two[0]));
    OK(ig_registry_new(4, &two[1]));
    in_any_order(0);
    in_any_order(1);
    CHECK(pthread_barrier_init(&begin, NULL, 2) == 0);
    for (int i = 0; i < 2; i++) {
        CHECK(pthread_create(&threads[i], NULL, asks, &first[i]) == 0);
    }
    for (int i = 0; i < 2; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    for (int i = 0; i < 2; i++) { /* both threads have asked both */
        OK(ig_registry_free(two[i]));
    }
    CHECK(pthread_barrier_destroy(&begin) == 0);
}

int main(int argc, char **argv) {
    watchdog(600);
    const long children = argument(argc, argv, 1, 200);
    pthread_t threads[THREADS];
    int which[THREADS];
    ig_guard guards[2];
    void *back = NULL;

    OK(ig_registry_new(8, &registry));
    CHECK(ig_before_fork(NULL) == IG_INVALID);
    CHECK(ig_after_fork_parent(NULL) == IG_INVALID);
    CHECK(ig_after_fork_child(NULL, NULL, 0) == IG_INVALID);
    CHECK(ig_after_fork_child(registry, NULL, 1) == IG_INVALID);
    CHECK(ig_after_fork_parent(registry) == IG_INVALID); /* no ig_before_fork */
    for (int i = 0; i < INTERPS; i++) {
        OK(ig_register(registry, &interps[i], &ids[i]));
    }
    OK(ig_lookup(registry, ids[0], &guards[0]));
    OK(ig_lookup(registry, ids[0], &guards[1]));
    for (int i = 0; i < THREADS; i++) {
        which[i] = i;
        CHECK(pthread_create(&threads[i], NULL, holder, &which[i]) == 0);
    }
    while (LOAD(held) < THREADS) {
        sched_yield();
    }
    for (long i = 0; i < children; i++) {
        OK(ig_before_fork(registry));
        const pid_t pid = fork();
        if (pid == 0) {
            child(guards);
        }
        OK(ig_after_fork_parent(registry));
        CHECK(pid > 0);
        int status = -1;
        CHECK(waitpid(pid, &status, 0) == pid);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    STORE(stop, 1);
    for (int i = 0; i < THREADS; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    OK(ig_guard_close(&guards[0]));
    OK(ig_guard_close(&guards[1]));
    for (int i = 0; i < INTERPS; i++) {
        OK(ig_finalize(registry, ids[i], 0, &back));
    }
    two_registries();
    OK(ig_registry_free(registry));
    printf("fork: %ld children finalized everything and exited\n", children);
    return 0;
}
