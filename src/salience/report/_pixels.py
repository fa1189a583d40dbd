"""Maps as bytes: one signed byte per pixel, scaled map by map, averaged down to a size budget."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from salience._study.stages import evenly_spread
from salience._study.study import Array, Study
from salience.plot._pictures import input_pictures, map_pictures

CLIP = 99.5  # percentile of |map| where robust scales end
LEVELS = 127
MISSING = -128  # the code of NaN, infinities and what float32 does not hold
_LARGEST = np.finfo(np.float32).max
_LEAST_SIDE, _LEAST_STAGES, _LARGEST_INPUT = 48, 6, 256


@dataclass(frozen=True)
class Plan:
    """Which maps a page holds, and how large.

    size     height and width of the maps, in pixels
    inputs   height and width of the inputs
    stages   indices into map_stage, the trained network first
    samples  indices into map_sample
    """

    size: tuple[int, int]
    inputs: tuple[int, int]
    stages: tuple[int, ...]
    samples: tuple[int, ...]


def whole(study: Study) -> Plan:
    """All maps as they are."""
    size = picture_size(study)
    stages, samples = range(len(study.map_stages)), range(len(study.map_names))
    return Plan(size, size, tuple(stages), tuple(samples))


def fitted(study: Study, budget: int) -> Plan:
    """What fits into so many bytes: smaller maps first, then fewer stages, then fewer inputs.

    All stages keep one size: a coarser map would look like a changed one.
    """
    plan, methods = whole(study), len(study.map_methods)
    height, width = plan.size
    shown = _shrunk(plan.size, _LARGEST_INPUT**2)
    randomized = len(plan.stages) - 1
    least = min(_LEAST_STAGES, randomized)
    for samples in range(len(plan.samples), 0, -1):
        numbers = tuple(int(i) for i in np.linspace(0, len(plan.samples) - 1, samples).round())
        left = budget - samples * shown[0] * shown[1] * inputs_depth(study)
        for stages in range(randomized, least - 1, -1):
            kept = (0, *(1 + k for k in evenly_spread(stages, randomized))) if stages else (0,)
            size = _shrunk(plan.size, left // (samples * methods * len(kept)))
            last = samples == 1 and stages == least
            if max(size) >= min(_LEAST_SIDE, height, width) or last:
                return Plan(size, shown, kept, numbers)
    raise AssertionError("the last plan is always taken")


def _shrunk(size: tuple[int, int], pixels: int) -> tuple[int, int]:
    height, width = size
    scale = min(1.0, (max(pixels, 1) / (height * width)) ** 0.5)
    return max(1, int(height * scale)), max(1, int(width * scale))


def picture_size(study: Study) -> tuple[int, int]:
    """Height and width of the maps' pictures; a vector is a picture one pixel high."""
    first = _pictures(study.maps[:1, 0, 0].values)
    return first.shape[-2], first.shape[-1]


def _pictures(values: Array) -> Array:
    """Maps (method, ...) as pictures (method, height, width)."""
    pictures = map_pictures(_doubles(values), "sum")
    return pictures if pictures.ndim == 3 else pictures[:, None]


def _doubles(values: Array) -> Array:
    """Maps in float64, with NaN for what float32 does not hold."""
    with np.errstate(invalid="ignore"):  # of some NaNs
        values = values.astype(np.float64)
    return np.where(np.abs(values) <= _LARGEST, values, np.nan)


def inputs_depth(study: Study) -> int:
    """3 for colour, 1 for grey inputs."""
    return 3 if study.inputs.ndim == 4 and study.inputs.shape[1] == 3 else 1


def map_block(study: Study, sample: int, stage: int, size: tuple[int, int]) -> bytes:
    """All methods' maps of one input at one stage.

    float32 peaks (method,), float32 robust limits (method,), int8 codes (method, height, width),
    where a value is sign(code) (code / 127)^2 peak: small values keep their digits.
    """
    pictures = _averaged(_pictures(study.maps[:, stage, sample].values), size)
    return b"".join(part.tobytes() for part in quantized(pictures))


def quantized(pictures: Array) -> tuple[Array, Array, Array]:
    """Peaks, robust limits and codes of pictures (method, height, width)."""
    finite = np.abs(pictures) <= _LARGEST  # and no NaN
    size = np.where(finite, np.abs(pictures), 0.0).reshape(len(pictures), -1)
    peaks = size.max(1).astype("<f4")
    limits = np.percentile(size, CLIP, axis=1).astype("<f4")
    limits = np.where(limits > 0, limits, peaks)
    ratio = np.where(finite, pictures, 0.0) / np.where(peaks > 0, peaks, 1.0)[:, None, None]
    codes = np.rint(np.sign(ratio) * np.sqrt(np.abs(ratio).clip(0, 1)) * LEVELS)
    return peaks, limits, np.where(finite, codes, MISSING).astype(np.int8)


def input_block(study: Study, sample: int, size: tuple[int, int]) -> bytes:
    """float32 lowest and highest value, then uint8 (height, width) or (height, width, 3)."""
    picture = input_pictures(study.inputs.values.astype(np.float64))[sample]
    picture = picture[None] if picture.ndim == 1 else picture
    picture = np.nan_to_num(picture, posinf=0.0, neginf=0.0)
    moved = np.moveaxis(picture, -1, 0) if picture.ndim == 3 else picture[None]
    picture = np.moveaxis(_averaged(moved, size), 0, -1)  # (height, width, depth)
    low, high = (0.0, 1.0) if len(moved) == 3 else (float(picture.min()), float(picture.max()))
    codes = np.rint((picture - low) / (high - low if high > low else 1.0) * 255)
    return np.array([low, high], "<f4").tobytes() + codes.clip(0, 255).astype(np.uint8).tobytes()


def signed_methods(study: Study) -> list[bool]:
    """Whether a method's maps have both signs, by the trained and the last stage."""
    ends = _doubles(study.maps[:, [0, -1]].values)
    flat = ends.reshape(len(ends), -1)
    largest = np.nanmax(np.abs(flat), 1, initial=0.0)
    return [bool(x) for x in np.nanmin(flat, 1, initial=0.0) < -1e-4 * largest]


def _averaged(pictures: Array, size: tuple[int, int]) -> Array:
    """Area means, where pictures are larger than size."""
    if pictures.shape[-2:] == size:
        return pictures
    whole = torch.from_numpy(np.ascontiguousarray(pictures))
    made: Tensor = torch.nn.functional.adaptive_avg_pool2d(whole, size)
    return made.numpy()
