/* The machine: x86-TSO as the threads of one process see it.
 *
 * Each CPU has one FIFO store buffer. A store enters the buffer of the CPU that its thread is on and reaches memory at
 * any later time, in order. A load takes the newest entry for its location from its own CPU's buffer, else memory.
 * Loads happen in program order.
 *
 * Threads are scheduled and migrated freely, before every step. The kernel's context switch empties the store buffer,
 * so at any time the entries of one buffer are all of one thread, its `owner`. Where a thread is matters only as long
 * as it owns entries, and while it does it must be on that CPU; without any, it may take its next step on any CPU
 * whose buffer is empty. So no variable says where a thread is, migration is not a step, and none of its
 * interleavings is lost.
 *
 * Where a thread empties its own buffer (a locked add, a system call) the model waits until it is empty: StoreBuffer
 * can always empty it first, so waiting and flushing reach the same states.
 */

#ifndef CPUS
#define CPUS 2
#endif
#ifndef CAPACITY
#define CAPACITY 4              /* entries per store buffer, 4 or 6; `store` asserts that it never fills */
#endif

/* Memory. The counters of stripe s are ACQUIRED + s and RELEASED + s; stripe SPARE is the spare one. */
#define SPARE      CPUS
#define STRIPES    (CPUS + 1)
#define WORD       0
#define WAKE       1
#define MAIL       2            /* where one thread leaves a clone for another */
#define ACQUIRED   3
#define RELEASED   (ACQUIRED + STRIPES)
#define LOCATIONS  (RELEASED + STRIPES)

/* Counters and wake word are 2^64 and 2^32 in the code and count up to 255 here; the storm, endless, wraps sooner. */
#ifdef WRAP
#define next(v)         (((v) + 1) % WRAP)
#define wrapped(diff)   (((diff) + STRIPES * WRAP) % WRAP)
#else
#define next(v)         ((v) + 1)
#define wrapped(diff)   (diff)
#endif

#define NOBODY 255
typedef Buffer { byte owner = NOBODY; byte used; byte at[CAPACITY]; byte value[CAPACITY] };

byte   mem[LOCATIONS];
Buffer buf[CPUS];
bool   asleep;                  /* the finalizer is queued on the futex */

/* In all that follows, `t` is the thread that takes the step. */
#define idle(c)      (buf[c].owner == NOBODY)
#define mine(c)      (buf[c].owner == t)
#if CPUS == 2
#define none_mine    (!mine(0) && !mine(1))
#elif CPUS == 3
#define none_mine    (!mine(0) && !mine(1) && !mine(2))
#else
#error "2 or 3 CPUs"
#endif
#ifdef WRAP                     /* in an endless storm a full buffer makes its thread wait, as in hardware */
#define can_run(c)   (mine(c) && buf[c].used < CAPACITY || idle(c) && none_mine)
#else
#define can_run(c)   (mine(c) || idle(c) && none_mine)
#endif

#define has(c, x, i) (buf[c].used > i && buf[c].at[i] == x)
#define newest4(c, x) (has(c,x,3) -> buf[c].value[3] : (has(c,x,2) -> buf[c].value[2] : \
                      (has(c,x,1) -> buf[c].value[1] : (has(c,x,0) -> buf[c].value[0] : mem[x]))))
#if CAPACITY == 4
#define newest(c, x) newest4(c, x)
#else
#define newest(c, x) (has(c,x,5) -> buf[c].value[5] : (has(c,x,4) -> buf[c].value[4] : newest4(c, x)))
#endif
#if CPUS == 2
#define load(x)      (mine(0) -> newest(0, x) : (mine(1) -> newest(1, x) : mem[x]))
#else
#define load(x)      (mine(0) -> newest(0, x) : (mine(1) -> newest(1, x) : (mine(2) -> newest(2, x) : mem[x])))
#endif

/* What CPU c sees: its buffer is empty, or of the thread that runs on it. */
#define load_on(c, x) newest(c, x)

#define store(c, x, v) \
    assert(buf[c].used < CAPACITY); \
    buf[c].value[buf[c].used] = (v); \
    buf[c].at[buf[c].used] = (x); \
    buf[c].used++; \
    buf[c].owner = t

/* The three kinds of step. Each happens at once; the printf's speak in a replayed trail only. */
#define LOADING(...)         d_step { true -> printf("T%d: ", t); __VA_ARGS__ }
#define LOCKED(...)          d_step { none_mine -> printf("T%d: ", t); __VA_ARGS__ }
#define STORING_ON(c, ...)   d_step { can_run(c) -> printf("T%d on CPU%d: ", t, c); __VA_ARGS__ }
#if CPUS == 2
#define ANY_CPU(STEP, ...)   :: STEP(0, __VA_ARGS__) :: STEP(1, __VA_ARGS__)
#else
#define ANY_CPU(STEP, ...)   :: STEP(0, __VA_ARGS__) :: STEP(1, __VA_ARGS__) :: STEP(2, __VA_ARGS__)
#endif
#define PLAIN_STORE(c, x, v, ...)  STORING_ON(c, store(c, x, v); __VA_ARGS__)
#define STORE(x, v, ...)     if ANY_CPU(PLAIN_STORE, x, v, __VA_ARGS__) fi

/* What Armv8 tells apart (armv8.pml) is one here: every store is a store-release, every atomic add is a locked one. */
#define STORE_RELEASE        STORE
#define store_plain          store
#define store_release        store
#define SPARE_STRIPE(how, counter, what, ghost) \
    :: LOCKED(mem[counter + SPARE] = next(mem[counter + SPARE]); ghost; \
              printf("%e: sequence aborted, locked add on the spare stripe: %d\n", what, mem[counter + SPARE]))
#define USED_BY_HOLDER(id)

/* The buffer of CPU c writes its oldest entry to memory. Freed entries are zeroed: equal states must look equal. */
#if CAPACITY == 4
#define SHIFT_REST(c)
#else
#define SHIFT_REST(c) \
    buf[c].at[3] = buf[c].at[4]; buf[c].value[3] = buf[c].value[4]; \
    buf[c].at[4] = buf[c].at[5]; buf[c].value[4] = buf[c].value[5];
#endif
#define WRITE_OLDEST(c) \
    printf("buffer of CPU%d: writes at=%d value=%d\n", c, buf[c].at[0], buf[c].value[0]); \
    mem[buf[c].at[0]] = buf[c].value[0]; \
    buf[c].at[0] = buf[c].at[1]; buf[c].value[0] = buf[c].value[1]; \
    buf[c].at[1] = buf[c].at[2]; buf[c].value[1] = buf[c].value[2]; \
    buf[c].at[2] = buf[c].at[3]; buf[c].value[2] = buf[c].value[3]; \
    SHIFT_REST(c) \
    buf[c].at[CAPACITY - 1] = 0; buf[c].value[CAPACITY - 1] = 0; \
    buf[c].used--; \
    if \
    :: buf[c].used == 0 -> buf[c].owner = NOBODY \
    :: else \
    fi

proctype StoreBuffer(byte c)
{
end:
    do
    :: d_step { !idle(c) -> WRITE_OLDEST(c) }
    od
}

/* membarrier(PRIVATE_EXPEDITED): a full barrier on the caller, then one on each CPU, one by one in any order.
 * `left` is a local of the caller: the CPUs that are still to be flushed, as bits. */
#define FLUSH(c) \
    d_step { \
        left & (1 << c) -> \
        printf("T%d: C2: membarrier flushes CPU%d\n", t, c); \
        do \
        :: !idle(c) -> WRITE_OLDEST(c) \
        :: else -> break \
        od; \
        left = left & ~(1 << c) \
    }
inline membarrier()
{
    LOCKED(left = (1 << CPUS) - 1; printf("C2: membarrier begins, own buffer is empty\n"));
    do
    :: FLUSH(0)
    :: FLUSH(1)
#if CPUS == 3
    :: FLUSH(2)
#endif
    :: left == 0 -> break
    od
}

/* futex(2). The kernel compares and queues under one lock; both calls are full barriers. */
inline futex_wait(expected)
{
    LOCKED(
        if
        :: mem[WAKE] == expected -> asleep = true; printf("futex_wait: the wake word is still %d: sleeps\n", expected)
        :: else -> printf("futex_wait: the wake word is %d, not %d: returns\n", mem[WAKE], expected)
        fi);
    !asleep
}
#define futex_wake() LOCKED(asleep = false; printf("X3: FUTEX_WAKE\n"))
