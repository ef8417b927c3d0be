/* The chain of releases through one CPU's plain counters, spelled out. Two threads run on CPU 0, one after the other,
 * and count their releases on its stripe by load, add and store. The first had taken its guard on CPU 1, and was moved.
 * The finalizer sums on CPU 2: from the last number of that counter it has to know of both guards. Armv8 only.
 *
 * With NO_BARRIER_BETWEEN_THREADS the kernel's barrier is left out where CPU 0 changes from one thread to the other:
 * what orders the two releases then is that both are store-releases of one CPU. */
#define THREADS 3
#define CPUS 3
#define IDS 1
#define PLACED
#include "protocol.pml"

proctype Moved(byte t; byte id)
{
    READER_STATE
    acquire(id);
    MOVE_TO(0);
    if
    :: counted -> exit(id)
    :: else
    fi
}

init {
    atomic {
        machine();
        place[0] = 2;
        place[1] = 1;
        run Finalizer(0, 0);
        run Moved(1, 0);
        run Reader(2, 0)
    }
}
