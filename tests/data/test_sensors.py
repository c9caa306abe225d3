"""Files of sensors: what is read, and that each mistake names file, line and reason."""

import json

import numpy as np
import pytest

from openxlstm.data.sensors import read_engines, read_remaining, read_ts
from openxlstm.data.sensors.anomalies import read_nab, read_stamped
from openxlstm.errors import UserError

ENGINES = [(1, 1), (1, 2), (1, 3), (7, 1), (7, 2)]


def engine_line(unit, cycle, **changes):
    cells = [str(unit), str(cycle), *(f"{unit}.{cycle}{number:02}" for number in range(24))]
    for place, cell in changes.items():
        cells[int(place[1:])] = cell
    return " ".join(cells) + "  "


def write(path, lines):
    path.write_text("\n".join(lines) + "\n")
    return path


def test_engines(tmp_path):
    found = read_engines(write(tmp_path / "train.txt", [engine_line(*one) for one in ENGINES]))
    assert [(engine.unit, engine.rows.shape) for engine in found] == [(1, (3, 24)), (7, (2, 24))]
    assert found[1].rows[1].tolist() == [float(f"7.2{number:02}") for number in range(24)]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({1: engine_line(1, 3)}, "line 2: unit 1 goes from cycle 1 to 3: cycle 2 of it is missing"),
        ({1: engine_line(1, 5)}, "line 2: unit 1 goes from cycle 1 to 5: cycles 2 to 4 of it are missing"),
        ({0: engine_line(1, 2)}, "line 1: unit 1 goes from cycle 0 to 2: cycle 1 of it is missing"),
        ({1: engine_line(1, 1)}, "line 2: cycle 1 of unit 1 is there twice"),
        ({2: engine_line(1, 1)}, "line 3: not sorted: cycle 1 of unit 1 comes after cycle 2"),
        ({4: engine_line(1, 4)}, "line 5: unit 1 comes back after unit 7"),
        ({3: engine_line(7, 1, c5="x")}, "line 4: sensor 1 is 'x', which is not a number"),
        ({3: engine_line(7, 1, c2="nan")}, "line 4: setting 1 is nan; it must be a finite number"),
        ({2: "1 3 0.5"}, "line 3: 3 columns, expected 26"),
        ({2: ""}, "line 3: 0 columns, expected 26"),
        ({2: engine_line(1, "3.5")}, "line 3: the cycle is 3.5; it must be a whole number"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_malformed_engines(tmp_path, changed, message):
    lines = [changed.get(number, engine_line(*one)) for number, one in enumerate(ENGINES)]
    with pytest.raises(UserError) as error:
        read_engines(write(tmp_path / "train.txt", lines))
    assert str(error.value).startswith(f"{tmp_path / 'train.txt'}, {message}")


def test_remaining_life(tmp_path):
    file = write(tmp_path / "RUL.txt", ["112 ", "0"])
    assert read_remaining(file, 2).tolist() == [112, 0]
    with pytest.raises(UserError, match="2 lines, but the test file has 3 engines"):
        read_remaining(file, 3)
    with pytest.raises(UserError, match=r"line 2: the remaining life is -1; it must be a whole number of at least 0"):
        read_remaining(write(file, ["1", "-1"]), 2)
    with pytest.raises(UserError, match="no such file"):
        read_remaining(tmp_path / "none.txt", 2)


HEADER = ["# a comment", "@problemName Toy", "@timeStamps false", "@classLabel true Up Down", "@data"]


def test_recordings_of_any_length_with_missing_values(tmp_path):
    header = [*HEADER[:3], "@missing true", "@equalLength false", "@dimensions 2", *HEADER[3:]]
    found = read_ts(write(tmp_path / "a.ts", [*header, "1,2,3:4,?,6:Down", "7:8: Up"]))
    assert (found.name, found.classes, found.labels.tolist()) == ("Toy", ("Up", "Down"), [1, 0])
    np.testing.assert_equal(found.values[0], [[1, 4], [2, np.nan], [3, 6]])
    np.testing.assert_equal(found.values[1], [[7, 8]])


@pytest.mark.parametrize(
    ("extra", "cases", "message"),
    [
        ([], ["1,2:Up", "1,x:Up"], "line 7: step 2 of channel 1 is 'x', which is not a number"),
        ([], ["1,2:Up", "1,?:Up"], "line 7: step 2 of channel 1 is missing ('?'), but the header does not say '@missing true'"),
        ([], ["1,2:Up", "1,nan:Up"], "line 7: step 2 of channel 1 is nan; it must be a finite number"),
        ([], ["1,2:3:Up"], "line 6: channel 2 has 1 steps, channel 1 has 2"),
        ([], ["1,2:3,4:Up", "1,2:Up"], "line 7: 1 channels, the case before has 2"),
        ([], ["1,2:Left"], "line 6: the label is 'Left', the header has Up, Down"),
        ([], ["1,2"], "line 6: the label is '1,2', the header has Up, Down"),
        ([], ["1,,2:Up"], "line 6: step 2 of channel 1 is '', which is not a number"),
        ([], ["1,2:Up", "", "1,2:Up"], "line 7: the label is ''"),
        (["@dimensions 3"], ["1:2:Up"], "line 7: 2 channels before the label, the header says 3"),
        (["@univariate true"], ["1:2:Up"], "line 7: 2 channels before the label, the header says 1"),
        (["@equalLength true"], ["1,2:Up", "1:Up"], "line 8: 1 steps, expected 2 as the header says @equalLength true"),
        (["@equalLength true", "@seriesLength 3"], ["1,2:Up"], "line 8: 2 steps, expected 3"),
        (["@timeStamps true"], ["1:Up"], "line 1: files with @timestamps true are not read"),
        (["@seriesLength many"], ["1:Up"], "line 1: @serieslength is 'many', which is not a number"),
        (["@length 3"], ["1:Up"], "line 1: unknown line @length in the header"),
        (["1,2:Up"], ["1:Up"], "line 1: expected a line that begins with @ or #"),
        ([], [], "no case after @data"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_malformed_recordings(tmp_path, extra, cases, message):
    file = write(tmp_path / "a.ts", [*extra, *HEADER, *cases])
    with pytest.raises(UserError) as error:
        read_ts(file)
    assert str(error.value).startswith(str(file))
    assert message in str(error.value)


def test_recordings_without_header_or_data(tmp_path):
    with pytest.raises(UserError, match="line 1: the header has no '@classLabel true'"):
        read_ts(write(tmp_path / "a.ts", ["@data", "1:Up"]))
    with pytest.raises(UserError, match="no line @data"):
        read_ts(write(tmp_path / "a.ts", HEADER[:-1]))
    with pytest.raises(UserError, match="line 1: a label is listed twice"):
        read_ts(write(tmp_path / "a.ts", ["@classLabel true Up Up"]))


def stamps(count):
    return [f"2014-01-01 {row // 12:02}:{row % 12 * 5:02}:00" for row in range(count)]


def write_nab(folder, rows, windows):
    (folder / "data" / "one").mkdir(parents=True)
    (folder / "labels").mkdir()
    write(folder / "data" / "one" / "a.csv", ["timestamp,value", *rows])
    (folder / "labels" / "combined_windows.json").write_text(json.dumps({"one/a.csv": windows}))
    return folder


def test_nab(tmp_path):
    times = stamps(30)
    write_nab(
        tmp_path,
        [f"{time},{row}" for row, time in enumerate(times)],
        [[times[4], times[9] + ".000000"], [times[20], times[20]]],
    )
    (found,) = read_nab(tmp_path)
    assert (found.name, found.windows, found.oddities) == ("one/a.csv", ((4, 9), (20, 20)), "")
    assert found.values.tolist() == list(range(30))
    for name in ("data/one/a.csv", "labels/combined_windows.json"):
        (tmp_path / name).write_text("\ufeff" + (tmp_path / name).read_text())  # as some editors write UTF-8
    assert read_nab(tmp_path)[0].windows == found.windows


@pytest.mark.parametrize(
    ("order", "strict", "said"),
    [
        ([0, 1, 2, 2, 3], "line 5: the time 2014-01-01 00:10:00 is there twice", "1 doubled; first in line 5"),
        ([0, 1, 2, 3, 5], "line 6: 1 rows are missing between", "1 out of step; first in line 6"),
        ([0, 1, 2, 1, 2], "line 5: not sorted", "1 going back; first in line 5"),
    ],
)
def test_irregular_stamps_are_refused_unless_allowed_and_then_told(tmp_path, order, strict, said):
    times = stamps(6)
    write_nab(tmp_path, [f"{times[row]},1" for row in order], [])
    with pytest.raises(UserError, match=rf"a\.csv, {strict}"):
        read_nab(tmp_path)
    (found,) = read_nab(tmp_path, irregular=True)
    assert len(found.values) == len(order)
    assert found.oddities.startswith(said)


@pytest.mark.parametrize(
    ("windows", "message"),
    [
        (
            [["2014-01-01 00:00:00", "2014-01-01 00:07:00"]],
            r"window 1 of 'one/a\.csv': the series has no row of 2014-01-01 00:07:00",
        ),
        ([["2014-01-01 00:20:00", "2014-01-01 00:10:00"]], "no row of 2014-01-01 00:10:00 behind its beginning"),
        ([["2014-01-01 00:00:00", "2014-01-01 00:10:00"]] * 2, "window 2 of .*: it begins before the window before it ends"),
        ([["yesterday", "2014-01-01 00:10:00"]], "'yesterday' is not a time"),
        (["2014-01-01 00:00:00"], "must have a list of windows, each a list of two stamps"),
    ],
)
def test_malformed_windows(tmp_path, windows, message):
    write_nab(tmp_path, [f"{time},1" for time in stamps(6)], windows)
    with pytest.raises(UserError, match=message):
        read_nab(tmp_path)


def test_files_and_labels_belong_together(tmp_path):
    write_nab(tmp_path, [f"{time},1" for time in stamps(3)], [])
    write(tmp_path / "data" / "one" / "b.csv", ["timestamp,value", "2014-01-01,1"])
    with pytest.raises(UserError, match=r"b\.csv: labels/combined_windows\.json says nothing of this file"):
        read_nab(tmp_path)
    (tmp_path / "data" / "one" / "b.csv").unlink()
    (tmp_path / "data" / "one" / "a.csv").unlink()
    with pytest.raises(FileNotFoundError):
        read_nab(tmp_path)
    with pytest.raises(UserError, match="expected a folder with data/"):
        read_nab(tmp_path / "data")


def test_text_in_a_column_of_numbers(tmp_path):
    file = write(tmp_path / "a.csv", ["timestamp,value,more", "2014-01-01,1,x", "2014-01-02,high,2"])
    with pytest.raises(UserError, match=r"a\.csv, line 3: 'value' is 'high', which is not a number"):
        read_stamped(file)
    with pytest.raises(UserError, match=r"a\.csv, line 2: 'more' is 'x', which is not a number"):
        read_stamped(file, value="more")


def test_a_file_without_a_header(tmp_path):
    with pytest.raises(UserError, match=r"a\.csv, line 1: 2014-01-01,1\.5 is no header; the first line must name the columns"):
        read_stamped(write(tmp_path / "a.csv", ["2014-01-01,1.5", "2014-01-02,2"]))
