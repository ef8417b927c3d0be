/* The per-CPU protocol of DESIGN section 4 on one slot: acquire (A1..A4), clone, exit (X1..X3), close (C1, C2),
 * drained (D0..D3). The labels are the design's. Each TWIN_ macro plants one mistake.
 *
 * What is checked:
 *   assert(guards_out[id] == 0)    when the sums say zero: no guard is missed
 *   assert(!zero_seen[id])         when a guard comes into being: none is creatable after zero was seen
 *   assert(out >= 0)               the sums never report an over-release that did not happen
 *   no invalid end state           no lost wake-up: the finalizer never sleeps for ever
 *   no cycle (see run)             the drain ends
 */

#define VACANT           0
#define live(id)         (((id) + 1) << 1)
#define closing(id)      (((id) + 1) << 1 | 1)
#define is_closing(word) ((word) & 1)
#define is_live(word)    ((word) != VACANT && !is_closing(word))

#ifndef IDS
#define IDS 2                   /* interpreters 0 .. IDS-1 live in the slot one after the other */
#endif

/* Ghost state, for the assertions only. */
byte guards_out[IDS];
bool zero_seen[IDS];

#ifdef ARMV8
#include "armv8.pml"
#else
#include "machine.pml"
#endif

#define BORN(id)  assert(!zero_seen[id]); guards_out[id]++
#define GONE(id)  guards_out[id]--

mtype = { A2_acquired, CLONE_acquired, X1_released };

/* counter[stripe] += 1, and `ghost` with it: a restartable sequence on the stripe of this CPU, tried once. It may
 * abort at any time (migration, preemption, signal, debugger); then the spare stripe takes an atomic add. `how` is
 * `plain` (A2, clone) or `release` (X1), of the store that commits and of the add; on x86-64 they are the same. */
#define OWN_STRIPE(c, how, counter, what, ghost) \
    STORING_ON(c, store_##how(c, counter + c, next(load_on(c, counter + c))); ghost; \
               printf("%e on stripe %d, into the buffer: %d\n", what, c, load_on(c, counter + c)))
#if defined(TWIN_NO_RESTART)            /* the CPU number is read first, and nothing aborts when the thread moves */
#define READ_CPU(c, what)  d_step { can_run(c) -> stripe = c; printf("T%d on CPU%d: %e: reads its CPU number\n", t, c, what) }
#define STALE_STRIPE(c, how, counter, what, ghost) \
    STORING_ON(c, store_##how(c, counter + stripe, next(load(counter + stripe))); ghost; \
               printf("%e on stripe %d, into the buffer: %d\n", what, stripe, load(counter + stripe)); stripe = 0)
#define COUNT(how, counter, what, ghost) \
    if ANY_CPU(READ_CPU, what) fi; \
    if ANY_CPU(STALE_STRIPE, how, counter, what, ghost) fi
#elif defined(TWIN_NO_ABORT)            /* load, add, store: another thread of this CPU comes in between, and nothing aborts */
#define READ_COUNTER(c, counter, what) \
    d_step { can_run(c) -> stripe = c; count = load_on(c, counter + c); \
             printf("T%d on CPU%d: %e: reads %d on stripe %d\n", t, c, what, count, c) }
#define STALE_COUNT(c, how, counter, what, ghost) \
    d_step { stripe == c && can_run(c) -> printf("T%d on CPU%d: ", t, c); store_##how(c, counter + c, next(count)); ghost; \
             printf("%e on stripe %d, into the buffer: %d\n", what, c, next(count)); stripe = 0; count = 0 }
#define COUNT(how, counter, what, ghost) \
    if ANY_CPU(READ_COUNTER, counter, what) fi; \
    if ANY_CPU(STALE_COUNT, how, counter, what, ghost) fi
#elif defined(TWIN_SPARE_WITHOUT_LOCK)  /* a plain add on the stripe that all CPUs share */
#define PLAIN_SPARE(c, how, counter, what, ghost) \
    STORING_ON(c, store_##how(c, counter + SPARE, next(load(counter + SPARE))); ghost; \
               printf("%e: sequence aborted, plain add on the spare stripe, into the buffer: %d\n", what, load(counter + SPARE)))
#define COUNT(how, counter, what, ghost) \
    if ANY_CPU(OWN_STRIPE, how, counter, what, ghost) ANY_CPU(PLAIN_SPARE, how, counter, what, ghost) fi
#else
#define COUNT(how, counter, what, ghost) \
    if ANY_CPU(OWN_STRIPE, how, counter, what, ghost) SPARE_STRIPE(how, counter, what, ghost) fi
#endif

#if defined(TWIN_NO_A1)
#define A1_LETS_THROUGH(word) true
#else
#define A1_LETS_THROUGH(word) (word) == live(id)
#endif
#if defined(TWIN_NO_A4)
#define A4_LETS_THROUGH(word) true
#elif defined(TWIN_A4_IGNORES_ID)
#define A4_LETS_THROUGH(word) is_live(word)
#else
#define A4_LETS_THROUGH(word) (word) == live(id)
#endif

/* acquire(slot, id). Afterwards `counted` says whether A2 ran, so that an exit is owed; `guard` whether A4 passed.
 * A3, the light fence, is a compiler fence: program order is what remains of it. */
inline acquire(id)
{
    LOADING(counted = A1_LETS_THROUGH(load(WORD)); printf("A1: lookup(%d) reads word=%d\n", id, load(WORD)));
    if
    :: counted ->
        COUNT(plain, ACQUIRED, A2_acquired, skip);
        LOADING(guard = A4_LETS_THROUGH(load(WORD));
            if
            :: guard -> printf("A4: reads word=%d, has a guard of %d\n", load(WORD), id); BORN(id)
            :: else -> printf("A4: reads word=%d, backs out\n", load(WORD))
            fi);
        USED_BY_HOLDER(id)
    :: else
    fi
}

/* clone(guard): no check. */
inline clone(id)
{
    COUNT(plain, ACQUIRED, CLONE_acquired, BORN(id))
}

#if defined(TWIN_WAKE_OWN_ID_ONLY)
#define X3_WAKES(word) (word) == closing(id)
#else
#define X3_WAKES(word) is_closing(word)
#endif
#if defined(TWIN_WAKE_WORD_NOT_BUMPED)
#define BUMP
#elif defined(TWIN_WAKE_ADD_RELAXED)    /* on Armv8: an atomic add that waits for nothing before it */
#define BUMP LOADING(mem[WAKE] = next(mem[WAKE]); printf("X3: wake word, relaxed add: %d\n", mem[WAKE]))
#elif defined(TWIN_WAKE_WORD_WITHOUT_LOCK)
#define BUMP STORE(WAKE, next(load(WAKE)), printf("X3: wake word, into the buffer: %d\n", load(WAKE)))
#else
#define BUMP LOCKED(mem[WAKE] = next(mem[WAKE]); printf("X3: wake word, locked add: %d\n", mem[WAKE]))
#endif

/* `counted` now says whether a finalizer has to be woken. */
#define X3(id) LOADING(counted = X3_WAKES(load(WORD)); printf("X3: reads word=%d\n", load(WORD)))
#define NOTIFY \
    if \
    :: counted -> BUMP; futex_wake() \
    :: else \
    fi; \
    counted = false; guard = false

/* exit(slot): of a guard (`guard` is set) or of an acquire that A4 sent back. X2 is a compiler fence, like A3. */
#if defined(TWIN_X1_PLAIN)              /* on Armv8: committed by a plain store */
#define X1(id) COUNT(plain, RELEASED, X1_released, if :: guard -> GONE(id) :: else fi)
#else
#define X1(id) COUNT(release, RELEASED, X1_released, if :: guard -> GONE(id) :: else fi)
#endif
#if defined(TWIN_X3_BEFORE_X1)
inline exit(id) { X3(id); X1(id); NOTIFY }
#else
inline exit(id) { X1(id); X3(id); NOTIFY }
#endif

/* close(slot) */
#define OWN_FENCE LOCKED(printf("C2: plain fence on the own CPU\n"))
#if defined(TWIN_NO_HEAVY_FENCE)
#define HEAVY_FENCE skip
#elif defined(TWIN_FENCE_ON_OWN_CPU_ONLY) || defined(TWIN_FENCE_ONLY_BEFORE_ZERO)
#define HEAVY_FENCE OWN_FENCE
#else
#define HEAVY_FENCE membarrier()
#endif
/* The heavy fence may fail in close. This twin's drain makes up for it when the sums say zero, but sleeps without. */
#if defined(TWIN_FENCE_ONLY_BEFORE_ZERO)
#define FENCED            fenced
#define FENCE_BEFORE_ZERO :: out == 0 && !fenced -> membarrier(); fenced = true
#else
#define FENCED            true
#define FENCE_BEFORE_ZERO
#endif
inline close(id)
{
    STORE_RELEASE(WORD, closing(id), printf("C1: word = %d, into the buffer\n", closing(id)));
    HEAVY_FENCE
}

/* drained(slot) and the wait around it. u and l are kept as one difference, `out` = l - u, so far as they are read. */
#define D0 LOADING(w = load(WAKE); printf("D0: wake word is %d\n", w))
#define READ(counter, sign, s, text) LOADING(out = out sign load(counter + s); printf(text, s, load(counter + s)))
#define D1_READ(s) READ(RELEASED, -, s, "D1: released on stripe %d is %d\n")
#define D2_READ(s) READ(ACQUIRED, +, s, "D2: acquired on stripe %d is %d\n")
#if CPUS == 2
#define D1 D1_READ(0); D1_READ(1); D1_READ(2)
#define D2 D2_READ(0); D2_READ(1); D2_READ(2)
#else
#define D1 D1_READ(0); D1_READ(1); D1_READ(2); D1_READ(3)
#define D2 D2_READ(0); D2_READ(1); D2_READ(2); D2_READ(3)
#endif
#if defined(TWIN_WAKE_WORD_READ_ONCE)   /* then a finalizer that was woken too early spins instead of sleeping again */
#define READ_FIRST D0
#define READ_ALL   D1; D2
#elif defined(TWIN_WAKE_WORD_READ_LATE)
#define READ_ALL   D1; D2; D0
#elif defined(TWIN_SUMS_IN_WRONG_ORDER)
#define READ_ALL   D0; D2; D1
#else
#define READ_ALL   D0; D1; D2
#endif
#ifndef READ_FIRST
#define READ_FIRST skip
#endif

inline drain(id)
{
    READ_FIRST;
    do
    :: out = 0;
       READ_ALL;
       atomic {
           out = wrapped(out);
           printf("D3: the sums differ by %d\n", out);
#ifndef IGNORE_OVER_RELEASE
           assert(out >= 0);
#endif
           if
           :: out == 0 && FENCED ->
               printf("D3: zero; %d guards of %d are out\n", guards_out[id], id);
               assert(guards_out[id] == 0);
               zero_seen[id] = true
           :: else
           fi
       }
       if
       :: out == 0 && FENCED -> w = 0; break
       FENCE_BEFORE_ZERO
       :: out != 0 -> futex_wait(w)
       fi
    od
}

inline vacate()     { STORE_RELEASE(WORD, VACANT,   printf("vacates the slot, into the buffer\n")) }
inline publish(id)  { STORE_RELEASE(WORD, live(id), printf("registers %d: word = %d, into the buffer\n", id, live(id))) }

/* ---- Threads ---- */

#ifndef INTERRUPTIBLE           /* a scenario with signal handlers says which thread is inside one */
#define INTERRUPTIBLE(t)
#endif

/* What `acquire`, `clone` and `exit` keep of the calling thread. */
#if defined(TWIN_NO_ABORT)
#define READER_STATE bool counted, guard; byte stripe, count;
#else
#define READER_STATE bool counted, guard; byte stripe;
#endif

/* Thread 0 finalizes interpreter 0, then registers and finalizes the others in the same slot. */
proctype Finalizer(byte t; byte id) INTERRUPTIBLE(t)
{
    short out;
    byte w, left;
#ifdef TWIN_FENCE_ONLY_BEFORE_ZERO
    bool fenced;
#endif
    do
    :: close(id);
       drain(id);
       vacate();
       id++;
       if
       :: id < IDS -> publish(id)
       :: else -> break
       fi
    od
}

/* Thread t looks `id` up once and drops what it got. */
proctype Reader(byte t; byte id) INTERRUPTIBLE(t)
{
    READER_STATE
    acquire(id);
    if
    :: counted -> exit(id)
    :: else
    fi
}

inline machine()
{
    byte c;
    mem[WORD] = live(0);
    for (c : 0 .. CPUS - 1) { run StoreBuffer(c) }
    c = 0
}

/* `id` is any of the interpreters. */
#define ANY(id) select(id : 0 .. IDS - 1)
