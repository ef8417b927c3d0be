/* Native code that knows nothing of Python and calls what it is given, on threads of its own: one function per way in
 * which arguments and results are passed. Each answers 1 if the callback returned what it should for these arguments,
 * 2 if it returned the default, else 0. */
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct { int a, b; } pair;                      /* one integer register */
typedef struct { double a; float b; } reals;            /* two SSE registers */
typedef struct { long a; double b; } mixed;             /* one of each */
typedef struct { float a, b, c; } triple;               /* two SSE registers, the second half full */
typedef struct { char a; short b[3]; } bytes;           /* one integer register */
typedef struct { long a[5]; } large;                    /* memory */

typedef signed char (*small_f)(signed char, unsigned char, short, unsigned short, int, unsigned, long, unsigned long);
typedef double (*reals_f)(double, float, double, double, double, double, double, double, double, float);
typedef long double (*wide_f)(int, int, int, int, int, int, int, long double, char, long double, double);
typedef long (*structs_f)(pair, reals, mixed, triple, bytes, large, mixed, pair, pair, mixed);
typedef float (*float_f)(void const *, float);
typedef char const *(*pointer_f)(char const *);
typedef void (*void_f)(int);
typedef _Bool (*bool_f)(unsigned);
typedef unsigned long (*unsigned_f)(long);
typedef mixed (*mixed_f)(int, double);
typedef triple (*triple_f)(float);
typedef large (*large_f)(int, int, int, int, int, int, int);

static int check(int right, int is_default) { return right ? 1 : is_default ? 2 : 0; }

static int call_small(small_f f) {
    signed char got = f(-1, 255, -300, 65000, -70000, 4000000000U, -5000000000L, 9000000000000000000UL);
    return check(got == -100, got == -7);
}
static int call_reals(reals_f f) {
    double got = f(0.5, 1.5F, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5, 8.5, 9.5F);
    return check(got == 8.5, got == 1.25);
}
static int call_wide(wide_f f) {
    /* More than once: what is left on the x87 stack would be in the way. */
    long double got = 0;
    for (int n = 0; n < 20; n++) got = f(0, 1, 2, 3, 4, 5, 6, 7.25L, 'x', 9.125L, 10.5);
    return check(got == 16.375L, got == 1.5L);
}
static int call_structs(structs_f f) {
    large l = {{1, 2, 3, 4, 5}};
    bytes b = {'b', {1, 2, 3}};
    long got = f((pair){1, -2}, (reals){3.5, 4.5F}, (mixed){5, 6.5}, (triple){7.5F, 8.5F, 9.5F}, b, l,
                 (mixed){11, 12.5}, (pair){13, 14}, (pair){15, 16}, (mixed){17, 18.5});
    return check(got == 4711, got == -7);
}
static int call_float(float_f f) { float got = f("text", 2.5F); return check(got == 5.0F, got == 1.25F); }
static int call_pointer(pointer_f f) {
    static char here[] = "abc";
    char const *got = f(here);
    return check(got == here, got == NULL);
}
static int call_void(void_f f) { f(42); return 1; }
static int call_bool(bool_f f) { _Bool got = f(1); return check(got == 0, got == 1); }
static int call_unsigned(unsigned_f f) {
    unsigned long got = f(-1);
    return check(got == 18446744073709551615UL, got == 5);
}
static int call_mixed(mixed_f f) {
    mixed got = f(3, 4.5);
    return check(got.a == 3 && got.b == 4.5, got.a == -7 && got.b == 1.25);
}
static int call_triple(triple_f f) {
    triple got = f(2.5F);
    return check(got.a == 2.5F && got.b == 5.0F && got.c == 7.5F, got.a == 1.0F && got.b == 2.0F && got.c == 3.0F);
}
static int call_large(large_f f) {
    large got = f(1, 2, 3, 4, 5, 6, 7);
    return check(got.a[0] == 1 && got.a[4] == 7, got.a[0] == -7 && got.a[4] == -11);
}

/* The error number is as the callee left it, and as the caller had it if there was no callee: 1 and 2. */
static int call_errno(void_f f) {
    errno = 33;
    f(7);
    return check(errno == 77, errno == 33);
}
void set_errno(int value) { errno = 11 * value; }

static struct { char const *name; int (*call)(void *); } const CALLS[] = {
#define CALL(name) {#name, (int (*)(void *))call_##name}
    CALL(small), CALL(reals), CALL(wide), CALL(structs), CALL(float), CALL(pointer), CALL(void), CALL(bool),
    CALL(unsigned), CALL(mixed), CALL(triple), CALL(large), CALL(errno),
};

struct task { int (*call)(void *); void *callback; int result; };
static void *run(void *argument) {
    struct task *task = argument;
    task->result = task->call(task->callback);
    return NULL;
}

static int (*find(char const *name))(void *) {
    for (size_t n = 0; n < sizeof CALLS / sizeof *CALLS; n++) {
        if (strcmp(CALLS[n].name, name) == 0) return CALLS[n].call;
    }
    return NULL;
}

/* Calls on this thread. */
int call(char const *name, void *callback) {
    int (*found)(void *) = find(name);
    return found ? found(callback) : -1;
}

/* Calls on a new thread, and waits for that. */
int call_on_thread(char const *name, void *callback) {
    struct task task = {find(name), callback, 0};
    pthread_t thread;
    if (!task.call || pthread_create(&thread, NULL, run, &task) != 0) return -1;
    pthread_join(thread, NULL);
    return task.result;
}

/* Starts a call on a new thread; wait_for_call waits for it. */
static struct task waiting;
static pthread_t waiting_thread;
int start_call(char const *name, void *callback) {
    waiting = (struct task){find(name), callback, 0};
    return waiting.call ? pthread_create(&waiting_thread, NULL, run, &waiting) : -1;
}
int wait_for_call(void) {
    pthread_join(waiting_thread, NULL);
    return waiting.result;
}

/* A pool that calls back until the process has ended Python and is at its very end: then it says what became of its
 * threads. One that Python has killed or parked does not come back. */
enum { THREADS = 8 };
static pthread_t pool[THREADS];
static _Atomic(unsigned_f) callbacks[THREADS];
static _Atomic long answers, defaults, wrong;
static _Atomic int stop, ended, started;

static void *call_again(void *number) {
    for (; !atomic_load(&stop); usleep(100)) {
        unsigned_f f = atomic_load(&callbacks[(intptr_t)number]);
        unsigned long got = f((intptr_t)number + 1000);
        atomic_fetch_add(got == (unsigned long)(intptr_t)number + 1000 ? &answers : got == 5 ? &defaults : &wrong, 1);
    }
    atomic_fetch_add(&ended, 1);
    return NULL;
}
void pool_start(unsigned_f f) {
    for (intptr_t n = 0; n < THREADS; n++) {
        atomic_store(&callbacks[n], f);
        started += pthread_create(&pool[n], NULL, call_again, (void *)n) == 0;
    }
}
void pool_exchange(int number, unsigned_f f) { atomic_store(&callbacks[number], f); }
long pool_answers(void) { return atomic_load(&answers); }

static void_f at_the_end;
void call_at_the_end(void_f f) { at_the_end = f; }
__attribute__((destructor)) static void end(void) {
    if (at_the_end) at_the_end(1);
    if (!started) return;
    long seen = atomic_load(&defaults);
    for (int n = 0; n < 20000 && atomic_load(&defaults) < seen + 100; n++) usleep(1000); /* they call still */
    atomic_store(&stop, 1);
    for (int n = 0; n < 20000 && atomic_load(&ended) < started; n++) usleep(1000); /* the failure deadline: 20 s */
    printf("threads %d ended %d answers %ld defaults %d wrong %ld\n", started, ended, answers, defaults >= seen + 100,
           wrong);
    fflush(stdout);
}
