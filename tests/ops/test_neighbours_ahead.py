"""The kernels around the cells, compiled for GPUs that are not here."""

import pytest
import torch

from openxlstm.ops import gpu
from openxlstm.testing.ahead import SHARED_LIMIT, compile_ahead

pytestmark = pytest.mark.skipif(gpu.interpreted() or not gpu.installed(), reason="compiling ahead needs Triton itself")
HOPPER, bf16 = 90, torch.bfloat16


def convolution(dim):
    """4 taps with bias and documents: forward and backward."""
    from openxlstm.ops.conv1d.gpu import conv1d_triton, conv1d_triton_backward

    x, state = torch.empty(2, 100, dim, dtype=bf16), torch.empty(2, 3, dim, dtype=bf16)
    rest = (torch.empty(4, dim), torch.empty(dim), state, torch.empty(3, 2, 100, dtype=torch.bool), True)
    conv1d_triton(x, *rest)
    conv1d_triton_backward(x, x, *rest)


def norm(heads, width):
    """With bias, skip and gate: forward and backward."""
    from openxlstm.ops.headnorm.gpu import head_norm_triton, head_norm_triton_backward

    h, a = torch.empty(2, 100, heads, width, dtype=bf16), torch.empty(2, 100, heads * width, dtype=bf16)
    rest = (*(torch.empty(heads * width) for _ in range(3)), a, a, 1, 1e-5)
    head_norm_triton(h, *rest)
    head_norm_triton_backward(a, h, *rest)


@pytest.mark.parametrize(("run", "sizes"), [(convolution, (2048,)), (norm, (8, 512)), (norm, (4, 1024)), (norm, (3, 40))])
def test_nothing_spills(run, sizes):
    with gpu.recording() as launches:
        run(*sizes)
    assert len(launches) == 2
    for launch in launches:
        found = compile_ahead(launch, HOPPER)
        assert found.spills == 0, found
        assert not found.overwritten, found
        assert found.shared <= SHARED_LIMIT[HOPPER] // 8, found
