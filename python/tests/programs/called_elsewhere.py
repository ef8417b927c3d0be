"""What tests have run in another interpreter: an importable module, unlike the program itself."""

import os


def write_current():
    import interp_guard

    os.write(PIPE, b"%d\n" % interp_guard.current())


def fail():
    raise KeyError("on purpose")


PIPE = int(os.environ.get("TEST_PIPE", "-1"))
not_callable = 7
