"""The conformance suite finds the mistakes it is there for."""

import pytest
import torch
from torch.autograd.gradcheck import GradcheckError

from openxlstm.layers import BLOCKS
from openxlstm.ops import state as states
from openxlstm.testing import conformance


class Broken(torch.nn.Module):
    """A sound block behind a wrapper with one mistake."""

    def __init__(self, mistake) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.block, self.mistake = conformance.shake(BLOCKS["slstm"](8, 2).double()), mistake

    def forward(self, x, state=None, *, reset=None, mask=None):
        return self.mistake(self.block, x, state, reset, mask)


def forgets_the_state(block, x, state, reset, mask):
    return block(x, None, reset=reset, mask=mask)


def ignores_the_mask(block, x, state, reset, mask):
    return block(x, state, reset=reset)


def ignores_resets(block, x, state, reset, mask):
    return block(x, state, mask=mask)


def skips_resets_at_padding(block, x, state, reset, mask):
    return block(x, state, reset=reset if reset is None or mask is None else reset & mask, mask=mask)


def cuts_the_gradient(block, x, state, reset, mask):
    return block(x, None if state is None else states.detach(state), reset=reset, mask=mask)


def mixes_rows(block, x, state, reset, mask):
    y, state = block(x, state, reset=reset, mask=mask)
    return y + 0.01 * y[:1].detach(), state


def edits_the_state(block, x, state, reset, mask):
    y, new = block(x, state, reset=reset, mask=mask)
    if state is not None:
        state.cell.c.data.add_(1.0)
    return y, new


def overflows(block, x, state, reset, mask):
    y, state = block(x, state, reset=reset, mask=mask)
    return y * torch.exp(1e3 * block.b.abs().max()), state


@pytest.mark.parametrize(
    ("mistake", "check"),
    [
        (forgets_the_state, conformance.check_cut_anywhere),
        (forgets_the_state, conformance.check_step_equals_whole),
        (ignores_the_mask, conformance.check_mask_equals_unpadded),
        (ignores_resets, conformance.check_reset_equals_separate),
        (skips_resets_at_padding, conformance.check_reset_equals_separate),
        (cuts_the_gradient, conformance.check_state_gradients),
        (mixes_rows, conformance.check_batch_permutation),
        (edits_the_state, conformance.check_inputs_untouched),
        (overflows, conformance.check_extreme_gates),
    ],
)
def test_mistake_is_found(mistake, check) -> None:
    with pytest.raises(AssertionError):
        check(Broken(mistake), 8)


class HalvesTheGradient(torch.nn.Linear):
    def forward(self, x, state=None, **_):
        y = super().forward(x)
        return (y + y.detach()) / 2, ()


def test_wrong_gradient_is_found() -> None:
    with pytest.raises(GradcheckError):
        conformance.check_gradients(HalvesTheGradient(2, 2), 2)


def test_backend_checks_find_a_wrong_gradient(monkeypatch) -> None:
    from openxlstm.ops.backend import Backend
    from openxlstm.ops.mlstm import reference, scan
    from openxlstm.testing import check_mlstm_backend

    def without_normaliser_gradient(q, k, v, i_pre, f_pre, state, **options):
        h, last = reference.scan(q, k, v, i_pre, f_pre, state, **options)
        return h + 0.1 * (i_pre - i_pre.detach())[..., None], last

    wrong = Backend("wrong", without_normaliser_gradient)
    monkeypatch.setattr(scan, "BACKENDS", (*scan.BACKENDS, wrong))
    with pytest.raises(AssertionError, match=r"wrong, .*gradient"):
        check_mlstm_backend("wrong", lengths=(5,))
