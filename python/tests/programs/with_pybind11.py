"""The program ``python/examples/with_pybind11``, see ``ways``; and the classes of ``interp_guard.hpp``."""

import ways

ways.check("classes.cpp", lambda folder, name: ways.extension(folder, "c++", f"{name}.cpp", "-std=c++11"))
ways.run("with_pybind11", "pybind11")
