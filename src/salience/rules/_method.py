"""What a method is: a table of backward rules with its parameters in it, and how a map is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, NamedTuple

from torch import Tensor

from salience._errors import expected, unknown
from salience._study.ledger import Ledger

_NO_RULE_NEEDED = frozenset({"structural", "weights"})
LINEAR = frozenset({"linear", "batch_norm", "affine"})

Rule = Callable[..., Any]  # (site, m) -> the multiplier at its input, or at each of its operands


class Attribution(NamedTuple):
    """One map for each leaf of a pass, and their error."""

    maps: tuple[Tensor, ...]  # (B, ...) each
    error: Tensor | None = None  # (B,), where maps have a sum to be held to, or were drawn
    value: Tensor | None = None  # (B,) of the target, where it was needed
    multipliers: tuple[Tensor, ...] | None = None  # m, where the maps are x * m
    ledger: Ledger | None = None  # where relevance went, where it was asked for


@dataclass(frozen=True, eq=False, repr=False)
class Method:
    """A saliency method: what backward means for each kind of operation, and how a map is read off.

    rules       kind of operation (see `_operations.kinds`) -> rule; no rule means plain autograd
    plain       kinds where plain autograd is what the method means; None: everywhere
    input_rule  a rule for the input layer that hands back relevance instead of a multiplier; None
                from it means a rule like any other
    bounds      (low, high) of the input, for an input rule (map, m, low, high)
    readout     "m": the multiplier at the input; "x * m": the relevance of the input
    relevance   whether the map adds up to what it starts from (its conservation error is reported)
    start       what flows in at the target; None: the target's value
    parameters  what it was made with, to be read; its rules hold them already
    run         (tape, target, seed) -> maps, for methods that need several passes
    complete    whether the maps of `run` add up to f(x) - f(x0) (its completeness error is
                reported)
    sampled     whether `run` averages over random draws (its sampling error is reported)
    make        the function of its parameters that makes it

    >>> import salience
    >>> mine = salience.Method("mine", "twice x df/dx", "me", readout="x * m", start=2.0)
    >>> salience.methods["lrp_epsilon"], mine
    (lrp_epsilon(eps=0.001, eps_relative=0.0), mine())
    """

    name: str
    summary: str
    source: str
    readout: Literal["m", "x * m"] = "m"
    rules: Mapping[str, Rule] = field(default_factory=dict)
    plain: frozenset[str] | None = None
    input_rule: Rule | None = None
    bounds: tuple[object, object] | None = None
    relevance: bool = False
    start: float | None = 1.0
    parameters: Mapping[str, Any] = field(default_factory=dict)
    run: Callable[..., Any] | None = None
    complete: bool = False
    sampled: bool = False
    make: Callable[..., Method] | None = None

    @property
    def single_pass(self) -> bool:
        """Whether its maps are read off one recorded pass."""
        return self.run is None

    @property
    def error(self) -> str | None:
        """The name of the error that is reported of its maps."""
        if self.complete:
            return "completeness_error"
        if self.sampled:
            return "sampling_error"
        return "conservation_error" if self.relevance else None

    def treatment(self, kind: str) -> str | None:
        """The name of the rule for a kind, "autograd", or None where the method has no answer."""
        rule = self.rules.get("linear" if kind in LINEAR else kind)
        if rule is not None:
            return _name_of(rule)
        covered = self.plain is None or kind in self.plain or kind in _NO_RULE_NEEDED
        return "autograd" if covered else None

    def having(self, **given: Any) -> Method:
        """The method with other parameters, by the name that it has.

        Errors: SalienceError for parameters that it does not take.
        """
        for name in given:
            if name not in self.parameters:
                raise unknown(f"parameter of {self.name}", name, self.parameters)
        if not given:
            return self
        if self.make is None:
            cure = "Make the method anew, with other parameters."
            raise expected(f"a method {self.name} that says how it is made", "none", cure)
        return named(self.make(**{**self.parameters, **given}), self.name)

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={_short(value)}" for name, value in self.parameters.items())
        return f"{self.name if self.make is None else self.make.__name__}({given})"


def named(method: Method, name: str) -> Method:
    """The method under another name."""
    return method if method.name == name else replace(method, name=name)


def _short(value: object) -> str:
    return f"tensor{tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)


def _name_of(rule: Rule) -> str:
    function = rule.func if isinstance(rule, partial) else rule
    return getattr(function, "__name__", type(rule).__name__)
