"""How a network goes from trained to random: the options of a cascade."""

from __future__ import annotations

from dataclasses import dataclass

from salience._errors import expected, unknown
from salience._inputs.validation import whole_number
from salience._randomization.weights import INITIALIZERS

ORDERS = ("top_down", "bottom_up", "independent")
BATCH_NORMS = ("keep", "recalibrate", "reset")


@dataclass(frozen=True)
class Cascade:
    """How a network goes from trained to random, stage by stage, and how often.

    order       "top_down": from the output layer, cascading to the first one; "bottom_up";
                "independent": one stage at a time
    stages      "all", or how many evenly spread stages to score (all are randomised)
    repeats     independent random networks
    weights     "own": each layer's initialiser, a raw parameter like "normal"; "normal": with the
                parameter's own mean and standard deviation; "permute": its own entries shuffled
    batch_norm  running statistics: "keep", "recalibrate" (from each batch of x), "reset"; the
                affine part is randomised with its stage, to the identity under "own"
    seed        of all random streams, one for each (repeat, stage)

    Errors: SalienceError for unknown options.

    >>> import salience
    >>> salience.Cascade(repeats=3, weights="permute")
    Cascade(order='top_down', stages='all', repeats=3, weights='permute', batch_norm='keep', seed=0)
    """

    order: str = "top_down"
    stages: int | str = "all"
    repeats: int = 5
    weights: str = "own"
    batch_norm: str = "keep"
    seed: int = 0

    def __post_init__(self) -> None:
        for kind, name, known in (
            ("order", self.order, ORDERS),
            ("initialiser", self.weights, INITIALIZERS),
            ("treatment of BatchNorm", self.batch_norm, BATCH_NORMS),
        ):
            if name not in known:
                raise unknown(kind, name, known)
        stages = self.stages
        if stages != "all" and (not isinstance(stages, int) or stages is True or stages < 1):
            cure = "Score at most as many as there are."
            raise expected('"all" or a number of stages', repr(stages), cure)
        whole_number("repeats", self.repeats, 1, "The default is 5.")
        whole_number("seed", self.seed, 0, "The default is 0.")
