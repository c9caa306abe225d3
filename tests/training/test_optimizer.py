import itertools

import pytest
import torch
from torch import nn

from openxlstm.errors import UserError
from openxlstm.models.config import LanguageModelConfig
from openxlstm.models.language import LanguageModel
from openxlstm.training import OptimizerConfig, ScheduleConfig, build_optimizer, lr_factor, parameter_groups
from openxlstm.training.optimizer import check_partition

ALL_BLOCKS = ("mlstm", "slstm", "mlstm_large", "lstm", "attention", "ssd")


def model(**options):
    return LanguageModel(LanguageModelConfig(vocab_size=11, dim=16, num_heads=2, blocks=ALL_BLOCKS, **options))


def names(groups, label):
    return next(set(group["names"]) for group in groups if group["label"] == label)


def test_groups_hold_every_parameter_once_and_decay_matrices_alone():
    net = model()
    groups = parameter_groups(net, 0.1)
    decayed, free = names(groups, "decay"), names(groups, "no_decay")
    assert decayed | free == {name for name, _ in net.named_parameters()}
    assert not decayed & free
    assert "embedding.weight" in free
    assert "lm_head.weight" in decayed
    for name in decayed:
        assert not name.endswith((".b", "bias", "skip")), name
        assert "norm" not in name, name
    recurrent = [name for name in decayed if name.endswith(".R")]
    assert len(recurrent) == 2, "the kernels of sLSTM and LSTM are decayed"
    biases = [name for name in free if name.endswith(".b")]
    assert len(biases) == 2, "their gate biases are [4, H, D] and still biases"
    ssd = f"stack.blocks.{ALL_BLOCKS.index('ssd')}."
    assert {ssd + name for name in ("A_log", "D", "dt.bias")} <= free
    assert {ssd + name for name in ("up.weight", "dt.weight")} <= decayed


def test_a_tied_head_follows_the_embedding():
    groups = parameter_groups(model(tie_embeddings=True), 0.1)
    assert "embedding.weight" in names(groups, "no_decay")
    groups = parameter_groups(model(tie_embeddings=True), 0.1, decay_embeddings=True)
    assert "embedding.weight" in names(groups, "decay")


def test_frozen_parameters_are_left_out():
    net = model()
    net.embedding.weight.requires_grad_(False)
    assert all("embedding.weight" not in group["names"] for group in parameter_groups(net, 0.1))


@pytest.mark.parametrize("fault", ["missing", "twice", "foreign"])
def test_the_completeness_check_can_fail(fault):
    net = nn.Linear(2, 2)
    params = {"missing": [net.weight], "twice": [net.weight, net.bias, net.bias], "foreign": [nn.Parameter(torch.ones(1))]}
    with pytest.raises(AssertionError, match={"missing": "no group", "twice": "two groups", "foreign": "foreign"}[fault]):
        check_partition(net, [{"label": "all", "params": params[fault]}])


def test_decay_shrinks_matrices_and_leaves_norms():
    net = model()
    optimizer = build_optimizer(net, OptimizerConfig(lr=0.1, weight_decay=0.5))
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()  # no gradient: decay is all that acts
    for name, p in net.named_parameters():
        factor = 0.95 if name in optimizer.param_groups[0]["names"] else 1.0
        torch.testing.assert_close(p, before[name] * factor)


def test_cosine_rises_in_warmup_and_ends_at_the_floor():
    config = ScheduleConfig(kind="cosine", warmup=10, floor=0.1)
    factors = [lr_factor(config, step, 100) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9] == 1.0
    assert factors[10] == pytest.approx(1.0)
    assert factors[-1] == pytest.approx(0.1)
    assert factors[10:] == sorted(factors[10:], reverse=True)
    middle = lr_factor(ScheduleConfig(kind="cosine", warmup=0, floor=0.0), 50, 101)
    assert middle == pytest.approx(0.5)


def test_wsd_is_stable_and_then_linear():
    config = ScheduleConfig(kind="wsd", warmup=5, floor=0.0, decay=0.2)
    factors = [lr_factor(config, step, 101) for step in range(101)]
    assert set(factors[4:80]) == {1.0}
    assert factors[-1] == 0.0
    steps = [a - b for a, b in itertools.pairwise(factors[81:])]
    assert steps == pytest.approx([1 / 20] * len(steps))


@pytest.mark.parametrize("kind", ["cosine", "wsd", "constant"])
@pytest.mark.parametrize("total", [1, 2, 3])
def test_runs_shorter_than_the_warmup_do_not_fail(kind, total):
    config = ScheduleConfig(kind=kind, warmup=5)
    assert all(0 < lr_factor(config, step, total) <= 1 for step in range(total))


def test_settings_are_checked():
    with pytest.raises(UserError, match="lr=0"):
        OptimizerConfig(lr=0)
    with pytest.raises(UserError, match="floor=2"):
        ScheduleConfig(floor=2)
