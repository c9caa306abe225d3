"""The line of a training."""

import io

import pytest

from openxlstm.training.progress import Progress, clock, shown


@pytest.mark.parametrize(
    ("loss", "text"), [(0.0, "0.0000"), (1.23456, "1.2346"), (0.001, "0.0010"), (2.15e-5, "2.15e-05"), (-1.5e-4, "-1.50e-04")]
)
def test_small_losses_are_told_apart(loss: float, text: str) -> None:
    assert shown(loss) == text
    stream = io.StringIO()
    Progress(10, stream=stream).update(1, loss, 5)
    assert stream.getvalue().startswith(f"step 1/10  loss {text}  ")


def test_clock() -> None:
    assert [clock(seconds) for seconds in (0.4, 75, 3700)] == ["0:00", "1:15", "1:01:40"]
