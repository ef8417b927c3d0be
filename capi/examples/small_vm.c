/* Linked into the core of a small VM.
 *
 *     cc small_vm.c -pthread $(pkg-config --cflags --libs interp_guard) && ./a.out
 *
 * Several interpreters, each with a lock that its threads hand around at safe points; a bytecode loop; a signal handler that
 * leaves work to be done attached; and a shutdown that threads in the loop, threads on their way in and the signal handler
 * cannot get wrong. */

#define _POSIX_C_SOURCE 200809L

#include <interp_guard.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- the interpreter, and its threads ---- */

typedef struct interpreter {
    int64_t id;
    pthread_mutex_t lock; /* whoever holds it is attached */
    long ticks;           /* guarded by `lock`, as all that bytecode can reach */
    long calls;           /* the same */
} interpreter;

typedef struct thread_state {
    interpreter *interp;
} thread_state;

static ig_registry *registry;
static ig_pending *from_handlers;
static _Thread_local thread_state *attached;

/* What ig_ensure wants to know of the runtime. */
static void *vm_attached(void) { return attached; }
static int64_t vm_interpreter_of(void *state) { return ((thread_state *)state)->interp->id; }

static void *vm_create(void *interp) {
    thread_state *state = malloc(sizeof *state);
    if (state != NULL) {
        state->interp = interp;
    }
    return state;
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

static const ig_runtime the_runtime = {vm_attached, vm_interpreter_of, vm_create, vm_attach, vm_detach, vm_destroy};

/* ---- the loop ---- */

typedef enum opcode { PUSH, ADD_TICKS, DECREMENT, JUMP_IF_NOT_ZERO, HALT } opcode;
typedef struct instruction {
    opcode op;
    int operand;
} instruction;

/* Between two instructions, now and then: lets others have the lock. 0: the interpreter closes, and the thread is to leave. */
static int safe_point(const ig_guard *guard) {
    uint64_t section;
    if (ig_allow_threads_begin(&section) != IG_OK) {
        abort();
    }
    sched_yield(); /* where a real VM would wait for a file */
    if (ig_allow_threads_end(section) != IG_OK) {
        abort(); /* cannot be: this thread's ensure holds a guard */
    }
    return !ig_guard_is_closing(guard);
}

/* Runs bytecode on the attached interpreter. 0: left at a safe point. */
static int run(const instruction *code, const ig_guard *guard) {
    interpreter *it = attached->interp;
    long stack[8] = {0};
    int top = 0;
    for (const instruction *at = code;; at++) {
        switch (at->op) {
        case PUSH:
            stack[++top] = at->operand;
            break;
        case ADD_TICKS:
            it->ticks += at->operand;
            break;
        case DECREMENT:
            stack[top]--;
            break;
        case JUMP_IF_NOT_ZERO: /* backward: a loop without a safe point would be one that nobody can end */
            if (stack[top] != 0) {
                if (!safe_point(guard)) {
                    return 0;
                }
                at = code + at->operand - 1;
            }
            break;
        case HALT:
            return 1;
        }
    }
}

static const instruction hundred_ticks[] = {{PUSH, 100}, {ADD_TICKS, 1}, {DECREMENT, 0}, {JUMP_IF_NOT_ZERO, 1}, {HALT, 0}};
static const instruction for_ever[] = {{PUSH, 1}, {ADD_TICKS, 1}, {JUMP_IF_NOT_ZERO, 1}, {HALT, 0}};

/* Runs bytecode on interpreter `id`, from any thread, attached or not. 1: run; 0: left at a safe point; -1: there is no such
 * interpreter any more. */
static int vm_run(int64_t id, const instruction *code) {
    ig_guard guard;
    uint64_t token;
    if (ig_lookup(registry, id, &guard) != IG_OK) {
        return -1;
    }
    if (ig_ensure(&guard, &token) != IG_OK) {
        abort(); /* out of memory: the guard excludes the rest */
    }
    const int done = run(code, &guard);
    if (ig_release(token) != IG_OK) {
        abort();
    }
    ig_guard_close(&guard);
    return done;
}

/* ---- signals ---- */

static _Atomic int64_t interrupted; /* whom SIGUSR1 is for */

static void attached_call(ig_guard *guard, void *data) {
    interpreter *it = ig_guard_interpreter(guard);
    (void)data;
    if (ig_current_id() != it->id) {
        abort(); /* cannot be: IG_PENDING_ATTACHED */
    }
    it->calls++; /* attached: the lock is held */
}

/* Cannot run bytecode, nor take the lock: it leaves a call, which the queue's worker runs when a safe point lets it in. */
static void on_usr1(int number) {
    ig_guard guard;
    (void)number;
    if (ig_lookup(registry, interrupted, &guard) == IG_OK &&
        ig_pending_push(from_handlers, &guard, attached_call, NULL) != IG_OK) {
        ig_guard_close(&guard); /* full: the signal is lost, as a second one of the same kind would be */
    }
}

/* ---- threads of the program ---- */

typedef struct task {
    int64_t id;
    const instruction *code;
    int result;
} task;

static void *thread(void *argument) {
    task *mine = argument;
    mine->result = vm_run(mine->id, mine->code);
    return NULL;
}

static interpreter *vm_new(void) {
    interpreter *it = calloc(1, sizeof *it);
    if (it == NULL || pthread_mutex_init(&it->lock, NULL) != 0 || ig_register(registry, it, &it->id) != IG_OK) {
        exit(1);
    }
    return it;
}

/* Threads that run for ever leave at their next safe point, calls that wait are run, nobody else gets in; then the memory is
 * ours alone. */
static void vm_end(interpreter *it) {
    void *back;
    if (ig_finalize(registry, it->id, -1, &back) != IG_OK || back != it) {
        exit(1);
    }
    pthread_mutex_destroy(&it->lock);
    free(it);
}

int main(void) {
    if (ig_registry_new(16, &registry) != IG_OK || ig_runtime_set(&the_runtime) != IG_OK ||
        ig_pending_new(registry, 64, "SIGUSR1", IG_PENDING_ATTACHED, &from_handlers) != IG_OK ||
        ig_pending_start_worker(from_handlers) != IG_OK) {
        return 1;
    }
    interpreter *a = vm_new(), *b = vm_new();
    const int64_t id = a->id;
    interrupted = id;
    struct sigaction action = {.sa_handler = on_usr1, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    if (sigaction(SIGUSR1, &action, NULL) != 0) {
        return 1;
    }

    /* Two threads in one interpreter for ever, one in the other for a while. */
    task tasks[3] = {{a->id, for_ever, -2}, {a->id, for_ever, -2}, {b->id, hundred_ticks, -2}};
    pthread_t threads[3];
    for (int i = 0; i < 3; i++) {
        if (pthread_create(&threads[i], NULL, thread, &tasks[i]) != 0) {
            return 1;
        }
    }
    pthread_join(threads[2], NULL);
    if (b->ticks != 100) {
        return 1;
    }

    /* Signals until one has been answered, between the two that run for ever. */
    long calls = 0, ticks = 0;
    while (calls == 0) {
        uint64_t token;
        raise(SIGUSR1);
        if (ig_ensure_id(registry, id, &token) != IG_OK) {
            return 1;
        }
        calls = a->calls;
        ticks = a->ticks;
        if (ig_release(token) != IG_OK) {
            return 1;
        }
    }
    printf("a: %ld ticks and %ld calls; b: %ld ticks\n", ticks, calls, b->ticks);

    vm_end(a); /* threads are inside */
    pthread_join(threads[0], NULL);
    pthread_join(threads[1], NULL);
    raise(SIGUSR1); /* for an interpreter that has gone: nothing happens */
    if (tasks[0].result > 0 || tasks[1].result > 0 || vm_run(id, hundred_ticks) != -1) {
        return 1;
    }
    vm_end(b);
    signal(SIGUSR1, SIG_DFL);
    return ig_pending_free(from_handlers) == IG_OK && ig_registry_free(registry) == IG_OK ? 0 : 1;
}
