"""LoRAs whose B has a bias (PEFT's lora_bias): ΔW x + b against PEFT's modules and logits, composed by the rules that
are linear in ΔW, written and read again; every other road refuses them by name."""

import json
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn

from lora_reuse.llm import inspect
from lora_reuse.llm.adapters.adapter import Adapter, load_adapter
from lora_reuse.llm.adapters.biased import LINEAR, Biased
from lora_reuse.llm.adapters.composing import compose
from lora_reuse.llm.adapters.compressing import compress
from lora_reuse.llm.adapters.folders import load_expert
from lora_reuse.llm.adapters.lowrank import LowRank
from lora_reuse.llm.adapters.plain import merge_into, to_peft
from lora_reuse.llm.adapters.saving import save
from lora_reuse.llm.compose import main as compose_command
from lora_reuse.llm.compositions import compose as updates
from lora_reuse.llm.decoding.models import Base, load_base
from lora_reuse.llm.decoding.resident import Resident
from lora_reuse.runs.settings import SettingError
from tests.llm.test_adapters import IDS, qwen, with_composition

torch.set_num_threads(1)
pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:Adapter 'default'. .* have invalid shape"
    ),  # PEFT takes a bias for a broken shard
    pytest.mark.filterwarnings("ignore:`lora_bias=True` was passed but the targeted layer"),
]
KINDS: dict[str, Any] = {
    "bias": lambda: LoraConfig(r=4, lora_alpha=6, lora_bias=True, target_modules=["up_proj", "down_proj"]),
    "rank-stabilised bias": lambda: LoraConfig(
        r=4, lora_alpha=6, lora_bias=True, use_rslora=True, target_modules=["q_proj", "up_proj"]
    ),
    "none": lambda: LoraConfig(r=3, target_modules=["up_proj"]),
}


@pytest.fixture(scope="module")
def base() -> Base:
    return Base(qwen(), load_base("pocket").tokenizer, "tiny", "", False)


def written(kind, folder, seed=1) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], torch.Tensor]:
    """An adapter of this kind with random parameters in `folder`: ΔW and s b of PEFT's modules in float64, and PEFT's
    logits."""
    adapted: Any = get_peft_model(qwen(), KINDS[kind]()).eval()
    torch.manual_seed(seed)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.5)
    deltas, biases = {}, {}
    with torch.no_grad():
        for name, module in adapted.base_model.model.named_modules():
            if hasattr(module, "get_delta_weight"):
                deltas[name] = module.get_delta_weight("default").double()
                if module.lora_bias["default"]:
                    biases[name] = module.scaling["default"] * module.lora_B["default"].bias.double()
        logits = adapted(IDS).logits
    adapted.save_pretrained(str(folder))
    return deltas, biases, logits


def assert_adds(adapter: Adapter, deltas, biases) -> None:
    assert adapter.keys() == deltas.keys()
    for name in adapter:
        delta: Any = adapter[name]
        update = delta.update if isinstance(delta, Biased) else delta
        bias = delta.bias if isinstance(delta, Biased) else torch.zeros(delta.shape[0])
        torch.testing.assert_close(update.dense().double(), deltas[name], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(bias.double(), biases.get(name, 0 * bias.double()), rtol=1e-5, atol=1e-5)


def weighted(parts: Any, weights) -> dict[str, Any]:
    return {
        name: sum(w * part[name] for w, part in zip(weights, parts, strict=True) if name in part)
        for name in set().union(*parts)
    }


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_adds_what_pefts_modules_add(kind, base, tmp_path):
    deltas, biases, logits = written(kind, tmp_path)
    adapter = load_adapter(base, tmp_path, another_model=True)
    assert_adds(adapter, deltas, biases)
    torch.testing.assert_close(with_composition(qwen(), adapter), logits, rtol=1e-4, atol=1e-4)
    if biases:
        without = with_composition(qwen(), adapter.weights())
        assert (without - logits).abs().max() > 0.1  # which a forgotten bias would be


@pytest.mark.parametrize(
    ("rule", "weights"),
    [("sum", (1, 1, 1)), ("average", (1 / 3,) * 3), ("cat", (0.5, 2.0, -1.0)), ("lori_concat", (0.5,) * 3)],
)
def test_linear_rules_compose_biases_by_the_same_weights(rule, weights, base, tmp_path):
    """Against float64, resident beside the base in one batch, and as a folder that PEFT loads and we read again."""
    found = [written(kind, tmp_path / str(i), seed=i) for i, kind in enumerate(KINDS)]
    library = [load_adapter(base, tmp_path / str(i), another_model=True) for i in range(3)]
    both = compose(library, rule, **({"weights": weights} if rule == "cat" else {}))
    deltas, biases = (weighted([parts[which] for parts in found], weights) for which in (0, 1))
    assert_adds(both, deltas, biases)
    with pytest.raises(AssertionError):  # of the first expert twice
        assert_adds(both, deltas, weighted([part[1] for part in (found[0], *found[:2])], weights))
    ours = with_composition(qwen(), both)
    save(both, tmp_path / "both")
    theirs = PeftModel.from_pretrained(qwen(), str(tmp_path / "both"))(IDS).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(to_peft(base, both)(IDS).logits, theirs, rtol=1e-4, atol=1e-4)
    assert_adds(load_adapter(base, tmp_path / "both", another_model=True), deltas, biases)
    model = qwen()
    with torch.no_grad(), Resident(model) as resident:
        resident.use([None, both])
        together = model(IDS.repeat(2, 1)).logits
    torch.testing.assert_close(together[2:], ours, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(together[:2], qwen()(IDS).logits, rtol=1e-4, atol=1e-4)


def test_the_rules_that_are_named_linear_are_linear():
    """An expert that is scaled by -3 changes ΔW by -4 times its share; of TIES and of products of summed factors, by
    something else."""
    random = torch.Generator().manual_seed(0)
    one, other = (LowRank(torch.randn(6, 2, generator=random), torch.randn(5, 2, generator=random)) for _ in "ab")

    def change(rule: str) -> torch.Tensor:
        made = []
        for scale in (1, -3):
            composed: Any = updates(rule, [{"m": LowRank(scale * one.out, one.into)}, {"m": other}])["m"]
            made.append(composed.dense())
        return made[1] - made[0]

    shares = {"sum": 1.0, "average": 0.5, "cat": 1.0, "lori_concat": 0.5}
    assert shares.keys() == set(LINEAR)
    for rule, share in shares.items():
        torch.testing.assert_close(change(rule), -4 * share * one.dense(), rtol=1e-4, atol=1e-5)
    for rule in ("ties", "linear"):
        assert (change(rule) + 4 * one.dense()).abs().max() > 0.1


@pytest.mark.parametrize("rule", ["ties", "linear", "uniform", "arrow"])
def test_other_rules_refuse_biases_by_name(rule, base, tmp_path):
    for i, kind in enumerate(("bias", "none")):
        written(kind, tmp_path / str(i), seed=i)
    library = [load_adapter(base, tmp_path / str(i), another_model=True) for i in range(2)]
    with pytest.raises(
        SettingError, match=rf"composition: got {rule} of 0, which has biases .*; allowed: sum | average"
    ):
        compose(library, rule)


def test_roads_without_a_place_for_biases_refuse_them(base, tmp_path):
    written("bias", tmp_path / "a")
    adapter = load_adapter(base, tmp_path / "a", another_model=True)
    for road in (lambda: merge_into(base, adapter), lambda: compress(adapter, 1)):
        with pytest.raises(SettingError, match=r"adapter: got a, which has biases \(lora_bias\)"):
            road()
    with pytest.raises(SettingError, match=r"expert: got lora_bias=true in .*by sum, average, cat"):
        load_expert(tmp_path / "a", qwen())


@pytest.mark.parametrize(("name", "value"), [("max_rank", "2"), ("format", "model"), ("format", "gguf")])
def test_the_setting_that_has_no_place_for_them_is_named(name, value, tmp_path, capsys):
    qwen().save_pretrained(tmp_path / "base")
    written("bias", tmp_path / "a")
    words = [f"library={tmp_path / 'a'}", f"model={tmp_path / 'base'}", "composition=sum", f"out={tmp_path / 'out'}"]
    assert compose_command([*words, f"{name}={value}", "another_model=true"]) == 2
    assert f"llm.compose: {name}: got {value} with adapters that have biases (lora_bias)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("said", "tensor", "message"),
    [
        (False, torch.zeros(48), "only A and B and bias of .*; allowed: A and B of every module"),
        (True, None, "only A and B of .*; allowed: A and B and bias of every module"),
        (True, torch.zeros(47), r"with bias \(47,\) and lora_B \(48, 4\) and .*; allowed: ΔW of shape \(48, 32\)"),
    ],
)
def test_biases_that_do_not_fit_are_refused(said, tensor, message, base, tmp_path):
    written("bias", tmp_path)
    config, weights = tmp_path / "adapter_config.json", tmp_path / "adapter_model.safetensors"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"lora_bias": said}))
    tensors, name = load_file(weights), "base_model.model.model.layers.0.mlp.up_proj.lora_B.bias"
    tensors.pop(name)
    save_file(tensors | ({} if tensor is None else {name: tensor}), weights)
    with pytest.raises(SettingError, match=message):
        load_adapter(base, tmp_path, another_model=True)


def test_inspect_says_which_rules_compose_them(tmp_path, capsys):
    qwen().save_pretrained(tmp_path / "base")
    for i, kind in enumerate(("bias", "none")):
        written(kind, tmp_path / str(i), seed=i)
    assert inspect.main([f"library={tmp_path / '0'},{tmp_path / '1'}", f"model={tmp_path / 'base'}"]) == 0
    text = capsys.readouterr().out
    assert "LoRA of rank 4, alpha 6, ΔW = 1.5 B A, and a bias 1.5 b\n" in text
    assert "biases     in 4 modules, |b| " in text
    assert "of the rules of `lora-reuse compose` sum, average, cat, lori_concat can be used\n" in text
