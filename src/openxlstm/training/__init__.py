"""Training on Lightning: configuration, optimiser, data feeding, run folders, evaluation and comparisons.

Lightning, matplotlib and tensorboard are imported by the functions that use them.
"""

from openxlstm.training.config import (
    ModelSettings,
    OptimizerConfig,
    RunConfig,
    ScheduleConfig,
    TrainerConfig,
    build_model_config,
)
from openxlstm.training.evaluation.task import TaskEvaluation, evaluate_task
from openxlstm.training.evaluation.text import Evaluation, evaluate
from openxlstm.training.optimizer import build_optimizer, parameter_groups
from openxlstm.training.run import RunResult, train
from openxlstm.training.schedule import lr_factor

__all__ = [
    "Evaluation",
    "ModelSettings",
    "OptimizerConfig",
    "RunConfig",
    "RunResult",
    "ScheduleConfig",
    "TaskEvaluation",
    "TrainerConfig",
    "build_model_config",
    "build_optimizer",
    "evaluate",
    "evaluate_task",
    "lr_factor",
    "parameter_groups",
    "train",
]
