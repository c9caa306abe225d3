"""Readers and writers of other projects' checkpoints. Their names and layouts appear here and nowhere else."""

from openxlstm.models.weights.detect import detect, load_checkpoint
from openxlstm.models.weights.huggingface import write as write_huggingface

__all__ = ["detect", "load_checkpoint", "write_huggingface"]
