"""The merges that have PEFT's names, against PEFT's `add_weighted_adapter` and its functions on the same matrices."""

from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.utils import merge_utils

from lora_reuse.llm.adapters.lowrank import LowRank
from lora_reuse.llm.compositions import compose
from tests.llm.test_adapters import experts, folders, qwen

DIALS: dict[str, dict[str, Any]] = {
    "svd": {"merged_rank": 4},
    "cat": {},
    "magnitude_prune": {"density": 0.5},
    "ties_svd": {"density": 0.5, "merged_rank": 4},
    "magnitude_prune_svd": {"density": 0.5, "merged_rank": 4},
}


def by_peft(combination, weights, tmp_path, **dials):
    """PEFT's ΔW of every module."""
    paths = folders(experts(len(weights)), tmp_path)
    model: Any = PeftModel.from_pretrained(qwen(), paths[0], adapter_name="task_0")
    for i, path in enumerate(paths[1:], start=1):
        model.load_adapter(path, adapter_name=f"task_{i}")
    model.add_weighted_adapter(
        [f"task_{i}" for i in range(len(weights))],
        list(weights),
        "merged",
        combination_type=combination,
        density=dials.get("density"),
        svd_rank=dials.get("merged_rank"),
    )
    layers = {name: model.base_model.model.get_submodule(name) for name in experts(1)[0]}
    return {name: layer.get_delta_weight("merged").detach() for name, layer in layers.items()}


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.3, 1.5, -0.7)])
@pytest.mark.parametrize("name", DIALS)
def test_a_merge_is_pefts(name, weights, tmp_path):
    theirs = by_peft(name, weights, tmp_path, **DIALS[name])
    for module, delta in compose(name, experts(len(weights)), weights=weights, **DIALS[name]).items():
        assert isinstance(delta, LowRank)
        torch.testing.assert_close(delta.dense(), theirs[module], rtol=1e-4, atol=1e-4)
    if len(weights) == 3:  # planted: √w for w, w for √w; the sign on both factors
        planted = compose(name, experts(3), weights=tuple(abs(w) ** 0.5 for w in weights), **DIALS[name])
        assert all((planted[module].dense() - theirs[module]).abs().max() > 0.1 for module in theirs)  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("name", ["dare_linear", "dare_ties"])
def test_dare_on_factors_is_pefts_under_the_same_masks(name, monkeypatch):
    """PEFT draws its masks from torch's global state; here PEFT's functions get those of the rule."""
    library, weights = experts(3), (0.3, 1.5, -0.7)
    masked = compose(name, library, weights=weights, density=0.5, seed=2)
    for module, delta in masked.items():
        factors = []
        for which, signs in (("out", (1, 1, 1)), ("into", (1, 1, -1))):
            raw = [getattr(expert[module], which) for expert in library]
            kept = iter([masks(module, i, which, tensor.shape) for i, tensor in enumerate(raw)])
            monkeypatch.setattr(torch, "bernoulli", lambda _, kept=kept: next(kept))
            w = torch.tensor([sign * abs(weight) ** 0.5 for sign, weight in zip(signs, weights, strict=True)])
            factors.append(getattr(merge_utils, name)(raw, w, 0.5))
        assert isinstance(delta, LowRank)
        torch.testing.assert_close(delta.dense(), factors[0] @ factors[1].T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "theirs"), [("dare_linear_svd", "dare_linear"), ("dare_ties_svd", "dare_ties")])
def test_dare_on_updates_is_pefts_under_the_same_masks(name, theirs, monkeypatch):
    library, weights = experts(2), (0.5, -2.0)
    for module, delta in compose(name, library, weights=weights, density=0.5, merged_rank=5, seed=2).items():
        whole = [expert[module].dense() for expert in library]
        kept = iter([masks(module, i, None, matrix.shape) for i, matrix in enumerate(whole)])
        monkeypatch.setattr(torch, "bernoulli", lambda _, kept=kept: next(kept))
        left, values, right = torch.linalg.svd(getattr(merge_utils, theirs)(whole, torch.tensor(weights), 0.5))
        assert isinstance(delta, LowRank)
        torch.testing.assert_close(delta.dense(), left[:, :5] * values[:5] @ right[:5], rtol=1e-4, atol=1e-4)


def masks(module, i, which, shape):
    """The mask of `dare` for expert i at density 1/2 and seed 2."""
    from lora_reuse.llm.compositions import generator

    words = (module, i) if which is None else (module, i, which)
    return (torch.rand(shape, generator=generator(2, "dare", *words)) < 0.5).float()


@pytest.mark.parametrize(("name", "then"), [("dare_linear", "linear"), ("dare_ties", "ties")])
def test_with_weights_of_one_they_are_dare_of_whatever_ranks(name, then):
    first, second = experts(2)
    library = [first, narrow(second)]
    ours, dare = compose(name, library, seed=1), compose("dare", library, then=then, seed=1)
    for module, delta in ours.items():
        assert isinstance(delta, LowRank)
        torch.testing.assert_close(delta.dense(), dare[module].dense(), rtol=1e-5, atol=1e-5)  # pyright: ignore[reportAttributeAccessIssue]


def test_an_expert_of_a_lower_rank_is_pruned_as_it_is():
    """The zeros that it gets beside a larger one are not among its entries."""
    first, second = experts(2)
    nothing = {module: LowRank(0 * update.out, 0 * update.into) for module, update in first.items()}
    alone = compose("magnitude_prune", [narrow(second)], density=0.5)
    for module, delta in compose("magnitude_prune", [nothing, narrow(second)], density=0.5).items():
        torch.testing.assert_close(delta.dense(), alone[module].dense())  # pyright: ignore[reportAttributeAccessIssue]
        assert (alone[module].dense() - second[module].dense()).abs().max() > 0.01  # pyright: ignore[reportAttributeAccessIssue]


def narrow(expert):
    """Of rank 1."""
    return {module: LowRank(update.out[:, :1], update.into[:, :1]) for module, update in expert.items()}
