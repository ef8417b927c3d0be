"""``python -m interp_guard``: what this machine offers; ``python -m interp_guard stress``: see it hold under real signals;
``python -m interp_guard run``: run a program under the shield."""

import argparse
import json
import platform
import sys

import interp_guard
from . import _native, _stress, shield

_EPILOG = """exit status: 0, 1 if the stress found a violation or no interpreter can be registered here, 2 on bad usage.
Ctrl-C stops the stress early and still prints the result; a second one ends at once."""


def _in(first, last):
    def parse(text):
        number = int(text)
        if not first <= number <= last:
            raise argparse.ArgumentTypeError(f"{number} is not in {first} to {last}")
        return number

    parse.__name__ = "int"
    return parse


def _grace(text):
    try:
        return shield._seconds(float(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _arguments(arguments):
    """Those that are ours, and those of the program that ``run`` runs: from its name on."""
    if arguments[:1] != ["run"]:
        return arguments, None
    at = 1
    while at < len(arguments) and arguments[at].startswith("-") and arguments[at] != "-":
        at += 2 if arguments[at] == "--grace" else 1
        if arguments[at - 1] == "-m":
            break
    return arguments[:at], arguments[at:]


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m interp_guard",
        description=__doc__.replace("``", ""),
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object to standard output and nothing else")
    parser.set_defaults(run=_doctor)
    commands = parser.add_subparsers(metavar="command")
    doctor = commands.add_parser("doctor", help="say what this machine and this Python offer (the default)")
    stress = commands.add_parser(
        "stress",
        help="fire real SIGUSR1 at every thread while subinterpreters come and go",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    doctor.set_defaults(run=_doctor)
    stress.set_defaults(run=_stress.run)
    stress.add_argument("--seconds", type=_in(1, 86_400), default=10, help="how long to run (default: 10)")
    stress.add_argument(
        "--threads",
        type=_in(1, 200),
        default=4,
        help="native threads that hold guards, or ensure and call Python (default: 4)",
    )
    stress.add_argument(
        "--interpreters", type=_in(1, 64), default=6, help="subinterpreters at a time (default: 6)"
    )
    run = commands.add_parser(
        "run",
        help="run a program under the shield: extensions that nobody changed do not crash at its exit",
        usage="python -m interp_guard run [--grace S] [--report] script | -m module ...",
    )
    run.set_defaults(run=shield._run, parser=run)
    run.add_argument(
        "--grace", type=_grace, default=shield._GRACE, metavar="S",
        help="how many seconds the end waits for native threads that are in a call into Python (default: %(default)s)",
    )
    run.add_argument("--report", action="store_true", help="say at exit, on standard error, what was prevented")
    run.add_argument("-m", dest="is_module", action="store_true", help="what follows is a module")
    for command in (doctor, stress):
        command.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="as above")
    return parser


def _doctor(options):
    well, verdict, sections, here = _native.machine()
    python = f"{platform.python_implementation()} {platform.python_version()}"
    version = interp_guard.__version__
    here = {"python": python, "interp_guard": version, **here, "include": interp_guard.get_include()}
    sections = [*sections, ("Python", here)]
    if options.json:
        print(json.dumps({name: value for _, facts in sections for name, value in facts.items()}))
        return 0 if well else 1
    width = max(len(name) for _, facts in sections for name in facts)
    print(verdict)
    for title, facts in sections:
        print(f"\n{title}")
        for name, value in facts.items():
            print(f"{name.replace('_', ' '):<{width}}  {'not known' if value is None else value}")
    return 0 if well else 1


if __name__ == "__main__":
    ours, theirs = _arguments(sys.argv[1:])
    options = _parser().parse_args(ours)
    if theirs is not None:
        options.arguments = theirs
        if not theirs:
            options.parser.error("a script, or -m and a module")
    sys.exit(options.run(options))
