"""`openxlstm forecast`: files, table, and each mistake in one line."""

import json

import numpy as np
import pytest

from openxlstm.cli import main as cli

QUICK = ["--horizon", "4", "--context", "12", "--train-steps", "10", "--dim", "16", "--threads", "1"]

DAY = [*QUICK, "--target", "load", "--covariates", "day"]


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    lines = [f"2024-01-{1 + i // 24:02} {i % 24:02}:00,{10 + i % 6 + rng.normal():.3f},{i % 7}" for i in range(130)]
    (tmp_path / "all.csv").write_text("\n".join(["date,load,day", *lines]) + "\n")
    (tmp_path / "data.csv").write_text("\n".join(["date,load,day", *lines[:120]]) + "\n")
    (tmp_path / "next.csv").write_text("\n".join(["date,load,day", *lines[120:126]]) + "\n")
    (tmp_path / "after.csv").write_text("\n".join(["date,load,day", *lines[126:130]]) + "\n")
    return tmp_path


def test_forecast_table_and_files(file, capsys):
    assert cli.main(["forecast", "data.csv", *QUICK, "--target", "load", "--check", "2"]) == 0
    shown = capsys.readouterr()
    assert "seasonal_naive" in shown.err
    lines = (file / "forecast.csv").read_text().splitlines()
    assert lines[0] == "unique_id,ds,xlstm,xlstm-lo-80,xlstm-hi-80"
    assert len(lines) == 5
    assert lines[1].startswith("load,2024-01-06 00:00:00,")
    assert len(shown.out.splitlines()) == 5
    assert (file / "forecast.png").read_bytes().startswith(b"\x89PNG")


def test_going_on_from_a_saved_forecaster(file, capsys):
    first = ["forecast", "data.csv", *DAY, "--no-figure", "--save", "shop"]
    assert cli.main([*first, "--future", "next.csv"]) == 0
    assert cli.main(["forecast", "next.csv", "--load", "shop", "--future", "after.csv", "--no-figure", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.partition("[")[2].join(["[", ""]))
    assert [row["unique_id"] for row in found] == ["load"] * 4
    assert found[0]["ds"] == "2024-01-06T06:00:00"
    assert cli.main(["forecast", "next.csv", "--load", "shop", "--no-figure"]) == 2
    assert "give --future" in capsys.readouterr().err


def test_a_saved_forecaster_reads_the_columns_that_it_knows(file):
    first = ["forecast", "data.csv", *QUICK, "--model", "nlinear", "--target", "load", "--no-figure"]
    assert cli.main([*first, "--save", "shop"]) == 0
    assert cli.main(["forecast", "next.csv", "--load", "shop", "--no-figure"]) == 0
    assert {line.split(",")[0] for line in (file / "forecast.csv").read_text().splitlines()[1:]} == {"load"}


def test_times_keep_their_offset(file, capsys):
    def offset(name):
        head, *lines = (file / name).read_text().splitlines()
        (file / name).write_text("\n".join([head, *(line.replace(":00,", ":00+01:00,") for line in lines)]) + "\n")

    for name in ("data.csv", "next.csv"):
        offset(name)
    first = ["forecast", "data.csv", *DAY, "--no-figure", "--save", "shop"]
    assert cli.main([*first, "--future", "after.csv"]) == 2
    assert "after.csv has times without a time zone; those before are in UTC+01:00" in capsys.readouterr().err
    assert cli.main([*first, "--future", "next.csv", "--json"]) == 0
    assert '"2024-01-06T00:00:00+01:00"' in capsys.readouterr().out
    assert (file / "forecast.csv").read_text().splitlines()[1].startswith("load,2024-01-06 00:00:00+01:00,")


def test_names_are_no_formulas_and_the_model_is_kept_first(file):
    (file / "shop.csv").write_text((file / "data.csv").read_text().replace("load", "cost_$_per_$^"))
    words = ["forecast", "shop.csv", *QUICK, "--model", "nlinear", "--target", "cost_$_per_$^"]
    assert cli.main(words) == 0
    assert (file / "forecast.png").read_bytes().startswith(b"\x89PNG")

    assert cli.main([*words, "--save", "shop", "--out", "shop.csv/forecast.csv"]) == 2
    assert (file / "shop" / "forecaster.json").exists()


def test_small_numbers_in_json(file, capsys):
    rows = (file / "data.csv").read_text().splitlines()
    small = [f"{time},{float(load) * 1e-13}" for time, load, _ in (row.split(",") for row in rows[1:])]
    (file / "small.csv").write_text("\n".join(["date,load", *small]))
    words = ["forecast", "small.csv", *QUICK, "--model", "nlinear", "--no-figure", "--json"]
    assert cli.main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert all(5e-13 < row["xlstm"] < 3e-12 for row in found)
    assert all(row["xlstm-lo-80"] < row["xlstm-hi-80"] for row in found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["none.csv", "--horizon", "4"], "none.csv: no such file"),
        (["data.csv"], "--horizon 24"),
        (["data.csv", "--horizon", "4", "--target", "lode"], "no column 'lode'; have date, load, day"),
        (["data.csv", "--horizon", "90"], "series 'load' has 120 rows; a horizon of 90"),
        (["data.csv", "--horizon", "0"], "at least 1"),
        (["data.csv", "--horizon", "4", "--time", "load"], "which is not a time"),
        (["data.csv", "--horizon", "4", "--model", "gru"], "unknown block 'gru'"),
        (["data.csv", "--load", "nowhere"], "no forecaster.json here"),
        (["data.csv", "--horizon", "4", "--device", "cuda:77"], "device 'cuda:77' cannot be used here"),
        (["data.csv", "--load", "nowhere", "--device", "toaster"], "device 'toaster' cannot be used here"),
        (["data.csv", *QUICK, "--covariates", "day"], "covariates day needs those of its rows: give --future"),
        (["data.csv", *QUICK, "--future", "next.csv"], "the forecaster has none: see --covariates"),
        (
            ["data.csv", *DAY, "--future", "after.csv"],
            "future of 'load': expected a row of 2024-01-06, got 2024-01-06 06:00:00",
        ),
        (["data.csv", *DAY, "--future", "short.csv"], "future has 2 rows of 'load'; 4 are needed"),
        (["data.csv", *QUICK, "--target", "load", "--check", "120"], "at most 101 are possible"),
        (
            ["data.csv", "--load", "shop", "--check", "2", "--train-steps", "9", "--irregular", "--levels", "80"],
            "--load goes on with what was trained: leave out --irregular, --levels, --train-steps, --check",
        ),
        (["bad.csv", "--horizon", "4"], "bad.csv, line 3: 'load' is 'x', which is not a number"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_mistakes_are_one_line_and_exit_code_2(file, capsys, options, message):
    (file / "short.csv").write_text("\n".join((file / "next.csv").read_text().splitlines()[:3]))
    (file / "bad.csv").write_text("date,load\n2024-01-01,1\n2024-01-02,x\n")
    assert cli.main(["forecast", *options, "--no-figure"]) == 2
    shown = capsys.readouterr()
    last = shown.err.splitlines()[-1]
    assert last.startswith("openxlstm: error: ")
    assert message in last
    assert "Traceback" not in shown.err
    assert "validation" not in shown.err, "nothing was trained"


def test_without_pandas_the_extra_is_named(file, capsys, monkeypatch):
    import builtins

    plain = builtins.__import__

    def without(name, *args, **more):
        if name == "pandas":
            raise ModuleNotFoundError("No module named 'pandas'", name="pandas")
        return plain(name, *args, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    assert cli.main(["forecast", "data.csv", *QUICK]) == 2
    assert "pip install 'openxlstm[series]'" in capsys.readouterr().err
