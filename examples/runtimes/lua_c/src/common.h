/* What C programs like this one have in common, whatever the VM: arguments, a lock for each VM, a pool of threads, a
 * sampler, a table of costs. `common.c` has it. */

#ifndef COMMON_H
#define COMMON_H

#include <interp_guard.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum { VMS = 3 };

/* Ends the program, as a failure. */
#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            exit(1); \
        } \
    } while (0)

/* What is registered: a VM that one thread at a time may use. Whoever is attached has the lock. */
typedef struct interpreter {
    int64_t id;
    pthread_mutex_t lock;
    void *vm;
} interpreter;

/* The six functions that the library wants to know: a thread state is a record of the thread in the interpreter. */
extern const ig_runtime lock_per_vm;

/* Of the interpreter that this thread is attached to; only while it is. */
void *attached_vm(void);

/* Makes an interpreter of `vm`, and registers it under a name. */
int64_t add(ig_registry *registry, const char *name, void *vm);

/* Calls a script function of interpreter `id`, from any thread, and stores what it returned. Says why not, where the
 * interpreter lets nobody in. The scripts have
 *
 * - `job`, which counts how often it was called,
 * - `signal`, which the pending call of SIGUSR1 calls, and `signals`, which says how often it did. */
typedef ig_status script_call(int64_t id, const char *function, int64_t *returned);

/* What `signal::on_signal` is in Rust: whenever SIGUSR1 comes, `run` is called on a normal thread, attached to `id`. */
void on_usr1(ig_registry *registry, int64_t id, void (*run)(ig_guard *guard, void *unused));

/* A pool of threads calls the interpreters, a signal's pending call runs in `signalled`, a sampler looks on. Then all of
 * them end in the midst of it, `destroy` is called with each VM, and the registry is freed. */
void live_and_end(ig_registry *registry, const int64_t ids[VMS], int64_t signalled, script_call *call,
                  void (*destroy)(void *vm), int show);

/* A thread forgets a guard. The interpreter cannot be finalized, and the report says who keeps it. */
void leak(ig_registry *registry, int64_t id);

/* Prints what one call of `f` takes: the best of five rounds. */
void cost(const char *what, void (*f)(void));

/* The same of a lookup and its close, and of an ensure and its release. */
void costs_of_guards(ig_registry *registry, int64_t id);

extern const char *const names[VMS];

/* The program's own: once with `show`, in each process of `--ends N` without. */
void program(int show);

#endif
