"""How processes end that use real, unchanged wheels: without the shield, and with it.

    python wheels.py [--processes N] [NAME..]

It uses what is installed of: pyarrow, grpcio, pyzmq, uvloop, cffi, pybind11, nanobind (the last two compile a small extension
here). Every program has native threads that call Python, or Python's threads in native code, when the main thread ends. A row
for each: how many processes crash, hang, or are killed. Servers are on the loopback interface.
"""

import argparse
import collections
import importlib.util
import os
import platform
import subprocess
import sys
import sysconfig
import tempfile

PYARROW = """
import io, threading, time
import pyarrow as pa, pyarrow.csv, pyarrow.dataset, pyarrow.parquet as pq
table = pa.table({"x": list(range(50_000)), "y": ["a"] * 50_000})
sink = io.BytesIO()
pq.write_table(table, sink, row_group_size=1000)
bytes = sink.getvalue()
class File(io.BytesIO):  # a file object of Python's, read by Arrow's own threads
    def read(self, *size):
        return super().read(*size)
reads = threading.Semaphore(0)
def read():
    while True:
        pq.ParquetFile(pa.PythonFile(File(bytes), "r"), pre_buffer=True).read(use_threads=True)
        reads.release()
for _ in range(3):
    threading.Thread(target=read, daemon=True).start()
reads.acquire()
"""
GRPCIO = """
import threading, concurrent.futures, grpc
def hello(request, context):
    return request
class Handler(grpc.GenericRpcHandler):
    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(hello)
server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
server.add_generic_rpc_handlers((Handler(),))
port = server.add_insecure_port("127.0.0.1:0")
server.start()
channel = grpc.insecure_channel(f"127.0.0.1:{port}")
call = channel.unary_unary("/a/b")
answers = threading.Semaphore(0)
def again(future=None):
    answers.release()
    call.future(b"x").add_done_callback(again)
for _ in range(8):
    again()
for _ in range(50):
    answers.acquire()
"""
PYZMQ = """
import threading, zmq
context = zmq.Context()
pull = context.socket(zmq.PULL)
port = pull.bind_to_random_port("tcp://127.0.0.1")
def push():
    socket = context.socket(zmq.PUSH)
    socket.connect(f"tcp://127.0.0.1:{port}")
    while True:
        socket.send(b"x" * 100_000, copy=False)
for _ in range(4):
    threading.Thread(target=push, daemon=True).start()
for _ in range(100):
    pull.recv()
"""
UVLOOP = """
import asyncio, threading, uvloop
loop = uvloop.new_event_loop()
turned = threading.Semaphore(0)
def turn():
    turned.release()
    loop.call_soon(turn)
loop.call_soon(turn)
async def resolve():
    while True:
        await loop.getaddrinfo("127.0.0.1", 80)
loop.create_task(resolve())
threading.Thread(target=loop.run_forever, daemon=True).start()
for _ in range(100):
    turned.acquire()
"""
CFFI = """
import cffi, threading
ffi = cffi.FFI()
ffi.cdef("typedef unsigned long pthread_t; int pthread_create(pthread_t *, void *, void *(*)(void *), void *);")
library = ffi.dlopen(None)
turned = threading.Semaphore(0)
@ffi.callback("void *(void *)")
def called(_):
    turned.release()
    start()
    return ffi.NULL
def start():
    thread = ffi.new("pthread_t *")
    assert library.pthread_create(thread, ffi.NULL, called, ffi.NULL) == 0
for _ in range(8):
    start()
for _ in range(100):
    turned.acquire()
"""
BINDING = """
#include <{header}>
#include <atomic>
#include <thread>
namespace b = {namespace};
static std::atomic<long> turns;
{macro}(bound, m) {{
    m.def("start", [](b::object call, int threads) {{
        auto *kept = new b::object(call);
        for (int i = 0; i < threads; i++)
            std::thread([kept]() noexcept {{
                for (;;) {{
                    b::gil_scoped_acquire attached;
                    (*kept)();
                    turns++;
                }}
            }}).detach();
    }});
    m.def("turns", []() {{ return turns.load(); }});
}}
"""
BOUND = "import bound, time\nbound.start(lambda: sum(range(100)), 8)\nwhile bound.turns() < 500: time.sleep(0.001)\n"


def pybind11(folder):
    import pybind11

    compile(folder, BINDING.format(header="pybind11/pybind11.h", namespace="pybind11", macro="PYBIND11_MODULE"),
            [f"-I{pybind11.get_include()}"])


def nanobind(folder):
    import nanobind

    sources = os.path.join(os.path.dirname(nanobind.__file__), "src", "nb_combined.cpp")
    robin = os.path.join(os.path.dirname(nanobind.__file__), "ext", "robin_map", "include")
    compile(folder, BINDING.format(header="nanobind/nanobind.h", namespace="nanobind", macro="NB_MODULE"),
            [f"-I{nanobind.include_dir()}", f"-I{robin}", "-fno-strict-aliasing", sources])


def compile(folder, text, options):
    source = os.path.join(folder, "bound.cpp")
    with open(source, "w") as file:
        file.write(text)
    subprocess.run(["c++", "-std=c++17", "-O1", "-shared", "-fPIC", "-fvisibility=hidden", "-pthread", source, *options,
                    "-isystem", sysconfig.get_path("include"), "-o", os.path.join(folder, "bound.so")], check=True)


PROGRAMS = {
    "pyarrow": (PYARROW, None), "grpcio": (GRPCIO, None), "pyzmq": (PYZMQ, None), "uvloop": (UVLOOP, None),
    "cffi": (CFFI, None), "pybind11": (BOUND, pybind11), "nanobind": (BOUND, nanobind),
}
MODULES = {"grpcio": "grpc", "pyzmq": "zmq"}


def end(command, environment):
    """How one process ends: `ok`, `status N`, `killed by N`, or `hangs`."""
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        process.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return "hangs"
    if process.returncode == 0:
        return "ok"
    return f"status {process.returncode}" if process.returncode > 0 else f"killed by {-process.returncode}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--processes", type=int, default=200)
    parser.add_argument("names", nargs="*", metavar="NAME")
    options = parser.parse_args()
    print(f"CPython {platform.python_version()}, {options.processes} processes each\n\n| wheel | without | with the shield |\n|---|---|---|")
    for name in options.names or PROGRAMS:
        program, build = PROGRAMS[name]
        if importlib.util.find_spec(MODULES.get(name, name)) is None:
            print(f"| {name} | not installed | |", flush=True)
            continue
        with tempfile.TemporaryDirectory() as folder:
            if build is not None:
                build(folder)
            path = os.path.join(folder, "program.py")
            with open(path, "w") as file:
                file.write(program)
            environment = dict(os.environ, PYTHONPATH=os.pathsep.join([folder, os.environ.get("PYTHONPATH", "")]))
            ways = ([sys.executable, path], [sys.executable, "-m", "interp_guard", "run", path])
            ends = [collections.Counter(), collections.Counter()]
            for _ in range(options.processes):  # in turn, so that both meet the same machine
                for way, counted in zip(ways, ends):
                    counted[end(way, environment)] += 1
            said = (", ".join(f"{times} {how}" for how, times in counted.most_common()) for counted in ends)
            print(f"| {name} | {' | '.join(said)} |", flush=True)


if __name__ == "__main__":
    main()
