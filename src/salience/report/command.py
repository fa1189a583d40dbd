"""What `salience report` and `salience view` do, from their options as they were given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from salience.attribution import attribution_by_value
from salience.errors import expected
from salience.report.page import Extras, build
from salience.report.serve import server
from salience.report.store import Stored, open_study


def report_command(
    study: Path,
    out: Path,
    *,
    title: str | None = None,
    edges: Sequence[float] | None = None,
    units: Any = "sigma",
    say: Callable[[str], Any] = print,
) -> Path:
    """Write the report of a stored study to one HTML file.

    study  a folder or a file that `salience check` or `salience explain` wrote
    out    an .html file, or a folder that gets report.html
    edges  of the classes of input values that attribution is shown for
    """
    stored = open_study(study)
    if out.is_dir() or not out.suffix:
        out.mkdir(parents=True, exist_ok=True)
        out = out / "report.html"
    out.parent.mkdir(parents=True, exist_ok=True)
    extras = _extras(stored, edges, units)
    build(
        stored.dataset, out, title=title, score=extras.score, attribution=extras.attribution,
        coverage=extras.coverage, errors=extras.errors,
    )  # fmt: skip
    say(str(out))
    return out


def view_command(
    study: Path,
    *,
    title: str | None = None,
    port: int = 0,
    edges: Sequence[float] | None = None,
    units: Any = "sigma",
    open_browser: bool = True,
    say: Callable[[str], Any] = print,
) -> None:
    """Serve the report of a stored study on 127.0.0.1, until it is interrupted."""
    stored = open_study(study)
    with server(stored.dataset, _extras(stored, edges, units), title, port) as serving:
        address = f"http://{serving.server_address[0]}:{serving.server_port}/"
        say(f"{address} (Ctrl-C ends it)")
        if open_browser:
            import webbrowser

            webbrowser.open(address)
        try:
            serving.serve_forever()
        except KeyboardInterrupt:
            say("")


def _extras(stored: Stored, edges: Sequence[float] | None, units: Any) -> Extras:
    dataset, attribution = stored.dataset, None
    if edges is not None:
        if "maps" not in dataset:
            raise expected("a study with maps for edges", "scores alone",
                           "Run salience check --show 8.")  # fmt: skip
        trained = dataset["maps"].isel({"map_stage": 0})
        maps = {str(name): trained.sel({"map_method": name}).values
                for name in dataset["map_method"].values}  # fmt: skip
        attribution = attribution_by_value(maps, dataset["inputs"].values, edges, units=units)
    return Extras(attribution, stored.coverage, stored.errors, score=stored.score)
