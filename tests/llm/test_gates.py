"""Exported gates: against the formula on the inputs of every module, and against PEFT's Arrow, which differs in its
prototypes and in where its router sits."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import ArrowConfig, create_arrow_model
from safetensors.torch import load_file

from lora_reuse.llm.adapters.lowrank import LowRank
from lora_reuse.llm.adapters.writing import save_expert
from lora_reuse.llm.compose import main as compose
from lora_reuse.llm.decoding.models import load_base
from lora_reuse.llm.gates import main
from tests.llm.test_adapters import IDS, experts, folders, qwen

torch.set_num_threads(1)
PROMPTS = ["Where does Ann Lee live ?", "who"]


@pytest.fixture(scope="module")
def there(folder_of, tmp_path_factory) -> Path:
    """Two adapters of a tiny model, and prompts."""
    root = tmp_path_factory.mktemp("gates")
    folders(experts(3), root)
    (root / "prompts.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n\n" for text in PROMPTS))
    return root


def exported(base: Path, root: Path, out: Path, *dials: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    library = ",".join(str(root / f"expert_{i}") for i in range(3))
    words = [f"library={library}", f"model={base}", "another_model=true", f"out={out / 'routed'}", *dials]
    assert compose(words) == 0
    words = [f"routed={out / 'routed'}", f"model={base}", f"prompts={root / 'prompts.jsonl'}", f"out={out / 'gates'}"]
    assert main([*words, "chat=off"]) == 0
    return json.loads((out / "gates/gates.json").read_text()), load_file(out / "gates/gates.safetensors")


def inputs_of(model: Any, modules: list[str], tokens: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """What goes into each module of PEFT's model, and its last logits."""
    found: dict[str, torch.Tensor] = {}
    hooks = [
        model.base_model.model.get_submodule(name).register_forward_pre_hook(
            lambda _, given, name=name: found.update({name: given[0][0]})
        )
        for name in modules
    ]
    with torch.inference_mode():
        logits = model(input_ids=tokens[None]).logits[0, -1]
    for hook in hooks:
        hook.remove()
    return found, logits


@pytest.mark.parametrize(("top_k", "temperature"), [(1, 1.0), (2, 0.5), (3, 2.0)])
def test_the_gates_are_those_of_pefts_arrow(folder_of, there, tmp_path, top_k, temperature, capsys):
    """Its own inputs to every module, its formula, and its logits, with the exact prototypes in place of those of its
    power iteration."""
    base = folder_of("qwen2")
    dials = [f"top_k={top_k}", f"temperature={temperature}", "composition=arrow_after"]
    said, found = exported(base, there, tmp_path, *dials)
    assert (said["rule"], said["dials"]["top_k"], said["dials"]["temperature"]) == ("arrow_after", top_k, temperature)
    assert [name for name, _ in said["experts"]] == ["expert_0", "expert_1", "expert_2"]
    assert said["prompts"] == PROMPTS
    assert "softmax" in said["formula"] or "weights of `arrow`" in said["formula"]
    plain = load_base(str(base), chat="off")
    paths = [str(there / f"expert_{i}") for i in range(3)]
    model: Any = create_arrow_model(
        plain.model, paths, ArrowConfig(top_k=top_k, router_temperature=temperature, rng_seed=0)
    ).eval()
    routed = load_file(tmp_path / "routed" / "composition.safetensors")
    with torch.inference_mode():
        model(input_ids=IDS)  # makes the prototypes
    for name in said["modules"]:
        arrow = model.base_model.model.get_submodule(name).lora_arrow["arrow_router"]
        arrow.prototypes = routed[f"{name}.prototypes"]
    spread = 0.0
    for i, text in enumerate(PROMPTS):
        tokens = found[f"{i}/tokens"]
        assert tokens.tolist() == plain.tokenizer(text).input_ids
        inputs, logits = inputs_of(model, said["modules"], tokens)
        torch.testing.assert_close(found[f"{i}/logits"], logits, rtol=1e-4, atol=1e-5)
        for name in said["modules"]:
            scores = (inputs[name] @ routed[f"{name}.prototypes"].T).abs()
            kept = scores >= scores.topk(top_k, dim=-1).values[:, -1:]
            gates = torch.softmax(scores.masked_fill(~kept, -torch.inf) / temperature, dim=-1)
            assert gates.shape == (len(tokens), 3)
            torch.testing.assert_close(found[f"{i}/{name}"], gates, rtol=1e-3, atol=1e-4)
            spread = max(spread, float(found[f"{i}/{name}"].std(dim=0, correction=0).max()))
    assert spread > 0.01, "the gates of all tokens are alike"
    assert len(found) == len(PROMPTS) * (len(said["modules"]) + 2)


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """The sine of the angle between two directions."""
    return float((1 - (one @ other / one.norm() / other.norm()) ** 2).clamp_min(0).sqrt())


@pytest.mark.parametrize(("values", "near"), [((1.0, 0.5, 0.25), True), ((1.0, 0.99, 0.98), False)])
def test_pefts_prototype_is_15_steps_of_a_power_iteration(values, near, tmp_path):
    """tan ∠ falls by (σ_2/σ_1)² a step: 1e-9 of where it starts for singular values 1 : ½, but 3/4 of it for 1 : 0.99,
    where PEFT's router depends on its rng_seed, and ours does not."""
    turn = lambda size: torch.linalg.qr(torch.randn(size, 3, generator=torch.Generator().manual_seed(size)))[0]  # noqa: E731
    expert = {
        name: LowRank(turn(update.shape[0]) * torch.tensor(values), turn(update.shape[1]))
        for name, update in experts(1)[0].items()
    }
    save_expert(expert, tmp_path / "a", "tiny")
    for seed in (0, 1):
        model: Any = create_arrow_model(qwen(), [str(tmp_path / "a")], ArrowConfig(top_k=1, rng_seed=seed)).eval()
        with torch.inference_mode():
            model(IDS)
        for name, update in expert.items():
            theirs = model.base_model.model.get_submodule(name).lora_arrow["arrow_router"].prototypes[0]
            off = apart(theirs.double(), update.top_input_direction().double())
            assert (off < 1e-3) if near else (off > 0.01)


def test_pefts_router_sits_on_every_module_of_a_name(tmp_path):
    """So that adapters of some layers alone, which are composed here, stop it."""
    upper = [{name: update for name, update in expert.items() if ".layers.1." in name} for expert in experts(2)]
    paths = folders(upper, tmp_path)
    model: Any = create_arrow_model(qwen(), paths, ArrowConfig(top_k=1)).eval()
    with pytest.raises(RuntimeError, match="stack expects a non-empty TensorList"), torch.inference_mode():
        model(IDS)


MISTAKES = [
    ("routed={folder}", "prompts: got nothing"),
    ("routed={folder} prompts={folder}/none.jsonl out={folder}/x", "prompts: got "),
    ("routed={folder}/expert_0 prompts={prompts} out={folder}/x", "routed: got "),
    ("routed={folder} prompts={prompts} out={folder}", "out: got "),
    ("routed={folder} prompts={folder}/bad.jsonl out={folder}/x", "bad.jsonl:2: got '{}'; allowed: "),
    ("routed={folder} prompts={folder}/empty.jsonl out={folder}/x", "prompts: got "),
    ("routed={folder}/broken prompts={prompts} out={folder}/x", "composition: got no readable composition.json in "),
]


@pytest.mark.parametrize(("text", "said"), MISTAKES)
def test_a_mistake_is_one_line(text, said, there, folder_of, capsys):
    (there / "bad.jsonl").write_text('{"prompt": "a"}\n{}\n')
    (there / "empty.jsonl").write_text("\n")
    (there / "broken").mkdir(exist_ok=True)
    (there / "broken" / "composition.json").write_text('{"format": 1, "modules": {"x": 1}}')
    words = text.format(folder=there, prompts=there / "prompts.jsonl").split()
    assert main([*words, f"model={folder_of('qwen2')}"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert said in error
    assert not (there / "x").exists()
