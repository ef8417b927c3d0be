/* A guard is cloned, the clone handed to another thread and dropped there; beside it, STRAGGLERS plain readers. */
#ifndef STRAGGLERS
#define STRAGGLERS 0
#endif
#define THREADS (3 + STRAGGLERS)
#include "protocol.pml"

#if defined(TWIN_HANDED_OVER_PLAIN)     /* on Armv8: whoever gets the clone does not see what the giver did before */
#define HAND_OVER STORE
#else
#define HAND_OVER STORE_RELEASE
#endif

/* Looks interpreter 0 up, leaves a clone in the mailbox, drops its own. */
proctype Giver(byte t; byte id)
{
    READER_STATE
    acquire(id);
    if
    :: guard ->
        clone(id);
        HAND_OVER(MAIL, 1, printf("leaves the clone for T2, into the buffer\n"))
    :: else
    fi;
    if
    :: counted -> exit(id)
    :: else
    fi
}

/* Takes the clone, if one ever comes, and drops it. */
proctype Taker(byte t; byte id)
{
    READER_STATE
end:
    atomic { load(MAIL) == 1 -> guard = true; printf("T%d: takes the clone\n", t) };
    USED_BY_HOLDER(id)
    exit(id)
}

init {
    byte i, id;
    atomic {
        machine();
        run Finalizer(0, 0);
        run Giver(1, 0);
        run Taker(2, 0);
#if STRAGGLERS > 0
        for (i : 3 .. 2 + STRAGGLERS) { ANY(id); run Reader(i, id) }
#endif
    }
}
