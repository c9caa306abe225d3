"""Comparisons on text: means over seeds, a table with longer windows, a picture of what differs."""

import math

import pytest
from matplotlib.figure import Figure

from openxlstm.training import compare_text


def report(nats, longer=(), tenths=(3.0, 1.0), words=None):
    """Of one seed: nats a token, in longer windows, in the tenths of the text."""
    windows = [{"context": 64 * 4**place, "nats_per_token": loss} for place, loss in enumerate((nats, *longer))]
    first = {
        "bits_per_byte": 2.0 * nats,
        "word_perplexity": words,
        "by_frequency": [[1, 2, loss, 50] for loss in tenths] or None,
    }
    counted = {"num_parameters": 1000, "tokens_per_second": 10.0}
    return {"validation": windows[0] | first, "other_contexts": windows[1:], **counted}


def test_a_row_is_the_mean_of_its_seeds():
    found = compare_text.row([report(1.0, (0.5,), (4.0, 1.0), words=10.0), report(3.0, (1.5,), (2.0, 2.0), words=1000.0)])
    assert found["nats_per_token"] == 2.0
    assert found["spread"] == pytest.approx(math.sqrt(2))
    assert found["perplexity"] == pytest.approx(math.exp(2))
    assert found["bits_per_byte"] == 4.0
    assert found["word_perplexity"] == pytest.approx(100.0)
    assert found["by_context"] == {"64": 2.0, "256": 1.0}
    assert found["by_frequency"] == [3.0, 1.5]
    alone = compare_text.row([report(1.0, tenths=())])
    assert (alone["spread"], alone["by_frequency"], alone["word_perplexity"]) == (None, [], None)


def test_longer_windows_have_columns():
    shared = {"seeds": 1, "failed": 0, "lr": 0.01, "machines": ["CPU"]}
    lost = {"model": "b", "seeds": 0, "failed": 2, "machines": []}
    rows = [{"model": "a", **shared, **compare_text.row([report(1.0, (0.5,))])}, lost]
    head, _, first, failed = compare_text.table(rows, sweep=True).splitlines()
    assert head.startswith("| model | parameters | seeds | nats/token at 64 | nats at 256 | bits per byte |")
    assert first == "| a | 1,000 | 1 | 1.0000 | 0.5000 | 2.0000 | 2.72 | 0.01 | 10 |"
    assert failed.startswith("| b | | 0 of 2 |")
    assert {line.count("|") for line in (head, first, failed)} == {10}
    plain = compare_text.table([{"model": "a", **shared, **compare_text.row([report(1.0, words=20.0)])}], sweep=False)
    assert plain.splitlines()[0] == (
        "| model | parameters | seeds | nats/token | bits per byte | perplexity | word perplexity | tokens/s |"
    )


def test_speeds_of_different_machines_are_not_shown():
    rows = [
        {"model": machine, "seeds": 1, "failed": 0, "lr": 0.01, "machines": [machine], **compare_text.row([report(1.0)])}
        for machine in ("CPU", "GPU")
    ]
    head, _, *lines = compare_text.table(rows, sweep=False).splitlines()
    assert head == "| model | parameters | seeds | nats/token | bits per byte | perplexity |"
    assert {line.count("|") for line in lines} == {7}


def test_a_picture_of_windows_or_of_tenths():
    axes = Figure().subplots()
    compare_text.draw(axes, {"a": [report(1.0, (0.5,))], "b": [report(2.0, (3.0,)), report(4.0, (5.0,))]})
    lines = [line.get_xydata().tolist() for line in axes.lines]
    assert lines[:2] == [[[64, 1.0], [256, 0.5]], [[64, 3.0], [256, 4.0]]]
    axes = Figure().subplots()
    compare_text.draw(axes, {"a": [report(1.0, tenths=(2.0, 1.0))], "b": [report(1.0, tenths=(4.0, 1.5))]})
    assert [line.get_ydata().tolist() for line in axes.lines] == [[1.0, 0.25], [-1.0, -0.25]]
    compare_text.draw(Figure().subplots(), {})
