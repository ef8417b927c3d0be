/* A small runtime: a mutex per interpreter, which being attached means to hold, and a thread state per ensure that needs one. */

#ifndef RUNTIME_H
#define RUNTIME_H

#include "check.h"

#include <interp_guard.h>
#include <pthread.h>

typedef struct interp {
    int64_t id;
    pthread_mutex_t lock;
    int states; /* changed with the lock held, or before threads exist */
    int barren; /* makes no thread states */
} interp;

typedef struct state {
    interp *of;
} state;

static __thread state *current;
static int created, destroyed; /* thread states */

static inline void *rt_attached(void) { return current; }
static inline int64_t rt_interpreter_of(void *it) { return ((state *)it)->of->id; }

static inline void *rt_create(void *it) {
    if (((interp *)it)->barren) {
        return NULL;
    }
    state *made = (state *)malloc(sizeof *made);
    CHECK(made != NULL);
    made->of = (interp *)it;
    ADD(created);
    return made;
}

static inline void rt_attach(void *it) {
    CHECK(current == NULL);
    CHECK(pthread_mutex_lock(&((state *)it)->of->lock) == 0);
    current = (state *)it;
}

static inline void rt_detach(void *it) {
    CHECK(current == it);
    current = NULL;
    CHECK(pthread_mutex_unlock(&((state *)it)->of->lock) == 0);
}

static inline void rt_destroy(void *it) {
    rt_detach(it);
    free(it);
    ADD(destroyed);
}

/* A thread state whose interpreter was taken from under a daemon. */
static inline void rt_abandon(state *it) {
    free(it);
    ADD(destroyed);
}

static inline void rt_init(interp *it, int64_t id) {
    memset(it, 0, sizeof *it);
    it->id = id;
    CHECK(pthread_mutex_init(&it->lock, NULL) == 0);
}

static inline void rt_done(interp *it) { CHECK(pthread_mutex_destroy(&it->lock) == 0); }

static inline ig_runtime rt_table(void) {
    ig_runtime table;
    table.attached = rt_attached;
    table.interpreter_of = rt_interpreter_of;
    table.create = rt_create;
    table.attach = rt_attach;
    table.detach = rt_detach;
    table.destroy = rt_destroy;
    return table;
}

#endif
