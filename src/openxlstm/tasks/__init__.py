"""Tasks: samples with a question, a score, what guessing scores, and what was published. One file a task or a family."""

from openxlstm.errors import UserError
from openxlstm.tasks.activity import Activity
from openxlstm.tasks.adding import Adding
from openxlstm.tasks.arena_images import ArenaImage, ArenaPathfinder
from openxlstm.tasks.arithmetic import ModularArithmetic, ModularArithmeticBrackets, SolveEquation
from openxlstm.tasks.associative_recall import AssociativeRecall
from openxlstm.tasks.copy_memory import CopyMemory
from openxlstm.tasks.counting import Majority, MajorityCount, OrderedSet
from openxlstm.tasks.dynamics import (
    DoublePendulum,
    DynamicsTask,
    KuramotoSivashinsky,
    Lorenz63,
    Lorenz96,
    MackeyGlass,
    Roessler,
)
from openxlstm.tasks.events import Events, EventStream
from openxlstm.tasks.formal_language import FormalLanguage
from openxlstm.tasks.generated import GeneratedTask
from openxlstm.tasks.images import PermutedMNIST, SequentialMNIST
from openxlstm.tasks.list_operations import ListOps
from openxlstm.tasks.long_range_arena import ArenaListOps, ArenaRetrieval, ArenaText
from openxlstm.tasks.music import JSBChorales, Nottingham
from openxlstm.tasks.nearest_neighbour import NearestNeighbour
from openxlstm.tasks.pathfinder import Pathfinder
from openxlstm.tasks.regular import CycleNavigation, EvenPairs, Parity
from openxlstm.tasks.stack import StackManipulation
from openxlstm.tasks.strings import BucketSort, MissingDuplicate, OddsFirst, Repetition, ReverseString
from openxlstm.tasks.task import (
    ACCURACY,
    BITS,
    CROSS_ENTROPY,
    SQUARED_ERROR,
    Anchor,
    Batch,
    Metric,
    Signature,
    Split,
    Task,
)
from openxlstm.tasks.turbofan import Turbofan

TASKS: dict[str, type[Task]] = {
    task.name: task
    for task in (
        EvenPairs,
        Parity,
        CycleNavigation,
        ModularArithmetic,
        ModularArithmeticBrackets,
        SolveEquation,
        StackManipulation,
        ReverseString,
        Repetition,
        OddsFirst,
        MissingDuplicate,
        BucketSort,
        Majority,
        MajorityCount,
        OrderedSet,
        ListOps,
        AssociativeRecall,
        NearestNeighbour,
        Adding,
        CopyMemory,
        SequentialMNIST,
        PermutedMNIST,
        Pathfinder,
        ArenaListOps,
        ArenaText,
        ArenaRetrieval,
        ArenaImage,
        ArenaPathfinder,
        Events,
        EventStream,
        JSBChorales,
        Nottingham,
        Lorenz63,
        Lorenz96,
        Roessler,
        MackeyGlass,
        DoublePendulum,
        KuramotoSivashinsky,
        Turbofan,
        Activity,
    )
}
"""Every task by its name; `TASKS["parity"]()` has the settings of the papers."""


def task_class(name: str) -> type[Task]:
    """The class of a task; UserError, with the nearest names, for one that does not exist."""
    import difflib

    if name not in TASKS:
        near = difflib.get_close_matches(name, TASKS, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"have {', '.join(TASKS)}"
        raise UserError(f"unknown task {name!r}; {hint}")
    return TASKS[name]


def summary(name: str) -> str:
    """The first line of a task's docstring."""
    return (TASKS[name].__doc__ or "").strip().splitlines()[0]


__all__ = [
    "ACCURACY",
    "BITS",
    "CROSS_ENTROPY",
    "SQUARED_ERROR",
    "TASKS",
    "Anchor",
    "Batch",
    "DynamicsTask",
    "FormalLanguage",
    "GeneratedTask",
    "Metric",
    "Signature",
    "Split",
    "Task",
    "summary",
    "task_class",
]
