"""The program ``python/examples/with_ctypes``: see ``ways``."""

import ways

ways.run("with_ctypes", None)
