"""fit, predict, update: the contract is that reading on is reading anew."""

import json
import re
from dataclasses import replace
from datetime import UTC, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from dateutil import tz

from openxlstm.data.series import Step
from openxlstm.detection import DetectorSettings
from openxlstm.errors import UserError
from openxlstm.forecasting import Forecaster, ForecasterSettings
from openxlstm.forecasting.files import step_of, step_to_json
from openxlstm.models.count import count_parameters
from openxlstm.ops.state import leaves

from .conftest import make, make_frame, rows, stir

NUMBERS = ["xlstm", "xlstm-lo-80", "xlstm-hi-80"]


def anew(forecaster: Forecaster, frame: pd.DataFrame, **more: Any) -> pd.DataFrame:
    return forecaster.predict(data=frame, **more)


def assert_same(a: pd.DataFrame, b: pd.DataFrame, unit: float) -> None:
    """Equal ids and times; numbers to 1e-5 of the series' deviation."""
    assert a[["unique_id", "ds"]].equals(b[["unique_id", "ds"]])
    assert np.abs(a[NUMBERS].to_numpy() - b[NUMBERS].to_numpy()).max() <= 1e-5 * unit


@pytest.mark.parametrize("pattern", ["slstm", "xlstm[1:1]", "lstm", "transformer", "nlinear", "linear"])
def test_reading_on_is_reading_anew(pattern: str, frame: pd.DataFrame) -> None:
    forecaster = make(pattern=pattern, num_blocks=2).fit(rows(frame, 0, 100))
    stir(forecaster, rows(frame, 0, 100))
    forecaster.update(rows(frame, 100, 113))
    for row in range(113, 130):
        forecaster.update(rows(frame, row, row + 1))
    assert_same(forecaster.predict(), anew(forecaster, rows(frame, 0, 130)), unit=4.0)
    before = forecaster.predict()
    shifted = rows(frame, 0, 130).assign(y=lambda f: f.y + 0.1 * (f.groupby("unique_id").cumcount() == 20))
    if pattern not in ("nlinear", "linear", "transformer"):  # those forget
        assert np.abs(anew(forecaster, shifted).xlstm - before.xlstm).max() > 0  # the stack remembers row 20
    assert forecaster.predict().equals(before)  # forecasts of other histories change nothing


def test_reading_on_with_covariates_static_and_missing_values(frame: pd.DataFrame) -> None:
    frame = frame.assign(holiday=np.sin(np.arange(len(frame))), size=(frame.unique_id == "a") * 3.0)
    frame.loc[[40, 111, 200], "y"] = np.nan
    forecaster = make(covariates=("holiday",), static=("size",), missing=True).fit(rows(frame, 0, 100))
    stir(forecaster, rows(frame, 0, 100))
    forecaster.update(rows(frame, 100, 112)).update(rows(frame, 112, 120))
    future = rows(frame, 120, 126)[["unique_id", "ds", "holiday"]]
    here = forecaster.predict(future=future)
    assert_same(here, anew(forecaster, rows(frame, 0, 120), future=future), unit=4.0)
    other = forecaster.predict(future=future.assign(holiday=future.holiday + 1))
    assert (other.xlstm != here.xlstm).all()
    short = forecaster.predict(4, future=rows(frame, 120, 124)[["unique_id", "ds", "holiday"]])
    assert np.allclose(short.xlstm, rows(here, 0, 4).xlstm, rtol=0, atol=1e-4)
    for wrong, message in (
        (None, "predict needs future="),
        (future.iloc[:3], "future has 3 rows of 'a'; 6 are needed"),
        (rows(frame, 121, 127), "expected a row of 2024-01-06, got 2024-01-06 01:00:00"),
    ):
        with pytest.raises(UserError, match=message):
            forecaster.predict(future=wrong)


def test_multivariate(frame: pd.DataFrame) -> None:
    forecaster = make(multivariate=True).fit(rows(frame, 0, 100))
    stir(forecaster, rows(frame, 0, 100))
    forecaster.update(rows(frame, 100, 110)).update(rows(frame, 110, 111))
    assert_same(forecaster.predict(), anew(forecaster, rows(frame, 0, 111)), unit=4.0)
    assert forecaster.predict().unique_id.tolist() == ["a"] * 6 + ["b"] * 6
    with pytest.raises(UserError, match="a row needs all of a, b, got a"):
        forecaster.update(rows(frame, 111, 112).query("unique_id == 'a'"))
    with pytest.raises(UserError, match="series 'b' has other times than 'a'"):
        make(multivariate=True).fit(rows(frame, 0, 100).iloc[:-1])


def test_multivariate_series_come_in_any_order(frame: pd.DataFrame) -> None:
    frame = frame.assign(holiday=np.sin(frame.groupby("unique_id").cumcount()))
    turned = frame.sort_values("unique_id", ascending=False, kind="stable")
    forecaster = make(multivariate=True, covariates=("holiday",)).fit(rows(frame, 0, 100))
    stir(forecaster, rows(frame, 0, 100))
    future = rows(frame, 110, 116)[["unique_id", "ds", "holiday"]]
    here = anew(forecaster, rows(frame, 0, 110), future=future)
    assert_same(anew(forecaster, rows(turned, 0, 110), future=future.iloc[::-1].sort_values("ds")), here, unit=4.0)
    assert_same(forecaster.update(rows(turned, 100, 110)).predict(future=future), here, unit=4.0)
    with pytest.raises(UserError, match="a row needs all of a, b, got a, c"):
        anew(forecaster, rows(frame, 0, 110).replace("b", "c"), future=future)
    with pytest.raises(UserError, match="future has other covariates of 'b' than of 'a'"):
        forecaster.predict(future=future.assign(holiday=np.arange(12)))


def test_multivariate_statics_are_the_same(frame: pd.DataFrame) -> None:
    with pytest.raises(UserError, match="series 'b' has other static values than 'a'"):
        make(multivariate=True, static=("size",)).fit(frame.assign(size=(frame.unique_id == "a") * 3.0))


def test_forecasts_have_the_times_of_the_future(frame: pd.DataFrame) -> None:
    frame = rows(frame, 0, 60).query("unique_id == 'a'").assign(holiday=0.0)
    forecaster = make(covariates=("holiday",), steps="rows", fit=dict(steps=2)).fit(frame)
    days = pd.date_range("2024-02-01", periods=6, freq="2h")
    future = pd.DataFrame({"unique_id": "a", "ds": days, "holiday": 1.0})
    assert forecaster.predict(4, future=future).ds.tolist() == days[:4].tolist()


@pytest.mark.parametrize("zone", ["UTC", "UTC+05:30", "Europe/Berlin"])
def test_times_keep_their_zone(zone: str, frame: pd.DataFrame, tmp_path: Path) -> None:
    aware = frame.assign(ds=frame.ds.dt.tz_localize(zone))
    plain = make(pattern="nlinear").fit(rows(frame, 0, 100))
    forecaster = make(pattern="nlinear").fit(rows(aware, 0, 100))
    forecaster.save(tmp_path)
    forecaster = Forecaster.load(tmp_path)
    elsewhere = rows(aware, 100, 110)
    forecaster.update(elsewhere.assign(ds=elsewhere.ds.dt.tz_convert("America/New_York")))  # the same hours
    plain.update(rows(frame, 100, 110))
    found, expected = forecaster.predict(), plain.predict()
    assert str(found.ds.dt.tz) == zone
    assert found.assign(ds=found.ds.dt.tz_localize(None)).equals(expected)
    assert (found.merge(aware, on=["unique_id", "ds"]).ds == found.ds).all()
    forecaster.plot(tmp_path / "a.png", found)
    check = make(pattern="nlinear").cross_validation(aware)
    assert str(check.ds.dt.tz) == str(check.cutoff.dt.tz) == zone
    with pytest.raises(UserError, match=re.escape(f"the data has times without a time zone; those before are in {zone}")):
        forecaster.update(rows(frame, 110, 112))
    with pytest.raises(UserError, match=re.escape(f"the data has times in {zone}; those before are without a time zone")):
        plain.update(rows(aware, 110, 112))


@pytest.mark.parametrize("start", ["2024-03-27", "2024-10-23"])
@pytest.mark.parametrize("freq", ["h", "D"])
def test_clocks_that_change(start: str, freq: str, frame: pd.DataFrame) -> None:
    """Hours are equally long, days begin at midnight."""
    times = pd.date_range(start, periods=150, freq=freq, tz="Europe/Berlin")
    aware = frame.assign(ds=[*times, *times])
    forecaster = make(pattern="nlinear").fit(rows(aware, 0, 90))
    for row in range(90, 100):
        forecaster.update(rows(aware, row, row + 1))
    found = forecaster.predict()
    assert found.ds.tolist() == rows(aware, 100, 106).ds.tolist()
    assert str(found.ds.dt.tz) == "Europe/Berlin"


@pytest.mark.parametrize(
    ("zone", "name"),
    [(timezone(timedelta(hours=1), "winter"), "UTC+01:00"), (UTC, "UTC"), (tz.tzoffset("here", 3600), "UTC")],
    ids=str,
)
def test_zones_without_a_name(zone: Any, name: str, frame: pd.DataFrame) -> None:
    """What pandas cannot find again, in a saved forecaster, is kept in UTC."""
    aware = frame.assign(ds=frame.ds.dt.tz_localize("UTC").dt.tz_convert(zone))
    found = make(pattern="nlinear").fit(rows(aware, 0, 100)).predict()
    assert str(found.ds.dt.tz) == name
    assert (found.ds == rows(aware, 100, 106).ds.to_numpy()).all()


def test_the_future_may_be_in_another_zone(frame: pd.DataFrame) -> None:
    aware = frame.assign(ds=frame.ds.dt.tz_localize("UTC+01:00"), hot=np.arange(len(frame)) % 5)
    forecaster = make(covariates=("hot",)).fit(rows(aware, 0, 100))
    future = rows(aware, 100, 106)[["unique_id", "ds", "hot"]]
    moved = forecaster.predict(future=future.assign(ds=future.ds.dt.tz_convert("UTC")))
    assert moved.equals(forecaster.predict(future=future))
    with pytest.raises(UserError, match="future has times without a time zone; those before are in UTC"):
        forecaster.predict(future=future.assign(ds=future.ds.dt.tz_localize(None)))


def test_future_rows_change_no_earlier_forecast(frame: pd.DataFrame) -> None:
    """Trained and read with another future after the cutoff, every forecast up to it is the same, bit for bit."""
    other = frame.assign(y=frame.y.where(frame.groupby("unique_id").cumcount() < 120, -1e6))
    forecasts = [make().cross_validation(rows(f, 0, 126), windows=1) for f in (frame, other)]
    assert forecasts[0].xlstm.equals(forecasts[1].xlstm)
    assert not forecasts[0].y.equals(forecasts[1].y)


def test_the_state_does_not_grow(frame: pd.DataFrame) -> None:
    for pattern in ("xlstm[1:1]", "transformer"):
        forecaster = make(pattern=pattern, num_blocks=2).fit(rows(frame, 0, 100))
        size = lambda f=forecaster: [leaf.numel() for leaf in leaves([s.state for s in f.streams.values()])]  # noqa: E731
        forecaster.update(rows(frame, 100, 116))
        early = size()
        forecaster.update(rows(frame, 116, 148))
        assert size() == early


def test_intervals_of_all_rows_and_times(frame: pd.DataFrame) -> None:
    forecast = make(levels=(50, 90)).fit(frame).predict(4)
    assert forecast.columns.tolist() == ["unique_id", "ds", "xlstm", "xlstm-lo-50", "xlstm-hi-50", "xlstm-lo-90", "xlstm-hi-90"]
    assert forecast.unique_id.tolist() == ["a"] * 4 + ["b"] * 4
    assert forecast.ds.iloc[0] == frame.ds.max() + pd.Timedelta("1h")
    assert (forecast["xlstm-lo-90"] <= forecast["xlstm-lo-50"]).all()
    assert (forecast["xlstm-lo-50"] <= forecast["xlstm-hi-50"]).all()
    assert (forecast["xlstm-hi-50"] <= forecast["xlstm-hi-90"]).all()


def test_it_learns_a_season() -> None:
    frame = make_frame(rows=400)
    found = make(context=24, fit=dict(steps=150, lr=5e-3)).cross_validation(frame, windows=30, every=2)
    error = {name: (found[name] - found.y).abs().mean() for name in ("xlstm", "naive", "drift")}
    assert error["xlstm"] < 0.5 < 0.2 * error["naive"]
    inside = (found.y >= found["xlstm-lo-80"]) & (found.y <= found["xlstm-hi-80"])
    assert 0.6 < inside.mean() < 0.95


def test_cross_validation(frame: pd.DataFrame) -> None:
    found = make(season=12).cross_validation(frame, windows=3, every=2)
    assert found.columns.tolist() == ["unique_id", "ds", "cutoff", "y", *NUMBERS, "naive", "drift", "seasonal_naive"]
    assert len(found) == 3 * 2 * 6
    assert found.cutoff.nunique() == 3
    assert (found.ds > found.cutoff).all()
    last = found[found.cutoff == found.cutoff.max()].query("unique_id == 'b'")
    truth = frame.query("unique_id == 'b'").y.to_numpy()
    assert last.y.tolist() == truth[-6:].tolist()
    assert last.naive.tolist() == [truth[-7]] * 6
    assert last.seasonal_naive.tolist() == truth[-18:-12].tolist()
    refitted = make(season=12).cross_validation(frame, windows=2, every=2, refit=True)
    assert not refitted.tail(6).xlstm.equals(last.xlstm)


@pytest.mark.parametrize(("windows", "every", "refit", "most"), [(100, 1, False, 93), (3, 65, True, 2), (1, 1, False, 0)])
def test_more_windows_than_the_series_has(frame: pd.DataFrame, windows: int, every: int, refit: bool, most: int) -> None:
    short = rows(frame, 0, 27 if most == 0 else 120)
    with pytest.raises(UserError, match=f"too few to train before {windows} windows.*; at most {most} are possible"):
        make().cross_validation(short, windows=windows, every=every, refit=refit)


def test_the_largest_number_of_windows(frame: pd.DataFrame) -> None:
    short = rows(frame, 0, 40)
    found = make(pattern="nlinear", fit=dict(steps=2)).cross_validation(short, windows=13, every=1)
    assert found.cutoff.nunique() == 13
    with pytest.raises(UserError, match="at most 13 are possible"):
        make(pattern="nlinear").cross_validation(short, windows=14, every=1)


def test_saved_and_loaded(frame: pd.DataFrame, tmp_path: Path) -> None:
    forecaster = stir(make(pattern="xlstm[1:1]", num_blocks=2).fit(rows(frame, 0, 110)), rows(frame, 0, 110))
    forecaster.save(tmp_path / "f")
    again = Forecaster.load(tmp_path / "f")
    assert again.settings == forecaster.settings
    assert again.predict().equals(forecaster.predict())
    assert again.update(rows(frame, 110, 120)).predict().equals(forecaster.update(rows(frame, 110, 120)).predict())
    numbered = frame.assign(ds=frame.groupby("unique_id").cumcount())
    make(pattern="nlinear").fit(numbered).save(tmp_path / "n")
    assert Forecaster.load(tmp_path / "n").predict().ds.tolist() == [*range(150, 156)] * 2


def test_damaged_folders(frame: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no forecaster\.json here"):
        Forecaster.load(tmp_path)
    make().fit(frame).save(tmp_path)
    about = json.loads((tmp_path / "forecaster.json").read_text())
    for change, message in (({"format": 2}, "format 2, expected 1"), ({"streams": [{}]}, "damaged")):
        (tmp_path / "forecaster.json").write_text(json.dumps(about | change))
        with pytest.raises(UserError, match=message):
            Forecaster.load(tmp_path)
    (tmp_path / "forecaster.json").write_text(json.dumps(about))
    assert about.pop("files")  # folders were written without them before
    (tmp_path / "forecaster.json").write_text(json.dumps(about))
    (tmp_path / "streams.safetensors").write_bytes(b"short")
    with pytest.raises(UserError, match=r"streams\.safetensors: cannot read it"):
        Forecaster.load(tmp_path)


def test_halves_of_two_states_are_refused(frame: pd.DataFrame, tmp_path: Path) -> None:
    """What is left where the disk is full when a folder is saved again: every file is whole, the folder is not."""
    forecaster = make(fit=dict(steps=2)).fit(rows(frame, 0, 100))
    forecaster.save(tmp_path)
    before = (tmp_path / "forecaster.json").read_text()
    forecaster.update(rows(frame, 100, 101)).save(tmp_path)
    assert Forecaster.load(tmp_path).predict().equals(forecaster.predict())
    (tmp_path / "forecaster.json").write_text(before)
    with pytest.raises(UserError, match=r"streams\.safetensors: is not the file that forecaster\.json was written with"):
        Forecaster.load(tmp_path)
    make(fit=dict(steps=2, seed=1)).fit(rows(frame, 0, 100)).model.save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match=r"model\.safetensors: is not the file that forecaster\.json was written with"):
        Forecaster.load(tmp_path)
    old = json.loads(before)
    del old["files"]
    (tmp_path / "forecaster.json").write_text(json.dumps(old))
    Forecaster.load(tmp_path)


def test_steps_of_months_in_files() -> None:
    """Folders from before `Step.day` go by the last row, as they did."""
    for day, last, old in ((0, "2023-02-27", 0), (31, "2023-02-28", 31), (30, "2023-02-28", 31), (0, "2023-02-28", 31)):
        written = step_to_json(Step(1, months=True, day=day))
        assert step_of(written, [last]).day == day
        del written["day"]
        assert step_of(written, [last, "2023-04-30"]).day == old
    assert step_of(step_to_json(Step(3)), [7]) == Step(3)


def test_rows_that_do_not_follow(frame: pd.DataFrame) -> None:
    forecaster = make().fit(rows(frame, 0, 100))
    before = forecaster.predict()
    for wrong, message in (
        (rows(frame, 101, 102), "expected a row of 2024-01-05 04:00:00, got 2024-01-05 05:00:00"),
        (rows(frame, 99, 100), "a row of 2024-01-05 03:00:00 comes too late"),
        (rows(frame, 100, 110).assign(unique_id="new"), "not sorted"),
        (rows(frame, 100, 110).query("unique_id == 'a'").assign(unique_id="new"), "'new' is new and begins with 10 rows"),
        (rows(frame, 100, 102).assign(y=np.nan), "'y' has no value"),
        (rows(frame, 100, 104).iloc[::2], "expected a row of 2024-01-05 05:00:00, got 2024-01-05 06:00:00"),
    ):
        with pytest.raises(UserError, match=message):
            forecaster.update(wrong)
        assert forecaster.predict().equals(before)


def test_numbers_that_are_no_readings(frame: pd.DataFrame) -> None:
    frame = rows(frame, 0, 60).assign(holiday=1.0 * (np.arange(120) % 2), size=1.0)
    forecaster = make(covariates=("holiday",), static=("size",), fit=dict(steps=2)).fit(rows(frame, 0, 50))
    new, future = rows(frame, 50, 52), rows(frame, 50, 56)
    before = forecaster.predict(future=future)
    for column, message in (
        ("y", "'a': 9.96921e.36 at 2024-01-03 03:00:00 is more than 1e.12 deviations from the mean"),
        ("holiday", "'holiday': 9.96921e.36 at 2024-01-03 03:00:00"),
    ):
        wrong = new.copy()
        wrong.loc[wrong.index[1], column] = 9.96921e36
        with pytest.raises(UserError, match=message):
            forecaster.update(wrong)
        assert forecaster.predict(future=future).equals(before)
    with pytest.raises(UserError, match=r"'size': 9\.96921e\+36 at 2024-01-03 02:00:00"):
        forecaster.update(new.assign(size=9.96921e36))
    with pytest.raises(UserError, match=r"'holiday': 1e\+22 at 2024-01-03 02:00:00"):
        forecaster.predict(future=future.assign(holiday=1e22))
    frame.loc[20, "y"] = 1e200
    with pytest.raises(UserError, match=r"'a': 1e\+200 at 2024-01-01 20:00:00"):
        make(covariates=("holiday",), static=("size",)).fit(frame)


def test_times_of_another_kind(frame: pd.DataFrame) -> None:
    part = rows(frame, 0, 60).assign(holiday=0.0)
    numbered = part.assign(ds=part.groupby("unique_id").cumcount())
    for first, second, kind in ((part, numbered, "dates"), (numbered, part, "whole numbers")):
        forecaster = make(covariates=("holiday",), steps="rows", fit=dict(steps=2)).fit(rows(first, 0, 50))
        for wrong in (
            lambda f=forecaster, new=second: f.update(rows(new, 50, 52)),
            lambda f=forecaster, new=second: f.update(new.assign(unique_id="new").iloc[:60]),
            lambda f=forecaster, new=second, known=first: f.predict(data=new, future=rows(known, 50, 56)),
            lambda f=forecaster, new=second: f.predict(future=rows(new, 50, 56)),
        ):
            with pytest.raises(UserError, match=f"a row has the time .*; the times of the rows before are {kind}"):
                wrong()


def test_new_series_and_their_unit(frame: pd.DataFrame) -> None:
    forecaster = stir(make().fit(rows(frame, 0, 100)), rows(frame, 0, 100))
    new = make_frame(rows=60, names="c", seed=3).assign(y=lambda f: 1e4 * f.y)
    forecaster.update(rows(new, 0, 30)).update(rows(new, 30, 60))
    here = forecaster.predict()
    assert here.unique_id.unique().tolist() == ["a", "b", "c"]
    assert_same(here.query("unique_id == 'c'").reset_index(drop=True), anew(forecaster, new), unit=4e4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"horizon": 0}, "horizon must be at least 1"),
        ({"horizon": 4, "pattern": "gru"}, "unknown block 'gru'"),
        ({"horizon": 4, "levels": (120,)}, "levels must be percentages"),
        ({"horizon": 4, "steps": "days"}, "steps must be one of equal, rows"),
        ({"horizon": 4, "pattern": "nlinear", "missing": True}, "reads neither covariates"),
        ({"horizon": 4, "pattern": "nlinear", "num_parameters": 9}, "has no widths to bring to num_parameters=9"),
        ({"horizont": 4}, "needs a horizon"),
        ({"horizon": 4, "width": 4}, "unexpected keyword argument 'width'; have horizon"),
    ],
    ids=str,
)
def test_wrong_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Forecaster(**settings)


@pytest.mark.parametrize("settings", [ForecasterSettings(horizon=6, dim=32), DetectorSettings()], ids=type)
def test_twins_of_equal_parameters(settings: Any) -> None:
    of = lambda settings: count_parameters(settings.model_config(200))  # noqa: E731
    target = of(settings)
    others = [replace(settings, pattern=pattern) for pattern in ("lstm", "mlstm", "transformer")]
    assert max(abs(of(other) / target - 1) for other in others) > 0.01
    for other in others:
        assert abs(of(replace(other, num_parameters=target)) / target - 1) <= 0.01, other.pattern


@pytest.mark.parametrize("pattern", ["slstm", "nlinear"])
def test_devices_that_cannot_be_used(pattern: str, frame: pd.DataFrame) -> None:
    with pytest.raises(UserError, match="device 'cuda:77' cannot be used here"):
        Forecaster(horizon=4, context=24, pattern=pattern, device="cuda:77").fit(frame)


def test_wrong_calls(frame: pd.DataFrame) -> None:
    with pytest.raises(UserError, match="not fitted"):
        make().predict()
    with pytest.raises(UserError, match="series 'a' has 20 rows; a horizon of 6 with 6 rows held out needs at least 22"):
        make().fit(rows(frame, 0, 20))
    forecaster = make().fit(frame)
    with pytest.raises(UserError, match="h must be from 1 to the horizon of 6"):
        forecaster.predict(7)
    with pytest.raises(UserError, match="has no covariates"):
        forecaster.predict(future=frame)
    assert isinstance(forecaster.settings, ForecasterSettings)


def test_a_failed_fit_keeps_what_was_trained_before(frame: pd.DataFrame) -> None:
    forecaster = make().fit(frame)
    before = forecaster.predict()

    def stop(line: str) -> None:
        raise KeyboardInterrupt

    for larger in (frame.assign(y=frame.y * 1000), rows(frame, 0, 60)):
        with pytest.raises(KeyboardInterrupt):
            forecaster.fit(larger, say=stop)
        pd.testing.assert_frame_equal(forecaster.predict(), before)


def test_the_same_seed_gives_the_same_forecaster(frame: pd.DataFrame) -> None:
    first, torch_state = make().fit(frame).predict(), torch.random.get_rng_state()
    assert make().fit(frame).predict().equals(first)
    assert not make(fit=dict(seed=1)).fit(frame).predict().equals(first)
    assert torch.equal(torch.random.get_rng_state(), torch_state)  # the caller's generator is left alone


def test_figure(frame: pd.DataFrame, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    make().fit(frame).plot(tmp_path / "f.png")
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")
