/*
 * interp-guard: is interpreter 7 still there, and can I keep it there while I use it?
 *
 * A table of interpreter IDs, looked up from any context, a signal handler included. ig_lookup returns a guard, which
 * keeps that interpreter from finalizing until ig_guard_close, or says why not.
 *
 * Context. Each comment says where its function may run:
 *   any, async-signal-safe   in a signal handler, on any thread, at any time, from any number of threads at once;
 *                            cannot fail in a way that is not in "Returns", does not touch errno, and cannot be a
 *                            cancellation point
 *   normal                   not in a signal handler; may lock and allocate; from any number of threads at once
 * No function may be called in a child of vfork or of clone with CLONE_VM but without CLONE_SETTLS, before it calls exec.
 *
 * Memory. No call on guards allocates; those that do say so.
 *
 * Misuse. A null argument, a zeroed guard, an ID that nobody has: a status, never a crash. What no library can know:
 * a pointer to something else, a registry used after it was freed, the content of a guard tampered with.
 *
 * Long jumps. A siglongjmp, or an asynchronous cancellation, out of a handler that holds a guard, or that interrupted
 * ig_lookup, ig_guard_dup, ig_guard_close or ig_pending_push, loses count of a guard: that interpreter can then no longer be
 * drained.
 */


#ifndef INTERP_GUARD_H
#define INTERP_GUARD_H

/* Written by cbindgen from capi/src. To change it: edit there, then BLESS=1 cargo test -p interp-guard-capi --test header */


#include <stddef.h>
#include <stdint.h>

#define IG_VERSION_MAJOR 0
#define IG_VERSION_MINOR 1
#define IG_VERSION_PATCH 0

/* To ignore the answer of a function so marked is a mistake. */
#if defined(__GNUC__)
#define IG_MUST_USE __attribute__((warn_unused_result))
#else
#define IG_MUST_USE
#endif

/* A guard that guards nothing yet: ig_guard guard = IG_GUARD_INIT; */
#define IG_GUARD_INIT {{0, 0, 0, 0}}


/**
 * For ig_registry_new_with: count guards per CPU; what the machine lacks for it is IG_UNAVAILABLE at the first registration.
 */
#define IG_COUNTERS_PER_CPU 1

/**
 * For ig_registry_new_with: count guards with locked adds.
 */
#define IG_COUNTERS_SHARED 2

/**
 * For ig_registry_new_with: keep a ledger of who holds each guard (thread, call site, age), which ig_report shows.
 */
#define IG_LEDGER 4

/**
 * For ig_pending_new: run each call attached to its interpreter, inside an ensure of the queue's own.
 */
#define IG_PENDING_ATTACHED 1

/**
 * What a call says. The numbers are stable; new ones are only added at the end.
 */
typedef enum ig_status {
    /**
     * Done.
     */
    IG_OK = 0,
    /**
     * No interpreter has this ID: it was never registered, or it has been finalized.
     */
    IG_NOT_FOUND = 1,
    /**
     * The interpreter is closing and gives out no more guards. From registering: ig_finalize_all is running.
     */
    IG_FINALIZING = 2,
    /**
     * As many interpreters are registered as the registry has capacity for, or as many calls wait as the queue has.
     */
    IG_FULL = 3,
    /**
     * An interpreter with this ID is registered.
     */
    IG_DUPLICATE_ID = 4,
    /**
     * An interpreter had this ID and is gone; IDs are never reused.
     */
    IG_RETIRED_ID = 5,
    /**
     * An argument is null, zeroed or out of range, or the call does not fit the state of things.
     */
    IG_INVALID = 6,
    /**
     * The time is over, and guards are still out or daemons attaching. The interpreter is closed and otherwise untouched.
     */
    IG_TIMEOUT = 7,
    /**
     * The calling thread itself is what the call would wait for: it is inside an ensure or a pending call. A guard from
     * ig_lookup that the thread holds is not noticed so, and is waited for.
     */
    IG_WOULD_DEADLOCK = 8,
    /**
     * The interpreter is closed already: ig_drain goes on with it. From ig_drain: another thread is draining it.
     */
    IG_ALREADY_CLOSING = 9,
    /**
     * The machine lacks what was asked for: memory, a counter mode, a memory barrier.
     */
    IG_UNAVAILABLE = 10,
    /**
     * A defect of this library, caught at its boundary. A message is on standard error.
     */
    IG_INTERNAL = 11,
} ig_status;

/**
 * A queue of pending calls, bound to a registry: handlers push, normal threads run. Opaque.
 *
 * A call that waits keeps its interpreter, but a queue is in no finalizer's way: closing an interpreter wakes whoever serves
 * the queue, and where nobody does, ig_report names it, or ig_drain runs the calls itself: see there. ig_finalize inside a pending call of that interpreter answers
 * IG_WOULD_DEADLOCK.
 */
typedef struct ig_pending ig_pending;

/**
 * A set of interpreters, looked up by ID from any context. Opaque.
 */
typedef struct ig_registry ig_registry;

/**
 * A guard: while it is held, its interpreter cannot finalize.
 *
 * A value: it may be kept anywhere, moved, and handed to another thread. Zeroed memory (`= {0}`) is no guard, and every
 * call knows it. A bitwise copy is the *same* guard, to be closed once; a second guard comes from ig_guard_dup.
 * The content is private.
 */
typedef struct ig_guard {
    uint64_t opaque[4];
} ig_guard;

/**
 * What a registry's finalizers have done, since the process began or was forked: see ig_stats. Times are in
 * nanoseconds.
 */
typedef struct ig_statistics {
    /**
     * Interpreters that were closed.
     */
    uint64_t closings;
    /**
     * Interpreters that were drained and handed back.
     */
    uint64_t drains;
    /**
     * Drains that gave up at their deadline. An interpreter that is drained again afterwards may be counted again.
     */
    uint64_t timeouts;
    /**
     * How long the drains that ended with `drains` took together. In an ig_finalize_all every one begins when the
     * waiting does.
     */
    uint64_t drain_ns;
    /**
     * How long the longest of them took.
     */
    uint64_t longest_drain_ns;
} ig_statistics;

/**
 * What a runtime supplies so that ig_ensure can attach threads to its interpreters. A thread state is a pointer of the
 * runtime's; each function is about the calling thread. None of them may longjmp or throw.
 */
typedef struct ig_runtime {
    /**
     * The thread state that is attached on this thread; NULL if none is.
     */
    void *(*attached)(void);
    /**
     * The ID under which the interpreter of an attached thread state is registered.
     */
    int64_t (*interpreter_of)(void *state);
    /**
     * Makes a thread state of `interp`, as it was registered, for this thread, and does not attach it. NULL if it cannot.
     */
    void *(*create)(void *interp);
    /**
     * Attaches; waits as long as it takes. Nothing is attached when it is called.
     */
    void (*attach)(void *state);
    /**
     * Detaches an attached thread state.
     */
    void (*detach)(void *state);
    /**
     * Destroys an attached thread state that `create` made, and leaves nothing attached.
     */
    void (*destroy)(void *state);
} ig_runtime;

/**
 * What was run.
 */
typedef struct ig_ran {
    /**
     * Calls that were taken from the queue, those that failed included.
     */
    uint64_t calls;
    /**
     * Calls with IG_PENDING_ATTACHED that were not run, because the runtime could not make a thread state, or that left an
     * ensure of theirs unreleased. Standard error says of each what it was.
     */
    uint64_t failed;
} ig_ran;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * What a status means, in a sentence for people.
 *
 * Context: any, async-signal-safe.
 * Returns: text that lives as long as the library; never null, also for a number that is no status.
 * Touches: nothing.
 */
const char *ig_status_message(ig_status status);

/**
 * The version of the library that runs, such as "0.1.0". The header's own is IG_VERSION_MAJOR, _MINOR, _PATCH.
 *
 * Context: any, async-signal-safe.
 * Returns: text that lives as long as the library.
 * Touches: nothing.
 */
const char *ig_version(void);

/**
 * Takes a guard on interpreter `id`, if it is live.
 *
 * Context: any, async-signal-safe, wait-free, O(1), re-entrant to any depth.
 * Returns: IG_OK; IG_FINALIZING if it is closing; IG_NOT_FOUND if it is gone or never was, also before anything was
 * registered; IG_INVALID for a null argument.
 * Ownership: with IG_OK, `*out` is a guard that the caller owes one ig_guard_close; else it is zeroed. What `*out` held
 * before is overwritten, not closed.
 * Touches: the registry's table and `*out`; with the ledger on, that too, and the clock and the thread's ID by system
 * calls. No lock, no allocation, no errno, no thread-local storage.
 */
IG_MUST_USE ig_status ig_lookup(ig_registry *registry, int64_t id, ig_guard *out);

/**
 * Takes another guard on the interpreter that `guard` guards. Succeeds while it is closing, too.
 *
 * Context: any, async-signal-safe, wait-free, O(1).
 * Returns: IG_OK; IG_INVALID if `guard` is null or zeroed, if `out` is null, or if both are the same.
 * Ownership: with IG_OK, `*out` is a guard that the caller owes one ig_guard_close, independent of `*guard`; else `*out`
 * is zeroed, unless it is `guard`.
 * Touches: as ig_lookup, and `*guard` (read).
 */
IG_MUST_USE ig_status ig_guard_dup(const ig_guard *guard, ig_guard *out);

/**
 * Gives a guard up and zeroes `*guard`. The last guard of a closing interpreter wakes its finalizer; nothing of the
 * interpreter is touched or freed here.
 *
 * Context: any, async-signal-safe, wait-free.
 * Returns: IG_OK; IG_INVALID if `guard` is null or zeroed, closed ones included, and, with the ledger on, if this guard was
 * closed before through a bitwise copy. (Without the ledger a drain finds that out, and hands nothing back, unless another guard
 * is out: which of the two is gone, the count cannot tell.)
 * Ownership: the guard is gone; so is the right to use the interpreter under it.
 * Touches: the registry's table, the ledger if it is on, and `*guard`; if the interpreter is closing, one futex system
 * call. No lock, no allocation, no errno, no thread-local storage.
 */
ig_status ig_guard_close(ig_guard *guard);

/**
 * What was registered: the pointer that ig_register was given.
 *
 * Context: any, async-signal-safe, wait-free.
 * Returns: the pointer; NULL for a null or zeroed guard.
 * Ownership: to be used while the guard is held.
 * Touches: the registry's memory (read) and `*guard` (read).
 */
void *ig_guard_interpreter(const ig_guard *guard);

/**
 * The guarded interpreter's ID.
 *
 * Context: any, async-signal-safe, wait-free.
 * Returns: the ID; -1 for a null or zeroed guard.
 * Touches: `*guard` (read).
 */
int64_t ig_guard_id(const ig_guard *guard);

/**
 * Has somebody begun to close the interpreter? A long holder that sees 1 should finish and close its guard: a finalizer
 * waits for it.
 *
 * Context: any, async-signal-safe, wait-free.
 * Returns: 1 or 0; 0 for a null or zeroed guard.
 * Touches: the registry's table (read) and `*guard` (read).
 */
int ig_guard_is_closing(const ig_guard *guard);

/**
 * The main interpreter: the first that was registered into an empty registry, unless ig_set_main has named another.
 *
 * Context: any, async-signal-safe, wait-free.
 * Returns: its ID; -1 if nobody is, as before the first registration and from the moment it is finalized, or for a
 * null registry.
 * Touches: the registry's table (read).
 */
int64_t ig_main(ig_registry *registry);

/**
 * Calls `call(id, data)` with the ID of every interpreter that is live when its place in the table is looked at, in no
 * particular order. That an interpreter was live is no guard: ig_lookup may say no by then.
 *
 * Context: any, async-signal-safe if `call` is. Looks at 2 to 4 places for each interpreter of capacity.
 * Returns: IG_OK; IG_INVALID for a null `registry` or `call`.
 * Ownership: `data` stays the caller's, and may be NULL. `call` must not longjmp or throw.
 * Touches: the registry's table (read), and what `call` does.
 */
ig_status ig_for_each_live(ig_registry *registry, void (*call)(int64_t id, void *data), void *data);

/**
 * Makes a registry for `capacity` interpreters at a time, 1 to 2^20.
 *
 * The environment decides the rest: INTERP_GUARD_COUNTERS=per-cpu or shared, else the best the machine has;
 * INTERP_GUARD_LEDGER=1 for a ledger, else none.
 *
 * Context: normal; allocates.
 * Returns: IG_OK; IG_INVALID if `capacity` is out of range or `out` null.
 * Ownership: with IG_OK, `*out` is the caller's, who owes one ig_registry_free; else it is NULL.
 */
ig_status ig_registry_new(size_t capacity, ig_registry **out);

/**
 * Makes a registry as ig_registry_new does, with wishes that come before the environment's, or'ed together: IG_LEDGER, and
 * at most one of IG_COUNTERS_PER_CPU and IG_COUNTERS_SHARED.
 *
 * Context: normal; allocates.
 * Returns: as ig_registry_new; IG_INVALID also for an unknown wish and for two that contradict each other.
 * Ownership: as ig_registry_new.
 */
ig_status ig_registry_new_with(size_t capacity, unsigned int wishes, ig_registry **out);

/**
 * Frees a registry in which no interpreter is left and to which no pending queue is bound.
 *
 * The caller sees to it that no other call on this registry is in progress, in a signal handler neither, and none comes
 * later: an ig_guard_close that let an ig_drain return may itself still be on its way out.
 *
 * Context: normal.
 * Returns: IG_OK; IG_INVALID if `registry` is null, or has interpreters left (and so, perhaps, guards) or queues: then it is as
 * it was.
 * Ownership: with IG_OK the registry is gone.
 */
ig_status ig_registry_free(ig_registry *registry);

/**
 * Registers an interpreter under a fresh ID. These count up from 0, past those that were chosen by ig_register_with_id.
 * No ID is negative: where none is known yet, -1 stands for nobody.
 *
 * Context: normal; allocates; takes the registry's mutex.
 * Returns: IG_OK; IG_FULL; IG_FINALIZING while ig_finalize_all runs; IG_UNAVAILABLE if the registry could not set
 * itself up; IG_INVALID for a null argument.
 * Ownership: `interp` stays the caller's, to be kept until ig_drain or ig_finalize hands it back. With any other answer
 * nothing has changed and `*id` is -1.
 */
ig_status ig_register(ig_registry *registry, void *interp, int64_t *id);

/**
 * Registers an interpreter as ig_register does, with a name: what ig_report calls it besides its ID. NULL or an empty
 * text: none.
 *
 * Names are for people. Several interpreters may have the same one, and nothing is looked up by it. It goes with the
 * interpreter.
 *
 * Context: normal; allocates; takes the registry's mutex.
 * Returns: as ig_register.
 * Ownership: as ig_register. The name is copied; bytes of it that are not UTF-8 are replaced.
 */
ig_status ig_register_named(ig_registry *registry, const char *name, void *interp, int64_t *id);

/**
 * Registers an interpreter under an ID of the caller's choice, 0 to INT64_MAX - 1.
 *
 * Context: normal; allocates; takes the registry's mutex.
 * Returns: IG_OK; IG_FULL; IG_DUPLICATE_ID if an interpreter has the ID; IG_RETIRED_ID if one had it; IG_FINALIZING
 * while ig_finalize_all runs; IG_UNAVAILABLE if the registry could not set itself up; IG_INVALID for a null argument
 * or an ID out of range.
 * Ownership: as ig_register.
 */
ig_status ig_register_with_id(ig_registry *registry, int64_t id, void *interp);

/**
 * Gives an interpreter a name, as ig_register_named does, in place of the one that it has: for one that came with an
 * ID of its own, too. NULL or an empty text takes the name away.
 *
 * Context: normal; allocates; takes the registry's mutex.
 * Returns: IG_OK, also while it is closing; IG_NOT_FOUND; IG_INVALID for a null registry.
 * Ownership: the name is copied; bytes of it that are not UTF-8 are replaced.
 */
ig_status ig_set_name(ig_registry *registry, int64_t id, const char *name);

/**
 * Names the main interpreter: what ig_main answers from here on, and whom ig_finalize_all hands out last.
 *
 * Context: normal; takes the registry's mutex.
 * Returns: IG_OK; IG_FINALIZING if it is closing; IG_NOT_FOUND; IG_INVALID for a null registry. With any but the
 * first, nothing has changed.
 */
ig_status ig_set_main(ig_registry *registry, int64_t id);

/**
 * Closes an interpreter: no new guards from here on; the ones that are out stay valid. Never undone.
 *
 * When this has returned IG_OK, every ig_lookup that begins answers IG_FINALIZING. The right to drain waits in the
 * registry for an ig_drain, from any thread.
 *
 * Context: normal; takes the registry's mutex.
 * Returns: IG_OK; IG_NOT_FOUND; IG_ALREADY_CLOSING if it is closed already, by whomever; IG_INVALID for a null registry.
 */
ig_status ig_close(ig_registry *registry, int64_t id);

/**
 * Waits until no guard of a closed interpreter is out, takes it out of the registry, retires its ID, and hands it back.
 *
 * `timeout_ns` limits the waiting in nanoseconds; 0 looks once, a negative one is without limit. Never proceeds with a
 * guard out.
 *
 * To be called with the interpreter detached on this thread: while it is attached, whoever holds a guard may be waiting for the
 * runtime's lock. The drain runs the interpreter's pending calls in a queue that nobody serves, if it may wait and this thread
 * ran that queue's calls last, or the thread that did has ended; with no limit, also if nobody ever has and this thread made the
 * queue. That is a use of the queue.
 *
 * Context: normal; blocks, with no lock held; takes as long as the calls do.
 * Returns: IG_OK; IG_TIMEOUT, after which ig_drain may be called again; IG_NOT_FOUND; IG_ALREADY_CLOSING while another
 * thread drains it; IG_WOULD_DEADLOCK if only the calling thread could end the waiting: it is inside an ensure or a pending call of
 * the interpreter, or attached to it while a daemon attaches; IG_UNAVAILABLE if the kernel refuses the memory barrier; IG_INVALID
 * for a null argument, for an interpreter that is live (ig_close comes first), and if more guards were closed than taken: some
 * guard was closed twice through a copy, and nobody can say what is out.
 * Ownership: with IG_OK, `*interp` is the registered pointer, exclusively the caller's again: what was done under a guard
 * before its ig_guard_close happens before this return, in C11's words, so that fields need not be atomic for it. (Thread
 * sanitizers do not see that: the library's own accesses are not compiled for them.) Else it is NULL.
 */
IG_MUST_USE ig_status ig_drain(ig_registry *registry, int64_t id, int64_t timeout_ns, void **interp);

/**
 * Closes an interpreter and drains it: ig_close and ig_drain in one.
 *
 * Context: normal; blocks, with no lock held.
 * Returns: as ig_close and ig_drain. After IG_TIMEOUT the interpreter is closed, and ig_drain goes on with it: another
 * ig_finalize answers IG_ALREADY_CLOSING. After IG_WOULD_DEADLOCK it is as it was, unless a daemon began to attach meanwhile.
 * Ownership: as ig_drain.
 */
IG_MUST_USE ig_status ig_finalize(ig_registry *registry, int64_t id, int64_t timeout_ns, void **interp);

/**
 * Closes every interpreter, then drains all under one deadline, then calls `each` once for every one: the latest
 * registered first, the main interpreter last.
 *
 * `status` is IG_OK, and `interp` the registered pointer; or it says why not, as ig_drain does, and `interp` is NULL.
 * One that was closed already and left is taken up. One that another thread drains is left to it: IG_ALREADY_CLOSING.
 * What was not handed back stays closed, and ig_drain or another ig_finalize_all goes on with it.
 *
 * All are handed back when the last is drained: one guard that is never closed delays every one of them to the deadline.
 * Whoever wants each as soon as it is drained calls ig_close for all, and then ig_drain for each.
 *
 * While the draining lasts, registering answers IG_FINALIZING. `each` is called when it is over, on this thread, in
 * normal context, with no lock held: it may make any call but ig_registry_free, and the registry is open again. It
 * must not longjmp or throw.
 *
 * `timeout_ns` limits the waiting for all of them together, as in ig_drain; what else is said there holds here for
 * each.
 *
 * Context: normal; allocates; blocks, with no lock held.
 * Returns: IG_OK if every interpreter was handed back, also if there was none; else the first status that `each` was
 * told and that is not IG_OK; IG_INVALID for a null `registry` or `each`: then nothing was closed.
 * Ownership: an `interp` that `each` is told is exclusively the caller's again. `data` stays the caller's, and may be
 * NULL.
 */
IG_MUST_USE ig_status ig_finalize_all(ig_registry *registry, int64_t timeout_ns, void (*each)(int64_t id, ig_status status, void *interp, void *data), void *data);

/**
 * What the registry's finalizers have done so far. Nothing is counted where guards are taken and closed.
 *
 * `size` is `sizeof *out`: a later version may count more, at the end. What this one does not know is 0.
 *
 * Context: normal; takes the registry's mutex.
 * Returns: IG_OK; IG_INVALID for a null argument, or a `size` that is smaller than that of this version.
 */
ig_status ig_stats(ig_registry *registry, ig_statistics *out, size_t size);

/**
 * How many guards of an interpreter are out.
 *
 * Counts every guard that is out throughout the call; one that comes or goes meanwhile may or may not be counted.
 *
 * Context: normal; takes the registry's mutex; O(CPUs).
 * Returns: IG_OK, with the number in `*count`; IG_NOT_FOUND; IG_INVALID for a null argument.
 */
ig_status ig_outstanding(ig_registry *registry, int64_t id, uint64_t *count);

/**
 * Writes what keeps an interpreter from finalizing, for people: its ID and name; how many guards are out; with the
 * ledger on, who holds them (thread, call site, age); how many threads are attaching as daemons; and in which pending
 * queues calls for it wait.
 *
 * Works as snprintf does: writes at most `size` bytes, the terminating zero included, and says how long the whole text is.
 *
 * Context: normal; allocates for the duration of the call; takes the registry's mutex.
 * Returns: IG_OK, with the length of the whole text, without the zero, in `*length`; IG_NOT_FOUND; IG_INVALID if `registry` or
 * `length` is null, or `text` is with a `size` other than 0.
 */
ig_status ig_report(ig_registry *registry, int64_t id, char *text, size_t size, size_t *length);

/**
 * Has `call(id, data)` called once when the interpreter closes: so that a pool can wind its workers down and give
 * their guards up. It runs on the thread that closes, inside ig_close, ig_finalize or ig_finalize_all, in normal
 * context, with no lock held; of several, the latest first. It must not longjmp or throw.
 *
 * Context: normal; allocates; takes the registry's mutex.
 * Returns: IG_OK; IG_FINALIZING if it is closing already; IG_NOT_FOUND; IG_INVALID for a null registry or `call`.
 * Ownership: `data` stays the caller's, and may be NULL.
 */
ig_status ig_on_close(ig_registry *registry, int64_t id, void (*call)(int64_t id, void *data), void *data);

/**
 * Says how the program's runtime attaches threads. Once per process, before the first ig_ensure; the table is copied.
 *
 * Context: normal.
 * Returns: IG_OK; IG_INVALID for a null argument, a table in which a function is missing, or a second call.
 */
ig_status ig_runtime_set(const ig_runtime *runtime);

/**
 * Attaches this thread to a guarded interpreter, whatever is attached on it already. Ensures nest to any depth, also across
 * interpreters, and are released last in, first out.
 *
 * Context: normal; allocates; waits as the runtime's `attach` does.
 * Returns: IG_OK; IG_UNAVAILABLE if the runtime could not make a thread state; IG_INVALID for a null argument, a zeroed guard,
 * or without ig_runtime_set; IG_FINALIZING or IG_NOT_FOUND only for a guard that a forked child inherited and did not keep.
 * Ownership: the guard stays the caller's: the level takes its own. With IG_OK, `*token` names the level, which this thread
 * owes one ig_release; else it is 0.
 */
ig_status ig_ensure(const ig_guard *guard, uint64_t *token);

/**
 * Attaches this thread to an interpreter by its ID. Inside an ensure of the same interpreter it succeeds while that is closing,
 * too.
 *
 * Context: normal; allocates; waits as the runtime's `attach` does.
 * Returns: IG_OK; IG_FINALIZING; IG_NOT_FOUND; else as ig_ensure.
 * Ownership: as ig_ensure.
 */
ig_status ig_ensure_id(ig_registry *registry, int64_t id, uint64_t *token);

/**
 * Restores exactly what was attached before the matching ensure, destroys the thread state only if that made it, and gives
 * the level's guard up last.
 *
 * Context: normal.
 * Returns: IG_OK; IG_INVALID if `token` is not this thread's innermost level, or its thread state is not attached: then
 * nothing has changed; IG_FINALIZING if it is released, but the interpreter attached before has been finalized meanwhile.
 */
ig_status ig_release(uint64_t token);

/**
 * The legacy contract, as PyGILState_Ensure has it: attaches this thread to the main interpreter, as a daemon, which guards
 * nothing. It has no answer for a thread that comes too late: where the main interpreter is finalizing or gone, this does not
 * return, and the thread is parked for good. New code uses ig_ensure_id with ig_main, which guards and can say no.
 *
 * Context: normal; allocates; waits as the runtime's `attach` does; may never return.
 * Returns: IG_OK; IG_NOT_FOUND if nothing was ever registered; IG_UNAVAILABLE if the runtime could not make a thread state;
 * IG_INVALID for a null argument, or without ig_runtime_set.
 * Ownership: with IG_OK, `*token` names the level, which this thread owes one ig_gilstate_release; else it is 0.
 */
ig_status ig_gilstate_ensure(ig_registry *registry, uint64_t *token);

/**
 * Restores what was attached before ig_gilstate_ensure. Where that has been finalized, this does not return: the thread is parked
 * for good.
 *
 * Context: normal; may never return.
 * Returns: IG_OK; IG_INVALID as ig_release.
 */
ig_status ig_gilstate_release(uint64_t token);

/**
 * How many threads are parked for good.
 *
 * Context: normal.
 * Returns: how many.
 */
size_t ig_parked(void);

/**
 * Begins an allow-threads section: detaches what this thread's innermost ensure has attached, so that others can run while this
 * thread waits for something. Where nothing is attached there is nothing to do, and that is no error; so sections nest, and
 * code that cannot know may use them too.
 *
 * Context: normal.
 * Returns: IG_OK, with what ig_allow_threads_end wants in `*section`; IG_INVALID, and 0 there, if something is attached that the
 * innermost ensure did not attach, for a null argument, or without ig_runtime_set.
 * Ownership: what a level guards stays guarded. The thread owes one ig_allow_threads_end, and before that the release of
 * every ensure inside the section.
 */
ig_status ig_allow_threads_begin(uint64_t *section);

/**
 * Ends an allow-threads section: attaches again what ig_allow_threads_begin has detached. Under a guard, also while the
 * interpreter is closing, it cannot be refused and never hangs.
 *
 * Context: normal; waits as the runtime's `attach` does.
 * Returns: IG_OK, also for 0, the section in which nothing was detached; IG_INVALID if `section` is none of this thread's
 * innermost level, or if something is attached: then nothing has changed; IG_FINALIZING or IG_NOT_FOUND if the level is a daemon
 * and its interpreter is about to be handed back, or has been: nothing is attached, and the level owes its ig_release still.
 */
ig_status ig_allow_threads_end(uint64_t section);

/**
 * With 1, gives up the guard of this thread's innermost level: the interpreter may finalize under it. With 0, takes one again.
 *
 * Context: normal.
 * Returns: IG_OK; with 0 also IG_FINALIZING or IG_NOT_FOUND, and the level is a daemon as before; IG_INVALID for a null registry, or
 * if the innermost level is none of this registry's.
 */
ig_status ig_set_daemon(ig_registry *registry, int daemon);

/**
 * Is this thread's innermost level a daemon?
 *
 * Context: normal.
 * Returns: IG_OK, with 1 or 0 in `*daemon`; IG_INVALID for a null argument, or if that level is none of this registry's.
 */
ig_status ig_is_daemon(ig_registry *registry, int *daemon);

/**
 * The interpreter that an ensure has attached on this thread: for a profiler, to tag its samples with.
 *
 * Context: any, async-signal-safe.
 * Returns: the ID; -1 if none is attached.
 * Touches: two words in the static block of this thread, which is there from the thread's beginning.
 */
int64_t ig_current_id(void);

/**
 * Makes a queue with room for `capacity` calls, 1 to 2^20. `name` is what ig_report calls it, and is copied; NULL: "pending".
 * `wishes` is 0 or IG_PENDING_ATTACHED.
 *
 * Context: normal; allocates; takes the registry's mutex.
 * Returns: IG_OK; IG_UNAVAILABLE if the system has no descriptor to give or the registry could not set itself up; IG_INVALID
 * for a null `registry` or `out`, a capacity out of range, an unknown wish, or IG_PENDING_ATTACHED without ig_runtime_set.
 * Ownership: with IG_OK, `*out` is the caller's, who owes one ig_pending_free before the registry is freed; else it is NULL.
 */
ig_status ig_pending_new(ig_registry *registry, size_t capacity, const char *name, unsigned int wishes, ig_pending **out);

/**
 * Frees a queue: stops its worker, if it has one, which runs what waits; where there is none, calls that wait are not run, and
 * their guards are given up.
 *
 * The caller sees to it that no other call on this queue is in progress, in a signal handler neither, and none comes later.
 *
 * Context: normal; blocks while the worker finishes.
 * Returns: IG_OK; IG_WOULD_DEADLOCK from inside one of the queue's calls: then it is as it was; IG_INVALID for a null
 * argument.
 * Ownership: with IG_OK the queue is gone.
 */
ig_status ig_pending_free(ig_pending *pending);

/**
 * Leaves `call(guard, data)` for whoever serves the queue, and wakes them. One thread that serves it runs calls in the order
 * of their pushes.
 *
 * `call` runs on a normal thread, once, with a guard of its own, which is closed after it unless the call did so itself. It
 * must not longjmp or throw.
 *
 * Context: any, async-signal-safe, wait-free, re-entrant to any depth.
 * Returns: IG_OK; IG_FULL; IG_INVALID for a null `pending`, `guard` or `call`, for a zeroed guard and one of another registry.
 * Ownership: with IG_OK the guard is the queue's, and `*guard` zeroed; else it stays the caller's. `data` stays the caller's,
 * and may be NULL.
 * Touches: the queue, the registry's table (read), `*guard`; one write to the queue's eventfd; if the interpreter is closing,
 * one futex system call. No lock, no allocation, no errno, no thread-local storage.
 */
IG_MUST_USE ig_status ig_pending_push(ig_pending *pending, ig_guard *guard, void (*call)(ig_guard *guard, void *data), void *data);

/**
 * The queue's eventfd, readable while calls wait: for the program's own event loop, which then calls ig_pending_run.
 *
 * In a forked child the same number is an eventfd of the child's own. If RLIMIT_NOFILE was lowered to that number or below, or
 * the system has no file left to give, it stays the parent's and says nothing about the child's calls; ig_pending_run runs them
 * all the same, and like ig_pending_start_worker it tries again to replace it.
 *
 * Context: any, async-signal-safe.
 * Returns: the descriptor; -1 for a null argument.
 * Ownership: the queue's. Nobody else reads or closes it.
 * Touches: the queue (read).
 */
int ig_pending_fd(const ig_pending *pending);

/**
 * Runs the calls that wait, on this thread; those that are pushed meanwhile not included.
 *
 * Context: normal; takes as long as the calls do.
 * Returns: IG_OK, with what was run in `*ran`, if that is not NULL; IG_INVALID for a null `pending`.
 */
ig_status ig_pending_run(ig_pending *pending, ig_ran *ran);

/**
 * Starts a thread that runs the queue's calls as they come. All signals are blocked on it.
 *
 * Context: normal; allocates.
 * Returns: IG_OK; IG_UNAVAILABLE if the system has no thread or descriptor to give; IG_INVALID for a null argument, or if the
 * queue has a worker.
 */
ig_status ig_pending_start_worker(ig_pending *pending);

/**
 * Lets the worker finish its call, run what is queued by then, and end; waits for that. In a forked child, which has no such
 * thread, it forgets the worker, and another may be started.
 *
 * Context: normal; blocks.
 * Returns: IG_OK, with what the worker ran in its life in `*ran`, if that is not NULL; IG_UNAVAILABLE, with the same, if it had
 * ended by itself, since the system did not let it wait: standard error has said why; IG_WOULD_DEADLOCK from inside one of the
 * queue's calls; IG_INVALID for a null `pending`, or if it has no worker. But for the last two, the queue has no worker then.
 */
ig_status ig_pending_stop_worker(ig_pending *pending, ig_ran *ran);

/**
 * Before a fork: blocks this thread's signals and takes the registry's mutex, until ig_after_fork_parent or
 * ig_after_fork_child. In between, lookups and closes of guards go on. Another thread's ig_before_fork, of any registry, waits.
 *
 * Several registries may be around one fork, asked and answered in any order. The last answer gives the signal mask back. Twice
 * for one registry nests, and is answered twice.
 *
 * Context: normal; blocks; never in a signal handler.
 * Returns: IG_OK; IG_INVALID for a null registry.
 */
ig_status ig_before_fork(ig_registry *registry);

/**
 * After a fork, in the parent, also if the fork failed; on the thread that called ig_before_fork.
 *
 * Context: normal.
 * Returns: IG_OK; IG_INVALID for a null registry, or if this thread has not called ig_before_fork.
 */
ig_status ig_after_fork_parent(ig_registry *registry);

/**
 * After a fork, in the child, on its only thread, before it does anything else with the registry.
 *
 * The `n` guards at `kept` go on protecting their interpreters, and so do the forking thread's own ensure levels. Every other
 * inherited guard protects nothing any more: its interpreter is not to be used under it; closing it is allowed, and counts
 * nothing. So the child can finalize whatever the parent's threads held. Pending calls are the parent's, and forgotten.
 *
 * Context: normal, the only thread of a forked child; takes no lock and allocates nothing.
 * Returns: IG_OK; IG_INVALID for a null registry, for a null `kept` with an `n` other than 0, or if the forking thread had
 * not called ig_before_fork.
 * Ownership: the guards stay the caller's. Zeroed ones and those of other registries are left as they are.
 */
ig_status ig_after_fork_child(ig_registry *registry, ig_guard *kept, size_t n);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* INTERP_GUARD_H */
