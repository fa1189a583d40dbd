"""What was typed on the command line: targets, parameters, names and numbers."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from typing import Any

from salience.errors import expected, unknown
from salience.methods import Method, find
from salience.methods import methods as registry

Options = dict[str, dict[str, Any]]


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        return None


def parse_target(text: str) -> Any:
    """A target of `salience.targets` from its spelling on the command line.

    >>> parse_target("3-5"), parse_target("1,7,2"), parse_target("(0,5,7)"), parse_target("3")
    ((3, 5), [1, 7, 2], (0, 5, 7), 3)
    """
    text = text.strip()
    if text == "argmax":
        return text
    if match := re.fullmatch(r"(\d+)\s*-\s*(\d+)", text):
        return int(match[1]), int(match[2])
    value = _literal(text)
    if isinstance(value, tuple) and (text[0] != "(" or any(isinstance(v, tuple) for v in value)):
        value = list(value)  # one for each sample
    items = value if isinstance(value, list | tuple) else [value]
    flat = [i for item in items for i in (item if isinstance(item, tuple) else [item])]
    if not flat or any(type(i) is not int for i in flat):
        raise expected('a target: argmax, 3, 3-5, 1,7,2 or "(0,5,7)"', repr(text),
                       "See salience explain --help.")  # fmt: skip
    return value


def parse_parameters(given: Sequence[str], chosen: list[Method]) -> Options:
    """{method: {parameter: value}} from texts 'method.parameter=value'."""
    known = {method.name: method for method in chosen}
    options: Options = {}
    for text in given:
        match = re.fullmatch(r"(\w+)\.(\w+)=(.*)", text)
        if match is None:
            raise expected("METHOD.NAME=VALUE for --param", repr(text),
                           "For example lrp_epsilon.eps=0.01.")  # fmt: skip
        method, name, value = match.groups()
        if method not in known:
            raise unknown("method of --methods", method, known)
        if name not in known[method].parameters:
            raise unknown(f"parameter of {method}", name, known[method].parameters)
        default = known[method].parameters[name]
        read = value if isinstance(default, str) else _literal(value)
        if not isinstance(default, str) and type(read) not in (int, float):
            raise expected(f"a number for {method}.{name}", repr(value), f"Such as {default!r}.")
        options.setdefault(method, {})[name] = read
    return options


def parse_methods(text: str) -> list[Method]:
    if text.strip() == "all":
        return list(registry.values())
    return [find(name) for name in dict.fromkeys(name.strip() for name in text.split(","))]


def parse_numbers(option: str, text: str | None) -> list[float] | None:
    try:
        return None if text is None else [float(item) for item in text.split(",")]
    except ValueError:
        raise expected(
            f"numbers for --{option}", repr(text), "Such as 0.5 or 0.4,0.5,0.6."
        ) from None
