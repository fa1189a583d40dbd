"""How figures and tables name outputs, networks, stages and methods."""

from __future__ import annotations

SYMBOLS = {"omega_m": r"$\Omega_\mathrm{m}$", "sigma_8": r"$\sigma_8$"}
NETWORKS = {"noiseless": "noiseless", "ngal30": r"$n_\mathrm{gal}$ = 30 arcmin$^{-2}$"}
STAGES = ("dense 2", "dense 1", "conv 5", "conv 4", "conv 3", "conv 2", "conv 1")


def label(method: str) -> str:
    """A method's name as its authors write it."""
    named = {"lrp_epsilon": "LRP-\u03b5", "lrp_alpha_beta": "LRP-\u03b12\u03b21",
             "input_x_gradient": "input \u00d7 gradient", "smoothgrad": "SmoothGrad",
             "deep_taylor": "deep Taylor"}  # fmt: skip
    return named.get(method, method.replace("_", " "))
