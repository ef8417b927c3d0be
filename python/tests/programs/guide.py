"""The programs of ``docs/guide/python_extension.md``, built and run as they stand; the C of README.md, compiled."""

import pathlib
import re
import subprocess
import sys
import tempfile

import ways

guide = pathlib.Path(__file__).resolve().parents[3] / "docs" / "guide" / "python_extension.md"
blocks = re.findall(r"^```(\w+)\n(.*?)^```$", guide.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
assert [language for language, _ in blocks] == ["c", "cpp", "cython", "python"], blocks
c, cpp, cython, python = (text for _, text in blocks)


def check(folder, program, expected):
    """It says that on standard output, and nothing on standard error."""
    ran = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-W", "error", "-c", program],
        cwd=folder, env=ways.environment(folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=120,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, expected, ""), (program, ran)


LATER = """
import threading, later
came = threading.Event()
def call():
    print(threading.get_ident() != main)
    came.set()
main = threading.get_ident()
later.call_later(call)
assert came.wait(60)
later.call_later(lambda: None)  # it may be on its way when Python ends
"""
EVENT = """
import ctypes, threading, events
guarded = ctypes.CFUNCTYPE(None, ctypes.c_int)(events.address())
thread = threading.Thread(target=guarded, args=(7,))
thread.start()
thread.join()
"""
rest = c[c.index("static PyMethodDef methods"):]
for source, text in ("later.c", c), ("later.cpp", cpp + "\n" + rest), ("events.pyx", cython):
    folder = ways.folder_with_core()
    (pathlib.Path(folder) / source).write_text(text)
    if source == "events.pyx":
        ways.compile_cython(folder, "events")
        check(folder, EVENT, "event 7\n")
    else:
        ways.extension(folder, "cc" if source == "later.c" else "c++", source)
        check(folder, LATER, "True\n")
check(tempfile.mkdtemp(), python, "[0, 1, 2, 3]\n")
readme = pathlib.Path(__file__).resolve().parents[2] / "README.md"
(shown,) = re.findall(r"^```c\n(.*?)^```$", readme.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
folder = ways.folder_with_core()
(pathlib.Path(folder) / "shown.c").write_text(shown)
ways.extension(folder, "cc", "shown.c")
print("ok")
