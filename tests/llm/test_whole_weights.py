"""Adapters that store weights and not their change (DoRA, modules_to_save, trainable_token_indices), against the
weights that PEFT merges in float64 and against PEFT's logits."""

import json
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lora_reuse.llm import inspect
from lora_reuse.llm.adapters.base_weights import base_weight
from lora_reuse.llm.adapters.folders import load_expert, open_expert
from lora_reuse.llm.adapters.lowrank import LowRank, whole
from lora_reuse.llm.adapters.saving import Card, save_composition
from lora_reuse.llm.compositions import compose
from lora_reuse.llm.decoding.models import load_frame
from lora_reuse.runs.settings import SettingError
from tests.llm.test_adapters import IDS, gpt2, qwen, with_composition

torch.set_num_threads(1)
pytestmark = [
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning"),
    pytest.mark.filterwarnings("ignore:Input and output embeddings are no longer tied:UserWarning"),
]
MLP = ["up_proj", "down_proj"]


def tied() -> PreTrainedModel:
    model = qwen()
    model.config.tie_word_embeddings = True
    model.tie_weights()
    return model


def dora(**more: Any) -> Any:
    return lambda: LoraConfig(**{"r": 4, "lora_alpha": 6, "use_dora": True, "target_modules": MLP} | more)


def beside(**more: Any) -> Any:
    return lambda: LoraConfig(r=2, target_modules=["up_proj"], **more)


KINDS: dict[str, tuple[Any, Any]] = {
    "dora": (qwen, dora()),
    "rank-stabilised dora of ranks": (qwen, dora(use_rslora=True, rank_pattern={"down_proj": 3})),
    "dora of conv1d": (gpt2, dora(target_modules=["c_fc", "c_attn"], fan_in_fan_out=True)),
    "dora of an embedding": (qwen, dora(target_modules=["embed_tokens", "up_proj"])),
    "whole modules": (qwen, beside(modules_to_save=["lm_head", "embed_tokens"])),
    "whole linear module": (qwen, beside(modules_to_save=["down_proj"])),
    "whole head of a tied model": (tied, beside(modules_to_save=["lm_head"])),
    "tokens": (qwen, beside(trainable_token_indices=[3, 7, 5])),
    "tokens of both ends": (qwen, beside(trainable_token_indices={"embed_tokens": [3, 7], "lm_head": [1, 2, 4]})),
    "tokens of a tied model": (tied, beside(trainable_token_indices=[3, 7, 5])),
}


def written(kind, folder, seed=1) -> tuple[Any, dict[str, torch.Tensor], torch.Tensor]:
    """An adapter of this kind with random weights in `folder`: its base, how PEFT changes the weight of each module
    when it merges, in float64 and outputs times inputs, and PEFT's logits."""
    base, config = KINDS[kind]
    adapted: Any = get_peft_model(base(), config()).eval()
    torch.manual_seed(seed)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.5)
    with torch.no_grad():
        logits = adapted(IDS).logits
    adapted.save_pretrained(str(folder))
    merged, before = dict(adapted.double().merge_and_unload().named_modules()), base()
    deltas = {}
    for name, module in before.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding | Conv1D):
            change = merged[name].weight.detach() - module.weight.detach().double()
            if change.abs().max() > 1e-6:
                deltas[name] = change if isinstance(module, nn.Linear) else change.T
    return base, deltas, logits


@pytest.mark.parametrize("kind", KINDS)
def test_delta_is_how_peft_changes_the_weights(kind, tmp_path):
    base, deltas, logits = written(kind, tmp_path)
    expert = load_expert(tmp_path, base())
    assert expert.keys() == deltas.keys()
    for name, update in expert.items():
        torch.testing.assert_close(update.dense().double(), deltas[name], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(with_composition(base(), expert), logits, rtol=1e-4, atol=1e-4)
    assert (logits - base()(IDS).logits).abs().max() > 0.1


def fault(name, monkeypatch) -> None:
    """A planted mistake."""
    if name.startswith("norm"):

        def wrong(update: LowRank, magnitude: torch.Tensor, module: str, model: nn.Module, folder: Any) -> LowRank:
            W = base_weight(module, model, folder)
            changed = W + update.dense()
            norm = W.norm(dim=1) if name == "norm of W alone" else changed.norm(dim=0).mean()
            return whole(((magnitude / norm)[:, None] * changed - W).float())

        monkeypatch.setattr("lora_reuse.llm.adapters.updates.dora", wrong)
    elif name == "base not subtracted":
        monkeypatch.setattr(
            "lora_reuse.llm.adapters.whole.base_weight",
            lambda name, model, _: 0 * model.get_submodule(name).weight.detach(),
        )
    elif name == "tokens in order":
        monkeypatch.setattr("lora_reuse.llm.adapters.updates.tokens_of", lambda config, _: [3, 5, 7])
    else:
        monkeypatch.setattr("lora_reuse.llm.adapters.folders.tied_to", lambda *_: {})


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("dora", "norm of W alone"),
        ("dora", "norm of columns"),
        ("whole linear module", "base not subtracted"),
        ("tokens", "tokens in order"),
        ("tokens of a tied model", "head forgotten"),
    ],
)
def test_a_planted_mistake_is_seen(kind, name, tmp_path, monkeypatch):
    base, deltas, _ = written(kind, tmp_path)
    fault(name, monkeypatch)
    expert = open_expert(tmp_path, base())
    wrong = [module for module, delta in deltas.items() if module not in expert or off(expert[module], delta) > 0.01]
    assert wrong


def off(update: LowRank, delta: torch.Tensor) -> float:
    return float((update.dense() - delta).abs().max())


@pytest.mark.parametrize(("rule", "weight"), [("sum", 1.0), ("average", 0.5), ("cat", 1.0)])
def test_they_are_composed_as_every_update_is(rule, weight, tmp_path):
    """What a DoRA changes at its own magnitude, a whole head and tokens, each by the rule's weight, as a LoRA that PEFT
    loads: against float64, and against PEFT."""
    kinds = ("dora", "whole modules", "tokens")
    found = [written(kind, tmp_path / kind, seed=i) for i, kind in enumerate(kinds)]
    composition = compose(rule, [load_expert(tmp_path / kind, qwen()) for kind in kinds])
    weight = 1 / 3 if rule == "average" else weight
    for name, update in composition.items():
        wanted = sum(weight * deltas[name] for _, deltas, _ in found if name in deltas)
        assert isinstance(update, LowRank)
        torch.testing.assert_close(update.dense().double(), wanted, rtol=1e-4, atol=1e-4)
    save_composition(composition, qwen(), tmp_path / "merged", Card("tiny", rule))
    theirs = PeftModel.from_pretrained(qwen(), str(tmp_path / "merged"))(IDS).logits
    torch.testing.assert_close(with_composition(qwen(), composition), theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rule", ["sum", "average", "cat"])
def test_a_sum_of_whole_matrices_is_one(rule, tmp_path):
    """Of no higher rank than a matrix of its shape has, whichever side is the longer one."""
    deltas = [written("dora", tmp_path / str(i), seed=i)[1] for i in range(3)]
    composition = compose(rule, [load_expert(tmp_path / str(i), qwen()) for i in range(3)])
    for name, update in composition.items():
        assert isinstance(update, LowRank)
        assert update.rank == min(update.shape)
        wanted = sum(delta[name] for delta in deltas) / (3 if rule == "average" else 1)
        torch.testing.assert_close(update.dense().double(), wanted, rtol=1e-4, atol=1e-4)


def test_rows_of_tokens_have_a_rank_a_token(tmp_path):
    written("tokens", tmp_path)
    assert load_expert(tmp_path, qwen())["model.embed_tokens"].rank == 3


@pytest.mark.parametrize(("kind", "base"), [("dora", qwen), ("dora of conv1d", gpt2), ("tokens of a tied model", tied)])
def test_the_weights_of_a_base_that_is_not_loaded_are_read_from_its_files(kind, base, tmp_path):
    base().save_pretrained(tmp_path / "base")
    written(kind, tmp_path / "a")
    frame = load_frame(str(tmp_path / "base"))
    from_files, from_memory = load_expert(tmp_path / "a", frame), load_expert(tmp_path / "a", base())
    assert from_files.keys() == from_memory.keys()
    for name, update in from_memory.items():
        assert torch.equal(from_files[name].out, update.out)
    (tmp_path / "base" / "model.safetensors").unlink()
    with pytest.raises(SettingError, match=r"ΔW of .* needs the weight of .*; in Python, load_base has the weights"):
        load_expert(tmp_path / "a", frame)


def test_a_base_in_float8_is_quantised(tmp_path):
    """Its numbers are the weights but for scales, which are stored beside them: ΔW from them alone would be wrong."""
    qwen().save_pretrained(tmp_path / "base")
    written("dora", tmp_path / "a")
    path = tmp_path / "base" / "model.safetensors"
    stored = {name: it.to(torch.float8_e4m3fn) if "proj" in name else it for name, it in load_file(path).items()}
    save_file(stored, path, {"format": "pt"})
    with pytest.raises(SettingError, match=r"needs the weight of .* there, which is quantised"):
        load_expert(tmp_path / "a", load_frame(str(tmp_path / "base")))


def test_tying_is_said_before_its_weights(tmp_path):
    written("whole modules", tmp_path)
    change_config(tmp_path, ensure_weight_tying=True)
    with pytest.raises(SettingError, match=r"ensure_weight_tying=true with an adapter of lm_head"):
        load_expert(tmp_path, qwen())


def change_config(folder, **changes) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_tensors(folder, change) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")


HEAD, ROWS = (
    "base_model.model.lm_head.weight",
    "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta",
)
REFUSED: dict[str, tuple[str, Any, str]] = {
    "a grown vocabulary": (
        "whole modules",
        lambda f: change_tensors(f, lambda t: t.update({HEAD: torch.zeros(66, 32)})),
        r"lm_head \(66, 32\) in .*; allowed: a weight of shape \(64, 32\).*; if tokens were added, resize",
    ),
    "a missing module": (
        "whole modules",
        lambda f: change_tensors(f, lambda t: t.pop(HEAD)),
        r'modules_to_save=\["lm_head"\] in .*, without their weights',
    ),
    "a norm": (
        "whole modules",
        lambda f: (
            change_config(f, modules_to_save=["lm_head", "embed_tokens", "norm"]),
            change_tensors(f, lambda t: t.update({"base_model.model.model.norm.weight": torch.ones(32)})),
        ),
        r"model\.norm, a Qwen2RMSNorm; allowed: adapters of Linear",
    ),
    "a whole bias": (
        "whole modules",
        lambda f: (
            change_config(f, modules_to_save=["lm_head", "embed_tokens", "q_proj"]),
            change_tensors(
                f,
                lambda t: t.update(
                    {
                        "base_model.model.model.layers.0.self_attn.q_proj.weight": torch.ones(32, 32),
                        "base_model.model.model.layers.0.self_attn.q_proj.bias": torch.ones(32),
                    }
                ),
            ),
        ),
        r"q_proj\.bias in .*, other than the base's; .*biases that were trained are not composed",
    ),
    "too many rows": (
        "tokens",
        lambda f: change_config(f, trainable_token_indices=[3, 7]),
        r"rows \(3, 32\) for 2 tokens of model\.embed_tokens",
    ),
    "a token twice": (
        "tokens",
        lambda f: change_config(f, trainable_token_indices=[3, 7, 3]),
        "which are different tokens below 64",
    ),
    "a token beyond": (
        "tokens",
        lambda f: change_config(f, trainable_token_indices=[3, 7, 64]),
        "which are different tokens below 64",
    ),
    "no rows": (
        "tokens",
        lambda f: change_tensors(f, lambda t: t.pop(ROWS)),
        r"trainable_token_indices=\[3, 7, 5\] in .*, without their rows",
    ),
    "magnitudes unsaid": (
        "dora",
        lambda f: change_config(f, use_dora=False),
        "only A and B and magnitude_vector of .*; allowed: A and B of every module",
    ),
    "a start, too": (
        "dora",
        lambda f: change_config(f, init_lora_weights="pissa"),
        "use_dora=true and init_lora_weights",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_fit_is_refused_by_name(what, tmp_path):
    kind, spoil, message = REFUSED[what]
    written(kind, tmp_path)
    spoil(tmp_path)
    with pytest.raises(SettingError, match=message) as error:
        load_expert(tmp_path, qwen())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("kind", "lines"),
    [
        (
            "dora",
            [
                "DoRA of rank 4, alpha 6, ΔW = diag(m/‖V‖) V − W of V = W + 1.5 B A\n",
                "rank       32 of ΔW, which is read exactly; max_rank= of compose cuts it",
            ],
        ),
        (
            "whole modules",
            ["LoRA of rank 2", "whole      modules_to_save=lm_head, embed_tokens: ΔW = W' − W\n", "2 to 32 of"],
        ),
        ("tokens", ["whole      trainable_token_indices=3, 7, 5: ΔW has their rows less the base's\n", "2 to 3 of"]),
    ],
)
def test_inspect_says_what_they_are(kind, lines, tmp_path, capsys):
    qwen().save_pretrained(tmp_path / "base")
    written(kind, tmp_path / "a")
    assert inspect.main([f"library={tmp_path / 'a'}", f"model={tmp_path / 'base'}"]) == 0
    text = capsys.readouterr().out
    for line in lines:
        assert line in text
