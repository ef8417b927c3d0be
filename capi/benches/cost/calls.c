/* The C side of the benchmark: loops around the calls, with the status of each looked at. */

#include <interp_guard.h>

/* Takes a guard and gives it up, `n` times. Returns how often that failed. */
uint64_t lookup_and_close(ig_registry *registry, int64_t id, uint64_t n) {
    uint64_t failed = 0;
    for (uint64_t i = 0; i < n; i++) {
        ig_guard guard;
        failed += ig_lookup(registry, id, &guard) != IG_OK;
        failed += ig_guard_close(&guard) != IG_OK;
    }
    return failed;
}

/* What two calls cost by themselves that hand a guard on through the caller's memory, as the interface has it: the first writes
 * it, the second reads it and zeroes it, and nothing else is done. */
__attribute__((noinline)) static ig_status write_it(ig_registry *registry, int64_t id, ig_guard *out) {
    out->opaque[0] = (uint64_t)(uintptr_t)registry;
    out->opaque[1] = (uint64_t)id;
    out->opaque[2] = (uint64_t)id;
    out->opaque[3] = 0;
    __asm__ volatile("" ::: "memory");
    return IG_OK;
}

__attribute__((noinline)) static ig_status read_it(ig_guard *guard) {
    const uint64_t of = guard->opaque[0], slot = guard->opaque[2], ticket = guard->opaque[3];
    if (guard == NULL || of == 0) {
        return IG_INVALID;
    }
    *guard = (ig_guard)IG_GUARD_INIT;
    __asm__ volatile("" ::"r"(slot), "r"(ticket) : "memory");
    return IG_OK;
}

uint64_t two_calls(ig_registry *registry, int64_t id, uint64_t n) {
    uint64_t failed = 0;
    for (uint64_t i = 0; i < n; i++) {
        ig_guard guard;
        failed += write_it(registry, id, &guard) != IG_OK;
        failed += read_it(&guard) != IG_OK;
    }
    return failed;
}

/* Asks for an interpreter that is not there. */
uint64_t miss(ig_registry *registry, int64_t id, uint64_t n) {
    uint64_t found = 0;
    for (uint64_t i = 0; i < n; i++) {
        ig_guard guard;
        found += ig_lookup(registry, id, &guard) != IG_NOT_FOUND;
    }
    return found;
}
