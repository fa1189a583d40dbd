"""What `salience report` and `salience view` do, from their options as they were given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from salience import _interrupts
from salience._errors import expected
from salience._study.files import open_study
from salience._study.study import Study
from salience.report._extras import Extras, classed
from salience.report._page import write
from salience.report._serve import server


def report_command(
    path: Path,
    out: Path,
    *,
    title: str | None = None,
    edges: Sequence[float] | None = None,
    units: str = "sigma",
    say: Callable[[str], object] = print,
) -> Path:
    """Write the report of a stored study to one HTML file.

    path   a folder or a file that `salience check` or `salience explain` wrote
    out    an .html file, or a folder that gets report.html
    edges  of the classes of input values that attribution is shown for; quarters by default
    """
    if not out.is_dir() and out.suffix.lower() not in ("", ".html", ".htm"):
        raise expected("a page .html, or a folder, for -o", f"{out}", "Call it report.html.")
    study = open_study(path)
    if out.is_dir() or not out.suffix:
        out.mkdir(parents=True, exist_ok=True)
        out = out / "report.html"
    out.parent.mkdir(parents=True, exist_ok=True)
    with study.data:  # its file is closed with it
        write(study, out, _extras(study, edges, units), title)
    say(str(out))
    return out


def view_command(
    path: Path,
    *,
    title: str | None = None,
    port: int = 0,
    edges: Sequence[float] | None = None,
    units: str = "sigma",
    open_browser: bool = True,
    say: Callable[[str], object] = print,
) -> None:
    """Serve the report of a stored study on 127.0.0.1, until it is interrupted."""
    study = open_study(path)
    extras = _extras(study, edges, units)
    with study.data, server(study, extras, title, port) as serving:
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


def _extras(study: Study, edges: Sequence[float] | None, units: str) -> Extras:
    if edges is None:
        return Extras()
    if not study.has_maps:
        cure = "Run salience check --show 8."
        raise expected("a study with maps for edges", "scores alone", cure)
    return Extras(classed(study, edges, units))
