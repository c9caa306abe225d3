"""openxlstm: exact, fast xLSTM in PyTorch."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openxlstm import nn, ops
    from openxlstm.models.classify import SequenceClassifier
    from openxlstm.models.config import (
        ClassifierConfig,
        EncoderDecoderConfig,
        ForecastConfig,
        LanguageModelConfig,
        SequenceConfig,
    )
    from openxlstm.models.forecast import ForecastModel
    from openxlstm.models.language import LanguageModel
    from openxlstm.models.sequence import SequenceModel
    from openxlstm.models.translate import EncoderDecoder

__version__ = "0.1.0"

_EXPORTS = {
    "ClassifierConfig": "openxlstm.models.config",
    "EncoderDecoder": "openxlstm.models.translate",
    "EncoderDecoderConfig": "openxlstm.models.config",
    "ForecastConfig": "openxlstm.models.config",
    "ForecastModel": "openxlstm.models.forecast",
    "LanguageModel": "openxlstm.models.language",
    "LanguageModelConfig": "openxlstm.models.config",
    "SequenceClassifier": "openxlstm.models.classify",
    "SequenceConfig": "openxlstm.models.config",
    "SequenceModel": "openxlstm.models.sequence",
}
"""Name -> module. They load at first use, so that `import openxlstm` costs nothing."""

_MODULES = ("nn", "ops")

__all__ = [
    "ClassifierConfig",
    "EncoderDecoder",
    "EncoderDecoderConfig",
    "ForecastConfig",
    "ForecastModel",
    "LanguageModel",
    "LanguageModelConfig",
    "SequenceClassifier",
    "SequenceConfig",
    "SequenceModel",
    "nn",
    "ops",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"openxlstm.{name}")
    if name in _EXPORTS:
        value = getattr(importlib.import_module(_EXPORTS[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'openxlstm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
