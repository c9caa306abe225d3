"""Using trained models: sampling, generation token by token, and finding the run to use."""

from openxlstm.inference.generate import TokenStream, complete, generate
from openxlstm.inference.sampling import Sampling, probabilities, sample

__all__ = ["Sampling", "TokenStream", "complete", "generate", "probabilities", "sample"]
