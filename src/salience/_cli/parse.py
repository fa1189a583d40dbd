"""How what is typed on the command line is read."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from salience._cli.options import Options
from salience._errors import SalienceError, expected, unknown
from salience._faithfulness.options import Removal
from salience._randomization.options import Cascade
from salience._randomization.run import check_score
from salience._scores.similarity import similarities
from salience._tape.together import is_single
from salience.rules._table import Method, find
from salience.rules._table import methods as registry


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        return None


def parse_target(text: str) -> Any:
    """A target from its spelling on the command line.

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
        raise expected(
            'a target: argmax, 3, 3-5, 1,7,2 or "(0,5,7)"',
            repr(text),
            "See salience explain --help.",
        )
    return value


def parse_methods(text: str, parameters: Sequence[str] = ()) -> list[Method]:
    """Methods from 'all', 'single-pass' or names separated by commas.

    parameters  of them, as texts 'method.parameter=value'
    """
    if text.strip() == "all":
        chosen = list(registry.values())
    elif text.strip() == "single-pass":
        chosen = [method for method in registry.values() if method.single_pass]
    else:
        chosen = [find(name) for name in dict.fromkeys(name.strip() for name in text.split(","))]
    given = _parameters(parameters, {method.name: method for method in chosen})
    return [method.having(**given.get(method.name, {})) for method in chosen]


def _parameters(given: Sequence[str], known: Mapping[str, Method]) -> dict[str, dict[str, object]]:
    """{method: {parameter: value}} from texts 'method.parameter=value'."""
    options: dict[str, dict[str, object]] = {}
    for text in given:
        match = re.fullmatch(r"(\w+)\.(\w+)=(.*)", text)
        if match is None:
            cure = "For example lrp_epsilon.eps=0.01."
            raise expected("METHOD.NAME=VALUE for --param", repr(text), cure)
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


def parse_output(text: str | None) -> str | int | None:
    """The part of a model's output: a number in a tuple, a name in a dict."""
    return int(text) if text and text.isdecimal() else text or None


def parse_cascade(given: Options) -> Cascade:
    """How the network is randomised, from the options of `salience check`."""
    text = given["stages"]
    if text != "all" and not text.isdecimal():
        raise expected("all or a number for --stages", repr(text), "Such as --stages 12.")
    named = {name: given[name] for name in ("order", "repeats", "batch_norm", "seed")}
    stages = text if text == "all" else int(text)
    return Cascade(stages=stages, weights=given["init"], **named)


def parse_grid(given: Sequence[str], method: Method) -> dict[str, list[object]]:
    """The values of a method's parameters, from texts 'parameter=value,value'.

    >>> parse_grid(["eps=1e-3,0.1"], find("lrp_epsilon"))
    {'eps': [0.001, 0.1]}
    """
    grid: dict[str, list[object]] = {}
    for text in given:
        name, equals, values = text.partition("=")
        if not equals or not values:
            raise expected("NAME=VALUES for --over", repr(text), "Such as eps=1e-3,0.1.")
        texts = [f"{method.name}.{name}={value}" for value in values.split(",")]
        read = [_parameters([one], {method.name: method}) for one in texts]
        grid[name] = [one[method.name][name] for one in read]
    return grid


def parse_removal(given: Options) -> Removal:
    """What is removed, from the options of `salience check`."""
    text = given.get("replacement")
    number = _literal(text) if text else None
    return Removal(
        cell=_sizes("cell", given.get("cell")),
        window=_sizes("window", given.get("window")),
        replacement=float(number) if isinstance(number, int | float) else text,
        subsets=given["subsets"],
        seed=given["seed"],
    )


def _sizes(name: str, text: str | None) -> int | tuple[int, ...] | None:
    """A size, or one for each axis."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise expected(f"whole numbers for --{name}", repr(text), "Such as 4 or 4,8.")
    return int(parts[0]) if len(parts) == 1 else tuple(map(int, parts))


def parse_scores(text: str, score: str, x: Any) -> list[str]:
    """The similarities to measure, `score` among them; x shows what shape the maps have.

    Errors: SalienceError for unknown ones, and for those that maps of this shape do not allow.
    """
    names = list(similarities) if text == "all" else [name.strip() for name in text.split(",")]
    names = list(dict.fromkeys([*names, score]))
    kept = []
    for name in names:
        if name not in similarities:
            raise unknown("score", name, similarities)
        try:
            check_score(name, x)
            if is_single(x):
                similarities[name](x[:1], x[:1])
            kept.append(name)
        except SalienceError:
            if text != "all" or name == score:
                raise
    return kept


def parse_numbers(option: str, text: str | None) -> list[float] | None:
    try:
        return None if text is None else [float(item) for item in text.split(",")]
    except ValueError:
        raise expected(
            f"numbers for --{option}", repr(text), "Such as 0.5 or 0.4,0.5,0.6."
        ) from None


def command_line(command: str, given: Options) -> str:
    """The line for a shell that runs a command with these options again.

    >>> command_line("check", {"model": "n.py:f", "data": ["a b.npy"], "seed": 3, "retarget": True})
    "salience check n.py:f 'a b.npy' --seed=3 --retarget"
    """
    words = ["salience", command, str(given["model"]), *map(str, given["data"])]
    for name, value in given.items():
        option = "--" + {"form": "format"}.get(name, name).replace("_", "-")
        if name in ("model", "data") or value is False:
            continue
        if value is True:
            words.append(option)
        else:
            words += [f"{option}={v}" for v in (value if isinstance(value, list) else [value])]
    return shlex.join(words)
