"""LoRI adapters: what is trained and what stays, on disk and on a model; their two merges against PEFT."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from lora_reuse.llm.adapters import checkpoint
from lora_reuse.llm.adapters import training as experts
from lora_reuse.llm.adapters.folders import WEIGHTS, linear_shape, load_expert
from lora_reuse.llm.adapters.kinds import lori
from lora_reuse.llm.adapters.lowrank import LowRank
from lora_reuse.llm.adapters.modules import target_modules
from lora_reuse.llm.adapters.training import Spec, expert
from lora_reuse.llm.adapters.writing import save_expert
from lora_reuse.llm.compositions import compose
from lora_reuse.llm.data.facts import triplets
from lora_reuse.llm.data.subsets import examples
from lora_reuse.llm.decoding.models import Base, load_base
from lora_reuse.llm.protocols.settings import Training
from lora_reuse.runs.settings import SettingError
from tests.llm.test_compositions import library
from tests.llm.tiny import tiny

torch.set_num_threads(1)
TRAINING = Training(rank=4, alpha=8, dropout=0.0, rate=1e-2, steps=4, batch=4)
TEXT = " ".join(f"{e.question} {e.answer}" for e in examples("F1", triplets("F")[:2]))


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Base:
    return load_base(str(tiny("qwen2", tmp_path_factory.mktemp("model"), text=TEXT)))


def trained(base: Base, folder: Path, adapter: str, role=1, **other: Any) -> Path:
    return expert(
        base, Spec(("F1",), (), 2, 0, dataclasses.replace(TRAINING, adapter=adapter, **other), 0, role), folder
    )


def factors(folder: Path, which: str) -> dict[str, torch.Tensor]:
    return {
        key.split(".lora_")[0]: value for key, value in load_file(folder / WEIGHTS).items() if f".lora_{which}." in key
    }


@pytest.fixture(scope="module")
def made(base, tmp_path_factory) -> dict[str, Path]:
    """`d`, `s` and `other`, a LoRI-D expert of another role."""
    folder = tmp_path_factory.mktemp("experts")
    found = {
        "s": trained(base, folder, "lori_s"),
        "d": trained(base, folder, "lori_d"),
        "other": trained(base, folder, "lori_d", role=2),
    }
    assert len(list(folder.iterdir())) == 3  # LoRI-S's own LoRI-D is the expert `d`
    return found | {"plain": trained(base, folder, "lora")}


def test_lori_d_trains_b_alone(made, base, monkeypatch, tmp_path):
    """A is as it is drawn for plain LoRA, which trains it."""
    monkeypatch.setattr(experts, "_step", lambda *_: (0.0, 1))
    drawn, plain = factors(trained(base, tmp_path, "lora"), "A"), factors(made["plain"], "A")
    frozen, b = factors(made["d"], "A"), factors(made["d"], "B")
    assert all(torch.equal(frozen[name], drawn[name]) for name in drawn)
    assert not any(torch.equal(plain[name], drawn[name]) for name in drawn)
    assert all(value.any(dim=0).all() for value in b.values())


def test_every_expert_has_an_a_of_its_own(made):
    first, second, sparse = (factors(made[name], "A") for name in ("d", "other", "s"))
    for name in first:
        for other in (second, sparse):
            cosine = torch.cosine_similarity(first[name].flatten(), other[name].flatten(), dim=0)
            assert abs(cosine) < 0.5  # entries are uniform; of 128 of them, five standard errors


def test_lori_s_trains_the_tenth_of_b_that_is_largest_in_lori_d(made):
    d, s = factors(made["d"], "B"), factors(made["s"], "B")
    sizes = torch.cat([value.abs().flatten() for value in d.values()])
    kept = torch.cat([(s[name] != 0).flatten() for name in d])
    assert kept.sum() == round(0.1 * len(sizes))
    assert set(sizes.topk(int(kept.sum())).indices.tolist()) == set(kept.nonzero().flatten().tolist())
    shares = {name: float((value != 0).float().mean()) for name, value in s.items()}
    assert max(shares.values()) > 1.5 * min(shares.values())  # over all modules together


def test_masks_by_hand(tmp_path):
    b = {"a": torch.tensor([[1.0, -9.0], [0.5, 2.0]]), "b": torch.arange(16.0).view(8, 2) / 100}
    save_expert({name: LowRank(value, torch.ones(3, 2)) for name, value in b.items()}, tmp_path / "e", "base")
    masks = {
        name.removeprefix("base_model.model."): mask.tolist() for name, mask in lori.masks(tmp_path / "e", 0.1).items()
    }
    assert masks["a"] == [[False, True], [False, True]]
    assert not any(any(row) for row in masks["b"])


def test_an_interrupted_sparse_expert_is_the_same(made, base, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "KEEP_SECONDS", 0)
    real, calls = experts._step, []

    def stop(*arguments):
        calls.append(1)
        if len(calls) == 4 + 3:  # the third step after the four of LoRI-D
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(experts, "_step", stop)
    with pytest.raises(KeyboardInterrupt):
        trained(base, tmp_path, "lori_s")
    assert (trained(base, tmp_path, "lori_s") / WEIGHTS).read_bytes() == (made["s"] / WEIGHTS).read_bytes()
    assert len(calls) == 4 + 3 + 2


def test_they_are_ordinary_adapters(made, base):
    """PEFT loads them and says what we say."""
    ids = torch.randint(10, 200, (2, 5), generator=torch.Generator().manual_seed(0))
    for name in ("d", "s"):
        fresh = load_base(base.name)
        theirs = PeftModel.from_pretrained(fresh.model, made[name]).eval()(input_ids=ids).logits
        ours = load_expert(made[name], base.model)
        for module, update in ours.items():
            base.model.get_submodule(module).weight.data += update.dense()
        torch.testing.assert_close(base.model(input_ids=ids).logits, theirs, rtol=1e-4, atol=1e-4)
        for module, update in ours.items():
            base.model.get_submodule(module).weight.data -= update.dense()
        card = json.loads((made[name] / "expert.json").read_text())
        assert card["training"]["adapter"] == f"lori_{name}"


@pytest.mark.parametrize("count", [2, 3, 4])
def test_the_merges_are_pefts(count, base, tmp_path):
    """With the published weights."""
    modules = dict(base.model.named_modules())
    shapes = {name: linear_shape(modules[name]) for name in target_modules(base.model, "mlp")}
    experts = library(count, 2, shapes=shapes)
    for i, e in enumerate(experts):
        save_expert(e, tmp_path / str(i), base.name)
    model: Any = PeftModel.from_pretrained(load_base(base.name).model, tmp_path / "0", adapter_name="0")
    for i in range(1, count):
        model.load_adapter(tmp_path / str(i), adapter_name=str(i))
    weight = {2: 0.5, 3: 0.5, 4: 0.4}[count]
    for kind, ours in (("cat", "lori_concat"), ("linear", "lori_linear")):
        model.add_weighted_adapter([str(i) for i in range(count)], [weight] * count, kind, combination_type=kind)
        for name, delta in compose(ours, experts).items():
            layer = model.base_model.model.get_submodule(name)
            theirs = layer.lora_B[kind].weight @ layer.lora_A[kind].weight * layer.scaling[kind]
            assert isinstance(delta, LowRank)
            torch.testing.assert_close(delta.dense(), theirs.detach(), rtol=1e-4, atol=1e-4)
    given = (0.3,) * count
    for ours, same, weights in (("lori_concat", "cat", 0.3), ("lori_linear", "linear", 0.3**0.5)):
        other = compose(same, experts, weights=(weights,) * count)
        for name, delta in compose(ours, experts, weights=given).items():
            torch.testing.assert_close(delta.dense(), other[name].dense())  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(SettingError, match="numbers from 0, as lori_linear takes their roots"):
        compose("lori_linear", experts, weights=(-0.5,) + (1.0,) * (count - 1))
