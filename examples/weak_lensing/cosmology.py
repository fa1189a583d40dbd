"""A flat LCDM universe: convergence power spectrum, depth of empty beams, and the prior.

h = 0.72, Omega_b = 0.046, n_s = 0.96, Eisenstein & Hu transfer function, halofit, all sources at
z = 1.
"""

from __future__ import annotations

import numpy as np
import torch

HUBBLE, OMEGA_B, N_S, Z_SOURCE = UNIVERSE = 0.72, 0.046, 0.96, 1.0
PRIOR = ((0.15, 0.5), (0.5, 1.1))  # Omega_m, sigma_8
SHIFT_FRACTION = 0.02975 / 0.0573  # Hilbert et al. 2011 at z = 1, over its empty-beam convergence


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


def cosmologies(count: int, seed: int) -> np.ndarray:
    """Scrambled Sobol points (count, 2) of (Omega_m, sigma_8) in the prior box."""
    points = torch.quasirandom.SobolEngine(2, scramble=True, seed=seed).draw(count).double()
    low, high = np.array(PRIOR).T
    return low + (high - low) * points.numpy()
