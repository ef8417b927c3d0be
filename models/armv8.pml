/* The machine: Armv8 as the threads of one process see it. What machine.pml is for x86-64; README.md says how it
 * relates to the architecture's own model, and litmus.py checks single edges by that.
 *
 * Each CPU has one store buffer, and it is not a queue. A store reaches memory at any later time, before or after the
 * stores around it. Two things hold it back: an older store to the same location; and, if it is a store-release,
 * whatever is older. Younger accesses pass a store-release. An add to the spare stripe is an entry too, and happens to
 * memory in one step when its turn comes.
 *
 * A holder's use of its interpreter is an entry as well: it may happen as late as that, whether it reads or writes, and
 * only a store-release or a barrier waits for it.
 *
 * A load takes the newest entry of its own CPU's buffer, else memory. Loads happen in program order, since each that
 * the protocol makes is a load-acquire, or decides what comes next. That one of them may come before an older store, a
 * store-release too, follows from the buffer: the store may still be in it. (So a load-acquire here is the weak one,
 * `ldapr`.) What becomes of a load-acquire that is none is for litmus.py.
 *
 * The kernel's context switch is a full barrier: as in machine.pml, entries of one buffer are all of one thread, and
 * where a thread is matters only while it has entries.
 */

#ifndef CPUS
#define CPUS 2
#endif
#ifndef CAPACITY
#define CAPACITY 3              /* entries per store buffer, 3 to 6; `push` asserts that it never fills beyond */
#endif

#define SPARE      CPUS
#define STRIPES    (CPUS + 1)
#define WORD       0
#define WAKE       1
#define MAIL       2
#define ACQUIRED   3
#define RELEASED   (ACQUIRED + STRIPES)
#define LOCATIONS  (RELEASED + STRIPES)
#define USE        LOCATIONS    /* not memory: the entry is a use of interpreter `value` */

#define next(v)         ((v) + 1)
#define wrapped(diff)   (diff)

#define NOBODY 255
#define PLAIN   0
#define ADD     1
#define RELEASE 2
typedef Buffer { byte owner = NOBODY; byte used; byte kind[CAPACITY]; byte at[CAPACITY]; byte value[CAPACITY] };

byte   mem[LOCATIONS];
Buffer buf[CPUS];
bool   asleep;

#define idle(c)      (buf[c].owner == NOBODY)
#define mine(c)      (buf[c].owner == t)
#if defined(PLACED)             /* a scenario in which a thread is where it is put, and moves by a step of its own */
byte place[THREADS];
#define none_mine    (buf[place[t]].used == 0)
#elif CPUS == 2
#define none_mine    (!mine(0) && !mine(1))
#else
#define none_mine    (!mine(0) && !mine(1) && !mine(2))
#endif
#if defined(NO_BARRIER_BETWEEN_THREADS) /* the next thread of a CPU finds the last one's stores in the buffer */
#define can_run(c)   (place[t] == c)
#elif defined(PLACED)
#define can_run(c)   (place[t] == c && (mine(c) || idle(c)))
#elif defined(TWIN_NO_SWITCH_BARRIER)   /* a thread that moves leaves its stores behind */
#define can_run(c)   (mine(c) || idle(c))
#else
#define can_run(c)   (mine(c) || idle(c) && none_mine)
#endif

/* The value that CPU c sees. (Of the spare stripe without an ADD of its own that is under way. Only the finalizer reads
 * that stripe, and only a handler of its could have added: it may see less here than it would.) */
#define has(c, x, i)    (buf[c].used > i && buf[c].at[i] == x && !(buf[c].kind[i] & ADD))
#define newest_1(c, x)  (has(c,x,0) -> buf[c].value[0] : mem[x])
#define newest_2(c, x)  (has(c,x,1) -> buf[c].value[1] : newest_1(c, x))
#define newest_3(c, x)  (has(c,x,2) -> buf[c].value[2] : newest_2(c, x))
#define newest_4(c, x)  (has(c,x,3) -> buf[c].value[3] : newest_3(c, x))
#define newest_5(c, x)  (has(c,x,4) -> buf[c].value[4] : newest_4(c, x))
#define newest_6(c, x)  (has(c,x,5) -> buf[c].value[5] : newest_5(c, x))
#if CAPACITY == 3
#define load_on(c, x)   newest_3(c, x)
#elif CAPACITY == 4
#define load_on(c, x)   newest_4(c, x)
#elif CAPACITY == 5
#define load_on(c, x)   newest_5(c, x)
#else
#define load_on(c, x)   newest_6(c, x)
#endif
#if defined(PLACED)
#define load(x)         load_on(place[t], x)
#elif CPUS == 2
#define load(x)         (mine(0) -> load_on(0, x) : (mine(1) -> load_on(1, x) : mem[x]))
#else
#define load(x)         (mine(0) -> load_on(0, x) : (mine(1) -> load_on(1, x) : (mine(2) -> load_on(2, x) : mem[x])))
#endif

#define push(c, x, v, how) \
    assert(buf[c].used < CAPACITY); \
    buf[c].kind[buf[c].used] = how; \
    buf[c].value[buf[c].used] = (v); \
    buf[c].at[buf[c].used] = (x); \
    buf[c].used++; \
    buf[c].owner = t
#define store_plain(c, x, v)     push(c, x, v, PLAIN)
#define store_release(c, x, v)   push(c, x, v, RELEASE)
#define add_plain(c, x)          push(c, x, 0, ADD)
#define add_release(c, x)        push(c, x, 0, ADD + RELEASE)
#define use(c, id)               push(c, USE, id, PLAIN)

#define LOADING(...)         d_step { true -> printf("T%d: ", t); __VA_ARGS__ }
#define LOCKED(...)          d_step { none_mine -> printf("T%d: ", t); __VA_ARGS__ }
#define STORING_ON(c, ...)   d_step { can_run(c) -> printf("T%d on CPU%d: ", t, c); __VA_ARGS__ }
#if CPUS == 2
#define ANY_CPU(STEP, ...)   :: STEP(0, __VA_ARGS__) :: STEP(1, __VA_ARGS__)
#else
#define ANY_CPU(STEP, ...)   :: STEP(0, __VA_ARGS__) :: STEP(1, __VA_ARGS__) :: STEP(2, __VA_ARGS__)
#endif
#define STORE_ON(c, how, x, v, ...)     STORING_ON(c, how(c, x, v); __VA_ARGS__)
#define STORE(x, v, ...)                if ANY_CPU(STORE_ON, store_plain, x, v, __VA_ARGS__) fi
#define STORE_RELEASE(x, v, ...)        if ANY_CPU(STORE_ON, store_release, x, v, __VA_ARGS__) fi
#define ADD_ON(c, how, counter, what, ghost) \
    STORING_ON(c, add_##how(c, counter + SPARE); ghost; \
               printf("%e: sequence aborted, add on the spare stripe, into the buffer\n", what))
#define SPARE_STRIPE(how, counter, what, ghost) ANY_CPU(ADD_ON, how, counter, what, ghost)
/* The holder of a guard uses its interpreter, here or later. */
#define USE_ON(c, id)                   STORING_ON(c, use(c, id); printf("uses interpreter %d, here or later\n", id))
#define USED_BY_HOLDER(id) \
    if \
    :: guard -> if ANY_CPU(USE_ON, id) fi \
    :: else \
    fi;

/* May entry i of CPU c's buffer happen to memory? */
#define at_(c, i)       buf[c].at[i]
#define clash_1(c)      (at_(c,0) == at_(c,1))
#define clash_2(c)      (at_(c,0) == at_(c,2) || at_(c,1) == at_(c,2))
#define clash_3(c)      (at_(c,0) == at_(c,3) || at_(c,1) == at_(c,3) || at_(c,2) == at_(c,3))
#define clash_4(c)      (at_(c,0) == at_(c,4) || at_(c,1) == at_(c,4) || at_(c,2) == at_(c,4) || at_(c,3) == at_(c,4))
#define clash_5(c)      (at_(c,0) == at_(c,5) || at_(c,1) == at_(c,5) || at_(c,2) == at_(c,5) || at_(c,3) == at_(c,5) \
                         || at_(c,4) == at_(c,5))
#define may_pass(c, i)  (buf[c].used > i && !(buf[c].kind[i] & RELEASE) && !clash_##i(c))

/* The younger entries move up. Freed entries are zeroed: equal states must look equal. */
#define MOVE(c, to, from) \
    buf[c].kind[to] = buf[c].kind[from]; buf[c].at[to] = buf[c].at[from]; buf[c].value[to] = buf[c].value[from];
#define CLEAR(c, i)         buf[c].kind[i] = 0; buf[c].at[i] = 0; buf[c].value[i] = 0;
#define CLOSE_GAP_0(c)      MOVE(c, 0, 1) CLOSE_GAP_1(c)
#define CLOSE_GAP_1(c)      MOVE(c, 1, 2) CLOSE_GAP_2(c)
#if CAPACITY == 3
#define CLOSE_GAP_2(c)      CLEAR(c, 2)
#else
#define CLOSE_GAP_2(c)      MOVE(c, 2, 3) CLOSE_GAP_3(c)
#endif
#if CAPACITY == 4
#define CLOSE_GAP_3(c)      CLEAR(c, 3)
#else
#define CLOSE_GAP_3(c)      MOVE(c, 3, 4) CLOSE_GAP_4(c)
#endif
#if CAPACITY == 5
#define CLOSE_GAP_4(c)      CLEAR(c, 4)
#else
#define CLOSE_GAP_4(c)      MOVE(c, 4, 5) CLOSE_GAP_5(c)
#endif
#define CLOSE_GAP_5(c)      CLEAR(c, 5)

#if defined(IGNORE_LATE_USE)
#define NOT_AFTER_ZERO(id)
#else
#define NOT_AFTER_ZERO(id)  assert(!zero_seen[id])
#endif

/* It does. */
#define HAPPENS(c, i) \
    if \
    :: buf[c].at[i] == USE -> \
        printf("buffer of CPU%d: the holder's use of interpreter %d happens\n", c, buf[c].value[i]); \
        NOT_AFTER_ZERO(buf[c].value[i]) \
    :: buf[c].at[i] != USE && buf[c].kind[i] & ADD -> \
        mem[buf[c].at[i]] = next(mem[buf[c].at[i]]); \
        printf("buffer of CPU%d: adds at=%d value=%d\n", c, buf[c].at[i], mem[buf[c].at[i]]) \
    :: else -> \
        printf("buffer of CPU%d: writes at=%d value=%d\n", c, buf[c].at[i], buf[c].value[i]); \
        mem[buf[c].at[i]] = buf[c].value[i] \
    fi; \
    CLOSE_GAP_##i(c) \
    buf[c].used--; \
    if \
    :: buf[c].used == 0 -> buf[c].owner = NOBODY \
    :: else \
    fi

proctype StoreBuffer(byte c)
{
end:
    do
    :: d_step { !idle(c) -> HAPPENS(c, 0) }
    :: d_step { may_pass(c, 1) -> HAPPENS(c, 1) }
    :: d_step { may_pass(c, 2) -> HAPPENS(c, 2) }
#if CAPACITY > 3
    :: d_step { may_pass(c, 3) -> HAPPENS(c, 3) }
#endif
#if CAPACITY > 4
    :: d_step { may_pass(c, 4) -> HAPPENS(c, 4) }
#endif
#if CAPACITY > 5
    :: d_step { may_pass(c, 5) -> HAPPENS(c, 5) }
#endif
    od
}

#if defined(PLACED)
/* The thread goes to another CPU. */
#if defined(TWIN_NO_SWITCH_BARRIER)
#define MOVE_TO(c)   d_step { true -> place[t] = c; printf("T%d moves to CPU%d, and leaves its stores behind\n", t, c) }
#else
#define MOVE_TO(c)   d_step { none_mine -> place[t] = c; printf("T%d moves to CPU%d\n", t, c) }
#endif
#endif

/* membarrier(PRIVATE_EXPEDITED): a full barrier on the caller, then one on each CPU, one by one in any order: an
 * interrupt, with a `dmb`, to a CPU that runs a thread of the process; the `dsb` of a context switch on any other. */
#define FLUSH(c) \
    d_step { \
        left & (1 << c) -> \
        printf("T%d: C2: membarrier flushes CPU%d\n", t, c); \
        do \
        :: !idle(c) -> HAPPENS(c, 0) \
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
