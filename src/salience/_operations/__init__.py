"""Torch's functions by name, and nowhere else."""
