"""A trained classifier of texts: probabilities, and where in a text the answer turned."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from openxlstm.data.text_format import Span, TextFormat
from openxlstm.errors import UserError
from openxlstm.inference.load import model_folder
from openxlstm.models.classify import SequenceClassifier

STEPS_AT_ONCE = 16_384  # padded tokens in a batch


class Turn(NamedTuple):
    """A token after which another class was the likeliest than before it."""

    token: int  # its number, from 0: several tokens may share a span
    span: Span  # where it stands, in characters
    before: int  # class
    after: int


@dataclass(frozen=True)
class Reading:
    """What a classifier made of a text, token by token.

    probabilities: [1 + T, C] after 0, 1, ... T tokens, those of the whole text last. spans: where each token stands.
    anew: how many times the text was read again: 0 where the state gives every prefix for free.
    """

    probabilities: Tensor
    spans: list[Span]
    anew: int

    @property
    def turns(self) -> list[Turn]:
        """Where the likeliest class changed, in the order of reading; before the first token it is the likeliest of none."""
        likeliest = self.probabilities.argmax(-1).tolist()
        return [
            Turn(token, span, a, b) for token, (span, a, b) in enumerate(zip(self.spans, likeliest, likeliest[1:])) if a != b
        ]

    def strongest(self, number: int) -> list[tuple[int, Span, float]]:
        """The tokens at which the probability of the final answer changed most, the most first: number of the token, from 0,
        where it stands, and by how much."""
        answer = int(self.probabilities[-1].argmax())
        changes = self.probabilities[:, answer].diff()
        chosen = changes.abs().argsort(descending=True, stable=True)[:number].tolist()
        return [(token, self.spans[token], float(changes[token])) for token in chosen]


class TextClassifier:
    """A model with the format of its texts. model: its outputs are calibrated where it comes from a run."""

    def __init__(self, model: SequenceClassifier, form: TextFormat) -> None:
        """Raises UserError where the two do not belong together."""
        config = model.config
        if (config.vocab_size, config.num_classes) != (form.tokenizer.vocab_size, len(form.classes)):
            raise UserError(
                f"the model reads {config.vocab_size} tokens and has {config.num_classes} classes, the text format beside it "
                f"{form.tokenizer.vocab_size} and {len(form.classes)}; they are not of one training"
            )
        self.model, self.format = model.eval(), form

    @classmethod
    def load(
        cls, path: str | Path, *, device: torch.device | str | None = None, backend: str | None = None
    ) -> "TextClassifier":
        """From a run folder or a model folder. Raises UserError for a folder with anything else."""
        folder = model_folder(path)
        form = TextFormat.load(folder)
        return cls(SequenceClassifier.from_pretrained(folder, device=device, backend=backend), form)

    @property
    def bidirectional(self) -> bool:
        """Whether the model reads texts from their end too."""
        return self.model.config.bidirectional

    @torch.no_grad()
    def probabilities(self, texts: Sequence[str]) -> Tensor:
        """Probabilities of the classes [N, C], float64 on the CPU. Raises UserError for a text without a token."""
        ids = [self.format.encode(text) for text in texts]
        found = torch.zeros(len(ids), len(self.format.classes), dtype=torch.float64)
        for rows in batches([len(one) for one in ids]):
            inputs, mask = self.padded([ids[row] for row in rows])
            found[rows] = self.model(inputs, mask=mask)[0].double().softmax(-1).cpu()
        return found

    @torch.no_grad()
    def read(self, text: str) -> Reading:
        """The probabilities after every token.

        A model that reads forwards gives all of them in one pass, out of its state. A bidirectional one has none before it has
        seen the end: each prefix is then read anew, which costs a text of T tokens T + 1 passes."""
        ids, spans = self.format.encode(text), self.format.spans(text)
        if not self.bidirectional:
            inputs, _ = self.padded([ids])
            nothing, _ = self.model(inputs[:, :0])
            running, _ = self.model.running(inputs)
            return Reading(torch.cat([nothing[:, None], running], 1)[0].double().softmax(-1).cpu(), spans, 0)
        found = torch.zeros(len(ids) + 1, len(self.format.classes), dtype=torch.float64)
        for stops in batches(range(len(ids) + 1)):
            inputs, mask = self.padded([ids[:stop] for stop in stops])
            found[stops] = self.model(inputs, mask=mask)[0].double().softmax(-1).cpu()
        return Reading(found, spans, len(found))

    def padded(self, ids: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Texts as the model takes them: ids and mask, both [B, T]."""
        device = next(self.model.parameters()).device
        lengths = torch.tensor([len(one) for one in ids])
        inputs = torch.zeros(len(ids), int(lengths.max()), dtype=torch.int64)
        for row, one in enumerate(ids):
            inputs[row, : len(one)] = torch.tensor(one, dtype=torch.int64)
        return inputs.to(device), (torch.arange(inputs.shape[1]) < lengths[:, None]).to(device)


def batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Rows of about equal length, in batches of at most STEPS_AT_ONCE padded tokens (or one row)."""
    rows = sorted(range(len(lengths)), key=lambda row: lengths[row])
    batch: list[int] = []
    for row in rows:
        if batch and (len(batch) + 1) * lengths[row] > STEPS_AT_ONCE:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
