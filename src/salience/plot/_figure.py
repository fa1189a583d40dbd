"""A figure that a notebook shows; loaded when one is drawn, for matplotlib takes its time."""

from __future__ import annotations

from io import BytesIO

from matplotlib import figure


class Figure(figure.Figure):
    """A figure of its own that IPython shows without pyplot or `%matplotlib inline`."""

    def _repr_png_(self) -> bytes:
        """What IPython asks for unless `%matplotlib inline` has told it how to show figures."""
        page = BytesIO()
        self.savefig(page, format="png")
        return page.getvalue()
