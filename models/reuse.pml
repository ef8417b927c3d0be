/* Two interpreters, one after the other in one slot; readers of either, stragglers of the first among them. */
#ifndef READERS
#define READERS 2
#endif
#define THREADS (READERS + 1)
#include "protocol.pml"

init {
    byte i, id;
    atomic {
        machine();
        run Finalizer(0, 0);
        for (i : 1 .. READERS) { ANY(id); run Reader(i, id) }
    }
}
