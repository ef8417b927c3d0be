"""The program ``python/examples/with_cffi_source``: see ``ways``."""

import ways

ways.run("with_cffi_source", "cffi")
