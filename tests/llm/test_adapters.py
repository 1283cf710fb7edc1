"""Adapters on disk, against PEFT: each reads what the other writes, merges that PEFT does exactly are the same, what is
not plain LoRA is refused."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from peft import ArrowConfig, LoraConfig, PeftModel, create_arrow_model, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from lora_reuse.llm.adapters.folders import complete, digest, layout, load_expert
from lora_reuse.llm.adapters.lowrank import LowRank
from lora_reuse.llm.adapters.tensors import all_finite
from lora_reuse.llm.adapters.writing import save_expert
from lora_reuse.llm.compositions import RULES, compose
from lora_reuse.llm.compositions.arrow import Routed
from lora_reuse.llm.decoding.resident import Resident
from lora_reuse.runs.settings import SettingError

torch.set_num_threads(1)
IDS = torch.arange(12).reshape(2, 6)
MODULES = {
    f"model.layers.{layer}.mlp.{name}": shape
    for layer in (0, 1)
    for name, shape in (("up_proj", (48, 32)), ("down_proj", (32, 48)))
}


def qwen(width=48) -> PreTrainedModel:
    config = Qwen2Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=width,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    torch.manual_seed(0)
    return Qwen2ForCausalLM(config).eval()


def gpt2() -> PreTrainedModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=0, eos_token_id=0)
    ).eval()


def experts(count, rank=3) -> list[dict[str, LowRank]]:
    random = torch.Generator().manual_seed(0)
    draw = lambda size: LowRank(  # noqa: E731
        0.5 * torch.randn(size[0], rank, generator=random), torch.randn(size[1], rank, generator=random)
    )
    return [{name: draw(shape) for name, shape in MODULES.items()} for _ in range(count)]


def folders(library, root) -> list[str]:
    paths = [str(root / f"expert_{i}") for i in range(len(library))]
    for expert, path in zip(library, paths, strict=True):
        save_expert(expert, path, "tiny")
    return paths


def made_by_peft(model, folder, **config) -> torch.Tensor:
    """An adapter with both factors random in `folder`, and the logits that PEFT gives with it."""
    adapted = get_peft_model(
        model, LoraConfig(**{"r": 4, "lora_alpha": 6, "target_modules": ["up_proj", "down_proj"]} | config)
    )
    torch.manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter)
    adapted.save_pretrained(str(folder))
    with torch.no_grad():
        return adapted.eval()(IDS).logits


def with_composition(model, composition) -> torch.Tensor:
    with torch.no_grad(), Resident(model) as resident:
        resident.use([composition])
        return model(IDS).logits


@pytest.mark.parametrize(
    "config",
    [
        {},
        {
            "rank_pattern": {"layers.1.mlp.up_proj": 2, "down_proj": 3},
            "alpha_pattern": {"^model.layers.0.*": 1, "up_proj": 8},
        },
        {"target_modules": "all-linear", "layers_to_transform": None, "lora_dropout": 0.3},
        {"target_modules": ["q_proj", "o_proj"], "init_lora_weights": "gaussian"},
    ],
)
def test_what_peft_wrote_changes_the_logits_as_in_peft(config, tmp_path):
    theirs = made_by_peft(qwen(), tmp_path, **config)
    expert = load_expert(tmp_path, qwen())
    assert all(factor.dtype == torch.float32 for update in expert.values() for factor in update)
    torch.testing.assert_close(with_composition(qwen(), expert), theirs, rtol=1e-4, atol=1e-4)
    assert (theirs - qwen()(IDS).logits).abs().max() > 0.1


def test_a_pattern_is_of_whole_names(tmp_path):
    """PEFT gives none of its modules the rank of a pattern that ends within a name, and says so."""
    with pytest.warns(RuntimeWarning, match="did not match any targeted module"):
        made_by_peft(qwen(), tmp_path, rank_pattern={"p_proj": 1})
    assert {update.rank for update in load_expert(tmp_path, qwen()).values()} == {4}


def test_conv1d_is_not_transposed(tmp_path):
    theirs = made_by_peft(
        gpt2(),
        tmp_path / "a",
        target_modules=["c_attn", "c_fc", "c_proj"],
        fan_in_fan_out=True,
        rank_pattern={"attn.c_proj": 2},
    )
    expert = load_expert(tmp_path / "a", gpt2())
    assert expert["transformer.h.0.mlp.c_fc"].shape == (128, 32)
    torch.testing.assert_close(with_composition(gpt2(), expert), theirs, rtol=1e-4, atol=1e-4)
    save_expert(expert, tmp_path / "b", "tiny", layout(gpt2(), expert))
    again = PeftModel.from_pretrained(gpt2(), str(tmp_path / "b"))
    torch.testing.assert_close(again(IDS).logits, theirs, rtol=1e-4, atol=1e-4)


def test_a_bfloat16_adapter_is_read_as_float32(tmp_path):
    made_by_peft(qwen(), tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    save_file({name: tensor.bfloat16() for name, tensor in tensors.items()}, tmp_path / "adapter_model.safetensors")
    update = load_expert(tmp_path, qwen())["model.layers.0.mlp.up_proj"]
    stored = tensors["base_model.model.model.layers.0.mlp.up_proj.lora_B.weight"].bfloat16().float()
    torch.testing.assert_close(update.out, stored * 1.5, rtol=0, atol=0)


@pytest.mark.parametrize("name", [n for n, r in RULES.items() if r.static])
def test_a_saved_composition_is_an_adapter_that_peft_loads_by_itself(name, tmp_path):
    composition = compose(name, experts(2))
    save_expert(composition, tmp_path / "merged", "tiny")
    theirs = PeftModel.from_pretrained(qwen(), str(tmp_path / "merged"))(IDS).logits
    torch.testing.assert_close(with_composition(qwen(), composition), theirs, rtol=1e-4, atol=1e-4)
    for module, update in load_expert(tmp_path / "merged", qwen()).items():
        delta = composition[module]
        assert isinstance(delta, LowRank)
        assert all(torch.equal(ours, saved) for ours, saved in zip(delta, update, strict=True))


def test_ranks_of_zero_and_of_each_module_survive(tmp_path):
    (expert,) = experts(1)
    first, second, *_ = expert
    expert[first] = LowRank(torch.zeros(48, 0), torch.zeros(32, 0))
    expert[second] = LowRank(expert[second].out[:, :1], expert[second].into[:, :1])
    save_expert(expert, tmp_path / "a", "tiny")
    again = load_expert(tmp_path / "a", qwen())
    assert [again[name].rank for name in expert] == [1, 1, 3, 3]
    assert not again[first].dense().any()
    theirs = PeftModel.from_pretrained(qwen(), str(tmp_path / "a"))(IDS).logits
    torch.testing.assert_close(with_composition(qwen(), expert), theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("count", [2, 3])
def test_static_rules_equal_pefts(count, tmp_path):
    """PEFT's `linear` takes the root of each weight, so 1/N² is `uniform`; its `cat` is exact; its `ties` trims tensor
    by tensor."""
    library = experts(count)
    paths = folders(library, tmp_path)
    model: Any = PeftModel.from_pretrained(qwen(), paths[0], adapter_name="task_0")
    for i, path in enumerate(paths[1:], start=1):
        model.load_adapter(path, adapter_name=f"task_{i}")
    for combination, weight, ours, dials in (
        ("linear", 1 / count**2, "uniform", {}),
        ("linear", 1.0, "linear", {}),
        ("cat", 1.0, "sum", {}),
        ("cat", 1 / count, "average", {}),
        ("cat", 0.4, "cat", {"weights": (0.4,) * count}),
        ("ties", 1.0, "ties", {"density": 0.5, "trim": "module"}),
    ):
        merged = f"{combination}_{ours}"
        names = [f"task_{i}" for i in range(count)]
        model.add_weighted_adapter(
            names, [weight] * count, merged, combination_type=combination, density=dials.get("density")
        )
        for name, delta in compose(ours, library, **dials).items():
            layer = model.base_model.model.get_submodule(name)
            theirs = layer.lora_B[merged].weight @ layer.lora_A[merged].weight * layer.scaling[merged]
            assert isinstance(delta, LowRank)
            torch.testing.assert_close(delta.dense(), theirs.detach(), rtol=1e-4, atol=1e-4)


def test_arrow_after_equals_pefts_arrow(tmp_path):
    """With all experts in its top-k and the exact prototypes in place of those of its power iteration."""
    library = experts(3)
    composition = compose("arrow_after", library, temperature=2.0)
    model: Any = create_arrow_model(
        qwen(), folders(library, tmp_path), ArrowConfig(top_k=3, router_temperature=2.0)
    ).eval()
    with torch.no_grad():
        model(IDS)  # makes the prototypes
        for name, delta in composition.items():
            assert isinstance(delta, Routed)
            model.base_model.model.get_submodule(name).lora_arrow["arrow_router"].prototypes.copy_(delta.prototypes)
        theirs, alone = model(IDS).logits, qwen()(IDS).logits
    torch.testing.assert_close(with_composition(qwen(), composition), theirs, rtol=1e-4, atol=1e-4)
    assert (theirs - alone).abs().max() > 0.1
    assert (with_composition(qwen(), compose("arrow", library, temperature=2.0)) - theirs).abs().max() > 0.01


def test_a_hub_name_is_read_from_the_cache_when_offline(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    (expert,) = experts(1)
    repository = tmp_path / "models--some--adapter"
    save_expert(expert, repository / "snapshots" / "0123abc", "tiny")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123abc")
    assert load_expert("some/adapter", qwen()).keys() == expert.keys()
    assert digest("some/adapter") == digest(repository / "snapshots" / "0123abc")
    for name in ("some/other", "not a name", "a/b/c"):
        with pytest.raises(
            SettingError,
            match=f"expert: got {name}, which is no folder here and .*; allowed: a PEFT folder, or a hub name that is",
        ):
            load_expert(name, qwen())


def test_the_digest_is_of_the_weights_and_the_config(tmp_path):
    first, second = experts(2)
    for name, expert in (("a", first), ("b", first), ("c", second)):
        save_expert(expert, tmp_path / name, "tiny")
    assert len(digest(tmp_path / "a")) == 16
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    assert digest(tmp_path / "a") != digest(tmp_path / "c")
    edit_config(tmp_path / "b", lora_alpha=4)
    assert digest(tmp_path / "a") != digest(tmp_path / "b")
    (tmp_path / "a" / "README.md").write_text("a card")
    assert digest(tmp_path / "a") != digest(tmp_path / "b")


def edit_config(folder: Path, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_tensors(folder: Path, change):
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")


B0 = "base_model.model.model.layers.0.mlp.up_proj.lora_B.weight"
A0 = B0.replace("lora_B", "lora_A")


def truncate(path: Path):
    path.write_bytes(path.read_bytes()[:-100])


REFUSED = {
    "dora": (lambda f: edit_config(f, use_dora=True), "allowed: A and B and magnitude_vector of every module"),
    "bias": (lambda f: edit_config(f, bias="lora_only"), 'bias="lora_only"'),
    "lora bias": (lambda f: edit_config(f, lora_bias=True), "allowed: A and B and bias of every module"),
    "head": (lambda f: edit_config(f, modules_to_save=["lm_head"]), 'modules_to_save=["lm_head"]'),
    "replication": (lambda f: edit_config(f, layer_replication=[[0, 1]]), "layer_replication=[[0, 1]]"),
    "tokens": (lambda f: edit_config(f, trainable_token_indices=[3]), "trainable_token_indices=[3]"),
    "parameters": (lambda f: edit_config(f, target_parameters=["experts"]), "target_parameters="),
    "unknown": (lambda f: edit_config(f, use_newest_trick={"x": 1}), "use_newest_trick="),
    "pissa": (lambda f: edit_config(f, init_lora_weights="pissa_niter_4"), "init_lora_weights=pissa_niter_4"),
    "loftq": (lambda f: edit_config(f, init_lora_weights="loftq"), "init_lora_weights=loftq"),
    "ia3": (lambda f: edit_config(f, peft_type="IA3"), "peft_type IA3"),
    "no rank": (lambda f: edit_config(f, r=None), "r=None"),
    "zero rank": (lambda f: edit_config(f, r=0), "r=0"),
    "other rank": (lambda f: edit_config(f, r=5), "allowed: rank 5"),
    "zero rank of a module": (lambda f: edit_config(f, rank_pattern={"up_proj": 0}), "allowed: numbers, r above 0"),
    "infinite": (lambda f: edit_config(f, lora_alpha=float("inf")), "lora_alpha=inf"),
    "no alpha": (lambda f: edit_config(f, lora_alpha="16"), "lora_alpha='16'"),
    "pattern": (lambda f: edit_config(f, rank_pattern={"(": 3}), "which is no regular expression"),
    "list": (lambda f: (f / "adapter_config.json").write_text("[]"), "unreadable adapter_config.json"),
    "not json": (lambda f: (f / "adapter_config.json").write_text('{"r": 3'), "unreadable adapter_config.json"),
    "no config": (lambda f: (f / "adapter_config.json").unlink(), "no adapter_config.json"),
    "no weights": (lambda f: (f / "adapter_model.safetensors").unlink(), "no adapter_model.safetensors"),
    "pickle": (lambda f: (f / "adapter_model.safetensors").rename(f / "adapter_model.bin"), "pickles are not read"),
    "truncated": (lambda f: truncate(f / "adapter_model.safetensors"), "a broken adapter_model.safetensors"),
    "empty file": (lambda f: (f / "adapter_model.safetensors").write_bytes(b""), "a broken adapter_model.safetensors"),
    "empty": (lambda f: edit_tensors(f, lambda t: t.clear()), "no weights"),
    "nan": (lambda f: edit_tensors(f, lambda t: t[B0][0].fill_(float("nan"))), f"NaN or infinity in {B0}"),
    "embedding": (
        lambda f: edit_tensors(
            f, lambda t: t.update({"base_model.model.model.embed_tokens.lora_embedding_A": t[A0] + 1})
        ),
        "only A of model.embed_tokens",
    ),
    "task": (lambda f: edit_config(f, task_type="SEQ_CLS"), "task_type SEQ_CLS"),
    "convertible": (lambda f: edit_config(f, peft_type="VBLORA"), "peft.save_as_lora(path, model, rank)"),
    "not named": (
        lambda f: edit_config(f, target_modules=["up_proj"]),
        "tensors of model.layers.0.mlp.down_proj",
    ),
    "another layer": (
        lambda f: edit_config(f, target_modules=["up_proj", "down_proj"], layers_to_transform=[0]),
        "tensors of model.layers.1.mlp.down_proj",
    ),
    "torchtune": (
        lambda f: edit_tensors(f, lambda t: t.update({"layers.0.attn.q_proj.lora_a.weight": torch.zeros(2, 2)})),
        "torchtune's own names",
    ),
    "names without PEFT's prefix": (
        lambda f: edit_tensors(f, lambda t: t.update({B0.removeprefix("base_model.model."): t[B0] + 1})),
        "PEFT's are base_model.model.MODULE.lora_A.weight",
    ),
    "torchtune's file": (
        lambda f: (f / "adapter_config.json").rename(f / "adapter_0.pt"),
        "torchtune's own names: its save_peft_adapter",
    ),
    "twice": (
        lambda f: edit_tensors(f, lambda t: t.update({A0.replace("lora_A", "lora_A.default"): t[A0] + 1})),
        "two tensors for A of model.layers.0.mlp.up_proj",
    ),
    "bias tensor": (
        lambda f: edit_tensors(f, lambda t: t.update({B0.replace("weight", "bias"): torch.zeros(48)})),
        "only A and B and bias of model.layers.0.mlp.up_proj",
    ),
    "whole tensor": (
        lambda f: edit_tensors(f, lambda t: t.update({"base_model.model.lm_head.weight": torch.zeros(2)})),
        "save_embedding_layers",
    ),
    "half": (lambda f: edit_tensors(f, lambda t: t.pop(B0)), "only A of model.layers.0.mlp.up_proj"),
    "module": (
        lambda f: edit_tensors(f, lambda t: copy_to(t, "model.layers.7.mlp.up_proj")),
        "for module model.layers.7.mlp.up_proj",
    ),
    "norm": (lambda f: edit_tensors(f, lambda t: copy_to(t, "model.norm")), "for model.norm, a Qwen2RMSNorm"),
}


def copy_to(tensors, module):
    for key in (A0, B0):
        tensors[key.replace("model.layers.0.mlp.up_proj", module)] = tensors[key].clone()


@pytest.mark.parametrize("what", REFUSED)
def test_refused_adapters(what, tmp_path):
    save_expert(experts(1)[0], tmp_path / "a", "tiny")
    spoil, message = REFUSED[what]
    spoil(tmp_path / "a")
    with pytest.raises(SettingError) as error:
        load_expert(str(tmp_path / "a"), qwen())
    assert str(error.value).startswith("expert: got ")
    assert str(error.value).count("expert: got ") == 1
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_adapter_of_another_base_names_both_shapes(tmp_path):
    save_expert(experts(1)[0], tmp_path / "a", "tiny")
    with pytest.raises(
        SettingError, match=r"lora_B \(32, 3\) and lora_A \(3, 48\) for .*down_proj; allowed: ΔW of shape \(32, 40\)"
    ):
        load_expert(tmp_path / "a", qwen(width=40))


def test_libraries_that_do_not_fit_together():
    first, second = experts(2)
    name = next(iter(first))
    for library, message in (
        ([], "library: got no expert; allowed: at least one"),
        (
            [first, second | {name: LowRank(torch.zeros(9, 3), torch.zeros(32, 3))}],
            r"library: got shapes \(48, 32\) and \(9, 32\) of",
        ),
    ):
        with pytest.raises(SettingError, match=message):
            complete(library)


def test_what_cannot_be_saved_leaves_nothing_behind(tmp_path, monkeypatch):
    expert, other = experts(2)
    name = next(iter(expert))
    routed = compose("arrow", [expert, other])
    spoilt = expert | {name: LowRank(expert[name].out * float("inf"), expert[name].into)}
    too_large = expert | {name: LowRank(expert[name].out.double() * 1e300, expert[name].into)}  # for float32
    for bad, message in (
        (routed, "a routed composition cannot be saved"),
        (spoilt, f"NaN or infinity in {name}"),
        (too_large, f"NaN or infinity in {name}"),
        ({}, "no module"),
    ):
        with pytest.raises(SettingError, match=message) as error:
            save_expert(bad, tmp_path / "a", "tiny")
        assert "\n" not in str(error.value)

    def full_disk(*_: object, **__: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(OSError, match="no space left"):
        save_expert(expert, tmp_path / "a", "tiny")
    monkeypatch.undo()
    assert not list(tmp_path.iterdir())


def test_a_sum_says_whether_all_are_finite():
    largest = torch.finfo(torch.float32).max
    assert all_finite(torch.full((1000,), largest))
    assert all_finite(torch.zeros(0, 3))
    for spoilt in ([math.inf, -math.inf], [math.nan, 1.0], [-math.inf, largest]):
        assert not all_finite(torch.tensor(spoilt))


def test_an_adapter_is_never_overwritten(tmp_path):
    first, second = experts(2)
    (tmp_path / "a").mkdir()
    save_expert(first, tmp_path / "a", "tiny")
    before = digest(tmp_path / "a")
    with pytest.raises(SettingError, match=r"folder: got .*; allowed: a new or empty folder"):
        save_expert(second, tmp_path / "a", "tiny")
    assert digest(tmp_path / "a") == before
    shutil.rmtree(tmp_path / "a")
    save_expert(second, tmp_path / "a", "tiny")
    assert digest(tmp_path / "a") != before
