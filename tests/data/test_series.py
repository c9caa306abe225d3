"""Series from files and frames: what is read, and every way in which a file can be refused."""

import gzip
import re

import numpy as np
import pandas as pd
import pytest

from openxlstm.data.series import Step, from_frame, future_panel, read_series, spell, spell_all, too_far
from openxlstm.data.zone import UTC
from openxlstm.errors import UserError


@pytest.fixture
def file(tmp_path):
    def write(text, name="data.csv", encoding="utf-8"):
        path = tmp_path / name
        path.write_bytes(gzip.compress(text.encode(encoding)) if name.endswith(".gz") else text.encode(encoding))
        return path

    return write


def wide(*rows):
    return "date,a,b\n" + "".join(f"{row}\n" for row in rows)


GOOD = wide("2024-01-01 00:00,1,10", "2024-01-01 01:00,2,20", "2024-01-01 02:00,3,30")


@pytest.mark.parametrize("name", ["data.csv", "data.csv.gz"])
def test_a_wide_file(file, name):
    panel = read_series(file(GOOD, name))
    assert panel.names == ("a", "b")
    assert str(panel.step) == "1 hour"
    assert panel.step.season == 24
    assert panel.series[1].values.tolist() == [10, 20, 30]
    assert str(panel.step.after(panel.series[0].times[-1], 2)[1]).startswith("2024-01-01T04:00:00")


def test_columns_are_chosen(file):
    panel = read_series(file(GOOD), targets=["b"], covariates=["a"])
    assert panel.names == ("b",)
    assert panel.series[0].covariates.tolist() == [[1], [2], [3]]


def test_a_long_file(file):
    text = "unique_id,ds,y,kind,holiday\nx,1,5,7,0\nz,4,6,8,1\nx,2,5.5,7,0\nz,5,7,8,0\n"
    panel = read_series(file(text), static=["kind"], covariates=["holiday"])
    assert panel.names == ("x", "z")
    assert panel.series[0].values.tolist() == [5, 5.5]
    assert panel.series[1].times.tolist() == [4, 5]
    assert panel.series[1].static.tolist() == [8]
    assert panel.series[1].covariates.tolist() == [[1], [0]]


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        (wide("2024-01-01,1,1", "2024-01-02,x,1"), 3, "'a' is 'x', which is not a number"),
        (wide("2024-01-01,1,1", "2024-01-02,inf,1"), 3, "'a' is infinite"),
        (wide("2024-01-01,1,1", "2024-01-02,,1"), 3, "'a' has no value (1 such rows)"),
        (wide("2024-01-01,1,1", "2024-01-02,nan,1"), 3, "'a' has no value"),
        (wide("2024-01-01,1,1", "soon,1,1"), 3, "'date' is 'soon', which is not a time"),
        (wide("2024-01-01,1,1", "2024-01-02,1"), 3, "2 cells, but the header names 3 columns"),
        (wide("2024-01-01,1,1", "", "2024-01-02,1,1"), 3, "0 cells, but the header names 3 columns"),
        (wide("2024-01-01,1,1", "2024-01-02,1,1", "2024-01-02,1,1"), 4, "the time 2024-01-02 is there twice"),
        (wide("2024-01-01,1,1", "2024-01-03,1,1", "2024-01-02,1,1"), 4, "not sorted: 2024-01-02 comes after 2024-01-03"),
        (
            wide(*(f"2024-01-{day:02},1,1" for day in (1, 2, 3, 6, 7))),
            5,
            "2 rows are missing between 2024-01-03 and 2024-01-06",
        ),
        (
            wide("2024-01-01 00:00,1,1", "2024-01-01 02:00,1,1", "2024-01-01 04:00,1,1", "2024-01-01 05:00,1,1"),
            5,
            "mixed frequencies: 1 hour after the row before, elsewhere 2 hours",
        ),
        ("date,a,a\n2024-01-01,1,1\n", 1, "two columns are named 'a'"),
        (wide("1,1,1", "12345678901234567890,1,1"), 3, "'date' is 12345678901234567890; a time is a date or a whole number"),
        (
            wide("2024-03-31 01:00+01:00,1,1", "2024-03-31 03:00+02:00,1,1", "2024-03-31 04:00,1,1"),
            4,
            "'date' is '2024-03-31 04:00', without a time zone, unlike other rows",
        ),
        (wide("2024-03-31 01:00+01:00,1,1", "soon,1,1", "2024-03-31 03:00+02:00,1,1"), 3, "'date' is 'soon', which is not a"),
        (wide("13/01/2024,1,1", "14/01/2024,1,1", "soon,1,1"), 4, "'date' is 'soon', which is not a time like those before"),
    ],
    ids=lambda x: x if isinstance(x, str) and "\n" not in x else "",
)
def test_what_is_wrong_is_named_with_its_line(file, text, line, reason):
    path = file(text)
    with pytest.raises(UserError) as error:
        read_series(path)
    assert f"{path}, line {line}: {reason}" in str(error.value)
    assert "\n" not in str(error.value)


def test_an_offset_that_changes_is_read_in_utc(file):
    hours = ("2024-03-31 00:00+01:00", "2024-03-31 01:00+01:00", "2024-03-31 03:00+02:00", "2024-03-31 04:00+02:00")
    panel = read_series(file(wide(*(f"{hour},1,1" for hour in hours))))
    assert panel.zone == UTC
    expected = np.datetime64("2024-03-30T23:00") + np.arange(4) * np.timedelta64(1, "h")
    assert np.array_equal(panel.series[0].times, expected)
    # which number is the day is the same in all rows
    days = ("29/03/2024 00:00+01:00", "30/03/2024 00:00+01:00", "31/03/2024 00:00+01:00", "01/04/2024 01:00+02:00")
    panel = read_series(file(wide(*(f"{day},1,1" for day in days))))
    assert np.array_equal(panel.series[0].times, np.datetime64("2024-03-28T23:00") + np.arange(4) * np.timedelta64(1, "D"))


def test_other_refusals(file):
    with pytest.raises(UserError, match="no column 'c'; have date, a, b"):
        read_series(file(GOOD), targets=["c"])
    with pytest.raises(UserError, match="no column 'when'"):
        read_series(file(GOOD), time="when")
    with pytest.raises(UserError, match="it is empty"):
        read_series(file(""))
    with pytest.raises(UserError, match="no rows after the header"):
        read_series(file("date,a\n"))
    with pytest.raises(UserError, match="static columns need a long file"):
        read_series(file(GOOD), static=["b"])
    with pytest.raises(UserError, match="not utf-8"):
        read_series(file(GOOD.replace("a", "µ"), encoding="latin-1"))
    assert read_series(file(GOOD.replace("a,", "µ,"), encoding="latin-1"), encoding="latin-1").names == ("µ", "b")
    with pytest.raises(UserError, match="mixed frequencies: 'z' has a row every 2, others every 1"):
        read_series(file("unique_id,ds,y\nx,1,1\nx,2,1\nz,1,1\nz,3,1\n"))
    with pytest.raises(UserError, match="the static columns of 'x' change"):
        read_series(file("unique_id,ds,y,s\nx,1,1,1\nx,2,1,2\n"), static=["s"])
    with pytest.raises(FileNotFoundError):
        read_series("no-such-file.csv")


def test_a_mark_of_utf_8_is_no_part_of_a_name(file):
    for encoding in ("utf-8", "UTF8"):
        assert read_series(file("\ufeff" + GOOD), time="date", encoding=encoding).names == ("a", "b")


def test_the_day_may_come_first(file, capfd):
    panel = read_series(file(wide("13/01/2024,1,1", "14/01/2024,1,1")))
    assert spell(panel.series[0].times[0]) == "2024-01-13"
    assert capfd.readouterr().err == ""


def test_a_damaged_gz(file):
    path = file(GOOD * 50, "data.csv.gz")
    content = bytearray(path.read_bytes())
    content[20:40] = bytes(range(20))
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"data\.csv\.gz: "):
        read_series(path)


@pytest.mark.parametrize(("times", "bad"), [([0.5, 1.5], 0.5), ([1.0, np.inf], "inf"), ([1.0, 1e19], 1e19)])
def test_times_that_are_no_whole_numbers(times, bad):
    frame = pd.DataFrame({"unique_id": "x", "ds": times, "y": 1.0})
    with pytest.raises(UserError, match=rf"'ds' is {re.escape(str(bad))}; a time is a date or a whole number of 64 bits"):
        from_frame(frame)
    assert from_frame(frame.assign(ds=[3.0, 4.0])).series[0].times.tolist() == [3, 4]


def test_times_of_a_column_are_spelled_alike():
    start = np.datetime64("2024-01-01", "ns")
    for step, expected in (
        (np.timedelta64(1, "D"), ["2024-01-01", "2024-01-02"]),
        (np.timedelta64(1, "h"), ["2024-01-01 00:00:00", "2024-01-01 01:00:00"]),
        (np.timedelta64(100, "ms"), ["2024-01-01 00:00:00.000", "2024-01-01 00:00:00.100"]),
        (np.timedelta64(7, "ns"), ["2024-01-01 00:00:00.000000000", "2024-01-01 00:00:00.000000007"]),
    ):
        assert spell_all(start + step * np.arange(2)) == expected
    assert spell(start + np.timedelta64(100, "ms")) == "2024-01-01 00:00:00.100"
    assert spell_all(np.array([3, 40])) == ["3", "40"]
    assert spell(np.int64(7)) == spell(7) == "7"


def test_missing_values_where_they_are_allowed(file):
    panel = read_series(file(wide("2024-01-01,1,1", "2024-01-02,,1")), missing=True)
    assert np.isnan(panel.series[0].values).tolist() == [False, True]


def test_trading_days(file):
    days = ("2024-01-04", "2024-01-05", "2024-01-08", "2024-01-09", "2024-01-10", "2024-01-12")  # a Thursday is missing
    path = file("day,close\n" + "".join(f"{day},1\n" for day in days))
    with pytest.raises(UserError, match="rows are missing"):
        read_series(path)
    step = read_series(path, steps="rows").step
    assert (step.weekdays, step.season) == (True, 5)
    assert np.datetime_as_string(step.after(np.datetime64("2024-01-12", "ns"), 2), "D").tolist() == ["2024-01-15", "2024-01-16"]
    assert np.datetime_as_string(step.before(np.datetime64("2024-01-08", "ns"), 2), "D").tolist() == [
        "2024-01-05",
        "2024-01-08",
    ]


@pytest.mark.parametrize(
    ("days", "then"),
    [
        (["2023-11-01", "2023-12-01", "2024-01-01"], ["2024-02-01", "2024-03-01"]),
        (["2023-11-30", "2023-12-31", "2024-01-31"], ["2024-02-29", "2024-03-31"]),
        (["2023-07-01", "2023-10-01", "2024-01-01"], ["2024-04-01", "2024-07-01"]),
        (["2022-12-28", "2023-01-28", "2023-02-28"], ["2023-03-28", "2023-04-28"]),
        (["2023-04-30", "2023-05-30", "2023-06-30"], ["2023-07-30", "2023-08-30"]),
        (["2022-12-30", "2023-01-30", "2023-02-28"], ["2023-03-30", "2023-04-30"]),
        (["2023-12-29", "2024-01-29", "2024-02-29"], ["2024-03-29", "2024-04-29"]),
    ],
)
def test_months(file, days, then):
    panel = read_series(file("month,a\n" + "".join(f"{day},1\n" for day in days)))
    assert panel.step.months
    assert np.datetime_as_string(panel.step.after(panel.series[0].times[-1], 2), "D").tolist() == then
    assert np.datetime_as_string(panel.step.before(panel.series[0].times[-1], 3), "D").tolist() == days


def test_days_of_months_that_are_mixed_are_refused(file):
    text = "".join(f"a,2024-0{month}-01,1\n" for month in (1, 2, 3)) + "b,2024-01-31,1\nb,2024-02-29,1\nb,2024-03-31,1\n"
    with pytest.raises(UserError, match="'b' has a row every 1 month on its last day, others every 1 month"):
        read_series(file("unique_id,ds,y\n" + text))
    several = text.replace("-31,", "-15,").replace("-29,", "-15,")
    assert read_series(file("unique_id,ds,y\n" + several)).step == Step(1, months=True)


def test_seasons():
    minutes = lambda n: Step(np.timedelta64(n, "m").astype("timedelta64[ns]"))  # noqa: E731
    assert [minutes(n).season for n in (10, 15, 60, 1440, 7 * 60)] == [144, 96, 24, 7, 1]
    assert [Step(n, months=True).season for n in (1, 3, 5)] == [12, 4, 1]
    assert Step(1).season == 1


def test_frames():
    frame = pd.DataFrame({"unique_id": [1, 1], "ds": pd.to_datetime(["2024-01-01", "2024-01-02"]), "y": [1, 2]})
    panel = from_frame(frame)
    assert panel.names == ("1",)
    with pytest.raises(UserError, match="the frame, row 1: the time 2024-01-01 is there twice"):
        from_frame(frame.assign(ds=frame["ds"].iloc[0]))
    with pytest.raises(UserError, match="no column 'y'"):
        from_frame(frame.drop(columns="y"))
    with pytest.raises(UserError, match="expected a pandas DataFrame"):
        from_frame([1, 2])
    with pytest.raises(UserError, match=r"row 0: 'y' is None, which|'y' has no value"):
        from_frame(frame.assign(y=[None, 1.0]))


def test_numbers_that_are_no_readings():
    x = np.array([[1.0, np.nan], [9.96921e36, 2.0], [-3.0, 1e200]])
    assert too_far(x, np.zeros(2), np.ones(2)).tolist() == [[1, 0], [2, 1]]
    assert too_far(x, np.zeros(2), np.array([1e36, np.inf])).tolist() == [[2, 1]]
    assert too_far(x[:0], np.zeros(2), np.array([np.inf, 1.0])).tolist() == []


def test_rows_to_come(file):
    panel = future_panel(file("date,holiday\n2024-01-03,1\n2024-01-04,0\n"), ["a", "b"], ["holiday"])
    assert panel.names == ("a", "b")
    assert panel.series[1].covariates.tolist() == [[1], [0]]
