"""What `salience report` and `salience view` do, from their options as they were given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from salience import _interrupts
from salience._errors import expected
from salience._study.store import Stored, open_study
from salience.report._extras import Extras, classed
from salience.report._page import write
from salience.report._serve import server


def report_command(
    study: Path,
    out: Path,
    *,
    title: str | None = None,
    edges: Sequence[float] | None = None,
    units: str = "sigma",
    say: Callable[[str], object] = print,
) -> Path:
    """Write the report of a stored study to one HTML file.

    study  a folder or a file that `salience check` or `salience explain` wrote
    out    an .html file, or a folder that gets report.html
    edges  of the classes of input values that attribution is shown for; quarters by default
    """
    if not out.is_dir() and out.suffix.lower() not in ("", ".html", ".htm"):
        raise expected("a page .html, or a folder, for -o", f"{out}", "Call it report.html.")
    stored = open_study(study)
    if out.is_dir() or not out.suffix:
        out.mkdir(parents=True, exist_ok=True)
        out = out / "report.html"
    out.parent.mkdir(parents=True, exist_ok=True)
    with stored.dataset:  # its file is closed with it
        write(stored.dataset, out, _extras(stored, edges, units), title)
    say(str(out))
    return out


def view_command(
    study: Path,
    *,
    title: str | None = None,
    port: int = 0,
    edges: Sequence[float] | None = None,
    units: str = "sigma",
    open_browser: bool = True,
    say: Callable[[str], object] = print,
) -> None:
    """Serve the report of a stored study on 127.0.0.1, until it is interrupted."""
    stored = open_study(study)
    extras = _extras(stored, edges, units)
    with stored.dataset, server(stored.dataset, extras, title, port) as serving:
        address = f"http://{serving.server_address[0]}:{serving.server_port}/"
        try:
            with _interrupts.raised():
                say(f"{address} (Ctrl-C ends it)")
                if open_browser:
                    import webbrowser

                    webbrowser.open(address)
                serving.serve_forever()
        except KeyboardInterrupt:  # how it is meant to end
            say("")


def _extras(stored: Stored, edges: Sequence[float] | None, units: str) -> Extras:
    if edges is not None and "maps" not in stored.dataset:
        raise expected(
            "a study with maps for edges", "scores alone", "Run salience check --show 8."
        )
    attribution = None if edges is None else classed(stored.dataset, edges, units)
    return Extras(attribution, score=stored.score)
