"""The sLSTM kernels compiled for GPUs that are not here: they fit, spill nothing, and use what the GPUs are fast for."""

import pytest
import torch

from openxlstm.ops import gpu
from openxlstm.ops.slstm import gpu as host
from openxlstm.ops.slstm import stepped

pytestmark = [
    pytest.mark.skipif(not gpu.installed(), reason=str(gpu.missing())),
    pytest.mark.skipif(gpu.interpreted(), reason="under TRITON_INTERPRET nothing is compiled"),
]


def launches(D: int, dtype: torch.dtype, *, masked: bool = False) -> list[gpu.Launch]:
    """What a training step launches: forward, backward."""
    B, T, H = 32, 4, 2
    gates, R, b = torch.zeros(B, T, 4, H, D, dtype=dtype), torch.zeros(H, D, 4, D), torch.zeros(4, H, D)
    state, mask = torch.zeros(4, B, H, D), torch.ones(B, T, dtype=torch.bool) if masked else None
    by_step = not host.on_chip(gates)
    with gpu.recording() as found:
        h, last, *saved = host.slstm_triton(gates, R, b, *state, None, mask, False, by_step, True)
        host.slstm_triton_backward(h, last, last, R, *state[:3], None, mask, *saved, by_step)
    return found


CASES = [
    (16, torch.bfloat16, 90, False),
    (64, torch.bfloat16, 80, False),
    (64, torch.float16, 90, True),
    (64, torch.float32, 80, False),
    (128, torch.bfloat16, 80, False),
    (128, torch.bfloat16, 90, False),
    (128, torch.bfloat16, 90, True),
    (128, torch.bfloat16, 100, False),
]


@pytest.mark.parametrize(("D", "dtype", "capability", "masked"), CASES, ids=str)
def test_one_program_a_head(D: int, dtype: torch.dtype, capability: int, masked: bool) -> None:
    from openxlstm.testing.ahead import SHARED_LIMIT, compile_ahead

    for launch in launches(D, dtype, masked=masked):
        found = compile_ahead(launch, capability)
        assert found.spills == 0
        assert not found.overwritten
        assert found.shared <= min(host.bytes_on_chip(D, dtype), SHARED_LIMIT[capability])
        assert found.asynchronous > 0
        assert dtype == torch.float32 or found.matrix > 0  # float32 stays float32: no matrix instructions, on purpose


def test_steps_of_large_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    from openxlstm.testing.ahead import compile_ahead

    monkeypatch.setattr(stepped, "STEPS", 1)
    stepped._kept.cache_clear()
    found = launches(160, torch.bfloat16)
    stepped._kept.cache_clear()
    kinds = {launch.kernel.__name__: launch for launch in found}
    assert sorted(kinds) == ["step_backward", "step_forward"]
    for launch in kinds.values():
        compiled = compile_ahead(launch, 90)
        assert compiled.spills == 0
        assert not compiled.overwritten


def test_other_lengths_and_batches_compile_nothing() -> None:
    from openxlstm.testing.ahead import specialization

    def kinds(B: int, T: int) -> list[object]:
        gates, R, b = torch.zeros(B, T, 4, 2, 32), torch.zeros(2, 32, 4, 32), torch.zeros(4, 2, 32)
        state = torch.zeros(4, B, 2, 32)
        with gpu.recording() as found:
            host.slstm_triton(gates, R, b, *state, None, None, False, False, True)
        return [specialization(launch, 90) for launch in found]

    assert kinds(1, 1) == kinds(3, 17) == kinds(16, 64)
