"""Every law on every architecture: `python -m zoo` in the folder benchmarks."""
