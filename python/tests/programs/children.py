"""multiprocessing's children wait for guarded work, however they were started and whatever they end with; nothing is said."""

import _thread
import atexit
import os
import subprocess
import sys
import tempfile
import threading
import time

RETURNS, EXITS, RAISES = "returns", "exits", "raises"


def deliver(path, guard=None):
    """On a thread that nobody but its guard makes anybody wait for: five lines, when the end of the process has begun."""
    import interp_guard

    guard = guard or interp_guard.lookup(interp_guard.current())
    refusals = (getattr(__builtins__, "PythonFinalizationError", RuntimeError), RuntimeError, LookupError)

    def run():
        with guard:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                try:
                    interp_guard.lookup(interp_guard.current()).close()
                except refusals:
                    break
                time.sleep(0.001)
            write(path, 5)

    _thread.start_new_thread(run, ())  # a subinterpreter of an executor has no daemon threads


def write(path, count):
    with open(path, "a") as file:
        file.write("delivered\n" * count)


def body(path, how):
    deliver(path)
    if how == EXITS:
        sys.exit(0)
    if how == RAISES:
        raise ValueError("as asked")


def body_with_thread(path, _):
    """A thread that is no daemon goes on taking guards when the main function has returned, as in any process."""
    import interp_guard

    main = threading.current_thread()
    returned = threading.Event()

    def run():
        returned.wait(60)
        while main.is_alive():  # until it waits for this thread
            main.join(60)
        for _ in range(5):
            with interp_guard.lookup(interp_guard.current()):
                write(path, 1)

    threading.Thread(target=run).start()
    returned.set()


def body_with_queue(path, queue):
    """What guarded work puts into a queue at the very end still comes to the parent."""
    import interp_guard

    guard = interp_guard.lookup(interp_guard.current())

    def run():
        with guard:
            try:
                while True:
                    interp_guard.lookup(interp_guard.current()).close()
                    time.sleep(0.001)
            except (RuntimeError, LookupError):
                queue.put("delivered")

    threading.Thread(target=run, daemon=True).start()


def body_with_atexit(path, _):
    """Callbacks that were registered after the import can take guards, where they are run."""
    import interp_guard

    def late():
        with interp_guard.lookup(interp_guard.current()):
            write(path, 5)

    atexit.register(late)


def nested(path, how):
    import multiprocessing

    child = multiprocessing.get_context("fork").Process(target=body, args=(path, how))
    child.start()
    child.join()


def run(method, what, early, path):
    import multiprocessing

    if early == "early":
        import interp_guard  # noqa: F401
    if method == "os.fork":
        child = os.fork()
        if child == 0:
            (body_with_atexit if what == "atexit" else body)(path, RETURNS)
            sys.exit(0)
        os.waitpid(child, 0)
        return
    if method == "interpreters":
        from concurrent.futures import InterpreterPoolExecutor

        with InterpreterPoolExecutor(1) as pool:
            pool.submit(body, path, RETURNS).result()
        return
    context = multiprocessing.get_context(method.replace("futures ", "").replace("pool ", ""))
    if early == "preloaded":
        context.set_forkserver_preload(["interp_guard"])
    if method.startswith("futures "):
        from concurrent.futures import ProcessPoolExecutor

        with ProcessPoolExecutor(1, mp_context=context) as pool:
            pool.submit(body, path, RETURNS).result()
    elif method.startswith("pool "):
        with context.Pool(1) as pool:
            pool.apply(body, (path, RETURNS))
            pool.close()
            pool.join()
    else:
        targets = {"thread": body_with_thread, "atexit": body_with_atexit, "nested": nested, "queue": body_with_queue}
        queue = context.Queue() if what == "queue" else None
        second = RETURNS if what == "nested" else queue or what
        child = context.Process(target=targets.get(what, body), args=(path, second))
        child.start()
        if queue is not None:
            write(path, 5 * (queue.get(timeout=60) == "delivered"))
        child.join()


def main():
    # Up to 3.12 a child by spawn closes its queues before it runs atexit callbacks: no "queue" there.
    methods, ends = ("fork", "forkserver", "spawn"), (RETURNS, EXITS, RAISES, "thread", "queue")
    cases = [(method, what, "early") for method in methods for what in ends if (method, what) != ("spawn", "queue")]
    cases += [(method, RETURNS, "late") for method in methods] + [("fork", "queue", "late")]
    cases += [("forkserver", RETURNS, "preloaded"), ("fork", "nested", "early"), ("fork", "nested", "late")]
    cases += [(f"{how} {method}", RETURNS, "early") for how in ("futures", "pool") for method in ("fork", "forkserver")]
    cases += [("os.fork", RETURNS, "early"), ("os.fork", "atexit", "early"), ("spawn", "atexit", "late")]
    if sys.version_info >= (3, 13):
        cases += [("fork", "atexit", "early"), ("forkserver", "atexit", "late")]
    if sys.version_info >= (3, 14):
        cases.append(("interpreters", RETURNS, "late"))
    failed = []
    for case in cases:
        with tempfile.NamedTemporaryFile() as file:
            ended = subprocess.run(
                [sys.executable, __file__, *case, file.name],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=300,
            )
            lines = file.read().splitlines()
        errors = ended.stderr
        if case[1] == RAISES:
            assert "ValueError: as asked" in errors, errors
            errors = ""
        if (ended.returncode, len(lines)) != (0, 5) or "interp_guard: " in errors or "Traceback" in errors:
            failed.append((*case, f"{len(lines)} of 5", ended))
    print(f"record: guarded work in children of multiprocessing, {len(cases)} ways | {len(cases) - len(failed)} delivered 5 of 5")
    assert not failed, "\n".join(map(str, failed))
    print("ok")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        run(*sys.argv[1:])
    else:
        main()
