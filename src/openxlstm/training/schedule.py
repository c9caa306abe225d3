"""Learning-rate schedules as pure functions of the step, so that a resumed run needs no scheduler state."""

import math

from openxlstm.training.config import ScheduleConfig


def lr_factor(config: ScheduleConfig, step: int, total: int) -> float:
    """What the peak learning rate is multiplied with at optimiser step `step` (0-based) of `total`.

    Warm-up rises linearly and reaches 1 at step `warmup - 1` (its first step is 1 / warmup, never 0). The last step of the
    run, `total - 1`, is exactly at `floor` for both "cosine" and "wsd".
    """
    if step < config.warmup:
        return (step + 1) / config.warmup
    last = max(total - 1, 1)
    match config.kind:
        case "constant":
            return 1.0
        case "cosine":
            start = min(config.warmup, last)
            done = (step - start) / max(last - start, 1)
            return config.floor + (1 - config.floor) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
        case "wsd":  # warm-up, stable, decay (linear)
            decay = max(round(total * config.decay), 1)
            remaining = min((last - step) / decay, 1.0)
            return config.floor + (1 - config.floor) * max(remaining, 0.0)
    raise AssertionError(config.kind)
