"""The classic LSTM on a GPU, where torch's kernel is cuDNN's: it takes weights that lie in one piece, in float32."""

import pytest
import torch

from openxlstm.ops import lstm_layer


def test_torchs_kernel_agrees_with_the_definition(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    shapes = ((3, 20, 5), (4, 1, 16, 5), (1, 16, 4, 16), (4, 1, 16))
    inputs = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes]
    weight = torch.randn(3, 20, 1, 16, dtype=torch.float64)

    def run(backend: str, device: str, dtype: torch.dtype) -> list[torch.Tensor]:
        moved = [x.to(device, dtype) for x in inputs]
        y, last = lstm_layer(*moved, backend=backend)
        return [y, *last, *torch.autograd.grad((y * weight.to(y)).sum(), inputs)]

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    truth = run("reference", "cpu", torch.float64)
    for ours, theirs in zip(run("aten", device, torch.float32), truth, strict=True):
        torch.testing.assert_close(ours.cpu().double(), theirs, atol=1e-4, rtol=1e-4)
