"""Questions that are settled by training: several models with equal parameters on one recipe or task."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from openxlstm.experiments.question import Evidence, Question
from openxlstm.recipes import NEEDS_DATA, recipe
from openxlstm.training.compare import Comparison, compare
from openxlstm.training.options import override


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How a question is asked at one scale.

    models: the patterns that are compared, with equal parameters.
    seeds: how many, from 0 on.
    lrs: learning rates of which each model may choose by validation; none = the recipe's.
    options: settings on top of the recipe, as on the command line.
    """

    models: tuple[str, ...]
    seeds: int = 1
    lrs: tuple[float, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Trained(Question):
    """A question to a comparison, the one of `openxlstm compare`: each trained model is a folder named by the hash of its
    configuration, so whatever is finished is not trained again, for this question or another.

    recipe: what is trained: a recipe for text or a task.
    settings: scale -> Setting; a scale that is not there does not ask the question.
    """

    recipe: str
    settings: Mapping[str, Setting]

    @property
    def lacks(self) -> str:
        if self.recipe not in NEEDS_DATA or self.data is not None:
            return ""
        return f"Needs data, --data {self.name}=PATH: {NEEDS_DATA[self.recipe]}."

    def ask(self, scale: str, folder: Path, cells: Path, say: Callable[[str], None], jobs: int = 1) -> Evidence | None:
        setting = self.settings.get(scale)
        if setting is None or self.lacks:
            return None
        base = dataclasses.replace(override(recipe(self.recipe), self.options(setting)), name=self.name)
        found = compare(base, setting.models, range(setting.seeds), folder, say, setting.lrs, jobs, cells)
        return Evidence(
            rows={row["model"]: row for row in found.rows()},
            table=found.table() if found.cells else "",
            command=self.command(setting),
            figure="compare.png" if (folder / "compare.png").exists() else None,
            failures=tuple(f"{cell.model}, seed {cell.seed}: {cell.failure}" for cell in found.cells if cell.failure),
            interrupted=found.interrupted,
            trainings=trainings(found),
            machines=machines(found),
        )

    def options(self, setting: Setting) -> dict[str, str]:
        """All settings on top of the recipe."""
        return {**setting.options, **({"data.source": self.data} if self.data is not None else {})}

    def command(self, setting: Setting) -> str:
        """The command that trains the same models."""
        words = [f"openxlstm compare {self.recipe} --models '{','.join(setting.models)}'"]
        words.append(f"--seeds {','.join(map(str, range(setting.seeds)))}")
        words += [f"--lrs {','.join(f'{lr:g}' for lr in setting.lrs)}"] * bool(setting.lrs)
        return " ".join([*words, *(f"--{name}={value}" for name, value in self.options(setting).items())])


def trainings(*found: Comparison) -> dict[str, float]:
    """Seconds by the folders of what was trained."""
    return {cell.folder.name: cell.report["seconds"] for one in found for cell in one.cells if cell.report is not None}


def machines(*found: Comparison) -> dict[str, str]:
    """What each was trained on, by its folder."""
    return {cell.folder.name: cell.machine for one in found for cell in one.cells if cell.report is not None and cell.machine}
