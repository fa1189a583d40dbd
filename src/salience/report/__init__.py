"""A stored study as one HTML file: what it found, its maps down the cascade, its provenance."""

from salience.report._page import build

__all__ = ["build"]
