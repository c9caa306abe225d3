"""Using trained models: sampling, generation token by token, and finding the run to use."""

from openxlstm.inference.fill_in import fill_in
from openxlstm.inference.generate import TokenStream, complete, generate
from openxlstm.inference.graph import GraphDecoder
from openxlstm.inference.load import LoadedRun, load_run, newest_run
from openxlstm.inference.native import NativeDecoder
from openxlstm.inference.sampling import Sampling, probabilities, sample
from openxlstm.inference.text import TextStream

__all__ = [
    "GraphDecoder",
    "LoadedRun",
    "NativeDecoder",
    "Sampling",
    "TextStream",
    "TokenStream",
    "complete",
    "fill_in",
    "generate",
    "load_run",
    "newest_run",
    "probabilities",
    "sample",
]
