/* Progress: one thread looks interpreter 0 up for ever, also while it is closing. With A1 the drain ends under any
 * weakly fair schedule; without, the storm can keep the sums unequal for ever. Safety is not looked at here: the
 * counters wrap at a small number so that an endless storm has finitely many states. */
#define THREADS 2
#define IDS 1
#define WRAP 2
#include "protocol.pml"

proctype Storm(byte t; byte id)
{
    READER_STATE
end:
    do
    :: acquire(id);
       if
       :: counted -> exit(id)
       :: else
       fi
    od
}

init {
    atomic {
        machine();
        run Finalizer(0, 0);
        run Storm(1, 0)
    }
}

ltl drain_ends { <> zero_seen[0] }
