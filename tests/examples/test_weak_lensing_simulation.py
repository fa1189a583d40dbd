"""The simulated convergence maps of the weak-lensing example, against their input statistics."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

FOLDER = Path(__file__).parents[2] / "examples" / "weak_lensing"
OMEGA_M, SIGMA_8 = 0.3, 0.8


def load(name: str) -> ModuleType:
    """A module of the example, which imports its neighbours by their plain names as scripts do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        return importlib.import_module(name)


cosmology, simulate, network, training = map(load, ("cosmology", "simulate", "network", "training"))
AREA = np.deg2rad(simulate.SIDE_DEG) ** 2  # steradian


@pytest.fixture(scope="module")
def pyccl() -> ModuleType:
    return pytest.importorskip("pyccl", reason="pyccl is not installed: pip install pyccl==3.3.6")


@pytest.fixture(scope="module")
def kappa(pyccl: ModuleType) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.concatenate(
        [simulate.lognormal_maps(OMEGA_M, SIGMA_8, 200, rng) for _ in range(5)]
    )  # (1000, 128, 128)


def mean_power(maps: np.ndarray) -> np.ndarray:
    """|DFT|^2 in the convention C_l = |a|^2 area / pixels^2, averaged over maps."""
    total = sum((np.abs(np.fft.rfft2(part)) ** 2).sum(0) for part in np.array_split(maps, 10))
    return total / len(maps) * AREA / simulate.PIXELS**4


def binned(power: np.ndarray, ell: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Mean over the modes with `edges[i]` <= ell < `edges[i + 1]`."""
    rows = np.digitize(ell, edges).ravel()
    sums = np.bincount(rows, power.ravel(), len(edges) + 1)
    return (sums / np.bincount(rows, minlength=len(edges) + 1))[1:-1]


def test_limber_integral_by_hand(pyccl: ModuleType) -> None:
    """C_l = integral dchi W^2 / chi^2 P((l + 1/2) / chi, z), by the trapezoid rule in redshift."""
    ell = np.array([150.0, 700.0, 3000.0, 9000.0])
    universe = pyccl.Cosmology(
        Omega_c=OMEGA_M - 0.046, Omega_b=0.046, h=0.72, n_s=0.96, sigma8=SIGMA_8,
        transfer_function="eisenstein_hu", matter_power_spectrum="halofit",
    )  # fmt: skip
    z = np.linspace(1e-3, 1, 400)
    scale = 1 / (1 + z)
    chi = pyccl.comoving_radial_distance(universe, scale)  # Mpc
    weight = 1.5 * OMEGA_M * (72 / 299792.458) ** 2 * (1 + z) * chi * (chi[-1] - chi) / chi[-1]
    matter = np.array(
        [
            pyccl.nonlin_matter_power(universe, (ell + 0.5) / distance, a)
            for distance, a in zip(chi, scale, strict=True)
        ]
    )  # (z, ell) Mpc^3
    expected = np.trapezoid((weight / chi)[:, None] ** 2 * matter, chi, axis=0)
    # 0.5%: the coarse redshift sum here, and the interpolation over 64 multipoles there
    np.testing.assert_allclose(cosmology.power_spectrum(OMEGA_M, SIGMA_8, ell), expected, rtol=5e-3)


def test_empty_beam_of_the_millennium_cosmology() -> None:
    """Hilbert et al. 2011: kappa_0 = 0.02975 at z = 1, for Omega_m = 0.25."""
    assert cosmology.lognormal_shift(0.25) == pytest.approx(0.02975, rel=2e-3)


def test_more_matter_more_power_and_a_deeper_floor(pyccl: ModuleType) -> None:
    ell = np.array([200.0, 2000.0])
    low = cosmology.power_spectrum(0.3, 0.6, ell)
    high = cosmology.power_spectrum(0.3, 0.9, ell)
    assert (high / low > 1.5**2 - 1e-3).all()  # at least linear growth, sigma_8^2
    assert cosmology.lognormal_shift(0.4) > cosmology.lognormal_shift(0.2)


def test_gaussian_field_reproduces_the_lognormal_correlation_exactly() -> None:
    """xi_kappa = kappa_0^2 (exp(xi_g) - 1) on any spectrum, not only the example's."""
    ell, shift = simulate.multipoles(), 0.03
    power = np.where(ell > 0, 1e-9 / (1 + (ell / 800) ** 2), 0)
    modes, variance = simulate.gaussian_correlation(power, shift)
    xi_g = np.fft.irfft2(modes, s=(simulate.PIXELS, simulate.PIXELS))
    assert variance == xi_g[0, 0]
    back = np.fft.rfft2(shift**2 * np.expm1(xi_g)).real * AREA / simulate.PIXELS**2
    # 1e-3: the mode at ell = 0 of g would be negative and is cut off
    np.testing.assert_allclose(back[ell > 0], power[ell > 0], rtol=1e-3)


def test_map_power_is_the_input_power_within_one_percent(kappa: np.ndarray) -> None:
    """No pixel window: a pixel is a point sample of a field band-limited to the grid."""
    ell = simulate.multipoles()
    measured = mean_power(kappa)
    theory = np.zeros_like(ell)
    theory[ell > 0] = cosmology.power_spectrum(OMEGA_M, SIGMA_8, ell[ell > 0])
    edges = np.array([300, 1000, 1800, 2800, 4000, 6500])  # >= 1e5 modes each: 0.3% or better
    ratio = binned(measured, ell, edges) / binned(theory, ell, edges)
    np.testing.assert_allclose(ratio, 1, atol=0.01)


def test_lognormal_floor_mean_and_skewness(kappa: np.ndarray) -> None:
    floor = -cosmology.lognormal_shift(OMEGA_M)
    assert kappa.dtype == np.float32
    assert kappa.min() >= floor * (1 + 1e-6)  # float32 rounding
    assert kappa.min() < 0.9 * floor
    means = kappa.mean(axis=(1, 2), dtype=np.float64)
    assert abs(means.mean()) < 3 * means.std() / np.sqrt(len(means))
    # a lognormal of variance s2 in units of kappa_0 has skewness (s2 + 3) sqrt(s2)
    s2 = kappa.var(dtype=np.float64) / floor**2
    skewness = np.mean((kappa - kappa.mean(dtype=np.float64)) ** 3) / kappa.std() ** 3
    assert skewness == pytest.approx((s2 + 3) * np.sqrt(s2), rel=0.05)  # heavy tail: 5%


@pytest.mark.parametrize("n_gal", [10.0, 30.0])
def test_shape_noise_after_smoothing(n_gal: float) -> None:
    """White noise under a Gaussian beam: sigma^2 = 0.4^2 / (2 n_gal) / (4 pi theta^2)."""
    empty = np.zeros((50, 128, 128), np.float32)
    noise = simulate.observe(empty, n_gal, np.random.default_rng(1))
    expected = 0.4 / np.sqrt(2 * n_gal * 4 * np.pi * 1.0**2)
    # 2%: the grid cuts the beam off at 1.64 arcmin pixels, which takes 1% of the variance
    assert noise.std() == pytest.approx(expected, rel=0.02)
    assert noise.dtype == np.float32


def test_smoothing_is_a_gaussian_of_one_arcmin() -> None:
    """A Gaussian blob of 4 arcmin in two dimensions becomes one of sqrt(4^2 + 1^2) arcmin."""
    rows, columns = np.indices((128, 128))
    distance2 = ((rows - 64) ** 2 + (columns - 60) ** 2) * simulate.PIXEL_ARCMIN**2
    blob = np.exp(-distance2 / (2 * 16)).astype(np.float32)
    smooth = simulate.observe(blob, None, np.random.default_rng(0))
    expected = 16 / 17 * np.exp(-distance2 / (2 * 17))
    np.testing.assert_allclose(smooth, expected, atol=1e-5)


def test_noise_adds_to_the_map_and_follows_the_seed() -> None:
    maps = np.random.default_rng(3).standard_normal((2, 128, 128)).astype(np.float32)
    first, again, other = (simulate.observe(maps, 30, np.random.default_rng(s)) for s in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    clean = simulate.observe(maps, None, np.random.default_rng(5))
    noise = simulate.observe(np.zeros_like(maps), 30, np.random.default_rng(5))
    np.testing.assert_allclose(first, clean + noise, atol=1e-5)


def test_cosmologies_fill_the_prior_box() -> None:
    points = cosmology.cosmologies(64, seed=3)
    low, high = np.array(cosmology.PRIOR).T
    assert points.shape == (64, 2)
    assert (points >= low).all()
    assert (points <= high).all()
    cells = ((points - low) / (high - low) * 8).astype(int)
    assert len(set(map(tuple, cells.tolist()))) == 64  # a Sobol net: one point in each cell
    np.testing.assert_array_equal(points, cosmology.cosmologies(64, seed=3))
    assert not np.array_equal(points, cosmology.cosmologies(64, seed=4))


def test_a_stopped_simulation_goes_on(
    pyccl: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = cosmology.cosmologies(3, seed=0)
    whole = simulate.simulate(points, 2, 9, progress=False, cache=tmp_path / "a", block=1)
    assert whole.shape == (3, 2, 128, 128)

    real, calls = simulate.lognormal_maps, []

    def stops_once(*arguments: object) -> np.ndarray:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(simulate, "lognormal_maps", stops_once)
    with pytest.raises(KeyboardInterrupt):
        simulate.simulate(points, 2, 9, progress=False, cache=tmp_path / "b", block=1)
    resumed = simulate.simulate(points, 2, 9, progress=False, cache=tmp_path / "b", block=1)
    np.testing.assert_array_equal(resumed, whole)
    assert len(calls) == 4  # the first cosmology was not simulated again
    assert not list((tmp_path / "b").glob("*partial*"))

    in_one_block = simulate.simulate(points, 2, 9, progress=False, cache=tmp_path / "c", block=3)
    np.testing.assert_array_equal(in_one_block, whole)


def test_a_stopped_training_goes_on_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kappa = 0.01 * np.random.default_rng(0).standard_normal((40, 128, 128)).astype(np.float32)
    targets = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    recipe = {"seed": 3, "epochs": 3, "n_gal_per_arcmin2": 30.0}

    def fit(checkpoint: str) -> tuple[list[float], dict[str, torch.Tensor]]:
        trained = network.build_network(seed=recipe["seed"])
        losses = training.fit(trained, recipe, kappa, targets, tmp_path / checkpoint)
        return losses, trained.state_dict()

    losses, weights = fit("whole.pt")
    real, calls = training.one_epoch, []

    def stops_once(*arguments: object) -> float:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(training, "one_epoch", stops_once)
    with pytest.raises(KeyboardInterrupt):
        fit("stopped.pt")
    for _ in range(2):  # the second time nothing is left to do
        again, same = fit("stopped.pt")
        assert again == losses
        assert all(torch.equal(same[name], weights[name]) for name in weights)
        assert len(calls) == 4  # the first epoch was not repeated


@pytest.mark.parametrize("name", ["noiseless", "ngal30", "average_pool"])
def test_weight_files_load_without_touching_the_global_generator(name: str) -> None:
    state = torch.get_rng_state()
    trained = network.load_network(FOLDER / "weights" / f"{name}.safetensors")
    metadata = network.load_metadata(FOLDER / "weights" / f"{name}.safetensors")
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module.training for module in trained.modules())
    pools = {type(module) for module in trained} & set(network.POOLS.values())
    assert pools == {network.POOLS[metadata["pool"]]}
    assert len(metadata["losses"]) == metadata["recipe"]["epochs"]


def test_noiseless_network_predicts_unseen_maps(pyccl: ModuleType) -> None:
    """Twenty cosmologies of a third seed: R^2 above 0.9, in units of the parameters."""
    path = FOLDER / "weights" / "noiseless.safetensors"
    truth = cosmology.cosmologies(20, seed=11)
    rng = np.random.default_rng(0)
    maps = np.concatenate([simulate.lognormal_maps(*row, 3, rng) for row in truth.tolist()])
    inputs = torch.from_numpy(simulate.observe(maps, None, rng))[:, None]
    metadata = network.load_metadata(path)
    predicted = network.predict(network.load_network(path), inputs, metadata).numpy()
    target = truth.repeat(3, axis=0)
    residual = ((predicted - target) ** 2).sum(0) / ((target - target.mean(0)) ** 2).sum(0)
    assert (1 - residual > 0.9).all()


def test_unknown_pool_is_an_error() -> None:
    with pytest.raises(ValueError, match="expected pool 'max' or 'average', got 'median'"):
        network.build_network("median")
