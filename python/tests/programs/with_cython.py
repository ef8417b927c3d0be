"""The program ``python/examples/with_cython``, see ``ways``; and every name of the ``.pxd``."""

import re
import os

import interp_guard
import ways

# The declarations have every function of the header but the first version's, and no other.
folder = os.path.dirname(interp_guard.__file__)
with open(os.path.join(folder, "include", "pep788.h")) as header, open(os.path.join(folder, "__init__.pxd")) as declarations:
    there = set(re.findall(r"\b(import_interp_guard|InterpGuard_[A-Z]\w+|Py[A-Z]\w+)\(", re.sub(r"\bPy_\w+", "", header.read())))
    said = set(re.findall(r"\b(import_interp_guard|InterpGuard_[A-Z]\w+|Py[A-Z]\w+)\(", declarations.read()))
ours = ("import_", "InterpGuard_", "PyInterpreterGuard_", "PyInterpreterView_", "PyThreadState_Ensure", "PyThreadState_Release")
there = {name for name in there if name.startswith(ours)} - {"InterpGuard_API"}
assert said == there, said ^ there

ways.check("names.pyx", ways.compile_cython)
ways.run("with_cython", "Cython")
