"""The program ``python/examples/with_nanobind``: see ``ways``."""

import ways

ways.run("with_nanobind", "nanobind")
