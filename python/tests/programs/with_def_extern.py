"""The program ``python/examples/with_def_extern``: see ``ways``."""

import ways

ways.run("with_def_extern", "cffi")
