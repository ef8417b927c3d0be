"""The Python programs of README.md run as they stand, each in a process of its own, and complain about nothing."""

import pathlib
import re
import subprocess
import sys

readme = pathlib.Path(__file__).resolve().parents[2] / "README.md"
programs = re.findall(r"^```python\n(.*?)^```$", readme.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
assert len(programs) >= 4, len(programs)
for program in programs:
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert ran.returncode == 0 and not ran.stderr, (program, ran)
print("ok")
