"""Convergence maps of a flat LCDM universe: shifted lognormal fields with a Limber power spectrum.

Recipe: h = 0.72, Omega_b = 0.046, n_s = 0.96, Eisenstein & Hu transfer function, halofit, all
sources at z = 1; maps of 128 x 128 pixels over 3.5 x 3.5 deg^2 with periodic edges. A pixel is a
point sample of a field that is band-limited to the grid, so there is no pixel window to divide out.
A lognormal field has the right two-point function and the right skewness of the one-point
distribution, but no compact haloes: see Hilbert et al. 2011, Xavier et al. 2016.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

HUBBLE, OMEGA_B, N_S, Z_SOURCE = 0.72, 0.046, 0.96, 1.0
PIXELS, SIDE_DEG = 128, 3.5
PIXEL_ARCMIN = SIDE_DEG * 60 / PIXELS
ELLIPTICITY, SMOOTHING_ARCMIN = 0.4, 1.0
PRIOR = ((0.15, 0.5), (0.5, 1.1))  # Omega_m, sigma_8
SHIFT_FRACTION = 0.02975 / 0.0573  # Hilbert et al. 2011 at z = 1, over its empty-beam convergence
CACHE = Path(__file__).parent / ".cache"


def multipoles() -> np.ndarray:
    """Multipole of every Fourier mode of a map, per radian, in `numpy.fft.rfft2`'s order."""
    step = np.deg2rad(SIDE_DEG) / PIXELS
    rows, columns = np.fft.fftfreq(PIXELS, step), np.fft.rfftfreq(PIXELS, step)
    return 2 * np.pi * np.hypot(rows[:, None], columns[None, :])  # (128, 65)


def power_spectrum(omega_m: float, sigma_8: float, ell: np.ndarray) -> np.ndarray:
    """Convergence power C_l (steradian) at multipoles `ell` > 0, in the Limber approximation.

    C_l = integral dchi W(chi)^2 / chi^2 P((l + 1/2) / chi, z(chi)).
    """
    import pyccl  # here, so that everything that needs no power spectrum runs without it

    cosmology = pyccl.Cosmology(
        Omega_c=omega_m - OMEGA_B, Omega_b=OMEGA_B, h=HUBBLE, n_s=N_S, sigma8=sigma_8,
        transfer_function="eisenstein_hu", matter_power_spectrum="halofit",
    )  # fmt: skip
    plane = pyccl.CMBLensingTracer(cosmology, z_source=Z_SOURCE)  # any single source plane
    nodes = np.geomspace(ell.min(), ell.max(), 64)
    table = np.asarray(pyccl.angular_cl(cosmology, plane, plane, nodes))
    return np.exp(np.interp(np.log(ell), np.log(nodes), np.log(table)))


def lognormal_shift(omega_m: float) -> float:
    """Depth kappa_0 (dimensionless) of a lognormal map's floor: 0.52 x the empty-beam convergence.

    The empty beam has kappa = -integral dchi W(chi), with
    W = 1.5 Omega_m (H0/c)^2 (1 + z) chi (chi_s - chi) / chi_s.
    """
    z = np.linspace(0, Z_SOURCE, 1001)
    dchi_dz = 1 / np.sqrt(omega_m * (1 + z) ** 3 + 1 - omega_m)  # in units of c / H0
    step = z[1] - z[0]
    chi = np.concatenate([[0], np.cumsum((dchi_dz[1:] + dchi_dz[:-1]) / 2 * step)])
    weight = 1.5 * omega_m * (1 + z) * chi * (chi[-1] - chi) / chi[-1]
    return SHIFT_FRACTION * float(np.trapezoid(weight * dchi_dz, z))


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


def cosmologies(count: int, seed: int) -> np.ndarray:
    """Scrambled Sobol points (count, 2) of (Omega_m, sigma_8) in the prior box."""
    points = torch.quasirandom.SobolEngine(2, scramble=True, seed=seed).draw(count).double()
    low, high = np.array(PRIOR).T
    return low + (high - low) * points.numpy()


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
        recipe = (HUBBLE, OMEGA_B, N_S, Z_SOURCE, PIXELS, SIDE_DEG, SHIFT_FRACTION)
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
