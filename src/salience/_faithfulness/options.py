"""What is removed of an input, and how often: the options of a test of faithfulness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real

from torch import Tensor

from salience._errors import expected
from salience._inputs.validation import whole_number


@dataclass(frozen=True)
class Removal:
    """What is removed of an input, what stands in its place, and how often.

    cell         positions of a cell along each axis: pixels of an image, entries of a signal,
                 features or tokens; one number, or one for each axis; by default the smallest that
                 makes at most 256 cells
    window       positions that are removed at once for single deletion, centred on a cell; by
                 default three cells, of features and tokens one
    replacement  "mean" (per position, over all samples), "blur" (the sample in a Gaussian window),
                 "local_mean" (its mean over three windows), "imputation" (noisy linear, ROAD), a
                 number (of ids: another id, such as that of padding) or a tensor (C, ...); by
                 default the mean, of fewer than 16 images their blur; of tokens "mean" is the mean
                 embedding
    subsets      random sets of cells
    share        of the cells in each set
    steps        points of a curve
    probability  effects on the softmax of the outputs (B, K) in place of the outputs
    seed         of the random sets and of what is drawn for a replacement

    Errors: SalienceError for numbers that cannot be.

    >>> import salience
    >>> salience.Removal(cell=4, replacement="blur").window is None
    True
    """

    cell: int | Sequence[int] | None = None
    window: int | Sequence[int] | None = None
    replacement: str | float | Tensor | None = None
    subsets: int = 128
    share: float = 0.25
    steps: int = 16
    probability: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        whole_number("subsets", self.subsets, 3, "The default is 128.")
        whole_number("steps", self.steps, 2, "The default is 16.")
        whole_number("seed", self.seed, 0, "The default is 0.")
        if (
            isinstance(self.share, bool)
            or not isinstance(self.share, Real)
            or not 0 < self.share < 1
        ):
            cure = "The default is 0.25: a quarter of the cells."
            raise expected("a share between 0 and 1", repr(self.share), cure)
        if not isinstance(self.probability, bool):
            raise expected("probability=True or False", repr(self.probability), "")
