"""The NAB score against cases that were worked out by hand, and what the benchmark's authors say of it."""

import itertools
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from openxlstm.detection.nab import FAR, PROFILES, Profile, nab_score, probation, row_values, window_auc

STANDARD = PROFILES["standard"]
ROWS, WINDOW = 100, (40, 49)  # 15 rows are not scored; 10 rows in the window


def s(y):
    """The scaled sigmoid of the benchmark."""
    return 2 / (1 + math.exp(5 * y)) - 1


def detections(*rows, length=ROWS):
    found = np.zeros(length)
    found[list(rows)] = 1.0
    return found


def raw(*rows, profile=STANDARD):
    return nab_score([detections(*rows)], [[WINDOW]], profile, 0.5).raw


def test_probation():
    assert [probation(rows) for rows in (7, 100, 101, 4032, 5000, 22695)] == [1, 15, 15, 604, 750, 750]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ((), -1.0),
        ((40,), 1.0),  # the first row of the window
        ((45,), s(-0.5) / s(-1)),
        ((49,), s(-0.1) / s(-1)),
        ((45, 40, 49), 1.0),  # only the best counts
        ((20,), -1.0 - 0.11),  # before any window: a full false alarm
        ((50,), -1.0 + 0.11 * s(1 / 9)),  # just behind the window, hardly one
        ((58,), -1.0 + 0.11 * s(1)),
        ((40, 76), 1.0 + 0.11 * s(FAR)),
        ((40, 77), 1.0 - 0.11),
        ((0, 14), -1.0),  # probation is not scored
        ((15,), -1.0 - 0.11),
    ],
)
def test_by_hand(rows, expected):
    assert raw(*rows) == pytest.approx(expected, abs=1e-12)


def test_profiles_weigh():
    assert raw(20, profile=PROFILES["reward_low_FP_rate"]) == pytest.approx(-1.22)
    assert raw(20, profile=PROFILES["reward_low_FN_rate"]) == pytest.approx(-2.11)
    assert raw(40, 20, profile=Profile(3.0, 0.5, 1.0)) == pytest.approx(2.5)


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_silence_is_0_and_the_first_row_of_each_window_is_100(profile):
    windows = [[(40, 49), (70, 90)], [], [(20, 20)]]
    null = nab_score([np.full(100, 0.5)] * 3, windows, profile)
    assert (null.score, null.found, null.windows, null.threshold) == (0.0, 0, 3, math.inf)
    perfect = nab_score([detections(40, 70), detections(), detections(20)], windows, profile)
    assert (perfect.score, perfect.found, perfect.false_alarms, perfect.threshold) == (pytest.approx(100), 3, 0, 1.0)
    assert perfect.by_series == (2 * profile.detection, 0.0, profile.detection)


def test_the_threshold_is_the_best_there_is():
    rng = np.random.default_rng(0)
    scores = [np.round(rng.random(200), 2) for _ in range(3)]  # with ties
    scores[0][60] = scores[1][130] = 1.0
    windows = [[(60, 80), (150, 170)], [(120, 140)], []]
    for profile in PROFILES.values():
        best = nab_score(scores, windows, profile)
        every = [nab_score(scores, windows, profile, level).score for level in [*np.unique(np.concatenate(scores)), math.inf]]
        assert best.score == pytest.approx(max(every), abs=1e-12)
        assert nab_score(scores, windows, profile, best.threshold).score == best.score
    assert best.found >= 2


def test_only_the_order_of_scores_counts():
    rng = np.random.default_rng(1)
    scores, windows = [rng.random(150), rng.random(150)], [[(50, 60)], [(90, 100)]]
    assert nab_score(scores, windows, STANDARD).score == nab_score([one**3 for one in scores], windows, STANDARD).score


def test_earlier_is_better_and_windows_are_their_own():
    found = [raw(row) for row in range(40, 50)]
    assert all(a > b for a, b in itertools.pairwise(found))
    values, inside = row_values(100, [(40, 49), (60, 69)])
    assert (inside[[39, 40, 49, 50, 60, 70]] == [-1, 0, 0, -1, 1, -1]).all()
    assert values[75] == pytest.approx(s(6 / 9)), "behind the second window, not the first"
    assert (values[:40] == -1).all()


def test_a_window_before_all_scored_rows_can_not_be_found():
    found = nab_score([detections(5, 40)], [[(2, 9), WINDOW]], STANDARD)
    assert (found.raw, found.windows, found.score) == (1.0, 2, pytest.approx(100 * 2 / 3))


def test_scores_must_be_numbers():
    with pytest.raises(ValueError, match="series 0: the score of row 3 is NaN"):
        nab_score([np.array([0, 0, 0, np.nan, 0])], [[]], STANDARD)


def test_auc_is_how_often_a_row_in_a_window_scores_higher():
    rng = np.random.default_rng(2)
    scores = np.round(rng.random(ROWS), 1)
    inside = np.zeros(ROWS, bool)
    inside[40:50] = True
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[15:][inside[15:]] for b in scores[15:][~inside[15:]]]
    assert window_auc(scores, [WINDOW]) == pytest.approx(np.mean(pairs))
    assert window_auc(np.zeros(ROWS), [WINDOW]) == 0.5
    assert math.isnan(window_auc(scores, []))


@pytest.mark.skipif("OPENXLSTM_DATA" not in os.environ, reason="OPENXLSTM_DATA names no data folder")
def test_the_published_corpus():
    """25 windows in 18 series; their labels lie in them, and a detector that fires at each label is nearly half perfect."""
    from openxlstm.data.sensors.anomalies import read_nab

    folder = Path(os.environ["OPENXLSTM_DATA"], "nab")
    corpus = read_nab(folder, irregular=True)
    assert (len(corpus), sum(len(one.windows) for one in corpus)) == (18, 25)
    labels = json.loads((folder / "labels" / "combined_labels.json").read_text())
    scores = []
    for one in corpus:
        found = np.zeros(len(one.values))
        for label in labels[one.name]:
            rows = np.flatnonzero(one.times == np.datetime64(label))
            assert any(first <= rows[0] <= last for first, last in one.windows)
            found[rows[0]] = 1.0
        scores.append(found)
    score = nab_score(scores, [one.windows for one in corpus], STANDARD)
    assert (score.found, score.false_alarms) == (25, 0)
    assert 85 < score.score < 100
