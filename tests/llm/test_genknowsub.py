"""GenKnowSub: what is subtracted, and what PEFT subtracts."""

from typing import Any

import pytest
import torch
from peft import ArrowConfig, create_arrow_model

from lora_reuse.llm.adapters.lowrank import LowRank
from lora_reuse.llm.compositions import compose
from lora_reuse.llm.compositions.arrow import Routed
from lora_reuse.runs.settings import SettingError
from tests.llm.test_adapters import IDS, experts, folders, qwen


def shared(count, knows=1.0):
    """Experts that are each an update of their own and `knows` times one of them all, and that one."""
    *own, general = experts(count + 1)
    both = lambda a, b: LowRank(torch.cat([a.out, knows * b.out], dim=1), torch.cat([a.into, b.into], dim=1))  # noqa: E731
    return own, [{name: both(update, general[name]) for name, update in expert.items()} for expert in own], general


@pytest.mark.parametrize("general", [1, 2])
def test_what_all_experts_know_is_subtracted_before_they_are_routed(general):
    """Where the last experts are what all know, what is routed are the experts' own updates."""
    own, knowing, known = shared(3)
    dials: dict[str, Any] = {"temperature": 0.5, "top_k": 2, "scores": "cosine"}
    subtracted = compose("genknowsub", [*knowing, *[known] * general], general=general, **dials)
    expected, whole = compose("arrow_after", own, **dials), compose("arrow_after", knowing, **dials)
    for name, delta in subtracted.items():
        x = torch.randn(50, delta.shape[1], generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(delta(x), expected[name](x), rtol=1e-3, atol=1e-3)
        assert (delta(x) - whole[name](x)).abs().max() > 0.1


def test_the_mean_of_several_general_experts_is_subtracted():
    a, b, c = experts(3)
    (delta, *_) = compose("genknowsub", [a, b, c], general=2).values()
    name = next(iter(a))
    assert isinstance(delta, Routed)
    residual = a[name].dense() - (b[name].dense() + c[name].dense()) / 2
    torch.testing.assert_close(LowRank(delta.out, delta.into).dense(), residual, rtol=1e-4, atol=1e-4)


def test_some_expert_must_be_left():
    with pytest.raises(SettingError, match="general: got 2; allowed: fewer than the 2 experts; name the general"):
        compose("genknowsub", experts(2), general=2)


def test_peft_subtracts_factors_and_so_adds_what_it_should_subtract(tmp_path):
    """(A − A_g)(B − B_g)ᵀ has + ΔW_g in it, and its cross terms are no part of either. The experts' factors are
    independent, as those of adapters with starts of their own are."""
    expert, general = experts(2)
    paths = folders([expert, general], tmp_path)
    model: Any = create_arrow_model(
        qwen(), paths[:1], ArrowConfig(top_k=1, use_gks=True), general_adapter_paths=paths[1:]
    )
    with torch.no_grad():
        model.eval()(IDS)
    ours = compose("genknowsub", [expert, general])
    for name, update in expert.items():
        layer = model.base_model.model.get_submodule(name)
        theirs = (layer.lora_B["task_0"].weight @ layer.lora_A["task_0"].weight * layer.scaling["task_0"]).detach()
        known, delta = general[name], ours[name]
        assert isinstance(delta, Routed)
        cross = update.out @ known.into.T + known.out @ update.into.T
        torch.testing.assert_close(theirs, update.dense() + known.dense() - cross, rtol=1e-4, atol=1e-4)
        assert share(theirs, known) > 0.5
        assert share(LowRank(delta.out, delta.into).dense(), known) < -0.5


def share(whole: torch.Tensor, update: LowRank) -> float:
    """⟨whole, ΔW⟩/‖ΔW‖²: how often ΔW is in it."""
    return float((whole * update.dense()).sum() / (update.dense() ** 2).sum())
