"""The command line: parse arguments, run the verb. It decides nothing.

Results go to standard output, everything else to standard error; exit codes are those of `bertc.codes`.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import warnings
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NoReturn

from bertc import bundle_verbs, spec_verbs
from bertc.arguments import make_parser
from bertc.codes import OUR_BUG
from bertc.errors import BertcError, error
from bertc.output import document
from bertc.version import VERSION
from bertc.writing import stop

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a verb and exit with its code."""
    _open_closed_streams()
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(signum) is not signal.SIG_IGN:  # as `nohup` leaves it
            signal.signal(signum, stop)
    warnings.formatwarning = _one_line
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a verb; the exit code."""
    options, unknown = make_parser().parse_known_args(arguments)
    if unknown:
        options.parser.refuse(unknown[0])
    try:
        _extend(options)
        exit_code = VERBS[options.verb](options)
        sys.stdout.flush()
        return exit_code
    except BertcError as problem:
        return _refused(problem)
    except KeyboardInterrupt:
        _say("interrupted; nothing was left behind")
        return 130
    except BrokenPipeError:
        _drop_output()
        return 0
    except Exception as bug:
        if isinstance(bug, OSError) and bug.errno in NO_ROOM:  # a file's would be a BertcError
            _drop_output()
            message = f"standard output cannot be written: {bug.strerror}"
            return _refused(error("B0605", message, None, "is there room where it goes?"))
        if os.environ.get("BERTC_TRACEBACK"):
            raise
        _say(f"error: this is a bug of bertc {VERSION}: {type(bug).__name__}: {bug}")
        _say("Set BERTC_TRACEBACK=1 to see where, and report it with the command.")
        return OUR_BUG


def _refused(problem: BertcError) -> int:
    _say(str(problem))
    return problem.exit_code


def _say(text: str) -> None:
    """To who may not be listening; the exit code tells, too."""
    with suppress(OSError):
        print(text, file=sys.stderr)


def _drop_output() -> None:
    """What is still to be printed is not."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _one_line(message: Warning | str, *where: object) -> str:
    return f"warning: {message}\n"


def _open_closed_streams() -> None:
    """A stream that the shell has closed, as `2>&-` does, is empty, and no file of ours takes its number."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r+"))  # noqa: SIM115  until the end


def _extend(options: Namespace) -> None:
    """Take in what is installed, and run the Python files that the command line names, and no others."""
    if "extensions" not in options:
        return
    from bertc.extensions import extend, extend_installed

    extend_installed()
    for path in (options.extensions or "").split(","):
        if path:
            extend(path)


def _eval(options: Namespace) -> int:
    from bertc.scores import run_eval

    return run_eval(options)


def _compare(options: Namespace) -> int:
    from bertc.scores import run_compare

    return run_compare(options)


def _doctor(options: Namespace) -> int:
    from bertc.compiler import diagnoses

    found = diagnoses()
    if options.json:
        return document("doctor", targets={diagnosis.target: vars(diagnosis) for diagnosis in found})
    for diagnosis in found:
        builds, runs = (reason or "yes" for reason in (diagnosis.builds, diagnosis.runs))
        versions = ", ".join(f"{package} {version}" for package, version in diagnosis.versions.items())
        heading = f"{diagnosis.target}  {versions}".rstrip()
        print(f"{heading}\n  builds here: {builds}\n  runs here: {runs}")
    return 0


def _completion(options: Namespace) -> int:
    import shtab

    print(shtab.complete(make_parser(), options.shell))
    return 0


VERBS: dict[str, Callable[[Namespace], int]] = {
    "build": spec_verbs.run_build,
    "run": bundle_verbs.run_bundle,
    "bench": bundle_verbs.run_bench,
    "eval": _eval,
    "compare": _compare,
    "weights": bundle_verbs.run_weights,
    "inspect": spec_verbs.run_inspect,
    "view": spec_verbs.run_view,
    "explain": spec_verbs.run_explain,
    "check": spec_verbs.run_check,
    "new": spec_verbs.run_new,
    "doctor": _doctor,
    "completion": _completion,
}
