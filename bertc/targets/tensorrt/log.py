"""What TensorRT says when it does not do something. Its own answer is None or False, and the reason is in its log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bertc.errors import error


def make_log(trt: Any) -> Any:
    """A logger that keeps the errors, so that a failure can tell its reason: `worst()`, the first since the last."""

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(msg)

        def worst(self) -> str:
            found = self.errors[0] if self.errors else "it gave no reason"
            self.errors.clear()
            return found

    return Log()


def demand(done: bool, code: str, what: str, trt: Any, log: Any, help: str | None = None) -> None:
    """Raises BertcError of that code with TensorRT's own words when it did not do something."""
    if not done:
        raise error(code, f"{trt.__name__} could not {what}: {log.worst()}", None, help)


def constructed(make: Callable[..., Any], *given: Any) -> Any:
    """An object of TensorRT's, or None where it has none to give, for which its binding raises a TypeError."""
    try:
        return make(*given)
    except TypeError as problem:
        if "nullptr" not in str(problem):
            raise
        return None
