"""The program ``python/pyo3/examples/with_pyo3``: see ``ways``."""

import ways

ways.run("with_pyo3", None)
