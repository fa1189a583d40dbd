"""Similarity scores against scipy and scikit-image in float64, and the laws they obey."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from skimage.feature import hog
from skimage.metrics import structural_similarity
from torch import Tensor

from salience._errors import SalienceError
from salience._scores.similarity import hog_features, ranks, similarities

NAMES = ["spearman", "spearman_abs", "spearman_of_abs", "pearson", "ssim", "hog"]
RANK_NAMES = NAMES[:3]
IMAGE_NAMES = NAMES[4:]


def draw(*shape: int, seed: int = 0, kind: str = "normal") -> Tensor:
    """Maps of one kind; "integers" and "relu" have many ties, "related" correlates with seed 0."""
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    if kind == "related":
        x = draw(*shape) + 0.5 * x
    return {"integers": lambda: (2 * x).round(), "relu": x.relu}.get(kind, lambda: x)()


def oracle(name: str, a: Tensor, b: Tensor) -> float:
    """The score of one pair of maps, by scipy, scikit-image and `naive_hog`."""
    p, q = a.double().numpy(), b.double().numpy()
    if name == "spearman_of_abs":
        p, q = abs(p), abs(q)
    if name in RANK_NAMES:
        rho = stats.spearmanr(p.ravel(), q.ravel()).statistic
        return abs(rho) if name == "spearman_abs" else rho
    if name == "ssim":
        window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        axis = 0 if p.ndim == 3 else None
        p, q = scaled(p), scaled(q)
        return structural_similarity(p, q, data_range=1.0, channel_axis=axis, **window)
    if name == "hog":
        p, q = naive_hog(p), naive_hog(q)
    return stats.pearsonr(p.ravel(), q.ravel()).statistic


def scaled(image: np.ndarray) -> np.ndarray:
    return (image - image.min()) / (image.max() - image.min())


def skimage_hog(image: np.ndarray) -> np.ndarray:
    sizes = {"orientations": 9, "pixels_per_cell": (8, 8), "cells_per_block": (3, 3)}
    axis = 0 if image.ndim == 3 else None
    return hog(scaled(image), block_norm="L2-Hys", channel_axis=axis, **sizes)


def naive_hog(image: np.ndarray) -> np.ndarray:
    """HOG features pixel by pixel in float64; scikit-image adds its histograms up in float32."""
    image = image if image.ndim == 3 else image[None]
    (_, height, width), span = image.shape, image.max() - image.min()
    histograms = np.zeros((height // 8, width // 8, 9))
    for i in range(height // 8 * 8):
        for j in range(width // 8 * 8):
            down = image[:, i + 1, j] - image[:, i - 1, j] if 0 < i < height - 1 else 0 * span
            right = image[:, i, j + 1] - image[:, i, j - 1] if 0 < j < width - 1 else 0 * span
            down, right = np.broadcast_arrays(down, right, image[:, i, j])[:2]
            channel = int(np.argmax(np.hypot(down, right)))
            down, right = float(down[channel]), float(right[channel])
            bin_ = int(math.degrees(math.atan2(down, right)) % 180 // 20)
            histograms[i // 8, j // 8, bin_] += math.hypot(down, right) / span / 64
    blocks = []
    for i in range(height // 8 - 2):
        for j in range(width // 8 - 2):
            block = histograms[i : i + 3, j : j + 3].ravel()
            block = np.minimum(block / np.sqrt(block @ block + 1e-10), 0.2)
            blocks.append(block / np.sqrt(block @ block + 1e-10))
    return np.concatenate(blocks)


def assert_close(got: Tensor, wanted: Tensor | list[float], tolerance: float = 1e-12) -> None:
    assert got.dtype == torch.float64
    wanted = torch.as_tensor(wanted, dtype=torch.float64)
    torch.testing.assert_close(got, wanted, rtol=0, atol=tolerance, equal_nan=True)


# Against scipy and scikit-image


@pytest.mark.parametrize("kind", ["normal", "integers", "relu"])
@pytest.mark.parametrize("shape", [(3, 2), (3, 37), (2, 4095), (2, 4096), (2, 3, 50, 40)])
def test_ranks_equal_scipy(shape: tuple[int, ...], kind: str):
    maps = draw(*shape, kind=kind)
    wanted = stats.rankdata(maps.flatten(1).numpy(), axis=1)
    for dtype in (torch.float64, torch.float32):
        # Rounding keeps the order of these draws, so the ranks are the same, exactly.
        assert torch.equal(ranks(maps.to(dtype)), torch.from_numpy(wanted))


@pytest.mark.parametrize("kind", ["related", "integers", "relu"])
@pytest.mark.parametrize("shape", [(3, 3, 43, 33), (3, 24, 31)])
@pytest.mark.parametrize("name", NAMES)
def test_scores_equal_the_oracle(name: str, shape: tuple[int, ...], kind: str):
    a, b = draw(*shape, kind=kind), draw(*shape, seed=1, kind=kind)
    wanted = [oracle(name, p, q) for p, q in zip(a, b, strict=True)]
    assert_close(similarities[name](a, b), wanted)


@pytest.mark.parametrize("kind", ["related", "integers", "relu"])
@pytest.mark.parametrize("name", NAMES)
def test_real_sizes(name: str, kind: str):
    # 150528 entries: sums of products of ranks are about 1e15, far beyond int32.
    a = draw(1, 3, 224, 224, kind=kind).float()
    b = (draw(1, 3, 224, 224, seed=1, kind=kind) + a.double()).float()
    # SSIM of float32 maps is computed in float32, for speed.
    tolerance = 1e-5 if name == "ssim" else 1e-12
    assert_close(similarities[name](a, b), [oracle(name, a[0], b[0])], tolerance)


def spiky(seed: int) -> Tensor:
    """A flat map with few high pixels, as guided backprop's are."""
    x = draw(4, 3, 96, 80, seed=seed)
    return torch.where(x > 2.5, x, 0.0)


HARD = {
    "flat with spikes": spiky,
    "far from zero": lambda seed: 1000 + draw(4, 3, 96, 80, seed=seed),
    "heavy tails": lambda seed: draw(4, 3, 96, 80, seed=seed) ** 9,
    "smooth": lambda seed: draw(4, 3, 96, 80, seed=seed).cumsum(-1).cumsum(-2),
    "small": lambda seed: 1e-30 * draw(4, 3, 96, 80, seed=seed),
    "large": lambda seed: 1e30 * draw(4, 3, 96, 80, seed=seed),
}


@pytest.mark.parametrize("kind", HARD)
@pytest.mark.parametrize("name", IMAGE_NAMES)
def test_float32_agrees_with_float64(name: str, kind: str):
    a, b = (HARD[kind](seed).float() for seed in (0, 1))
    b[:2] = a[:2] + 0.1 * b[:2]  # alike, and not
    found, wanted = similarities[name](a, b), similarities[name](a.double(), b.double())
    assert_close(found, wanted, 1e-5 if name == "ssim" else 0.0)
    assert torch.equal(found, wanted) == (name == "hog")  # SSIM is float32
    assert_close(similarities[name](a, a), torch.ones(4), 1e-5)


def test_ssim_of_a_range_beyond_float32_is_nan():
    a = draw(2, 3, 24, 24).sign().float() * 3e38
    assert similarities["ssim"](a, draw(2, 3, 24, 24, seed=1).float()).isnan().all()


def test_heavy_ties_at_real_size():
    # Three values only: the case in which 32-bit sums of ranks gave 0.483 for 0.501.
    a = draw(1, 3, 224, 224).sign() * (draw(1, 3, 224, 224, seed=1) > 0)
    b = torch.where(draw(1, 3, 224, 224, seed=2) > 0, a, a.roll(1))
    assert_close(similarities["spearman"](a, b), [oracle("spearman", a, b)])


@pytest.mark.parametrize("kind", ["normal", "relu", "integers"])
@pytest.mark.parametrize("shape", [(2, 3, 40, 33), (2, 24, 24)])
def test_hog_features(shape: tuple[int, ...], kind: str):
    maps = draw(*shape, kind=kind)
    if kind == "integers":  # with the range 8 scaling is exact, and so are ties of channels
        maps = maps.clamp(-4, 4)
        maps.flatten(1)[:, :2] = torch.tensor([-4.0, 4.0], dtype=maps.dtype)
    for got, image in zip(hog_features(maps), maps.numpy(), strict=True):
        assert_close(got, naive_hog(image))
        # 1e-7: scikit-image adds the magnitudes of a cell up in float32.
        assert_close(got, skimage_hog(image), 1e-7)


@pytest.mark.parametrize("rising", ["right", "left", "down", "up"])
def test_hog_of_straight_edges(rising: str):
    # Angles of 0 and 180 degrees share the first bin, 90 and -90 the fifth.
    line = torch.arange(30.0, dtype=torch.float64)
    line = line.flip(0) if rising in ("left", "up") else line
    image = line.expand(30, 30) if rising in ("right", "left") else line[:, None].expand(30, 30)
    features = hog_features(image[None])[0]
    assert_close(features, skimage_hog(image.numpy()), 1e-7)
    bins = features.view(9, 9).gt(0).any(0)
    assert bins.nonzero().flatten().tolist() == [0 if rising in ("right", "left") else 4]


def test_hog_keeps_a_gradient_just_below_180_degrees():
    # The angle -1e-18 has the remainder 180 of 180: it counts in the last bin and is not lost.
    image = torch.ones(24, 24, dtype=torch.float64)
    image[:, :12] = -1
    image[:, 12] = -1e-18 * torch.arange(24)
    middle = hog_features(image[None]).view(9, 9)[4]  # (cells, bins)
    assert middle.gt(0).nonzero().flatten().tolist() == [0, 8]


def test_hog_of_crossed_stripes_is_negative():
    a = torch.arange(32.0).expand(1, 32, 32) + draw(1, 32, 32)
    b = a.mT + draw(1, 32, 32, seed=1)
    wanted = oracle("hog", a[0], b[0])
    assert wanted < -0.1
    assert_close(similarities["hog"](a, b), [wanted])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int32, torch.uint8])
@pytest.mark.parametrize("name", NAMES)
def test_other_dtypes_equal_their_float64_values(name: str, dtype: torch.dtype):
    a, b = (draw(2, 3, 40, 40, seed=s).mul(9).clamp(min=0).to(dtype) for s in (0, 1))
    assert torch.equal(similarities[name](a, b), similarities[name](a.double(), b.double()))


def test_boolean_masks_have_scores():
    a, b = draw(2, 30, 30) > 0, draw(2, 30, 30, seed=1) > 0
    for name in ("spearman", "pearson", "ssim"):
        assert torch.equal(similarities[name](a, b), similarities[name](a.double(), b.double()))


# Known values


def test_the_sign_is_read_in_three_ways():
    a = torch.tensor([[-2.0, -1.0, 3.0, 4.0]])
    assert_close(similarities["spearman"](a, -a), [-1.0])
    assert_close(similarities["spearman_abs"](a, -a), [1.0])
    assert_close(similarities["spearman_of_abs"](a, -a), [1.0])
    # absolute maps (2, 1, 3, 4) and (1, 2, 3, 4): rho = 1 - 6 * 2 / (4 * 15)
    assert_close(similarities["spearman_of_abs"](a, torch.tensor([[1.0, 2, 3, 4]])), [0.8])


@pytest.mark.parametrize("size", [3, 5000])
def test_negative_zero_ties_with_zero(size: int):
    maps = torch.zeros(1, size)
    maps[0, ::2] = -0.0
    maps[0, 0] = -1.0
    wanted = torch.full((1, size), 1 + size / 2, dtype=torch.float64)
    wanted[0, 0] = 1
    assert torch.equal(ranks(maps), wanted)


@pytest.mark.parametrize("size", [4, 4096])
def test_no_tie_crosses_from_map_to_map(size: int):
    # The largest entry of each map is the smallest of the next.
    maps = torch.arange(3.0)[:, None] * (size - 1) + torch.arange(float(size))
    assert torch.equal(ranks(maps), torch.arange(1.0, size + 1).double().expand(3, -1))


def test_rounding_makes_no_constant_map_vary():
    # The float64 mean of many 0.1 is not 0.1: centring alone would leave noise to correlate.
    a, b = torch.full((1, 3, 24, 24), 0.1), draw(1, 3, 24, 24)
    for name in NAMES:
        assert similarities[name](a, b).isnan().all()


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_extreme_magnitudes(scale: float):
    # Squares of these values leave float64.
    a, b = draw(2, 3, 24, 24), draw(2, 3, 24, 24, seed=1)
    for name in NAMES:
        assert_close(similarities[name](scale * a, b), similarities[name](a, b), 1e-9)


# Undefined scores


@pytest.mark.parametrize("name", ["pearson", *IMAGE_NAMES])
def test_a_range_beyond_float64_is_nan(name: str):
    a = draw(1, 3, 24, 24).sign() * 1.7e308
    assert similarities[name](a, draw(1, 3, 24, 24, seed=1)).isnan().all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_hog_sees_bad_pixels_beyond_the_last_cell(bad: float):
    maps = draw(1, 30, 30)
    maps[0, 29, 29] = bad
    assert hog_features(maps).isnan().all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, "constant"])
@pytest.mark.parametrize("side", [24, 64])  # both ways of sorting
@pytest.mark.parametrize("name", NAMES)
def test_undefined_scores_are_nan_for_their_sample_only(name: str, side: int, bad: float | str):
    a, b = draw(4, 3, side, side).float(), draw(4, 3, side, side, seed=1).float()
    clean = similarities[name](a, b)
    assert clean.isfinite().all()
    for t, sample in ((a, 1), (b, 2)):
        if bad == "constant":
            t[sample] = 0.1
        else:
            t[sample, 1, side // 2, 5] = bad
    clean[[1, 2]] = math.nan
    assert_close(similarities[name](a, b), clean)


def test_a_negative_nan_is_nan():
    # Its bits sort below every number, the other end than those of a positive one.
    maps = draw(1, 3, 64, 64)
    maps.view(-1)[7] = torch.tensor(-1, dtype=torch.int64).view(torch.float64)
    assert ranks(maps).isnan().all()
    for name in NAMES:
        assert similarities[name](maps, draw(1, 3, 64, 64, seed=1)).isnan().all()


def test_hog_without_any_gradient_is_nan():
    # Central differences skip a pixel: on a chessboard they are all 0, and so are the features.
    index = torch.arange(24)
    board = ((index + index[:, None]) % 2).double()[None]
    assert hog_features(board).eq(0).all()
    assert similarities["hog"](board, draw(1, 24, 24)).isnan().all()


# Shapes


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_batch_gives_an_empty_result(name: str):
    for side in (24, 64):
        empty = torch.empty(0, 3, side, side)
        got = similarities[name](empty, empty)
        assert got.shape == (0,)
        assert got.dtype == torch.float64


@pytest.mark.parametrize("name", NAMES)
def test_memory_layout_does_not_matter(name: str):
    a, b = draw(2, 3, 40, 40), draw(2, 3, 40, 40, seed=1)
    wanted = similarities[name](a, b)
    last = a.to(memory_format=torch.channels_last)
    batch_last = b.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)
    assert not batch_last.is_contiguous()
    assert_close(similarities[name](last, batch_last), wanted)
    wanted = similarities[name](a[:1].expand(2, -1, -1, -1).clone(), b)
    assert_close(similarities[name](a[:1].expand(2, -1, -1, -1), b), wanted)


@pytest.mark.parametrize("name", NAMES)
def test_maps_stay_untouched(name: str):
    a, b = draw(2, 3, 24, 24).requires_grad_(), draw(2, 3, 24, 24, seed=1)
    before = a.detach().clone(), b.clone()
    trained = similarities[name].prepare(a)
    kept = trained.clone()
    assert not similarities[name].compare(trained, similarities[name].prepare(b)).requires_grad
    assert a.requires_grad
    assert a.grad is None
    for now, then in ((a, before[0]), (b, before[1]), (trained, kept)):
        assert torch.equal(now, then)


def test_scores_of_ranks_share_their_preparation():
    assert similarities["spearman"].prepare is similarities["spearman_abs"].prepare
    assert list(similarities) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_prepared_maps_can_be_indexed_by_sample(name: str):
    prepare, compare = similarities[name]
    a, b = draw(3, 3, 24, 24), draw(3, 3, 24, 24, seed=1)
    order = [2, 0, 1]
    assert_close(compare(prepare(a)[order], prepare(b)), similarities[name](a[order], b))


# Errors


@pytest.mark.parametrize("name", NAMES)
def test_maps_of_different_shapes(name: str):
    a, b = torch.ones(2, 24, 32), torch.ones(2, 32, 24)
    with pytest.raises(SalienceError, match=r"of one shape; got \(2, 24, 32\) and \(2, 32, 24\)"):
        similarities[name](a, b)
    prepare, compare = similarities[name]
    with pytest.raises(SalienceError, match="two batches of maps of one shape"):
        compare(prepare(a[:1]), prepare(a))


@pytest.mark.parametrize(
    "maps", [torch.ones(5), torch.tensor(1.0), torch.ones(2, 0), torch.zeros(2, 3) * 1j]
)
def test_maps_without_entries_or_batch_dimension(maps: Tensor):
    for name in [*RANK_NAMES, "pearson"]:
        with pytest.raises(SalienceError, match=r"real maps \(B, \.\.\.\).*map\[None\]"):
            similarities[name](maps, maps)


@pytest.mark.parametrize(("name", "side"), [("ssim", 11), ("hog", 24)])
def test_maps_that_are_no_images(name: str, side: int):
    least = draw(2, side, side)
    assert_close(similarities[name](least, least), [1.0, 1.0])
    for shape in [(2, 40), (2, 1, 4, 40, 40), (2, side - 1, 40), (2, 3, 40, side - 1)]:
        with pytest.raises(SalienceError, match=rf"\(B, H, W\) of at least {side} x {side} pixels"):
            similarities[name](torch.ones(shape), torch.ones(shape))


# Laws

seeds = st.integers(0, 2**31)
kinds = st.sampled_from(["normal", "integers", "relu"])
few = settings(max_examples=20, deadline=None)


def pair(seed: int, kind: str, batch: int = 3) -> tuple[Tensor, Tensor]:
    return tuple(draw(batch, 2, 26, 25, seed=seed + k, kind=kind) for k in (0, 1))


@few
@given(seeds, kinds)
def test_a_map_is_most_similar_to_itself(seed: int, kind: str):
    a, b = pair(seed, kind)
    for name in NAMES:
        assert_close(own := similarities[name](a, a), torch.ones(3))
        assert name == "ssim" or (own <= 1).all()
        other = similarities[name](a, b)
        assert ((other < 1) & (other >= -1)).all()
        assert_close(other, similarities[name](b, a))


@few
@given(st.lists(st.integers(-8, 8), min_size=3, max_size=60), seeds)
def test_spearman_ignores_strictly_monotone_transforms(entries: list[int], seed: int):
    generator = torch.Generator().manual_seed(seed)
    steps = torch.rand(17, generator=generator, dtype=torch.float64) + 1e-3
    a = torch.tensor([entries], dtype=torch.float64)
    b = torch.rand(a.shape, generator=generator, dtype=torch.float64)
    rising = steps.cumsum(0)[a.long() + 8] - 4
    for name in ("spearman", "spearman_abs"):
        assert_close(similarities[name](rising, b), similarities[name](a, b), 0.0)


@few
@given(seeds, kinds)
def test_a_flipped_map_flips_signed_scores_only(seed: int, kind: str):
    a, b = pair(seed, kind)
    for name in ("spearman", "pearson"):
        assert_close(similarities[name](a, -b), -similarities[name](a, b))
    for name in ("spearman_abs", "spearman_of_abs"):
        assert_close(similarities[name](a, -b), similarities[name](a, b))
    assert_close(similarities["spearman_abs"](a, b), similarities["spearman"](a, b).abs())


@few
@given(seeds, kinds, st.permutations(range(4)))
def test_a_batch_is_its_samples(seed: int, kind: str, order: list[int]):
    a, b = pair(seed, kind, batch=4)
    for name in NAMES:
        whole = similarities[name](a, b)
        assert_close(similarities[name](a[order], b[order]), whole[order])
        single = [similarities[name](p[None], q[None]) for p, q in zip(a, b, strict=True)]
        assert_close(torch.cat(single), whole)


@few
@given(seeds, st.floats(0.01, 100), st.floats(-10, 10))
def test_scale_and_offset_do_not_matter(seed: int, scale: float, offset: float):
    a, b = pair(seed, "normal")
    for name in ("spearman", "spearman_abs", "pearson", "ssim", "hog"):
        # 1e-9: the offset takes digits from the map before any score sees it.
        assert_close(similarities[name](scale * a + offset, b), similarities[name](a, b), 1e-9)
