"""The task that docs/how-to/add-a-task.md makes does run."""

import re
from dataclasses import replace
from pathlib import Path

from openxlstm.training import train

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "add-a-task.md"


def test_the_page_works(tmp_path):
    first, second, *_ = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    space = {"__name__": "page"}
    exec(first, space)
    exec(second, space)
    config = space["remainder"](steps=3)
    task = replace(config.data, report_lengths=(), validation_samples=16, test_samples=16)
    report = train(replace(config, data=task), tmp_path / "run").report
    assert report["task"] == "remainder"
    assert report["test"]["num_targets"] > 16 * 20
