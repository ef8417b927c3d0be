/* Pending calls: what handlers leave, and normal threads run.
 *
 *     pending SIGNALS [self]
 *
 * Every answer; calls attached; a forked child; then SIGUSR1, and SIGUSR2 nested in it, on three threads and on one that
 * registers and finalizes interpreters all the while. Each call that was pushed runs once, on its own interpreter, alive. */

#include "fire.h"
#include "runtime.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/wait.h>

static ig_registry *registry;
static ig_pending *queue;
static interp one, two;

static int readable(void) {
    struct pollfd poll_it = {ig_pending_fd(queue), POLLIN, 0};
    return poll(&poll_it, 1, 0) == 1;
}

static uint64_t out(int64_t id) {
    uint64_t count = 99;
    OK(ig_outstanding(registry, id, &count));
    return count;
}

static void push(ig_pending *to, int64_t id, void (*call)(ig_guard *, void *), void *data) {
    ig_guard guard;
    OK(ig_lookup(registry, id, &guard));
    OK(ig_pending_push(to, &guard, call, data));
    CHECK(ig_guard_id(&guard) == -1); /* the queue's now */
}

static uint64_t runs(uint64_t failed) {
    ig_ran ran = {77, 77};
    OK(ig_pending_run(queue, &ran));
    CHECK(ran.failed == failed);
    return ran.calls;
}

static char noted[16];
static size_t notes;

static void note(ig_guard *guard, void *data) {
    CHECK(ig_guard_interpreter(guard) == &one && out(one.id) >= 1);
    noted[notes++] = *(const char *)data;
}

static void closes_its_guard(ig_guard *guard, void *data) {
    OK(ig_guard_close(guard));
    CHECK(ig_guard_id(guard) == -1);
    if (data != NULL) { /* nobody finalizes it meanwhile */
        CHECK(out(*(int64_t *)data) == 0);
    }
}

static void keeps_its_guard(ig_guard *guard, void *data) {
    *(ig_guard *)data = *guard;
    memset(guard, 0, sizeof *guard);
}

static void would_wait_for_itself(ig_guard *guard, void *data) {
    void *back = NULL;
    ig_status refused = ig_finalize(registry, ig_guard_id(guard), -1, &back);
    /* With data: another thread finalizes it, or is about to. */
    CHECK(refused == IG_WOULD_DEADLOCK || (data != NULL && refused == IG_ALREADY_CLOSING));
    CHECK(ig_pending_free(queue) == IG_WOULD_DEADLOCK);
    CHECK(ig_pending_stop_worker(queue, NULL) == IG_WOULD_DEADLOCK);
}

static void misuse(void) {
    ig_pending *none = (ig_pending *)&one;
    ig_registry *others;
    ig_guard guard = IG_GUARD_INIT;
    int64_t id;
    void *back;
    const size_t most = (size_t)1 << 20;

    CHECK(ig_pending_new(NULL, 1, NULL, 0, &none) == IG_INVALID && none == NULL);
    CHECK(ig_pending_new(registry, 1, NULL, 0, NULL) == IG_INVALID);
    CHECK(ig_pending_new(registry, 0, NULL, 0, &none) == IG_INVALID);
    CHECK(ig_pending_new(registry, most + 1, NULL, 0, &none) == IG_INVALID);
    CHECK(ig_pending_new(registry, 1, NULL, 2, &none) == IG_INVALID);
    CHECK(ig_pending_new(registry, 1, NULL, IG_PENDING_ATTACHED, &none) == IG_INVALID); /* no runtime yet */
    CHECK(ig_pending_free(NULL) == IG_INVALID);
    CHECK(ig_pending_run(NULL, NULL) == IG_INVALID);
    CHECK(ig_pending_fd(NULL) == -1);
    CHECK(ig_pending_start_worker(NULL) == IG_INVALID);
    CHECK(ig_pending_stop_worker(NULL, NULL) == IG_INVALID);
    CHECK(ig_pending_stop_worker(queue, NULL) == IG_INVALID); /* it has none */

    CHECK(ig_pending_push(queue, &guard, note, NULL) == IG_INVALID); /* zeroed */
    CHECK(ig_pending_push(queue, NULL, note, NULL) == IG_INVALID);
    OK(ig_lookup(registry, one.id, &guard));
    CHECK(ig_pending_push(NULL, &guard, note, NULL) == IG_INVALID);
    CHECK(ig_pending_push(queue, &guard, NULL, NULL) == IG_INVALID);
    CHECK(ig_guard_id(&guard) == one.id && out(one.id) == 1); /* still this caller's */
    OK(ig_guard_close(&guard));

    OK(ig_registry_new(1, &others));
    OK(ig_register(others, &two, &id));
    OK(ig_lookup(others, id, &guard));
    CHECK(ig_pending_push(queue, &guard, note, NULL) == IG_INVALID);
    OK(ig_guard_close(&guard));
    OK(ig_pending_new(others, 1, NULL, 0, &none));
    OK(ig_finalize(others, id, 0, &back));
    CHECK(ig_registry_free(others) == IG_INVALID); /* it has a queue */
    OK(ig_pending_free(none));
    OK(ig_registry_free(others));
}

static void every_answer(void) {
    static const char letters[] = "abcd";
    ig_guard guard, kept;
    ig_ran ran;
    void *back = NULL;
    char text[512];
    size_t length;

    CHECK(!readable());
    for (int i = 0; i < 4; i++) {
        push(queue, one.id, note, (void *)&letters[i]);
    }
    CHECK(readable() && out(one.id) == 4);
    OK(ig_lookup(registry, one.id, &guard));
    CHECK(ig_pending_push(queue, &guard, note, NULL) == IG_FULL);
    CHECK(ig_guard_id(&guard) == one.id && out(one.id) == 5); /* still this caller's */
    OK(ig_guard_close(&guard));
    CHECK(runs(0) == 4 && !readable());
    CHECK(memcmp(noted, "abcd", 5) == 0 && out(one.id) == 0);
    OK(ig_pending_run(queue, NULL));

    push(queue, two.id, closes_its_guard, &two.id);
    push(queue, one.id, keeps_its_guard, &kept);
    push(queue, one.id, would_wait_for_itself, NULL);
    CHECK(runs(0) == 3);
    CHECK(out(one.id) == 1 && ig_guard_id(&kept) == one.id);
    OK(ig_guard_close(&kept));

    /* Nobody serves it: the drain says whose calls wait where. */
    push(queue, two.id, closes_its_guard, NULL);
    CHECK(ig_finalize(registry, two.id, 0, &back) == IG_TIMEOUT);
    OK(ig_report(registry, two.id, text, sizeof text, &length));
    CHECK(strstr(text, "the four") != NULL && strstr(text, "nobody serves") != NULL);
    CHECK(runs(0) == 1);
    OK(ig_drain(registry, two.id, 0, &back));

    /* This thread served it last, and waits for what only it would run: the drain runs that. */
    rt_done(&two);
    rt_init(&two, 19);
    OK(ig_register_with_id(registry, two.id, &two));
    push(queue, two.id, closes_its_guard, NULL);
    push(queue, one.id, note, (void *)&letters[0]);
    OK(ig_finalize(registry, two.id, -1, &back));
    CHECK(back == &two && out(one.id) == 1);
    notes = 0;
    CHECK(runs(0) == 1 && notes == 1);

    /* A push whose write fails, since the eventfd is full, leaves errno alone. */
    const uint64_t most = UINT64_MAX - 1, another = 1;
    CHECK(write(ig_pending_fd(queue), &most, sizeof most) == sizeof most);
    CHECK(write(ig_pending_fd(queue), &another, sizeof another) == -1 && errno == EAGAIN);
    errno = 4711;
    push(queue, one.id, closes_its_guard, NULL);
    CHECK(errno == 4711 && runs(0) == 1 && !readable());

    /* A worker serves it: the drain waits for the call. */
    rt_done(&two);
    rt_init(&two, 20);
    OK(ig_register_with_id(registry, two.id, &two));
    OK(ig_pending_start_worker(queue));
    CHECK(ig_pending_start_worker(queue) == IG_INVALID);
    push(queue, two.id, would_wait_for_itself, &two);
    push(queue, two.id, closes_its_guard, NULL);
    OK(ig_finalize(registry, two.id, -1, &back));
    CHECK(back == &two);
    OK(ig_pending_stop_worker(queue, &ran));
    CHECK(ran.calls == 2 && ran.failed == 0);
    OK(ig_pending_start_worker(queue)); /* another one, for ig_pending_free to stop */

    /* Freed with calls that wait and nobody to run them: not run, guards given up. */
    ig_pending *short_lived;
    OK(ig_pending_new(registry, 4, NULL, 0, &short_lived));
    push(short_lived, one.id, note, NULL);
    push(short_lived, one.id, note, NULL);
    CHECK(out(one.id) == 2);
    OK(ig_pending_free(short_lived));
    CHECK(out(one.id) == 0);
}

static int attached_calls;

static void is_attached(ig_guard *guard, void *data) {
    CHECK(ig_current_id() == ig_guard_id(guard) && current->of == data);
    OK(ig_guard_close(guard)); /* the level has its own */
    CHECK(out(one.id) == 1);
    attached_calls++;
}

static void leaves_an_ensure(ig_guard *guard, void *data) { OK(ig_ensure(guard, (uint64_t *)data)); }

static void attached(void) {
    ig_pending *unattached = queue;
    uint64_t left = 0;
    const ig_runtime runtime = rt_table();
    OK(ig_runtime_set(&runtime));
    OK(ig_pending_new(registry, 8, "attached", IG_PENDING_ATTACHED, &queue));
    push(queue, one.id, is_attached, &one);
    CHECK(runs(0) == 1 && attached_calls == 1);
    CHECK(ig_current_id() == -1 && current == NULL && created == 1 && destroyed == 1);
    one.barren = 1; /* no thread state: the call fails, and standard error says so */
    push(queue, one.id, is_attached, &one);
    CHECK(runs(1) == 1 && attached_calls == 1 && out(one.id) == 0);
    one.barren = 0;
    /* A call that breaks the rule is told of, and the level can be put right. */
    push(queue, one.id, leaves_an_ensure, &left);
    CHECK(runs(1) == 1 && out(one.id) == 1);
    OK(ig_release(left));
    CHECK(out(one.id) == 1); /* the queue's own level, which could not be released, keeps its guard: reported, never corrupt */
    OK(ig_pending_free(queue));
    queue = unattached;
}

/* What waits at a fork is the parent's; the child, which has no worker, begins anew. */
static void forks(void) {
    ig_pending *parents;
    void *back = NULL;
    ig_ran ran;
    static ig_registry *first; /* static: where a leak checker of the child sees it */
    first = registry;
    OK(ig_registry_new(4, &registry));
    rt_init(&two, 1);
    OK(ig_register_with_id(registry, two.id, &two));
    OK(ig_pending_new(registry, 8, NULL, 0, &parents));
    /* What a worker had on its stack is lost with it in the child, and valgrind would rightly call that a leak. */
    const int rounds = raise_it_here ? 1 : 2;
    for (int worker = 0; worker < rounds; worker++) {
        if (worker) {
            OK(ig_pending_start_worker(parents));
        } else {
            push(parents, two.id, closes_its_guard, NULL);
        }
        OK(ig_before_fork(registry));
        const pid_t pid = fork();
        if (pid == 0) {
            OK(ig_after_fork_child(registry, NULL, 0));
            OK(ig_pending_run(parents, &ran));
            CHECK(ran.calls == 0);
            if (worker) {
                CHECK(ig_pending_start_worker(parents) == IG_INVALID);
                OK(ig_pending_stop_worker(parents, &ran));
                CHECK(ran.calls == 0);
                OK(ig_pending_start_worker(parents));
                push(parents, two.id, closes_its_guard, NULL);
                OK(ig_finalize(registry, two.id, -1, &back));
            } else {
                push(parents, two.id, closes_its_guard, NULL);
                CHECK(ig_finalize(registry, two.id, 0, &back) == IG_TIMEOUT);
            }
            OK(ig_pending_free(parents));
            if (!worker) {
                OK(ig_drain(registry, two.id, 0, &back));
            }
            OK(ig_registry_free(registry));
            _exit(0);
        }
        OK(ig_after_fork_parent(registry));
        int status = -1;
        CHECK(pid > 0 && waitpid(pid, &status, 0) == pid);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        if (!worker) {
            OK(ig_pending_run(parents, &ran));
            CHECK(ran.calls == 1);
        }
    }
    OK(ig_finalize(registry, two.id, -1, &back));
    OK(ig_pending_free(parents));
    OK(ig_registry_free(registry));
    registry = first;
}

static void limit_of_descriptors(rlim_t soft) {
    struct rlimit limit;
    CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    limit.rlim_cur = soft < limit.rlim_max ? soft : limit.rlim_max;
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
}

/* A system that gives no descriptors: a worker waits and ends all the same, and a forked child resets its own eventfd only. */
static void without_descriptors(void) {
    enum { ALLOWED = 64 };
    ig_registry *const others = registry;
    ig_pending *const other = queue;
    void *back = NULL;
    ig_ran ran;
    int taken[ALLOWED], takes = 0, told[2], status = -1;
    OK(ig_registry_new(4, &registry));
    rt_init(&two, 1);
    OK(ig_register_with_id(registry, two.id, &two));
    OK(ig_pending_new(registry, 8, NULL, 0, &queue));
    for (rlim_t limit = 0; limit < 2; limit++) {
        OK(ig_pending_start_worker(queue));
        limit_of_descriptors(limit);
        push(queue, two.id, closes_its_guard, NULL);
        OK(ig_pending_stop_worker(queue, &ran));
        CHECK(ran.calls == 1 && ran.failed == 0);
        limit_of_descriptors(RLIM_INFINITY);
    }
    CHECK(pipe(told) == 0);
    limit_of_descriptors(ALLOWED);
    while (takes < ALLOWED && (taken[takes] = open("/dev/null", O_RDONLY)) >= 0) {
        takes++;
    }
    OK(ig_before_fork(registry));
    const pid_t pid = fork();
    if (pid == 0) {
        char one_byte;
        watchdog(300);
        OK(ig_after_fork_child(registry, NULL, 0));
        CHECK(read(told[0], &one_byte, 1) == 1); /* the parent has pushed */
        OK(ig_pending_run(queue, &ran));
        CHECK(ran.calls == 0 && !readable());
        push(queue, two.id, closes_its_guard, NULL);
        CHECK(readable());
        OK(ig_pending_run(queue, &ran));
        CHECK(ran.calls == 1 && !readable());
        _exit(0);
    }
    OK(ig_after_fork_parent(registry));
    push(queue, two.id, closes_its_guard, NULL);
    CHECK(pid > 0 && write(told[1], "x", 1) == 1 && waitpid(pid, &status, 0) == pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK(readable() && runs(0) == 1 && !readable());
    while (takes > 0) {
        CHECK(close(taken[--takes]) == 0);
    }
    CHECK(close(told[0]) == 0 && close(told[1]) == 0);
    limit_of_descriptors(RLIM_INFINITY);
    OK(ig_finalize(registry, two.id, -1, &back));
    OK(ig_pending_free(queue));
    OK(ig_registry_free(registry));
    registry = others;
    queue = other;
}

/* Under fire. */
enum { ALIVE = 0x600d, DEAD = 0xdead, POOL = 4096, THREADS = 3 };

typedef struct target {
    int64_t id;
    uint64_t canary;
    uint64_t pushed, ran;
} target;

static target permanent, pool[POOL];
static int64_t coming_and_going = -1;
static uint64_t wanted, delivered, nested, pushed, full, violations;

static void expect(int so) {
    if (!so) {
        ADD(violations);
    }
}

static void on_target(ig_guard *guard, void *data) {
    target *it = (target *)data;
    expect(ig_guard_interpreter(guard) == it && LOAD(it->canary) == ALIVE && ig_guard_id(guard) == LOAD(it->id));
    ADD(it->ran);
}

static void leave_a_call(int64_t id) {
    ig_guard guard;
    if (ig_lookup(registry, id, &guard) != IG_OK) {
        return;
    }
    target *it = (target *)ig_guard_interpreter(&guard);
    ADD(it->pushed); /* while the guard is here: it may be gone after the push */
    const ig_status status = ig_pending_push(queue, &guard, on_target, it);
    if (status == IG_OK) {
        expect(ig_guard_id(&guard) == -1);
        ADD(pushed);
    } else {
        expect(status == IG_FULL && ig_guard_id(&guard) == id);
        __atomic_fetch_sub(&it->pushed, 1, __ATOMIC_SEQ_CST);
        expect(ig_guard_close(&guard) == IG_OK);
        ADD(full);
    }
}

static void leave_calls(void) {
    errno = 4711;
    leave_a_call(permanent.id);
    const int64_t id = LOAD(coming_and_going);
    if (id >= 0) {
        leave_a_call(id);
    }
    expect(errno == 4711);
}

static void on_usr2(int number) {
    const int before = errno;
    (void)number;
    leave_calls();
    ADD(nested);
    errno = before;
}

static void on_usr1(int number) {
    const int before = errno;
    (void)number;
    leave_calls();
    if (ADD(delivered) % 8 == 0) {
        raise(SIGUSR2);
    }
    came();
    errno = before;
}

static void *pusher(void *argument) {
    ticker *mine = (ticker *)argument;
    set_up(mine, mine->random);
    while (LOAD(delivered) < wanted) {
        const uint64_t before = LOAD(mine->came);
        arm(mine);
        do {
            leave_calls(); /* interrupted anywhere, and then by another push */
        } while (LOAD(mine->came) == before);
    }
    put_out(mine);
    return NULL;
}

static void under_fire(void) {
    static ticker tickers[THREADS + 1];
    pthread_t threads[THREADS];
    ig_ran ran;
    void *back = NULL;
    uint64_t finalized = 0, of_others = 0;

    OK(ig_pending_new(registry, 64, "under fire", 0, &queue));
    OK(ig_pending_start_worker(queue));
    permanent.canary = ALIVE;
    permanent.id = 999;
    OK(ig_register_with_id(registry, permanent.id, &permanent));
    handle(SIGUSR1, on_usr1, SA_RESTART);
    handle(SIGUSR2, on_usr2, SA_RESTART);
    for (int i = 0; i < THREADS; i++) {
        tickers[i].random = 77u + (unsigned)i;
        CHECK(pthread_create(&threads[i], NULL, pusher, &tickers[i]) == 0);
    }
    set_up(&tickers[THREADS], 4711);
    /* That signals come here too, and that calls find room in the queue, is waited for. */
    while (LOAD(delivered) < wanted || LOAD(tickers[THREADS].came) == 0 || of_others == 0) {
        target *it = &pool[finalized % POOL];
        it->pushed = it->ran = 0;
        STORE(it->id, 1000 + (int64_t)finalized);
        STORE(it->canary, ALIVE);
        arm(&tickers[THREADS]);
        OK(ig_register_with_id(registry, it->id, it));
        STORE(coming_and_going, it->id);
        leave_calls();
        OK(ig_finalize(registry, it->id, -1, &back)); /* the worker runs what is queued for it */
        STORE(it->canary, DEAD);
        expect(back == it);
        expect(LOAD(it->pushed) == LOAD(it->ran)); /* each once, and all of them by now */
        of_others += it->ran;
        finalized++;
    }
    put_out(&tickers[THREADS]);
    for (int i = 0; i < THREADS; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    OK(ig_finalize(registry, permanent.id, -1, &back));
    OK(ig_pending_stop_worker(queue, &ran));
    OK(ig_pending_free(queue));
    printf("pending: %llu signals, %llu nested; %llu calls left and %llu run, %llu of them for interpreters that come and go; "
           "%llu times full; %llu finalized; %llu violations\n",
           (unsigned long long)delivered, (unsigned long long)nested, (unsigned long long)pushed,
           (unsigned long long)ran.calls, (unsigned long long)of_others, (unsigned long long)full,
           (unsigned long long)finalized, (unsigned long long)violations);
    CHECK(violations == 0 && ran.failed == 0);
    CHECK(ran.calls == pushed && permanent.ran == permanent.pushed && permanent.ran + of_others == pushed);
    CHECK(delivered >= wanted && nested > 0);
}

int main(int argc, char **argv) {
    watchdog(600);
    wanted = (uint64_t)argument(argc, argv, 1, 10000);
    raise_it_here = argc > 2 && strcmp(argv[2], "self") == 0;
    void *back = NULL;
    OK(ig_registry_new(16, &registry));
    rt_init(&one, 1);
    rt_init(&two, 2);
    OK(ig_register_with_id(registry, one.id, &one));
    OK(ig_register_with_id(registry, two.id, &two));
    OK(ig_pending_new(registry, 4, "the four", 0, &queue));
    misuse();
    every_answer();
    OK(ig_pending_free(queue)); /* stops its worker */
    forks();
    if (!raise_it_here) { /* valgrind keeps descriptors of its own beyond the limit */
        without_descriptors();
    }
    under_fire();
    OK(ig_finalize(registry, one.id, 0, &back));
    OK(ig_registry_free(registry));
    /* Last, with a registry of its own: it leaves a level behind. */
    OK(ig_registry_new(4, &registry));
    rt_done(&one);
    rt_init(&one, 1);
    OK(ig_register_with_id(registry, one.id, &one));
    attached();
    puts("pending: ok");
    return 0;
}
