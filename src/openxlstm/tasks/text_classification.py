"""Which class is a text? Sentiment of film reviews, and any table of texts and labels."""

import hashlib
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openxlstm.data.labelled import (
    DELIMITERS,
    Labelled,
    Place,
    checked,
    decode,
    for_validation,
    read_class,
    read_prefixed,
    read_table,
    review_files,
)
from openxlstm.data.text_format import Kind, TextFormat, plain, train_tokenizer
from openxlstm.errors import UserError
from openxlstm.tasks.files import FileTask
from openxlstm.tasks.generated import length_range
from openxlstm.tasks.task import ACCURACY, SPLITS, Anchor, Batch, Metric, Signature, Split, nothing_scored

STEPS_AT_ONCE = 16_384  # in a batch for evaluation
BUCKETS = 8  # batches that are drawn at once and sorted by length, of which one is taken: a batch has little padding
Parts = dict[Split, Labelled]


class Sequences(NamedTuple):
    """Token ids of texts, and their classes."""

    ids: list[NDArray[np.int32]]
    lengths: Tensor  # [N] int64
    labels: Tensor  # [N] int64


class Texts(NamedTuple):
    """All texts of a task as token ids, and what that means."""

    format: TextFormat
    parts: dict[Split, Sequences]
    left_out: int  # training texts that stand in validation or test too


@dataclass(frozen=True, kw_only=True)
class TextClassification(FileTask):
    """Which class is a text? The answer is due at its last token; models are classifiers, which pool over all of them.

    Training texts that stand, word for word, in validation or test too are left out.

    source: where the texts are.
    tokenizer: "words" (lower case, the same whether raw or with spaces between all words), "bpe" or "bytes".
    vocab_size: number of token ids at most, the most frequent in training; rarer words are one. Bytes need none.
    max_tokens: of a text, so many tokens are read, from its beginning; 0 = all.
    window: longer training texts are cut to so many tokens, from anywhere; 0 = never.
    token_dropout: share of the tokens of training texts that are hidden, drawn anew each time: words become the unknown word,
        byte pairs and bytes are left out.
    label_smoothing: this much of each training target is spread evenly over all classes.
    """

    tokenizer: Kind = "words"
    vocab_size: int = 10_000
    max_tokens: int = 512
    window: int = 0
    token_dropout: float = 0.0
    label_smoothing: float = 0.0

    lengths: ClassVar[str]  # shown where no file was read yet
    classes: ClassVar[tuple[str, ...]] = ()  # none: those of the training file

    def __post_init__(self) -> None:
        for name in ("max_tokens", "window"):
            if getattr(self, name) < 0:
                raise UserError(f"data.{name}={getattr(self, name)} must not be negative")
        for name in ("token_dropout", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"data.{name}={getattr(self, name)} must be in [0, 1)")
        least = {"words": 3, "bpe": 257, "bytes": 0}[self.tokenizer]
        if self.vocab_size < least:
            raise UserError(f"data.vocab_size={self.vocab_size} must be at least {least} for the tokenizer {self.tokenizer!r}")

    @property
    def texts(self) -> Texts:
        """The three parts. Raises UserError, with file, line and reason, for files that are not the task's."""
        self.check_source()
        return _read(self)

    @property
    def format(self) -> TextFormat:
        """Tokenizer and names of the classes."""
        return self.texts.format

    @abstractmethod
    def read(self) -> Parts:
        """The texts of the files, the parts as they are meant to be used."""

    @property
    def signature(self) -> Signature:
        if not self.source:  # at most so many tokens; the files decide
            return Signature(vocab_size=self.vocab_size, num_classes=max(len(self.classes), 2))
        return Signature(vocab_size=self.format.tokenizer.vocab_size, num_classes=len(self.format.classes))

    @property
    def metric(self) -> Metric:
        return ACCURACY

    def chance(self, length: int) -> float:
        """One of the classes."""
        return 1 / len(self.format.classes)

    @property
    def reports(self) -> tuple[str, ...]:
        if not self.source:
            return (self.lengths,)
        lengths = torch.cat([part.lengths for part in self.texts.parts.values()])
        return (f"{int(lengths.min())}-{int(lengths.max())}",)

    @property
    def description(self) -> str:
        texts = self.texts
        train = texts.parts["train"]
        left_out = f", {texts.left_out} left out that are also in another part" if texts.left_out else ""
        return (
            f"task {self.name}: {len(train.ids):,} texts of {self.source} to train on{left_out}, {int(train.lengths.sum()):,} "
            f"tokens ({self.tokenizer}, {texts.format.tokenizer.vocab_size:,} different)"
        )

    def content(self, split: Split) -> Iterator[NDArray[Any]]:
        part = self.texts.parts[split]
        yield from (*part.ids, part.labels.numpy())

    def train_batch(self, batch: int, rng: torch.Generator) -> Batch:
        train = self.texts.parts["train"]
        drawn = torch.randint(len(train.ids), (BUCKETS * batch,), generator=rng)
        by_length = drawn[train.lengths[drawn].argsort(stable=True)].view(BUCKETS, batch)
        chosen = by_length[int(torch.randint(BUCKETS, (), generator=rng))].tolist()
        return pad([self.changed(train.ids[row], rng) for row in chosen], train.labels[chosen])

    def changed(self, ids: NDArray[np.int32], rng: torch.Generator) -> NDArray[np.int32]:
        """A training text as it is read this time: a window of it, with some tokens hidden, but never all."""
        if self.window and len(ids) > self.window:
            start = int(torch.randint(len(ids) - self.window + 1, (), generator=rng))
            ids = ids[start : start + self.window]
        if not self.token_dropout:
            return ids
        kept = (torch.rand(len(ids), generator=rng) >= self.token_dropout).numpy()
        kept[int(torch.randint(len(ids), (), generator=rng))] = True
        unknown = getattr(self.format.tokenizer, "unk_id", None)
        return ids[kept] if unknown is None else np.where(kept, ids, np.int32(unknown))

    def evaluation(self, split: Split, lengths: str) -> Iterator[tuple[str, Batch]]:
        part, wanted = self.texts.parts[split], length_range(lengths)
        rows = [row for row in part.lengths.argsort(stable=True).tolist() if int(part.lengths[row]) in wanted]
        if not rows:
            raise UserError(f"{self.source}: no text of the {split} part is {lengths} tokens long")
        while rows:
            count = 1
            while count < len(rows) and (count + 1) * int(part.lengths[rows[count]]) <= STEPS_AT_ONCE:
                count += 1
            yield lengths, pad([part.ids[row] for row in rows[:count]], part.labels[rows[:count]])
            rows = rows[count:]


@lru_cache(maxsize=4)
def _read(task: TextClassification) -> Texts:
    parts = task.read()
    for split in SPLITS:
        if not parts[split].texts:
            raise UserError(f"{task.source}: there is no text for {split} in it; task {task.name} needs {task.needs}")
    classes = task.classes or tuple(sorted(set(parts["train"].labels)))
    if len(classes) < 2:
        raise UserError(f"{task.source}: all training texts have the label {classes[0]!r}; a classifier needs two or more")
    _check_labels(task.source, parts, classes)
    elsewhere = {plain(text) for split in SPLITS[1:] for text in parts[split].texts}
    pairs = [(text, label) for text, label in zip(*parts["train"]) if plain(text) not in elsewhere]
    left_out = len(parts["train"].texts) - len(pairs)
    if not pairs:
        raise UserError(f"{task.source}: every training text stands in validation or test too")
    parts["train"] = Labelled([text for text, _ in pairs], [label for _, label in pairs])
    tokenizer = train_tokenizer(task.tokenizer, parts["train"].texts, task.vocab_size)
    form = TextFormat(tokenizer, classes, task.max_tokens)
    return Texts(form, {split: encoded(form, parts[split]) for split in SPLITS}, left_out)


def _check_labels(source: str, parts: Parts, classes: Sequence[str]) -> None:
    """Raises UserError for a label in validation or test that no training text has: chance, where it has few texts."""
    for split in SPLITS[1:]:
        strange = sorted(set(parts[split].labels) - set(classes))
        if strange:
            count = sum(part.labels.count(strange[0]) for part in parts.values())
            others = f" (nor have {len(strange) - 1} other labels)" if len(strange) > 1 else ""
            raise UserError(
                f"{source}: the label {strange[0]!r} has {count} text{'s' if count > 1 else ''}, in the {split} part, and none "
                f"to train on{others}; give it more texts, leave it out, or split the texts yourself, into a folder"
            )


def encoded(form: TextFormat, part: Labelled) -> Sequences:
    """Texts as token ids."""
    ids = [np.array(form.encode(text), np.int32) for text in part.texts]
    number_of = {name: number for number, name in enumerate(form.classes)}
    labels = torch.tensor([number_of[label] for label in part.labels])
    return Sequences(ids, torch.tensor([len(one) for one in ids]), labels)


def pad(ids: Sequence[NDArray[np.int32]], labels: Tensor) -> Batch:
    """Texts as a batch; the answer is due at the last token of each."""
    lengths = torch.tensor([len(one) for one in ids])
    inputs = torch.zeros(len(ids), int(lengths.max()), dtype=torch.int64)
    for row, one in enumerate(ids):
        inputs[row, : len(one)] = torch.from_numpy(one.astype(np.int64))
    targets = nothing_scored(*inputs.shape)
    targets[torch.arange(len(ids)), lengths - 1] = labels
    return Batch(inputs, targets, lengths)


def renamed(part: Labelled, names: dict[str, str]) -> Labelled:
    """The same with other names of the labels."""
    return Labelled(part.texts, [names[label] for label in part.labels])


SENTIMENT = ("negative", "positive")
SENTIMENT_OF = {"0": "negative", "1": "positive"}


@dataclass(frozen=True, kw_only=True)
class SST2(TextClassification):
    """Is a sentence of a film review positive? Stanford Sentiment Treebank, sentences and phrases.

    Socher et al. 2013: 6,920 training sentences and 67,349 phrases of them. Validation and test are the published sentences
    (872 and 1,821); phrases are those of GLUE's training file, which come from training sentences.

    source: the folder with stsa.binary.train, .dev and .test (or with them in sentences/), and for phrases GLUE's train.tsv
        (there or in glue/).
    phrases: train on the phrases too.
    """

    name: ClassVar[str] = "sst2"
    needs: ClassVar[str] = (
        "a folder with stsa.binary.train, .dev and .test, and GLUE's train.tsv, or sentences/ and glue/ with them"
    )
    lengths: ClassVar[str] = "1-64"
    classes: ClassVar[tuple[str, ...]] = SENTIMENT

    phrases: bool = True

    @property
    def anchors(self) -> tuple[Anchor, ...]:
        return (
            Anchor("LSTM", 0.849, "Tai et al. 2015, with GloVe", checked=False),
            Anchor("BiLSTM", 0.875, "Tai et al. 2015, with GloVe", checked=False),
            Anchor("BERT", 0.949, "NLP-progress"),
        )

    def read(self) -> Parts:
        names: dict[Split, str] = {"train": "train", "validation": "dev", "test": "test"}
        codes = tuple(SENTIMENT_OF)
        found: Parts = {
            split: renamed(checked(read_prefixed(self.file("sentences", f"stsa.binary.{name}")), codes), SENTIMENT_OF)
            for split, name in names.items()
        }
        if self.phrases:
            table = read_table(self.file("glue", "train.tsv"), "sentence", "label")
            more = renamed(checked(table, codes), SENTIMENT_OF)
            found["train"] = Labelled(found["train"].texts + more.texts, found["train"].labels + more.labels)
        return found

    def file(self, folder: str, name: str) -> Path:
        """A file of the source, at its top or in a folder."""
        places = [Path(self.source, name), Path(self.source, folder, name)]
        for place in places:
            if place.is_file():
                return place
        hint = "; without phrases: --data.phrases=false" if name == "train.tsv" else ""
        raise UserError(f"{self.source}: there is no {name}, and no {folder}/{name}{hint}")


@dataclass(frozen=True, kw_only=True)
class RottenTomatoes(TextClassification):
    """Is a one-sentence film review positive? 10,662 reviews of Rotten Tomatoes.

    Pang and Lee 2005. Of each class the first 80 % of the file train, the next 10 % are validation and the last 10 % test.

    source: the folder with rt-polarity.pos and rt-polarity.neg, in UTF-8 or, as published, in Windows' Latin-1.
    """

    name: ClassVar[str] = "rotten_tomatoes"
    needs: ClassVar[str] = "the folder with rt-polarity.pos and rt-polarity.neg"
    lengths: ClassVar[str] = "1-64"
    classes: ClassVar[tuple[str, ...]] = SENTIMENT

    @property
    def anchors(self) -> tuple[Anchor, ...]:
        return (Anchor("CNN, no pretraining", 0.761, "Kim 2014, 10-fold", checked=False),)

    def read(self) -> Parts:
        found: Parts = {split: Labelled([], []) for split in SPLITS}
        for label in SENTIMENT:
            part = checked(read_class(Path(self.source, f"rt-polarity.{label[:3]}"), label, "cp1252"))
            count = len(part.texts)
            cuts = (0, round(0.8 * count), round(0.9 * count), count)
            for number, split in enumerate(SPLITS):
                chosen = slice(cuts[number], cuts[number + 1])
                found[split].texts.extend(part.texts[chosen])
                found[split].labels.extend(part.labels[chosen])
        return found


@dataclass(frozen=True, kw_only=True)
class IMDB(TextClassification):
    """Is a film review positive? Reviews of IMDB, some 230 words each.

    Maas et al. 2011. Validation is a tenth of the training files, chosen by a hash of their names as in lra_text.

    source: the folder aclImdb, with train/pos, train/neg, test/pos and test/neg.
    """

    name: ClassVar[str] = "imdb"
    needs: ClassVar[str] = "the folder aclImdb, with train/pos, train/neg, test/pos and test/neg"
    lengths: ClassVar[str] = "1-512"
    classes: ClassVar[tuple[str, ...]] = SENTIMENT

    @property
    def anchors(self) -> tuple[Anchor, ...]:
        source = "25,000 training reviews: bentrevett/pytorch-sentiment-analysis"
        return (Anchor("bag of words", 0.858, source), Anchor("LSTM", 0.862, source), Anchor("CNN", 0.875, source))

    def read(self) -> Parts:
        folder = Path(self.source)
        if not folder.is_dir():
            raise UserError(f"{self.source}: no such folder; task {self.name} needs {self.needs}")
        parts: dict[Split, list[Place]] = {split: [] for split in SPLITS}
        for part in ("train", "test"):
            for path, label in review_files(folder, part):
                split: Split = "test" if part == "test" else "validation" if for_validation(path.name) else "train"
                parts[split].append(Place(decode(path.read_bytes(), str(path)), SENTIMENT[label], str(path)))
        return {split: checked(iter(places)) for split, places in parts.items()}


@dataclass(frozen=True, kw_only=True)
class TextTable(TextClassification):
    """Which class is a text? Any CSV or TSV file of texts and labels.

    source: a .csv or .tsv file with a header, of which a tenth each become validation and test, chosen by a hash of the words;
        or a folder with train, validation (or dev, valid, val) and test, .csv or .tsv; what is missing is taken from train so.
    text_column: the column with the texts.
    label_column: the column with the labels; the classes are those of the training part.
    """

    name: ClassVar[str] = "text_classification"
    needs: ClassVar[str] = "a .csv or .tsv file with the columns text and label, or a folder with train, validation and test"
    lengths: ClassVar[str] = "1-512"

    text_column: str = "text"
    label_column: str = "label"

    def read(self) -> Parts:
        path = Path(self.source)
        if not path.is_dir():
            return by_hash({}, checked(self.table(path)))
        names: dict[Split, tuple[str, ...]] = {
            "train": ("train",),
            "validation": ("validation", "dev", "valid", "val"),
            "test": ("test",),
        }
        files = {
            split: [place for name in known for kind in DELIMITERS if (place := path / f"{name}{kind}").is_file()]
            for split, known in names.items()
        }
        for split, places in files.items():
            if len(places) > 1:
                raise UserError(f"{self.source}: {places[0].name} and {places[1].name} are both for {split}; keep one")
        if not files["train"]:
            raise UserError(f"{self.source}: there is no train.csv or train.tsv in it")
        train = checked(self.table(files["train"][0]))
        classes = tuple(sorted(set(train.labels)))
        given: Parts = {
            split: checked(self.table(files[split][0]), classes) for split in SPLITS if split != "train" and files[split]
        }
        return by_hash(given, train)

    def table(self, path: Path) -> Iterator[Place]:
        return read_table(path, self.text_column, self.label_column)


def by_hash(given: Parts, rest: Labelled) -> Parts:
    """The parts that are given, and out of the rest, by a hash of their words, those that are not: a text has one place."""
    found: Parts = {split: given.get(split, Labelled([], [])) for split in SPLITS}
    for text, label in zip(*rest):
        tenth = hashlib.blake2b(plain(text).encode(), digest_size=2).digest()
        place = int.from_bytes(tenth, "big") % 10
        split: Split = "test" if place == 0 else "validation" if place == 1 else "train"
        part = found["train" if split in given else split]
        part.texts.append(text)
        part.labels.append(label)
    return found
