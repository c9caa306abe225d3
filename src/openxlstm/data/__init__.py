"""Files in, token windows out: corpora, tokenizers, memory-mapped token shards, training and evaluation windows."""

from openxlstm.data.corpus import Corpus, TextConfig, load_corpus
from openxlstm.data.tokenizer import (
    BPETokenizer,
    ByteTokenizer,
    CharTokenizer,
    StreamDecoder,
    Tokenizer,
    WordTokenizer,
    load_tokenizer,
)
from openxlstm.data.tokens import PreparedText, TokenDataset, open_prepared, prepare, write_shards
from openxlstm.data.windows import EvalWindows, RandomWindows, SequentialStreams, TokenBatch

__all__ = [
    "BPETokenizer",
    "ByteTokenizer",
    "CharTokenizer",
    "Corpus",
    "EvalWindows",
    "PreparedText",
    "RandomWindows",
    "SequentialStreams",
    "StreamDecoder",
    "TextConfig",
    "TokenBatch",
    "TokenDataset",
    "Tokenizer",
    "WordTokenizer",
    "load_corpus",
    "load_tokenizer",
    "open_prepared",
    "prepare",
    "write_shards",
]
