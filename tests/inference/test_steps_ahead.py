"""The kernels of decoding, compiled for GPUs that are not here, for heads of 512 x 1024 and 256 x 512."""

import pytest
import torch

from openxlstm.layers import MLSTMBlock, MLSTMLargeBlock, SLSTMBlock
from openxlstm.ops import gpu
from openxlstm.testing.ahead import SHARED_LIMIT, compile_ahead, specialization

pytestmark = pytest.mark.skipif(gpu.interpreted() or not gpu.installed(), reason="compiling ahead needs Triton itself")
HOPPER = 90
ROWS = (1, 64)  # few rows: narrow tiles of C; many: wide ones

# dim, heads and other widths are those of the models with such heads; all else is made small, for only launches are looked at.
BLOCKS = {
    "mlstm_large 8 x 256 x 512": lambda: MLSTMLargeBlock(4096, 8, ffn_factor=0.01),
    "mlstm_large 4 x 512 x 1024": lambda: MLSTMLargeBlock(4096, 4, ffn_factor=0.01),
    "mlstm 4 x 512 x 512": lambda: MLSTMBlock(1024, 4),
    "slstm 4 x 256": lambda: SLSTMBlock(1024, 4),
}


def launches(block, dtype):
    """What a token launches, without its matrix products: their weights would be all the work here."""
    from openxlstm.inference.steps import STEPS

    with torch.device("meta"):
        step = STEPS[type(block)](block.to(dtype), 64)
        with gpu.recording() as found, torch.no_grad():
            for rows in ROWS:
                step(torch.empty(rows, block.dim, dtype=dtype), torch.empty(rows, dtype=torch.int64))
    return found


@pytest.mark.parametrize("dtype", [torch.bfloat16, pytest.param(torch.float32, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", BLOCKS)
def test_nothing_spills(name, dtype):
    with torch.device("meta"):
        block = BLOCKS[name]()
    distinct = {specialization(launch, HOPPER): launch for launch in launches(block, dtype)}
    for launch in distinct.values():
        found = compile_ahead(launch, HOPPER)
        assert found.spills == 0, found
        assert not found.overwritten, found
        assert found.shared <= SHARED_LIMIT[HOPPER] // 8, found  # eight programs on a multiprocessor
        assert found.registers <= 128, found
