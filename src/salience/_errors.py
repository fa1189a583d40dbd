"""What a user did that cannot work: what was expected, what came, what to do."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

_CLOSE = 0.65  # 'epz' is 0.67 of 'eps'; 'gradcam' is 0.53 of 'gradient', and another method
_SHORT = 2  # letters, which begin too many names
_SAID = 4  # names at most
_LONGEST = 200  # letters of what a library says
_SPACES = dict.fromkeys("\n\t\u00a0", " ")  # torch's messages have several lines


class SalienceError(ValueError):
    """A request that cannot be answered; the message says what to do instead."""


class SalienceWarning(UserWarning):
    """A request that was answered, with a property its user should know of."""


class NotApplicable(SalienceError):
    """A method that cannot explain this network, or a test that these inputs do not allow."""


def expected(what: str, got: str, cure: str) -> SalienceError:
    """The one form of every message of this package."""
    return SalienceError(printable(f"expected {what}; got {got}. {cure}"))


def not_applicable(what: str, got: str, cure: str) -> NotApplicable:
    """`expected`, of what no other argument would change."""
    return NotApplicable(str(expected(what, got, cure)))


def warn(message: str) -> None:
    """A SalienceWarning about the line outside of this package that led here."""
    here, level, frame = str(Path(__file__).parent) + os.sep, 1, sys._getframe(0)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(here):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, SalienceWarning, stacklevel=level)


def printable(text: str) -> str:
    """Text that a terminal shows and does not obey: names of files come from anybody.

    >>> printable("net\\x1b[31m.onnx")
    'net\\\\x1b[31m.onnx'
    """
    return "".join(c if c.isprintable() else _SPACES.get(c) or _escaped(c) for c in text)


def reason(error: BaseException) -> str:
    """The first line of what a library says of a broken file, or the kind of its error.

    >>> reason(ValueError("bad magic\\nsee the manual")), reason(EOFError())
    ('bad magic', 'EOFError')
    """
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return cut(lines[0].rstrip("."), _LONGEST)


def cut(text: str, most: int) -> str:
    """At most so many letters: what a damaged file gives for a name may be of any length."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def unknown(kind: str, name: object, known: Iterable[str]) -> SalienceError:
    """An unknown name, with the nearest known one."""
    names = sorted(known)
    if not names:
        return expected(f"no {kind}: there are none", repr(name), "Leave it out.")
    near = " or ".join(map(repr, _near(str(name), names)))
    hint = f"Did you mean {near}?" if near else f"Choose one of: {', '.join(names)}."
    return expected(f"a known {kind} ({', '.join(names)})", repr(name), hint)


def squeezed(name: str) -> str:
    """A name without what spellings differ in.

    >>> squeezed("Input_X-Gradient")
    'inputxgradient'
    """
    return "".join(character for character in name.lower() if character.isalnum())


def _near(name: str, names: Iterable[str]) -> list[str]:
    """The names that may be meant: begun or gone on with, or with a letter or two wrong."""
    known, given = {squeezed(name): name for name in names}, squeezed(name)
    if given in known:
        return [known[given]]
    begun = [key for key in known if key.startswith(given) or given.startswith(key)]
    begun = [key for key in begun if min(len(key), len(given)) > _SHORT]
    near = get_close_matches(given, begun, n=_SAID, cutoff=0.0)
    near = near or get_close_matches(given, known, n=1, cutoff=_CLOSE)
    return [known[key] for key in near]
