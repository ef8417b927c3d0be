/* Signal handlers that look interpreters up: one interrupts the reader, one the finalizer, each at any step. The
 * interrupted thread stands still until its handler has returned; the handler runs on whatever CPU the thread is on,
 * and may be migrated with it. */
#define THREADS 2
#define INTERRUPTIBLE(t) provided (!in_handler[t])
#ifndef HANDLERS
#define HANDLERS 3      /* bit 0: one on the finalizer; bit 1: one on the reader */
#endif
bool in_handler[THREADS];
#include "protocol.pml"

proctype Handler(byte t; byte id)
{
    READER_STATE
    d_step { !in_handler[t] -> in_handler[t] = true; printf("T%d: is interrupted by a signal\n", t) };
    acquire(id);
    if
    :: counted -> exit(id)
    :: else
    fi;
    d_step { in_handler[t] = false; printf("T%d: returns from the handler\n", t) }
}

init {
    byte id;
    atomic {
        machine();
        run Finalizer(0, 0);
        ANY(id); run Reader(1, id);
#if HANDLERS & 1
        ANY(id); run Handler(0, id);
#endif
#if HANDLERS & 2
        ANY(id); run Handler(1, id);
#endif
    }
}
