"""Files of sensors that are made here: engines that wear out, and recordings of two activities."""

from pathlib import Path

import numpy as np


def engine_rows(unit: int, first_left: int, count: int, rng: np.random.Generator) -> list[str]:
    """Lines of one engine whose sensors drift as its life ends; first_left: flights that are left after the first."""
    lines = []
    for cycle in range(1, count + 1):
        wear = max(0.0, 1 - (first_left - cycle + 1) / 20)
        sensors = 100 + 10 * wear * np.linspace(-1, 1, 21) + rng.normal(0, 0.2, 21)
        lines.append(" ".join([str(unit), str(cycle), "0.1", "0.2", "100.0", *(f"{value:.3f}" for value in sensors)]))
    return lines


def write_engines(folder: Path, trained: int = 6, tested: int = 4, subset: str = "FD001") -> Path:
    """train_*.txt, test_*.txt and RUL_*.txt; test engine k has 5 k flights left."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    train = [line for unit in range(1, trained + 1) for line in engine_rows(unit, 24 + unit, 25 + unit, rng)]
    left = [5 * unit for unit in range(1, tested + 1)]
    test = [line for unit, rest in enumerate(left, 1) for line in engine_rows(unit, 9 + unit + rest, 10 + unit, rng)]
    (folder / f"train_{subset}.txt").write_text("\n".join(train) + "\n")
    (folder / f"test_{subset}.txt").write_text("\n".join(test) + "\n")
    (folder / f"RUL_{subset}.txt").write_text("\n".join(map(str, left)) + "\n")
    return folder


def write_recordings(folder: Path, cases: int = 5, steps: tuple[int, ...] = (12, 15), missing: bool = False) -> Path:
    """Toy_TRAIN.ts and Toy_TEST.ts: two channels, waves that are slow (Rest) or fast (Run), so many cases of each."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    for part in ("TRAIN", "TEST"):
        lines = ["@problemName Toy", f"@missing {str(missing).lower()}", "@dimensions 2", "@classLabel true Rest Run", "@data"]
        for label, speed in (("Rest", 0.2), ("Run", 2.0)):
            for case in range(cases):
                time = np.arange(steps[case % len(steps)])
                channels = [5 + 3 * np.sin(speed * time + rng.random()) + rng.normal(0, 0.1, len(time)) for _ in range(2)]
                cells = [[f"{value:.4f}" for value in channel] for channel in channels]
                if missing and case == 0:
                    cells[1][2] = "?"
                lines.append(":".join([*(",".join(channel) for channel in cells), label]))
        (folder / f"Toy_{part}.ts").write_text("\n".join(lines) + "\n")
    return folder
