"""The program ``python/examples/with_cffi``: see ``ways``."""

import ways

ways.run("with_cffi", "cffi")
