"""`Study`: a randomisation test, or maps alone, as a dataset with what can be asked of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from salience._errors import SalienceError, expected, printable
from salience._names import RISE
from salience._study import contents, faithful, recommend, schema
from salience._study.faithful import Faithfulness
from salience._study.figures import Figures
from salience._study.recommend import Recommendation
from salience._study.verdicts import CRITERION, SCORE, THRESHOLDS, Verdicts, counted

if TYPE_CHECKING:
    import xarray

Array = np.ndarray


@dataclass(frozen=True, eq=False, repr=False)
class Study:
    """A randomisation test with its verdicts, figures and files; printed, it is their table.

    data  the xarray.Dataset of the test, as `randomization_test` describes it; select from it and
          make a Study of what is left: `Study(study.data.sel({"method": ["gradient"]}))`

    Errors: SalienceError for what is no dataset.

    >>> import torch, salience
    >>> net = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> study = salience.randomization_test(
    ...     net.eval(), torch.randn(3, 6), "gradient", progress=False,
    ...     cascade=salience.Cascade(repeats=2))
    >>> study.methods, study.controls, study.stages
    (['gradient'], ['input', 'random_map'], ['2.weight', '0.weight'])
    """

    data: xarray.Dataset

    def __post_init__(self) -> None:
        import xarray

        if not isinstance(self.data, xarray.Dataset):
            raise no_test(self.data)

    # -- what is where in the dataset --

    @property
    def tested(self) -> bool:
        """Whether there is a randomisation test, and not only maps."""
        return schema.tested(self.data)

    @property
    def has_faithfulness(self) -> bool:
        """Whether there is a test of faithfulness."""
        return schema.has_faithfulness(self.data)

    @property
    def has_maps(self) -> bool:
        """Whether maps were kept, to be looked at."""
        return "maps" in self.data

    @property
    def model(self) -> str:
        """The name of the network's class."""
        return str(self.data.attrs.get("model", "this network"))

    @property
    def order(self) -> str:
        """In which the stages were randomised."""
        return str(self.data.attrs.get("order", "top_down"))

    @property
    def rises(self) -> bool:
        """Whether the test is the efficient one, which has a rise of complexity for similarity."""
        return self.data.attrs.get("kind") == "efficient"

    @property
    def roles(self) -> dict[str, str]:
        """ "method" or a control's role, for each method and control."""
        return contents.roles(self.data)

    @property
    def methods(self) -> list[str]:
        """The methods, without controls."""
        names = ("method", "role") if self.tested else ("candidate", "candidate_role")
        found = contents.roles(self.data, *names)
        return [name for name, role in found.items() if role == "method"] or self.map_methods

    @property
    def controls(self) -> list[str]:
        """What ran along for comparison."""
        return [name for name, role in self.roles.items() if role != "method"]

    @property
    def stages(self) -> list[str]:
        """The scored stages, in the order of the cascade."""
        return contents.texts(self.data, "stage")

    @property
    def repeats(self) -> int:
        """Random networks."""
        return self.data.sizes.get("repeat", 0)

    @property
    def samples(self) -> int:
        """Inputs of the test."""
        return self.data.sizes.get("sample", 0)

    @property
    def scores(self) -> list[str]:
        """The names of the scores: what there is for each method, stage, repeat and sample."""
        return schema.scores_of(self.data)

    @property
    def score(self) -> str:
        """The score that verdicts are about where none is named."""
        return str(self.data.attrs.get("score", RISE if self.rises else SCORE))

    def values(self, score: str) -> Array:
        """A score (method, stage, repeat, sample); a SalienceError for one that there is not."""
        return contents.values(self.data, score)

    @property
    def constant(self) -> list[bool]:
        """Whether a method's or a control's maps are the same for all inputs."""
        return list(map(bool, self.data["constant_over_inputs"].values))

    def floors(self, score: str) -> dict[str, Array]:
        """What a score is for maps that share less, (method, repeat or 1, sample) each.

        `between_random`: two random networks; `other_inputs`: the trained network's maps of two
        inputs; `other_multipliers`: x * m and the same x times the m of another input;
        `random_map`: noise. What the dataset lacks is left out.
        """
        return contents.floors(self.data, score)

    @property
    def uncovered(self) -> dict[str, list[str]] | None:
        """The operations that each method has no rule for, where that was recorded."""
        return contents.uncovered(self.data)

    @property
    def not_randomized(self) -> list[str]:
        """Parameters that the output does not use, which no stage has."""
        return list(map(str, np.ravel(self.data.attrs.get("parameters_not_randomized", []))))

    @property
    def errors(self) -> dict[str, float]:
        """The largest error of a method's maps by its sum or its draws, where it has one."""
        return contents.errors(self.data)

    @property
    def maps(self) -> xarray.DataArray:
        """The maps that were kept, (map_method, map_stage, map_sample, ...), from the trained ones.

        Errors: SalienceError where none were.
        """
        if not self.has_maps:
            raise expected("a study with maps", "scores alone", "Keep some: keep_maps=4.")
        return self.data["maps"]

    @property
    def inputs(self) -> xarray.DataArray:
        """What the maps explain, (map_sample, ...)."""
        return self.data["inputs"]

    @property
    def map_methods(self) -> list[str]:
        """The methods whose maps were kept."""
        return contents.texts(self.data, "map_method")

    @property
    def map_stages(self) -> list[str]:
        """The stages whose maps were kept, from "trained" on."""
        return contents.texts(self.data, "map_stage")

    @property
    def map_names(self) -> list[str]:
        """The names of the inputs whose maps were kept, or their numbers."""
        if "map_sample" in self.data.coords:
            return contents.texts(self.data, "map_sample")
        return list(map(str, range(self.data.sizes.get("map_sample", 0))))

    def annotated(self, attributes: Mapping[str, object], names: Sequence[str]) -> Study:
        """The same, with more attributes, and with names for the inputs whose maps were kept."""
        return Study(contents.annotated(self.data, attributes, names))

    # -- what it says --

    def verdicts(
        self,
        *,
        criterion: str = CRITERION,
        score: str | None = None,
        stages: str = "second_half",
        sensitive: float = THRESHOLDS[0],
        insensitive: float = THRESHOLDS[1],
        resamples: int = 2000,
        seed: int = 0,
    ) -> Verdicts:
        """The verdict about every method, as `salience.verdicts` describes it."""
        from salience._study.judge import verdicts

        return verdicts(
            self,
            criterion=criterion,
            score=score,
            stages=stages,
            sensitive=sensitive,
            insensitive=insensitive,
            resamples=resamples,
            seed=seed,
        )

    def faithfulness(self, score: str | None = None) -> Faithfulness:
        """How well each map tells what removing parts of the input does, beside its controls.

        score  a name in `salience.faithfulness_scores`, by default "occlusion_auc" where it was
               measured

        Errors: SalienceError for a study without that test, or without that score.
        """
        return faithful.faithfulness_of(self.data, score)

    def recommend(self, score: str | None = None) -> Recommendation:
        """Which methods to use on this network: those that pass all gates, best first.

        Gates: `valid` (every operation has a rule, maps are defined and differ between inputs);
        `learned` (the score is higher than that of the same method on untrained networks);
        `faithful` (higher than that of every control); `best` (not to be told from the best one).
        Every second input chooses, the others are reported.

        Errors: SalienceError for a study without a test of faithfulness.
        """
        return recommend.recommend(self.data, score)

    def with_faithfulness(self, other: Study) -> Study:
        """This test and a test of faithfulness of the same network and inputs, as one study.

        Errors: SalienceError for another network, other inputs or another target.
        """
        return Study(contents.joined(self.data, other.data))

    # -- its faces --

    @property
    def plot(self) -> Figures:
        """Its figures: `study.plot.similarity()`, `study.plot.cascade()`."""
        return Figures(self)

    def report(self, path: str | Path, *, title: str | None = None) -> Path:
        """Write it as one HTML file; `salience.report.build` has all options."""
        from salience.report import build

        return build(self, path, title=title)

    def save(self, path: str | Path, overwrite: bool = False) -> Path:
        """Write it to a file .nc (netCDF) or a folder .zarr (Zarr 3); it is whole or not there.

        overwrite  replace what is there

        Errors: SalienceError for another ending, for what is there, and for data that is no study
        any more; OSError where nothing can be written.
        """
        from salience._study.files import save_study

        return save_study(self, Path(path), overwrite)

    def __repr__(self) -> str:
        return f"{printable(self._line())}\n{self._shown()}"

    def _repr_html_(self) -> str:
        shown = self._shown()
        below = f"<p>{escape(shown)}</p>" if isinstance(shown, str) else shown._repr_html_()
        return f"<p>{escape(printable(self._line()))}</p>{below}"

    def _line(self) -> str:
        """What it is of, in a line."""
        parts = [counted(len(self.methods), "method")]
        if self.has_faithfulness:
            parts.append(f"faithfulness of {counted(self.data.sizes['candidate'], 'map')}")
        if self.tested:
            parts.append(counted(len(self.controls), "control"))
            parts.append(f"{counted(len(self.stages), 'stage')} ({self.order})")
        if self.has_maps:
            parts.append(f"maps of {counted(len(self.map_names), 'input')}")
        return f"Study of {self.model}: {', '.join(parts)}"

    def _shown(self) -> Verdicts | Faithfulness | str:
        """The verdicts, or why there are none: what is printed never fails."""
        if not self.tested and self.has_faithfulness:
            return self.faithfulness()
        if not self.tested:
            return (
                f"{'Maps, and no' if self.has_maps else 'Neither maps nor a'} randomisation test."
            )
        try:
            return self.verdicts()
        except (ValueError, TypeError, LookupError) as error:  # of data that were changed
            return printable(f"No verdicts: {error}")


def study_of(given: Study | xarray.Dataset) -> Study:
    """A study, also of its dataset.

    Errors: SalienceError for anything else.
    """
    return given if isinstance(given, Study) else Study(given)


def no_test(given: object) -> SalienceError:
    """What is said of anything that verdicts cannot be about."""
    return expected(
        "the dataset of a randomisation test",
        f"a {type(given).__name__} without one",
        "Maps alone have no verdict: give what salience.randomization_test(model, x) returns.",
    )
