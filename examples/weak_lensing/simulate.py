"""Convergence maps: shifted lognormal fields with the power spectrum of `cosmology.py`, and noise.

Maps have 128 x 128 pixels over 3.5 x 3.5 deg^2 and periodic edges. A pixel is a point sample of a
field that is band-limited to the grid, so there is no pixel window to divide out. A lognormal field
has the right two-point function and the right skewness of the one-point distribution, but no
compact haloes: see Hilbert et al. 2011, Xavier et al. 2016.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
from cosmology import SHIFT_FRACTION, UNIVERSE, lognormal_shift, power_spectrum
from tqdm import tqdm

PIXELS, SIDE_DEG = 128, 3.5
PIXEL_ARCMIN = SIDE_DEG * 60 / PIXELS
ELLIPTICITY, SMOOTHING_ARCMIN = 0.4, 1.0
CACHE = Path(__file__).parent / ".cache"


def multipoles() -> np.ndarray:
    """Multipole of every Fourier mode of a map, per radian, in `numpy.fft.rfft2`'s order."""
    step = np.deg2rad(SIDE_DEG) / PIXELS
    rows, columns = np.fft.fftfreq(PIXELS, step), np.fft.rfftfreq(PIXELS, step)
    return 2 * np.pi * np.hypot(rows[:, None], columns[None, :])  # (128, 65)


def gaussian_correlation(power: np.ndarray, shift: float) -> tuple[np.ndarray, float]:
    """Mode variances (128, 65) and pixel variance of the Gaussian field g behind a lognormal map.

    xi_g = ln(1 + xi_kappa / kappa_0^2), with xi_kappa the Fourier transform of `power` (128, 65).
    """
    area = np.deg2rad(SIDE_DEG) ** 2
    xi_kappa = np.fft.irfft2(power, s=(PIXELS, PIXELS)) * PIXELS**2 / area
    xi_g = np.log1p(xi_kappa / shift**2)
    modes = np.fft.rfft2(xi_g).real.clip(min=0)  # the few negative ones have no Gaussian field
    return modes, float(np.fft.irfft2(modes, s=(PIXELS, PIXELS))[0, 0])


def lognormal_maps(
    omega_m: float, sigma_8: float, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Noiseless, unsmoothed convergence maps (count, 128, 128), float32, of one cosmology.

    kappa = kappa_0 (exp(g - var(g) / 2) - 1): mean 0, never below -kappa_0.
    """
    ell, shift = multipoles(), lognormal_shift(omega_m)
    power = np.zeros_like(ell)  # the mean over a map of an infinite sky is set to 0
    power[ell > 0] = power_spectrum(omega_m, sigma_8, ell[ell > 0])
    modes, variance = gaussian_correlation(power, shift)
    white = np.fft.rfft2(rng.standard_normal((count, PIXELS, PIXELS)))
    g = np.fft.irfft2(white * np.sqrt(modes), s=(PIXELS, PIXELS))  # (count, 128, 128)
    return (shift * np.expm1(g - variance / 2)).astype(np.float32)


def observe(
    kappa: np.ndarray, n_gal_per_arcmin2: float | None, rng: np.random.Generator
) -> np.ndarray:
    """Maps (..., 128, 128), float32, with shape noise and 1 arcmin (standard deviation) smoothing.

    Noise per pixel: 0.4 / sqrt(2 n_gal A_pixel); none where `n_gal_per_arcmin2` is None.
    """
    if n_gal_per_arcmin2 is not None:
        sigma = ELLIPTICITY / np.sqrt(2 * n_gal_per_arcmin2 * PIXEL_ARCMIN**2)
        kappa = kappa + np.float32(sigma) * rng.standard_normal(kappa.shape, dtype=np.float32)
    beam = np.exp(-0.5 * (multipoles() * np.deg2rad(SMOOTHING_ARCMIN / 60)) ** 2)
    smooth = np.fft.irfft2(np.fft.rfft2(kappa) * beam.astype(np.float32), s=(PIXELS, PIXELS))
    return smooth.astype(np.float32)


def simulate(
    parameters: np.ndarray,
    maps_per_cosmology: int,
    seed: int,
    progress: bool = True,
    cache: Path = CACHE,
    block: int = 10,
) -> np.ndarray:
    """Noiseless maps (cosmologies, maps, 128, 128), float32, of `parameters` (cosmologies, 2).

    Blocks of cosmologies are files in `cache`; a run that was stopped goes on after the last one.
    The stream of random numbers of a cosmology depends on `seed` and its row alone.
    """
    cache.mkdir(parents=True, exist_ok=True)
    parts = []
    starts = range(0, len(parameters), block)
    for start in tqdm(starts, desc="simulate", unit="block", disable=not progress):
        rows = parameters[start : start + block]
        recipe = (*UNIVERSE, PIXELS, SIDE_DEG, SHIFT_FRACTION)
        key = repr((recipe, rows.tolist(), start, maps_per_cosmology, seed))
        path = cache / f"kappa-{hashlib.sha256(key.encode()).hexdigest()[:16]}.npz"
        if not path.exists():
            streams = [np.random.default_rng([seed, start + i]) for i in range(len(rows))]
            maps = [
                lognormal_maps(omega_m, sigma_8, maps_per_cosmology, rng)
                for (omega_m, sigma_8), rng in zip(rows.tolist(), streams, strict=True)
            ]
            partial = path.with_name(f"{path.stem}-{os.getpid()}.partial.npz")
            np.savez(partial, kappa=np.stack(maps))
            partial.replace(path)
        with np.load(path) as stored:
            parts.append(stored["kappa"])
    return np.concatenate(parts)
