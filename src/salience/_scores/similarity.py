"""Similarity scores between two batches of maps, one float64 number per pair.

`similarities` names them. Each score is two steps, `compare(prepare(a), prepare(b))`, so that a
map that is held against many others (a trained network's map in a randomisation test) is
prepared once.

| name | score | maps |
|---|---|---|
| `spearman` | correlation of the average ranks, in [-1, 1] | (B, ...) |
| `spearman_abs` | its absolute value, in [0, 1]: a map and its negative are the same | (B, ...) |
| `spearman_of_abs` | Spearman of the absolute maps, in [-1, 1] | (B, ...) |
| `pearson` | correlation of the values, in [-1, 1] | (B, ...) |
| `ssim` | structural similarity in a Gaussian window, in [-1, 1] | (B, C, H, W) or (B, H, W) |
| `hog` | Pearson of histograms of oriented gradients, in [-1, 1] | (B, C, H, W) or (B, H, W) |

`ssim` and `hog` scale each map to [0, 1] by its own range over all channels, and read a tensor of
three dimensions as (B, H, W). `ssim` computes in float32 where the maps are float32, which changes
it by less than 1e-5; all else is float64 (`hog` counts in bins, and rounding can change a bin).
No score is a number where it is undefined: a NaN or an infinity anywhere in one of the two maps, or
a constant map, makes that pair's score NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from salience._errors import expected
from salience._scores.ranks import ranks, rows_of_maps

__all__ = ["Similarity", "hog_features", "ranks", "similarities"]

# SSIM: a Gaussian window of sigma 1.5 cut at radius 5, and the constants (K L)^2 for L = 1.
_RADIUS, _SIGMA = 5, 1.5
_C1, _C2 = 0.01**2, 0.03**2
# HOG: orientation bins over 180 degrees, pixels along a cell, cells along a block.
_BINS, _CELL, _BLOCK = 9, 8, 3


class Similarity(NamedTuple):
    """A score between maps: score(a, b) = compare(prepare(a), prepare(b)).

    `prepare`: maps (B, ...) -> (B, ...), what the score keeps of a map.
    `compare`: two prepared tensors of one shape -> (B,) float64.
    Scores with the same `prepare` function share its result. Gradients are not tracked.
    Raises SalienceError where the shapes differ or the score does not exist for maps of that shape.

    >>> a = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    >>> b = torch.tensor([[9.0, 10.0, 50.0], [9.0, 8.0, 7.0]])
    >>> spearman = similarities["spearman"]
    >>> spearman(a, b).round(decimals=6)
    tensor([ 1., -1.], dtype=torch.float64)
    >>> trained = spearman.prepare(a)
    >>> spearman.compare(trained, spearman.prepare(b)).round(decimals=6)
    tensor([ 1., -1.], dtype=torch.float64)
    """

    prepare: Callable[[Tensor], Tensor]
    compare: Callable[[Tensor, Tensor], Tensor]

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Scores (B,) of the maps a (B, ...) against the maps b (B, ...)."""
        _check_same(a, b)
        return self.compare(self.prepare(a), self.prepare(b))


def hog_features(maps: Tensor) -> Tensor:
    """Histograms of oriented gradients of maps scaled to [0, 1] by their own range.

    Central differences (0 at the border), of the channel where their magnitude is largest; the
    mean magnitude per cell of 8 x 8 pixels and orientation bin of 20 degrees, modulo 180; blocks
    of 3 x 3 cells v -> v / |v|, cut at 0.2, normalised again ("L2-Hys", eps = 1e-5).

    maps: (B, C, H, W) or (B, H, W), at least 24 x 24 pixels; pixels beyond the last whole cell
    count only as neighbours. Returns (B, F) float64 with F = (H // 8 - 2) * (W // 8 - 2) * 81;
    NaN for a constant map or one that is not finite. Raises SalienceError for other shapes.
    Source: Dalal and Triggs (2005), with the parameters usual in scikit-image.

    >>> hog_features(torch.arange(2.0 * 3 * 32 * 40).view(2, 3, 32, 40)).shape
    torch.Size([2, 486])
    """
    magnitude, bins = _gradients(_images(maps, "hog", _CELL * _BLOCK))  # (B, H, W)
    batch, high, wide = len(maps), *(size // _CELL for size in magnitude.shape[1:])
    inside = (slice(None), slice(high * _CELL), slice(wide * _CELL))
    rows, columns = (
        torch.arange(size * _CELL, device=maps.device) // _CELL for size in (high, wide)
    )
    cells = bins[inside].long() + _BINS * (rows[:, None] * wide + columns)
    histograms = magnitude.new_zeros(batch, high * wide * _BINS)
    histograms.scatter_add_(1, cells.flatten(1), magnitude[inside].flatten(1))
    histograms = histograms.view(batch, high, wide, _BINS).permute(0, 3, 1, 2) / _CELL**2
    blocks = histograms.unfold(2, _BLOCK, 1).unfold(3, _BLOCK, 1)
    blocks = blocks.permute(0, 2, 3, 4, 5, 1).flatten(3)  # (B, H // 8 - 2, W // 8 - 2, 81)
    return _normalize(_normalize(blocks).clamp_(max=0.2)).flatten(1)


def _gradients(images: Tensor) -> tuple[Tensor, Tensor]:
    """Magnitude and orientation bin (B, H, W) of the channel that changes most."""
    rows = rows_of_maps(images).double()
    _, span = _range(rows)
    images = rows.view(images.shape)
    down, right = torch.zeros_like(images), torch.zeros_like(images)
    torch.sub(images[..., 2:, :], images[..., :-2, :], out=down[..., 1:-1, :])
    torch.sub(images[..., 2:], images[..., :-2], out=right[..., 1:-1])
    # Chosen before scaling, whose rounding would break the ties of integer-valued maps.
    magnitude, strongest = torch.hypot(down, right).max(1, keepdim=True)
    down, right = down.gather(1, strongest)[:, 0], right.gather(1, strongest)[:, 0]
    degrees = torch.atan2(down, right).rad2deg_().remainder_(180.0)
    # A negative angle of rounding size has remainder 180: it belongs to the last bin.
    bins = degrees.div_(180.0 / _BINS).floor_().nan_to_num_().clamp_(max=_BINS - 1)
    return magnitude[:, 0].div_(span[:, :, None]), bins


def _normalize(blocks: Tensor, eps: float = 1e-5) -> Tensor:
    return blocks / (blocks.square().sum(-1, keepdim=True) + eps**2).sqrt_()


def _prepare_pearson(maps: Tensor) -> Tensor:
    """Centred unit vectors (B, N): their inner product is the correlation of the values."""
    rows = _scaled(rows_of_maps(maps))  # no sum of squares over- or underflows on [0, 1]
    return _unit(rows.sub_(rows.mean(1, keepdim=True)))


def _prepare_spearman(maps: Tensor) -> Tensor:
    """Centred unit vectors (B, N) of the ranks; constant maps have none (0 / 0 is NaN)."""
    rows = ranks(maps)
    return _unit(rows.sub_((rows.shape[1] + 1) / 2))


def _prepare_spearman_of_abs(maps: Tensor) -> Tensor:
    return _prepare_spearman(rows_of_maps(maps).abs())


def _prepare_hog(maps: Tensor) -> Tensor:
    return _prepare_pearson(hog_features(maps))


def _prepare_ssim(maps: Tensor) -> Tensor:
    """The scaled map less its mean, its window means and its window variances (B, 3, C, H, W).

    Squares about the mean lose less to rounding. Window means are about it, too, and it is kept
    around them, where there are none.
    """
    images = _images(maps, "ssim", 2 * _RADIUS + 1)  # (B, C, H, W)
    rows = _scaled(images, _working_type(images)).flatten(1)
    center = rows.mean(1).view(-1, 1, 1, 1)
    images = rows.view(images.shape).sub_(center)
    prepared = images.new_empty(images.shape[0], 3, *images.shape[1:])
    prepared[:, 0], prepared[:, 1], prepared[:, 2] = images, center, 0
    mean = _window_mean(images)
    inside = prepared[..., _RADIUS:-_RADIUS, _RADIUS:-_RADIUS]
    inside[:, 2] = _window_mean(images.square_()).sub_(mean.square())
    inside[:, 1] = mean
    return prepared


def _compare_ssim(a: Tensor, b: Tensor) -> Tensor:
    """Mean over the pixels whose window lies in the map, then over channels, of
    (2 ma mb + C1) (2 cov + C2) / ((ma^2 + mb^2 + C1) (va + vb + C2))."""
    _check_same(a, b)
    inside = (..., slice(_RADIUS, -_RADIUS), slice(_RADIUS, -_RADIUS))
    (_, mean_a, variance_a), (_, mean_b, variance_b) = a[inside].unbind(1), b[inside].unbind(1)
    covariance = _window_mean(a[:, 0] * b[:, 0]).sub_(mean_a * mean_b)
    mean_a, mean_b = mean_a + a[:, 1, :1, :1, :1], mean_b + b[:, 1, :1, :1, :1]
    score = (mean_a * mean_b).mul_(2).add_(_C1)
    score /= mean_a.square().add_(mean_b.square()).add_(_C1)
    score *= covariance.mul_(2).add_(_C2).div_((variance_a + variance_b).add_(_C2))
    return score.flatten(1).mean(1, dtype=torch.float64)


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    _check_same(a, b)
    return torch.linalg.vecdot(a, b).clamp_(-1.0, 1.0)


def _absolute_correlation(a: Tensor, b: Tensor) -> Tensor:
    return _correlation(a, b).abs_()


def _window_mean(images: Tensor) -> Tensor:
    """Gaussian means (B, C, H - 10, W - 10) over the windows that lie within the images."""
    # Sums of shifted images: torch's float64 convolution on a CPU takes five times as long.
    weights = [math.exp(-0.5 * (k / _SIGMA) ** 2) for k in range(-_RADIUS, _RADIUS + 1)]
    weights = [w / sum(weights) for w in weights]
    for dim in (-2, -1):
        size = images.shape[dim] - 2 * _RADIUS
        total = images.narrow(dim, 0, size) * weights[0]
        for k, weight in enumerate(weights[1:], 1):
            total.add_(images.narrow(dim, k, size), alpha=weight)
        images = total
    return images


def _range(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Minimum and max - min (B, 1) in float64; the latter NaN unless finite."""
    low, high = (t.double() for t in torch.aminmax(rows, dim=1, keepdim=True))
    span = high - low  # a NaN or an infinity in the map makes this NaN or infinite
    return low, torch.where(span.isfinite(), span, math.nan)


def _scaled(maps: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    """(x - min) / (max - min) per map; 0 / 0 makes a constant map NaN."""
    rows = rows_of_maps(maps)
    low, span = _range(rows)
    # of float32 values, float32 differences are as good as any: what is lost is lost by scaling
    return (rows.to(dtype) - low.to(dtype)).div_(span.to(dtype)).view(maps.shape)


def _working_type(maps: Tensor) -> torch.dtype:
    """float32 for float32 maps, else float64."""
    return torch.float32 if maps.dtype == torch.float32 else torch.float64


def _unit(rows: Tensor) -> Tensor:
    return rows.div_(torch.linalg.vector_norm(rows, dim=1, keepdim=True))


def _images(maps: Tensor, name: str, side: int) -> Tensor:
    if maps.ndim not in (3, 4) or min(maps.shape[-2:]) < side:
        raise expected(
            f"maps (B, C, H, W) or (B, H, W) of at least {side} x {side} pixels for {name}",
            f"shape {tuple(maps.shape)}",
            "Use spearman or pearson, which take maps of any shape.",
        )
    return maps if maps.ndim == 4 else maps.unsqueeze(1)


def _check_same(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape:
        raise expected(
            "two batches of maps of one shape",
            f"{tuple(a.shape)} and {tuple(b.shape)}",
            "Resize or expand one of them first.",
        )


similarities: dict[str, Similarity] = {
    "spearman": Similarity(_prepare_spearman, _correlation),
    "spearman_abs": Similarity(_prepare_spearman, _absolute_correlation),
    "spearman_of_abs": Similarity(_prepare_spearman_of_abs, _correlation),
    "pearson": Similarity(_prepare_pearson, _correlation),
    "ssim": Similarity(_prepare_ssim, _compare_ssim),
    "hog": Similarity(_prepare_hog, _correlation),
}

_BOUNDS = dict.fromkeys(similarities, (-1.0, 1.0)) | {"spearman_abs": (0.0, 1.0)}


def bounds_of(score: str) -> tuple[float, float]:
    """The lowest and the highest score that there is; infinite for scores that users add."""
    return _BOUNDS.get(score, (-math.inf, math.inf))
