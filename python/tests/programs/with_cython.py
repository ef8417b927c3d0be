"""The program ``python/examples/with_cython``, see ``ways``; and every name of the ``.pxd``."""

import re
import os

import interp_guard
import ways

# The declarations have every function of the header but the first version's, and no other.
folder = os.path.dirname(interp_guard.__file__)
kinds = r"import_interp|InterpGuard|PyInterpreterGuard|PyInterpreterView|PyThreadState_Ensure|PyThreadState_Release"
function = re.compile(rf"\b((?:{kinds})\w*)\(")
with open(os.path.join(folder, "include", "pep788.h")) as header:
    there = set(function.findall(header.read()))
with open(os.path.join(folder, "__init__.pxd")) as declarations:
    said = set(function.findall(declarations.read()))
assert said == there, said ^ there

ways.check("names.pyx", ways.compile_cython)
ways.run("with_cython", "Cython")
