"""AnomalyDetector: finds, streams, looks at nothing later, and is the same after saving."""

import itertools
import json
import math

import numpy as np
import pytest
import torch

from openxlstm.detection import AnomalyDetector, DetectorSettings
from openxlstm.detection.baselines import last_value, moving_z_score, null, random
from openxlstm.detection.surprise import Surprise, score_of
from openxlstm.errors import UserError
from openxlstm.forecasting import FitConfig
from openxlstm.ops.state import leaves

QUICK = dict(
    distances=(1, 4),
    context=24,
    patch=12,
    dim=16,
    num_heads=2,
    fit=FitConfig(steps=30, batch_size=8, length=16, validate_every=15),
)
TRAINED, ROWS = 120, 260
STRANGE = 200


def series():
    """A wave with a season of 12 rows that stands still at row 200 for a while."""
    rows = np.arange(ROWS)
    values = 50 + 10 * np.sin(rows * 2 * np.pi / 12) + np.random.default_rng(0).normal(0, 0.3, ROWS)
    values[STRANGE : STRANGE + 8] = 75.0
    return values


def hours(rows=ROWS):
    return np.datetime64("2024-01-01", "ns") + np.arange(rows) * np.timedelta64(1, "h")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a detector that has read the training rows."""
    folder = tmp_path_factory.mktemp("detector")
    AnomalyDetector(**QUICK).fit(series()[:TRAINED], hours()[:TRAINED]).save(folder)
    return folder


def test_devices_that_cannot_be_used():
    with pytest.raises(UserError, match="device 'cuda:77' cannot be used here"):
        AnomalyDetector(**QUICK, device="cuda:77").fit(series()[:TRAINED])


def test_what_is_strange_scores_highest(trained):
    detector = AnomalyDetector.load(trained)
    scores = detector.scores(series()[TRAINED:], hours()[TRAINED:])
    assert scores.argmax() + TRAINED == STRANGE
    assert scores.max() > 0.9
    assert ((scores > 0) & (scores < 1)).all()
    assert np.sort(scores[: STRANGE - TRAINED])[-1] < 0.85


def test_a_row_at_a_time_is_the_same(trained):
    values, times = series()[TRAINED:], hours()[TRAINED:]
    whole, expected = AnomalyDetector.load(trained).scores_and_forecasts(values, times)
    one = AnomalyDetector.load(trained)
    forecasts, found, sizes = [], [], set()
    for value, time in zip(values, times):
        forecasts.append(one.expected)
        found.append(one.score(value, time))
        stream = one.stream
        sizes.add((tuple(leaf.shape for leaf in leaves(stream.state)), stream.ahead.shape, len(stream.surprise.totals)))
    assert np.allclose(found, whole, atol=1e-4)
    assert np.allclose(forecasts, expected, atol=1e-3)
    assert len(sizes) == 1, "memory is constant"


def test_no_score_depends_on_a_later_row(trained):
    values, times = series()[TRAINED:], hours()[TRAINED:]
    before = AnomalyDetector.load(trained)
    after = AnomalyDetector.load(trained)
    changed = values.copy()
    changed[60:] = np.random.default_rng(5).normal(0, 1e4, len(values) - 60)
    same, other = before.scores(values, times), after.scores(changed, times)
    assert np.array_equal(same[:60], other[:60]), "to the last bit"
    assert not np.array_equal(same[60:], other[60:])


def test_nothing_but_the_training_rows_is_learnt_from():
    values = series()
    torch.manual_seed(7)  # of no account
    first = AnomalyDetector(**QUICK).fit(values[:TRAINED])
    torch.manual_seed(8)
    second = AnomalyDetector(**QUICK).fit(values[:TRAINED])
    weights = [parameter.clone() for parameter in first.model.parameters()]
    found = first.scores(values[TRAINED:])
    assert all(torch.equal(a, b) for a, b in zip(weights, first.model.parameters())), "reading changes no weight"
    assert np.array_equal(found, second.scores(values[TRAINED:])), "the seed decides"
    assert len(first.training_scores) == TRAINED


def test_save_and_load_in_mid_stream(trained, tmp_path):
    values, times = series()[TRAINED:], hours()[TRAINED:]
    detector = AnomalyDetector.load(trained)
    detector.scores(values[:50], times[:50])
    detector.save(tmp_path / "later")
    again = AnomalyDetector.load(tmp_path / "later")
    assert again.expected == detector.expected
    assert np.array_equal(detector.scores(values[50:], times[50:]), again.scores(values[50:], times[50:]))
    with pytest.raises(UserError, match="row 261: the time is 2024-01-01, expected 2024-01-11 20:00:00"):
        again.score(1.0, np.datetime64("2024-01-01", "ns"))


def test_a_series_that_never_changed_and_then_does():
    detector = AnomalyDetector(**QUICK).fit(np.full(TRAINED, 45.0))
    quiet = detector.scores(np.full(20, 45.0))
    assert quiet.max() < 0.6
    assert detector.score(46.0) > 0.9


def test_rows_may_have_no_time_or_uneven_ones(trained):
    values = series()
    detector = AnomalyDetector(**QUICK | {"steps": "rows"}).fit(values[:TRAINED], np.cumsum(1 + np.arange(TRAINED) % 3))
    detector.score(50.0, 1000)
    with pytest.raises(UserError, match="row 122: the time is 1000, expected a time after 1000"):
        detector.score(50.0, 1000)
    with pytest.raises(UserError, match="row 122 has no time; the rows before it had"):
        detector.score(50.0)
    bare = AnomalyDetector(**QUICK).fit(values[:TRAINED])
    with pytest.raises(UserError, match="the rows before had no times"):
        bare.score(50.0, 3)


@pytest.mark.parametrize(
    ("values", "times", "message"),
    [
        ([1.0, math.nan], None, "row 122: the value is nan; it must be a finite number"),
        ([1.0, math.inf], None, "row 122: the value is inf"),
        ([1.0, 9.96921e36], None, r"row 122: the value is 9.96921e\+36, more than 1e\+12 deviations from the mean"),
        ([-1e200], None, r"row 121: the value is -1e\+200, more than"),
        (["high"], None, "values must be numbers: could not convert string to float"),
        ([[1.0]], None, r"values must be one number a row \[T\], got the shape \[1, 1\]"),
        ([1.0, 2.0], hours(122)[120:121], r"2 values, but times of the shape \[1\]"),
        ([1.0, 2.0], hours(123)[[120, 122]], "row 122: the time is 2024-01-06 02:00:00, expected 2024-01-06 01:00:00"),
        ([1.0, 2.0], hours(121)[[120, 120]], "row 122: the time is 2024-01-06, expected 2024-01-06 01:00:00"),
        ([1.0], ["soon"], "times must be datetimes or whole numbers, all alike; got 'soon'"),
        ([1.0, 2.0], [5.5, 6.5], "times must be datetimes or whole numbers, all alike; got "),
        ([1.0, 2.0], [*hours(121)[120:], 5], "times must be datetimes or whole numbers, all alike"),
        ([1.0], [5], "row 121: a row has the time 5; the times of the rows before are dates"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_rows_that_are_refused_change_nothing(trained, values, times, message):
    detector = AnomalyDetector.load(trained)
    before = detector.expected
    if times is None:
        detector.stream.last = None
    with pytest.raises(UserError, match=message):
        detector.scores(values, times)
    assert (detector.stream.rows, detector.expected) == (TRAINED, before)


def test_the_farthest_reading_does_no_lasting_harm(trained):
    detector = AnomalyDetector.load(trained)
    scores = detector.scores([*(50.0 + 7e12 * np.array([1.0, -1.0])), *np.full(30, 50.0)], hours()[TRAINED : TRAINED + 32])
    assert np.isfinite(scores).all()
    assert math.isfinite(detector.expected)


def test_a_failed_fit_keeps_what_was_trained_before(trained):
    following = series()[TRAINED:], hours()[TRAINED:]
    expected = AnomalyDetector.load(trained).scores(*following)
    detector = AnomalyDetector.load(trained)

    def stop(line):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        detector.fit(1000 * series(), say=stop)
    np.testing.assert_array_equal(detector.scores(*following), expected)


def test_what_can_not_be_fitted():
    with pytest.raises(UserError, match="20 rows to train on; distances to 4 rows need at least 72"):
        AnomalyDetector(**QUICK).fit(np.zeros(20))
    with pytest.raises(UserError, match="the times, row 3: the time 2 is there twice"):
        AnomalyDetector(**QUICK).fit(np.zeros(TRAINED), [0, 1, 2, 2, *range(4, TRAINED)])
    with pytest.raises(UserError, match="1 rows are missing between 2 and 4"):
        AnomalyDetector(**QUICK).fit(np.zeros(TRAINED), [0, 1, 2, *range(4, TRAINED + 1)])
    with pytest.raises(UserError, match="not fitted"):
        AnomalyDetector().score(1.0)
    with pytest.raises(UserError, match="unexpected keyword argument 'horizon'; have distances, context"):
        AnomalyDetector(horizon=3)
    with pytest.raises(UserError, match=r"row 4: the value is 1e\+200, more than"):
        AnomalyDetector(**QUICK).fit([0.0, 1.0, 2.0, 1e200] * 30)
    for wrong in ((), (0,), (2, 2)):
        with pytest.raises(UserError, match="distances must be one or more numbers of rows"):
            DetectorSettings(distances=wrong)


def test_damaged_folders(trained, tmp_path):
    with pytest.raises(UserError, match=r"no detector\.json here"):
        AnomalyDetector.load(tmp_path)
    detector = AnomalyDetector.load(trained)
    detector.save(tmp_path)
    about = json.loads((tmp_path / "detector.json").read_text())
    del about["surprise"]
    (tmp_path / "detector.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match="damaged, 'surprise' is missing"):
        AnomalyDetector.load(tmp_path)
    assert about.pop("files")  # folders were written without them before
    (tmp_path / "detector.json").write_text(json.dumps(about))
    (tmp_path / "stream.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match=r"stream\.safetensors: cannot read it"):
        AnomalyDetector.load(tmp_path)


def test_halves_of_two_states_are_refused(trained, tmp_path):
    detector = AnomalyDetector.load(trained)
    detector.save(tmp_path)
    before = (tmp_path / "detector.json").read_text()
    detector.score(50.0, hours()[TRAINED])
    detector.save(tmp_path)
    (tmp_path / "detector.json").write_text(before)
    with pytest.raises(UserError, match=r"stream\.safetensors: is not the file that detector\.json was written with"):
        AnomalyDetector.load(tmp_path)


def test_titles_are_no_formulas(tmp_path):
    pytest.importorskip("matplotlib")
    from openxlstm.detection.figure import draw

    draw(tmp_path / "a.png", "cost_$_per_$^.csv", hours(5), np.arange(5.0), np.full(5, 0.5), 0.95, 2)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_surprise_by_hand():
    surprise = Surprise(2)
    errors = [(1.0, math.nan), (1.0, 2.0), (3.0, 2.0), (1.0, 8.0)]
    ratios = [1 / 1.02, (1 / 1.02 + 2 / 2.02) / 2, (3 / 1.02 + 2 / 2.02) / 2, (1 / (5 / 3 + 0.02) + 8 / 2.02) / 2]
    for row, error in enumerate(errors):
        before = ratios[:row]
        expected = (ratios[row] - np.mean(before)) / (np.std(before) + 0.1) if before else 0.0
        assert surprise.step(error) == pytest.approx(expected), row
    assert Surprise(1).step([math.nan]) == 0.0


def test_scores_rise_with_surprise():
    found = [score_of(z) for z in (-1e9, -1.0, 0.0, 1.0, 9.0, 1e9)]
    assert all(a < b for a, b in itertools.pairwise(found))
    assert found[2] == 0.5
    assert found[4] == pytest.approx(0.95)


def test_baselines():
    values = np.array([1.0, 1.0, 1.0, 2.0, 5.0, 5.0])
    assert set(null(values)) == {0.5}
    assert np.array_equal(random(values, 3), random(values, 3))
    assert not np.array_equal(random(values, 3), random(values, 4))
    z = moving_z_score(values, 3)
    assert z[:3].tolist() == [0, 0, 0]
    assert z[3] == 1.0, "a change where there was none"
    away, deviation = 5 - 4 / 3, np.std([1, 1, 2])
    assert z[4] == pytest.approx(away / (away + deviation))
    assert moving_z_score(1e-13 * values, 3) == pytest.approx(z)
    changed = values.copy()
    changed[5] = 100
    assert np.array_equal(moving_z_score(changed, 3)[:5], z[:5])
    with pytest.raises(UserError, match="at least 2 rows"):
        moving_z_score(values, 1)
    step = np.r_[np.random.default_rng(0).normal(size=50), 30.0, 30.0]
    assert last_value(step, 50, (1, 4)).argmax() == 50
