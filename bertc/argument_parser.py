"""argparse as bertc has it: its exit code, its environment variables, the numbers that flags take."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from math import inf, isfinite, nan
from typing import Any, NoReturn

from bertc.codes import USAGE
from bertc.errors import did_you_mean

LARGEST = 999_999_999
"""Of the whole numbers that flags take."""


class Parser(argparse.ArgumentParser):
    """argparse with bertc's exit code and form of message."""

    wrong_variable: str | None = None
    """What is wrong with the environment, for those who use this parser."""

    def parse_known_args(self, *arguments: Any, **named: Any) -> Any:
        found = super().parse_known_args(*arguments, **named)
        if self.wrong_variable is not None:
            self.error(self.wrong_variable)
        return found

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"error: {message}\nSee `{self.prog} --help`.\n")

    def refuse(self, argument: str) -> NoReturn:
        """A misspelt flag is answered with the nearest one."""
        flags = [flag for action in self._actions for flag in action.option_strings]
        self.error(f"unknown argument `{argument}`; {did_you_mean(argument.partition('=')[0], flags)}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """A misspelt verb is answered with the nearest one."""
        if action.metavar == "VERB" and value not in (verbs := action.choices or ()):
            self.error(f"there is no verb `{value}`; {did_you_mean(value, verbs)}")
        super()._check_value(action, value)

    def read_environment(self, environment: Mapping[str, str]) -> None:
        """Make the variable `BERTC_FLAG` the default of `--flag`; what is typed goes before it."""
        for action in self._actions:
            variable = f"BERTC_{action.dest.upper()}"
            hidden = action.help is argparse.SUPPRESS or action.dest == "help"
            if hidden or not action.option_strings or variable not in environment:
                continue
            value = environment[variable]
            choices = ("0", "1") if action.nargs == 0 else action.choices
            if choices is not None and value not in choices:
                self.wrong_variable = f"{variable} is one of {', '.join(choices)}, but `{value}` was found"
                continue
            try:
                if callable(action.type):
                    action.type(value)
            except argparse.ArgumentTypeError as problem:
                self.wrong_variable = f"{variable}: {problem}"
                continue
            given = value == "1" if action.nargs == 0 else [value] if isinstance(action.default, list) else value
            self.set_defaults(**{action.dest: given})
            action.required = False


def counts(text: str) -> tuple[int, ...]:
    """`1,8,32`."""
    return tuple(map(count, text.split(",")))


def count(text: str) -> int:
    return _whole(text, 1)


def whole(text: str) -> int:
    return _whole(text, 0)


def _whole(text: str, smallest: int) -> int:
    if not (text.isascii() and text.isdigit() and smallest <= int(text[: len(str(LARGEST)) + 1]) <= LARGEST):
        wanted = f"expected a whole number from {smallest} to {LARGEST}"
        raise argparse.ArgumentTypeError(f"{wanted}, but `{text}` was found")
    return int(text)


def amount(text: str) -> float:
    if not (0 < (found := _number(text)) < inf):
        raise argparse.ArgumentTypeError(f"expected a number above 0, but `{text}` was found")
    return found


def number(text: str) -> float:
    if not isfinite(found := _number(text)):
        raise argparse.ArgumentTypeError(f"expected a number, but `{text}` was found")
    return found


def _number(text: str) -> float:
    """NaN for what is none."""
    try:
        return float(text)
    except ValueError:
        return nan


def add_device(parser: argparse.ArgumentParser, default: int | str = 0) -> None:
    parser.add_argument("--device", type=whole, default=default, metavar="N", help="the number of the GPU; 0")
