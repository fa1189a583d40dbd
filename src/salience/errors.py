"""What a user did that cannot work: what was expected, what came, what to do."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

_LONGEST = 200  # letters of what a library says
_SPACES = dict.fromkeys("\n\t\u00a0", " ")  # torch's messages have several lines


class SalienceError(ValueError):
    """A request that cannot be answered; the message says what to do instead."""


class SalienceWarning(UserWarning):
    """A request that was answered, with a property its user should know of."""


class NotApplicable(SalienceError):
    """A method that cannot explain this network at all."""


def expected(what: str, got: str, cure: str) -> SalienceError:
    """The one form of every message of this package."""
    return SalienceError(printable(f"expected {what}; got {got}. {cure}"))


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
    near = get_close_matches(str(name), names, n=1, cutoff=0.4)
    hint = f"Did you mean {near[0]!r}?" if near else f"Choose one of: {', '.join(names)}."
    return expected(f"a known {kind} ({', '.join(names)})", repr(name), hint)
