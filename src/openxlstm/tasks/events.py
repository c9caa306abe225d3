"""Events that are told out of order, and what was before what."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from openxlstm.errors import UserError
from openxlstm.tasks.generated import GeneratedTask
from openxlstm.tasks.task import ACCURACY, Batch, Metric, Signature, nothing_scored

PAD, ASK, FLIP = 0, 1, 2
FIRST_NAME = 3
TELLING, QUESTION, TURN = 2, 3, 1  # kinds of items, named by how many tokens they take
BEFORE, AFTER = 0, 1


@dataclass(frozen=True, kw_only=True)
class Events(GeneratedTask):
    """Was a before b? Events are told in any order, each with its time; then come questions.

    A telling is a name and a time, a question `ASK a b`, answered at b with before or after; words that mean nothing fill the
    rest and lie between tellings at random. The order of telling says nothing about the order in time. An event may be told
    again with another time, and the last telling holds. After a FLIP time runs the other way, so before and after change
    places, until the next one. All times in a story differ. Its own task; there are no published numbers.

    num_events: events in a story.
    num_questions: questions about each story.
    revisions: further tellings, each of an event that chance picks.
    flips: changes of the direction of time, at most: each comes or does not, evenly. Were half of all questions turned around,
        what was told would say nothing of an answer until turns are understood, and nothing would show the way there.
    num_names: names to choose from.
    num_times: times to choose from.
    num_words: meaningless words to choose from.
    """

    name: ClassVar[str] = "events"
    throughout: ClassVar[bool] = False
    """Questions come at any time after the first two tellings, about what was told so far, instead of at the end."""

    train_length: str = "32"
    eval_length: str = "32"
    report_lengths: tuple[str, ...] = ("64", "256", "1024")
    test_samples: int = 1024
    num_events: int = 4
    num_questions: int = 4
    revisions: int = 0
    flips: int = 0
    num_names: int = 16
    num_times: int = 16
    num_words: int = 8

    def __post_init__(self) -> None:
        for name, least in (("num_events", 2), ("num_questions", 1), ("revisions", 0), ("flips", 0), ("num_words", 1)):
            if getattr(self, name) < least:
                raise UserError(f"data.{name}={getattr(self, name)} must be at least {least}")
        if self.num_names < self.num_events:
            raise UserError(f"data.num_names={self.num_names} is less than data.num_events={self.num_events}")
        if self.num_times < self.num_tellings:
            raise UserError(f"data.num_times={self.num_times} is less than the {self.num_tellings} tellings of a story")
        super().__post_init__()

    def check_lengths(self, lengths: range) -> None:
        needed = TELLING * self.num_tellings + QUESTION * self.num_questions + TURN * self.flips
        if lengths[0] < needed:
            raise UserError(f"length {lengths[0]} is too short: tellings and questions alone are {needed} tokens")

    @property
    def num_tellings(self) -> int:
        return self.num_events + self.revisions

    @property
    def signature(self) -> Signature:
        return Signature(vocab_size=FIRST_NAME + self.num_names + self.num_times + self.num_words, num_classes=2)

    @property
    def metric(self) -> Metric:
        return ACCURACY

    def chance(self, length: int) -> float:
        """Before or after."""
        return 0.5

    def sample(self, batch: int, length: int, rng: torch.Generator) -> Batch:
        kinds = self._kinds(batch, rng)  # [B, items]
        events = self._tellings(batch, rng)  # [B, tellings]
        names = FIRST_NAME + distinct(batch, self.num_names, self.num_events, rng)
        first_time = FIRST_NAME + self.num_names
        times = first_time + distinct(batch, self.num_times, self.num_tellings, rng)
        words = first_time + self.num_times
        inputs = torch.randint(words, words + self.num_words, (batch, length), generator=rng)
        targets = nothing_scored(batch, length)

        # items take places among the words; those before an item have taken kinds - 1 tokens more than their place
        num_items = kinds.shape[1]
        places = distinct(batch, length - int(kinds[0].sum()) + num_items, num_items, rng).sort(1).values
        starts = places + (kinds - 1).cumsum(1) - (kinds - 1)

        row = torch.arange(batch)
        told = torch.zeros(batch, self.num_events, dtype=torch.bool)
        time_of = torch.zeros(batch, self.num_events, dtype=torch.int64)
        count = torch.zeros(batch, dtype=torch.int64)  # of tellings so far
        flipped = torch.zeros(batch, dtype=torch.bool)
        for item in range(num_items):
            kind, start = kinds[:, item], starts[:, item]
            r = row[kind == TELLING]
            event, time, at = events[r, count[r]], times[r, count[r]], start[r]
            inputs[r, at], inputs[r, at + 1] = names[r, event], time
            told[r, event], time_of[r, event] = True, time
            count[r] += 1

            r = row[kind == TURN]
            r = r[torch.rand(len(r), generator=rng) < 0.5]
            inputs[r, start[r]] = FLIP
            flipped[r] ^= True

            r = row[kind == QUESTION]
            if len(r):
                chosen = torch.rand(len(r), self.num_events, generator=rng).masked_fill(~told[r], -1.0)
                a, b = chosen.topk(2).indices.unbind(1)
                at = start[r]
                inputs[r, at], inputs[r, at + 1], inputs[r, at + 2] = ASK, names[r, a], names[r, b]
                later = time_of[r, a] > time_of[r, b]
                targets[r, at + 2] = torch.where(later ^ flipped[r], AFTER, BEFORE)
        return Batch(inputs, targets, torch.full((batch,), length))

    def _kinds(self, batch: int, rng: torch.Generator) -> Tensor:
        """Which kind each item of a story is, in their order: [B, items]."""
        start = torch.full((batch, 2), TELLING)  # something to ask about
        rest = [TELLING] * (self.num_tellings - 2) + [TURN] * self.flips
        asked = [QUESTION] * self.num_questions
        if self.throughout:
            return torch.cat([start, shuffled(batch, rest + asked, rng)], 1)
        return torch.cat([start, shuffled(batch, rest, rng), torch.tensor(asked).expand(batch, -1)], 1)

    def _tellings(self, batch: int, rng: torch.Generator) -> Tensor:
        """Which event is told when, every one at least once and the first two different: [B, tellings]."""
        again = torch.randint(self.num_events, (batch, self.revisions), generator=rng)
        rest = torch.cat([torch.arange(2, self.num_events).expand(batch, -1), again], 1)
        order = torch.rand(rest.shape, generator=rng).argsort(1)
        return torch.cat([torch.arange(2).expand(batch, -1), rest.gather(1, order)], 1)


@dataclass(frozen=True, kw_only=True)
class EventStream(Events):
    """Was a before b? Asked at any time, while events are told again and time turns around.

    As `events`, with questions throughout, revisions and flips: a question is about what holds when it is asked.

    revisions: further tellings, each of an event that chance picks.
    flips: changes of the direction of time, at most; each comes or does not, evenly.
    """

    name: ClassVar[str] = "event_stream"
    throughout: ClassVar[bool] = True

    revisions: int = 2
    flips: int = 1


def distinct(batch: int, size: int, count: int, rng: torch.Generator) -> Tensor:
    """`count` different numbers below `size`, in random order, for each row: [B, count]."""
    return torch.rand(batch, size, generator=rng).topk(count).indices


def shuffled(batch: int, items: list[int], rng: torch.Generator) -> Tensor:
    """The items in a random order for each row: [B, items]."""
    order = torch.rand(batch, len(items), generator=rng).argsort(1)
    return torch.tensor(items, dtype=torch.int64).expand(batch, -1).gather(1, order)
