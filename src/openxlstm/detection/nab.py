"""The score of the Numenta Anomaly Benchmark.

Lavin and Ahmad, "Evaluating Real-time Anomaly Detection Algorithms: the Numenta Anomaly Benchmark", ICMLA 2015.

A detector gives a number from 0 to 1 for each row; rows at or above a threshold are detections. In a window around an anomaly
only the best detection counts, and the earlier it is the more; outside, each one costs, the less the nearer it is behind a
window. A window without a detection costs too. The threshold is the best one for the corpus as a whole, in each profile.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Windows = Sequence[tuple[int, int]]

PROBATION, LONGEST = 0.15, 5000
"""The share of a series at its beginning that is not scored, and the rows of which that share is the most."""
FAR = 3.0
"""Widths of a window behind which a detection has nothing to do with it any more."""


class Profile(NamedTuple):
    """What the benchmark's users pay: `detection` for a window that is found at once, -`false_alarm` for a row far from all
    windows, -`miss` for a window that is not found."""

    detection: float
    false_alarm: float
    miss: float


PROFILES = {
    "standard": Profile(1.0, 0.11, 1.0),
    "reward_low_FP_rate": Profile(1.0, 0.22, 1.0),
    "reward_low_FN_rate": Profile(1.0, 0.11, 2.0),
}


@dataclass(frozen=True)
class NabScore:
    """Result for a corpus in one profile.

    score: 0 is a detector that never fires, 100 one that fires once in each window, at its first row. raw: before that.
    threshold: the one it was had with; inf is above all scores. found: windows with a detection, of `windows`.
    false_alarms: rows outside of all windows that fired. by_series: raw score of each series.
    """

    score: float
    raw: float
    threshold: float
    found: int
    windows: int
    false_alarms: int
    by_series: tuple[float, ...]


def probation(rows: int) -> int:
    """The first row that is scored."""
    return int(np.ceil(min(np.floor(PROBATION * rows), PROBATION * LONGEST)))


def sigmoid(position: Array) -> Array:
    """What a row is worth: 0.987 at the first row of a window (position -1), 0 behind its end, -0.987 a width behind it (1).

    2 / (1 + exp(5 y)) - 1, and -1 from three widths on.
    """
    return np.where(position > FAR, -1.0, 2 / (1 + np.exp(5 * np.minimum(position, FAR))) - 1)


def row_values(rows: int, windows: Windows) -> tuple[Array, NDArray[np.int64]]:
    """What a detection in each row is worth before weights [T], and the window that each row is in, -1 for none [T]."""
    values, inside = np.full(rows, -1.0), np.full(rows, -1)
    every = np.arange(rows)
    for number, (first, last) in enumerate(windows):
        values[last + 1 :] = sigmoid((every[last + 1 :] - last) / max(last - first, 1))
        values[first : last + 1] = sigmoid((every[first : last + 1] - last - 1) / (last + 1 - first)) / sigmoid(
            np.asarray(-1.0)
        )
        inside[first : last + 1] = number
    return values, inside


class Corpus(NamedTuple):
    """The scored rows of all series, one after the other."""

    scores: Array  # [N]
    values: Array  # [N] as of `row_values`
    window: NDArray[np.int64]  # [N] counted through the corpus, -1 for none
    series: NDArray[np.int64]  # [N]
    num_series: int
    num_windows: int  # those too that lie before all scored rows


def gather(scores: Sequence[Array], windows: Sequence[Windows]) -> Corpus:
    """The rows behind the probation of each series."""
    parts, count = [], 0
    for number, (one, spans) in enumerate(zip(scores, windows, strict=True)):
        if np.isnan(one).any():
            raise ValueError(f"series {number}: the score of row {int(np.isnan(one).argmax())} is NaN")
        values, inside = row_values(len(one), spans)
        scored = slice(probation(len(one)), None)
        named = np.where(inside >= 0, inside + count, -1)
        parts.append((one[scored], values[scored], named[scored], np.full(len(one), number)[scored]))
        count += len(spans)
    found, values, window, series = (np.concatenate(column) for column in zip(*parts))
    return Corpus(found, values, window, series, len(scores), count)


def nab_score(
    scores: Sequence[Array], windows: Sequence[Windows], profile: Profile, threshold: float | None = None
) -> NabScore:
    """Score a corpus. scores: one for each row of each series. windows: first and last row of each anomaly of each series.
    threshold: None is the best one, as the benchmark has it."""
    corpus = gather(scores, windows)
    if threshold is None:
        threshold = best_threshold(corpus, profile)
    fired = corpus.scores >= threshold
    alarms, hits = fired & (corpus.window < 0), fired & (corpus.window >= 0)
    scored, first = np.unique(corpus.window[corpus.window >= 0], return_index=True)  # windows that have scored rows
    best = np.full(corpus.num_windows, -profile.miss)
    np.maximum.at(best, corpus.window[hits], corpus.values[hits] * profile.detection)
    by_series = np.zeros(corpus.num_series)
    np.add.at(by_series, corpus.series[alarms], corpus.values[alarms] * profile.false_alarm)
    np.add.at(by_series, corpus.series[corpus.window >= 0][first], best[scored])
    raw, silent = float(by_series.sum()), -profile.miss * len(scored)
    perfect = profile.detection * corpus.num_windows
    return NabScore(
        score=100 * (raw - silent) / (perfect - silent) if corpus.num_windows else float("nan"),
        raw=raw,
        threshold=threshold,
        found=len(np.unique(corpus.window[hits])),
        windows=corpus.num_windows,
        false_alarms=int(alarms.sum()),
        by_series=tuple(by_series.tolist()),
    )


def best_threshold(corpus: Corpus, profile: Profile) -> float:
    """The threshold with the highest raw score; of several the highest, which fires least. inf: none is worth it."""
    order = np.argsort(-corpus.scores, kind="stable")
    scores, values, window = corpus.scores[order], corpus.values[order], corpus.window[order]
    gain = np.where(window < 0, values * profile.false_alarm, 0.0)  # of letting this row fire too
    for number in range(corpus.num_windows):
        rows = np.flatnonzero(window == number)
        best = np.maximum.accumulate(values[rows] * profile.detection)
        gain[rows] = np.diff(best, prepend=-profile.miss)
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True)) if len(scores) else np.zeros(0, np.int64)
    total = np.append(0.0, gain.cumsum()[last])
    chosen = int(total.argmax())
    return float(scores[last[chosen - 1]]) if chosen else float("inf")


def window_auc(scores: Array, windows: Windows) -> float:
    """Area under the ROC curve of one series behind its probation, where the rows in windows are those to be found: how often
    such a row scores higher than another one, ties counted half. NaN where there is only one kind."""
    first = probation(len(scores))
    found = scores[first:]
    inside = row_values(len(scores), windows)[1][first:] >= 0
    _, place, count = np.unique(found, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[place]  # from 1, the mean of those that are equal
    hits, others = int(inside.sum()), int((~inside).sum())
    if not hits or not others:
        return float("nan")
    return float((rank[inside].sum() - hits * (hits + 1) / 2) / (hits * others))
