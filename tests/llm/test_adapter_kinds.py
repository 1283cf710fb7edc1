"""Adapters of every kind that is read, as PEFT wrote them, against the ΔW of PEFT's own modules and against PEFT after
a round trip; libraries whose experts differ in kind, modules and ranks."""

import importlib
import inspect
import json
import re
from types import SimpleNamespace
from typing import Any

import peft
import pytest
import torch
from peft import AdaLoraConfig, LoHaConfig, LoKrConfig, LoraConfig, PeftModel, VeraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from lora_reuse.llm.adapters import config as adapter_config
from lora_reuse.llm.adapters.adapter import Adapter
from lora_reuse.llm.adapters.folders import Layout, complete, digest, load_expert
from lora_reuse.llm.adapters.lowrank import LowRank
from lora_reuse.llm.adapters.modules import tied
from lora_reuse.llm.adapters.plain import merge_into
from lora_reuse.llm.adapters.saving import Card, load_composition, save_composition
from lora_reuse.llm.compositions import RULES, compose
from lora_reuse.llm.compositions.arrow import Routed
from lora_reuse.llm.decoding.models import Base, load_base
from lora_reuse.llm.decoding.resident import Resident
from lora_reuse.runs.settings import SettingError
from tests.llm.test_adapters import IDS, gpt2, qwen, with_composition

torch.set_num_threads(1)
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`"),
    pytest.mark.filterwarnings("ignore:Using Rank-Stabilized LoRA with rank_pattern:UserWarning"),
    pytest.mark.filterwarnings("ignore:PiSSA changes the base weights:UserWarning"),
]
MLP = ["up_proj", "down_proj"]
BASES: dict[str, Any] = {"qwen": qwen, "gpt2": gpt2}
KINDS: dict[str, tuple[str, Any]] = {
    "lora": ("qwen", lambda: LoraConfig(r=4, lora_alpha=6, target_modules=MLP)),
    "rslora": ("qwen", lambda: LoraConfig(r=4, lora_alpha=6, use_rslora=True, target_modules=MLP)),
    "rslora of ranks": (
        "qwen",
        lambda: LoraConfig(
            r=4,
            lora_alpha=6,
            use_rslora=True,
            target_modules=MLP,
            rank_pattern={"down_proj": 9},
            alpha_pattern={"layers.1.mlp.up_proj": 3},
        ),
    ),
    "attention and mlp": ("qwen", lambda: LoraConfig(r=2, target_modules="all-linear")),
    "one layer": ("qwen", lambda: LoraConfig(r=4, target_modules=MLP, layers_to_transform=[1])),
    "head": ("qwen", lambda: LoraConfig(r=4, target_modules=["lm_head", "up_proj"])),
    "embedding": ("qwen", lambda: LoraConfig(r=4, target_modules=["embed_tokens", "up_proj"])),
    "adalora": (
        "qwen",
        lambda: AdaLoraConfig(init_r=5, target_r=3, lora_alpha=6, target_modules=MLP, total_step=10, tinit=1, tfinal=1),
    ),
    "vera": ("qwen", lambda: VeraConfig(r=5, target_modules=MLP)),
    "loha": ("qwen", lambda: LoHaConfig(r=3, alpha=6, target_modules=MLP, rank_pattern={"down_proj": 2})),
    "loha of full rank": ("qwen", lambda: LoHaConfig(r=7, alpha=6, target_modules=MLP)),
    "lokr": ("qwen", lambda: LoKrConfig(r=2, alpha=6, target_modules=MLP, alpha_pattern={"up_proj": 3})),
    "lokr of four factors": (
        "qwen",
        lambda: LoKrConfig(r=1, alpha=6, decompose_both=True, decompose_factor=4, target_modules=MLP),
    ),
    "lokr of whole sides": ("qwen", lambda: LoKrConfig(r=8, alpha=6, target_modules=MLP)),
    "conv1d": ("gpt2", lambda: LoraConfig(r=4, target_modules=["c_fc", "c_attn"], fan_in_fan_out=True)),
    "rslora of conv1d": (
        "gpt2",
        lambda: LoraConfig(r=4, use_rslora=True, target_modules=["c_fc"], fan_in_fan_out=True),
    ),
}


def written(kind, folder, seed=1, save: Any = None) -> tuple[Any, dict[str, torch.Tensor], torch.Tensor]:
    """An adapter of this kind with all its parameters random, in `folder`: its base, the ΔW of each of PEFT's modules
    in float64, outputs times inputs, and PEFT's logits."""
    base, config = KINDS[kind]
    adapted: Any = get_peft_model(BASES[base](), config())
    torch.manual_seed(seed)
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad and re.search("lora_|vera_|hada_|lokr_", name):
            torch.nn.init.normal_(parameter, std=0.5)
    deltas = {}
    with torch.no_grad():
        for name, module in adapted.base_model.model.named_modules():
            if hasattr(module, "get_delta_weight") and not name.endswith("base_layer"):
                delta = module.get_delta_weight("default").double()
                turned = isinstance(module.base_layer, torch.nn.Embedding) or getattr(module, "fan_in_fan_out", False)
                deltas[name] = delta.T if turned else delta
        logits = adapted.eval()(IDS).logits
    adapted.save_pretrained(str(folder), **(save or {}))
    return BASES[base], deltas, logits


@pytest.mark.parametrize("kind", KINDS)
def test_delta_is_that_of_pefts_modules(kind, tmp_path):
    base, deltas, logits = written(kind, tmp_path)
    expert = load_expert(tmp_path, base())
    assert expert.keys() == deltas.keys()
    for name, update in expert.items():
        torch.testing.assert_close(update.dense().double(), deltas[name], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(with_composition(base(), expert), logits, rtol=1e-4, atol=1e-4)
    assert (logits - base()(IDS).logits).abs().max() > 0.1


def test_a_wrong_scaling_is_seen(tmp_path, monkeypatch):
    """α/r in place of α/√r."""
    base, deltas, _ = written("rslora", tmp_path)
    monkeypatch.setattr("lora_reuse.llm.adapters.config.math.sqrt", lambda rank: rank)
    expert = load_expert(tmp_path, base())
    assert all((update.dense() - deltas[name]).abs().max() > 0.1 for name, update in expert.items())


@pytest.mark.parametrize(
    ("kind", "ranks"),
    [
        ("loha", {"up_proj": 9, "down_proj": 4}),
        ("loha of full rank", {"up_proj": 32, "down_proj": 32}),
        ("lokr", {"up_proj": 8, "down_proj": 8}),
        ("lokr of four factors", {"up_proj": 1, "down_proj": 1}),
        ("lokr of whole sides", {"up_proj": 32, "down_proj": 32}),
    ],
)
def test_products_of_products_have_the_rank_that_they_have_to_have(kind, ranks, tmp_path):
    """No less than the numerical rank of PEFT's dense ΔW, and no more."""
    base, deltas, _ = written(kind, tmp_path)
    for name, update in load_expert(tmp_path, base()).items():
        assert update.rank == ranks[name.rpartition(".")[2]] == torch.linalg.matrix_rank(deltas[name], rtol=1e-5)


@pytest.mark.parametrize(("kind", "changed"), [("loha", "_columns"), ("lokr", "torch.kron")])
def test_a_wrong_product_is_seen(kind, changed, tmp_path, monkeypatch):
    """Only columns of the same number are multiplied; the sides of the Kronecker product change places."""
    base, deltas, _ = written(kind, tmp_path)
    kron, wrong = torch.kron, {"_columns": lambda a, b: a * b, "torch.kron": lambda a, b: kron(b, a)}[changed]
    monkeypatch.setattr(f"lora_reuse.llm.adapters.products.{changed}", wrong)
    expert = load_expert(tmp_path, base())
    assert all((update.dense() - deltas[name]).abs().max() > 0.1 for name, update in expert.items())


@pytest.mark.parametrize("kind", ["loha", "lokr of whole sides"])
def test_products_of_products_are_written_as_a_lora(kind, tmp_path):
    base, _, logits = written(kind, tmp_path / "a")
    save_composition(load_expert(tmp_path / "a", base()), base(), tmp_path / "lora", Card("tiny", "sum"))
    theirs = PeftModel.from_pretrained(base(), str(tmp_path / "lora"))(IDS).logits
    torch.testing.assert_close(theirs, logits, rtol=1e-4, atol=1e-4)


def test_another_rank_than_the_configuration_says_is_refused(tmp_path):
    written("loha", tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"r": 5}))
    with pytest.raises(SettingError, match=r"with ranks 3 of .*up_proj; allowed: rank 5, as its"):
        load_expert(tmp_path, qwen())


STARTS = {
    "pissa": {"init_lora_weights": "pissa"},
    "rslora of ranks": {"init_lora_weights": "pissa_niter_4", "use_rslora": True, "rank_pattern": {"down_proj": 3}},
    "olora": {"init_lora_weights": "olora"},
}


def started(start, folder) -> tuple[dict[str, torch.Tensor], torch.Tensor, Any]:
    """An adapter that took something out of its base, trained (noise), with what it was before: the change of each
    weight of the base in float64, PEFT's logits, and PEFT's model."""
    before = {name: weight.double() for name, weight in qwen().state_dict().items()}
    adapted: Any = get_peft_model(qwen(), LoraConfig(r=4, lora_alpha=6, target_modules=MLP, **STARTS[start]))
    adapted.peft_config["default"].init_lora_weights = True  # as PEFT asks for
    adapted.save_pretrained(str(folder / "initial"))
    adapted.peft_config["default"].init_lora_weights = STARTS[start]["init_lora_weights"]
    torch.manual_seed(2)
    deltas = {}
    with torch.no_grad():
        for name, module in adapted.base_model.model.named_modules():
            if hasattr(module, "get_delta_weight"):
                module.lora_A["default"].weight += 0.3 * torch.randn_like(module.lora_A["default"].weight)
                module.lora_B["default"].weight += 0.3 * torch.randn_like(module.lora_B["default"].weight)
                whole = module.base_layer.weight.double() + module.get_delta_weight("default").double()
                deltas[name] = whole - before[f"{name}.weight"]
        logits = adapted.eval()(IDS).logits
    adapted.save_pretrained(str(folder))
    return deltas, logits, adapted


@pytest.mark.parametrize("start", STARTS)
def test_what_was_taken_out_of_the_base_is_taken_out_of_the_adapter(start, tmp_path):
    deltas, logits, _ = started(start, tmp_path)
    expert = load_expert(tmp_path, qwen())
    assert expert.keys() == deltas.keys()
    for name, update in expert.items():
        torch.testing.assert_close(update.dense().double(), deltas[name], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(with_composition(qwen(), expert), logits, rtol=1e-4, atol=1e-4)
    trained = {name: LowRank(*(factor[:, : update.rank // 2] for factor in update)) for name, update in expert.items()}
    assert (with_composition(qwen(), trained) - logits).abs().max() > 0.01  # without what it began with


def test_pefts_own_conversion_of_an_initialisation_is_the_same_update(tmp_path):
    _, logits, adapted = started("pissa", tmp_path / "a")
    adapted.save_pretrained(
        str(tmp_path / "b"), path_initial_model_for_weight_conversion=str(tmp_path / "a" / "initial")
    )
    ours, theirs = load_expert(tmp_path / "a", qwen()), load_expert(tmp_path / "b", qwen())
    for name in theirs:
        torch.testing.assert_close(ours[name].dense(), theirs[name].dense(), rtol=1e-5, atol=1e-6)
    save_composition(ours, qwen(), tmp_path / "lora", Card("tiny", "sum"))
    again = PeftModel.from_pretrained(qwen(), str(tmp_path / "lora"))(IDS).logits
    torch.testing.assert_close(again, logits, rtol=1e-4, atol=1e-4)


def test_the_beginning_of_an_adapter_has_to_be_there_and_its_own(tmp_path):
    started("pissa", tmp_path)
    path, named = tmp_path / "initial" / "adapter_config.json", digest(tmp_path)
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"lora_alpha": 7}))
    assert digest(tmp_path) != named
    with pytest.raises(SettingError, match="initial with other modules, ranks or scaling than"):
        load_expert(tmp_path, qwen())
    path.unlink()
    with pytest.raises(SettingError, match=r"took PiSSA's B₀ A₀ out of the base; allowed: .* training in .*/initial; "):
        load_expert(tmp_path, qwen())


STATIC = [name for name, rule in RULES.items() if rule.static]
MIXED = ("rslora", "attention and mlp", "one layer")
"""Kinds of one base whose modules and ranks differ."""


def mixed(tmp_path) -> tuple[list[Any], list[dict[str, torch.Tensor]]]:
    found = [written(kind, tmp_path / str(i), seed=i) for i, kind in enumerate(MIXED)]
    return [load_expert(tmp_path / str(i), qwen()) for i in range(len(MIXED))], [deltas for _, deltas, _ in found]


@pytest.mark.parametrize("rule", STATIC)
def test_a_composition_of_different_kinds_is_an_adapter_that_peft_loads(rule, tmp_path):
    library, _ = mixed(tmp_path)
    composition = compose(rule, library)
    assert composition.keys() == set().union(*library)
    save_composition(composition, qwen(), tmp_path / "merged", Card("tiny", rule))
    theirs = PeftModel.from_pretrained(qwen(), str(tmp_path / "merged"))(IDS).logits
    torch.testing.assert_close(with_composition(qwen(), composition), theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("rule", "weights"), [("sum", (1, 1, 1)), ("average", (1 / 3,) * 3), ("cat", (1, 1, 1))])
def test_rules_on_updates_take_a_missing_module_for_zero(rule, weights, tmp_path):
    library, deltas = mixed(tmp_path)
    assert_weighted_sum(compose(rule, library), deltas, weights)


def assert_weighted_sum(composition, deltas, weights):
    """The composition is Σ w_i ΔW_i in every module that any expert changes, in float64."""
    assert composition.keys() == set().union(*deltas)
    for name, update in composition.items():
        zero = torch.zeros(update.shape, dtype=torch.float64)
        wanted = sum(w * delta.get(name, zero) for w, delta in zip(weights, deltas, strict=True))
        assert isinstance(update, LowRank)
        torch.testing.assert_close(update.dense().double(), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rule", ["linear", "uniform", "lori_linear"])
def test_rules_on_factors_pad_them_with_zeros(rule, tmp_path):
    library, _ = mixed(tmp_path)
    w = {"linear": 1.0, "uniform": 1 / 3, "lori_linear": 0.5**0.5}[rule]
    for name, update in compose(rule, library).items():
        rank = max(expert[name].rank for expert in library if name in expert)
        factors = []
        for which in (0, 1):
            total = torch.zeros(update.shape[which], rank)
            for expert in library:
                if name in expert:
                    factor = expert[name][which]
                    total[:, : factor.shape[1]] += w * factor
            factors.append(total)
        assert isinstance(update, LowRank)
        torch.testing.assert_close(update.dense(), factors[0] @ factors[1].T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rule", ["arrow", "arrow_after"])
def test_a_router_leaves_out_experts_that_do_not_change_a_module(rule, tmp_path):
    library, _ = mixed(tmp_path)
    composition = compose(rule, library)
    x = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
    for name in ("model.layers.0.self_attn.q_proj", "model.layers.0.mlp.up_proj"):
        router = composition[name]
        there = [i for i, expert in enumerate(library) if name in expert]
        assert isinstance(router, Routed)
        weights = router.weights(x)
        assert weights.shape[-1] == 3
        torch.testing.assert_close(weights[..., there].sum(-1), torch.ones(2, 5))
        if len(there) == 1:
            torch.testing.assert_close(router(x), library[there[0]][name](x), rtol=1e-5, atol=1e-5)
    save_composition(composition, qwen(), tmp_path / "routed", Card("tiny", rule))
    again = load_composition(tmp_path / "routed", qwen())
    ours, theirs = with_composition(qwen(), composition), with_composition(qwen(), again)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("rule", [*STATIC, "arrow", "arrow_after"])
def test_embeddings_and_heads_are_composed(rule, tmp_path):
    """Several compositions in one batch, too: token ids go in where activations do elsewhere."""
    for i, kind in enumerate(("embedding", "head")):
        written(kind, tmp_path / str(i), seed=i)
    library = [load_expert(tmp_path / str(i), qwen()) for i in range(2)]
    composition = compose(rule, library)
    ours = with_composition(qwen(), composition)
    if RULES[rule].static:
        save_composition(composition, qwen(), tmp_path / "merged", Card("tiny", rule))
        theirs = PeftModel.from_pretrained(qwen(), str(tmp_path / "merged"))(IDS).logits
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    model = qwen()
    with torch.no_grad(), Resident(model) as resident:
        resident.use([None, composition])
        both = model(IDS.repeat(2, 1)).logits
    torch.testing.assert_close(both[2:], ours, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(both[:2], qwen()(IDS).logits, rtol=1e-4, atol=1e-4)


def test_a_dropped_module_and_the_root_of_a_weight_are_seen(tmp_path):
    library, deltas = mixed(tmp_path)
    weights = (0.5, 2.0, 1.0)
    assert_weighted_sum(compose("cat", library, weights=weights), deltas, weights)
    name = "model.layers.0.self_attn.q_proj"
    dropped = [{module: update for module, update in expert.items() if module != name} for expert in library]
    for spoilt, given in ((dropped, weights), (library, tuple(w**0.5 for w in weights))):
        with pytest.raises(AssertionError):
            assert_weighted_sum(compose("cat", spoilt, weights=given), deltas, weights)


def test_tied_adapters_of_embeddings_are_refused(tmp_path):
    """PEFT's `ensure_weight_tying` changes the head with the embedding; with nothing to tie it says nothing."""
    for kind, refused in (("embedding", True), ("lora", False)):
        written(kind, tmp_path / kind)
        path = tmp_path / kind / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"ensure_weight_tying": True}))
        if refused:
            with pytest.raises(SettingError, match=r"ensure_weight_tying=true with an adapter of model\.embed_tokens"):
                load_expert(tmp_path / kind, qwen())
        else:
            assert load_expert(tmp_path / kind, qwen())


def test_a_bias_of_a_factor_is_no_weight_of_the_base(tmp_path):
    written("lora", tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    save_file(load_file(path) | {"base_model.model.model.layers.0.mlp.up_proj.lora_B.bias": torch.zeros(48)}, path)
    with pytest.raises(SettingError, match=r"only A and B and bias of .*; allowed: A and B of every module"):
        load_expert(tmp_path, qwen())


def test_whole_weights_in_the_file_have_to_be_the_bases(tmp_path):
    """PEFT saves the base's weights of a head or an embedding beside the adapter on it."""
    written("head", tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    (whole,) = (key for key in tensors if "lm_head.base_layer" in key)
    load_expert(tmp_path, qwen())
    tensors[whole][0, 0] += 1
    save_file(tensors, path)
    with pytest.raises(SettingError, match=r"lm_head.weight in .*, other than the base's"):
        load_expert(tmp_path, qwen())
    tensors[whole] = torch.zeros(3, 32)
    save_file(tensors, path)
    with pytest.raises(SettingError, match=r"\(3, 32\) in .*, where the model has \(64, 32\)"):
        load_expert(tmp_path, qwen())


def test_whole_weights_are_compared_with_the_files_of_a_base_that_is_not_loaded(tmp_path):
    from lora_reuse.llm.decoding.models import load_frame

    qwen().save_pretrained(tmp_path / "base")
    written("head", tmp_path / "a")
    frame = load_frame(str(tmp_path / "base"))
    assert "lm_head" in load_expert(tmp_path / "a", frame)
    (tmp_path / "base" / "model.safetensors").unlink()
    with pytest.raises(SettingError, match="its weights are not on this machine"):
        load_expert(tmp_path / "a", frame)


@pytest.mark.parametrize(
    "prefix", ["_orig_mod.", "_fsdp_wrapped_module.", "module.", "_orig_mod._fsdp_wrapped_module."]
)
def test_what_wrapped_the_model_is_taken_out_of_the_names(prefix, tmp_path):
    base, deltas, _ = written("lora", tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file(
        {
            key.replace("base_model.model.model.", f"base_model.model.{prefix}model.")
            .replace("mlp.", f"mlp.{prefix}")
            .replace("lora_A.weight", "lora_A.default.weight"): value
            for key, value in tensors.items()
        },
        path,
    )
    assert load_expert(tmp_path, base()).keys() == deltas.keys()


def test_vera_without_its_projections_is_refused(tmp_path):
    written("vera", tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    save_file({key: value for key, value in load_file(path).items() if not key.startswith("base_model.vera_")}, path)
    with pytest.raises(SettingError, match=r"no vera_A and vera_B in .*save_projection=True"):
        load_expert(tmp_path, qwen())


def test_completed_libraries_change_nothing_where_all_is_there(tmp_path):
    expert = load_expert(tmp_path, written("lora", tmp_path)[0]())
    (same,) = complete([expert])
    assert all(same[name] is update for name, update in expert.items())


def test_kinds_that_peft_says_it_converts_are_those_of_the_message():
    """Kinds whose layers say that they support PEFT's conversion to LoRA (HiRA's and SHiRA's say no)."""
    from peft import PeftType
    from peft.tuners.tuners_utils import BaseTunerLayer

    found = set()
    for kind in set(PeftType) - set(adapter_config.KINDS):
        try:
            layer = importlib.import_module(f"peft.tuners.{kind.value.lower()}.layer")
        except ModuleNotFoundError:
            continue
        classes = [c for _, c in inspect.getmembers(layer, inspect.isclass) if issubclass(c, BaseTunerLayer)]
        says = [vars(c).get("supports_lora_conversion", lambda _: False) for c in classes]
        if any(say(SimpleNamespace(get_base_layer=lambda: torch.nn.Linear(1, 1))) for say in says):
            found.add(kind.value)
    assert set(adapter_config._CONVERTIBLE) == found


OTHERS: dict[str, dict[str, Any]] = {
    "C3A": {"block_size": 1},
    "FOURIERFT": {"n_frequency": 20},
    "MISS": {"r": 2},
    "VBLORA": {"num_vectors": 8, "vector_length": 2, "r": 2},
    "WAVEFT": {"n_frequency": 20},
}
"""Options of kinds whose defaults do not fit a model this small."""


@pytest.mark.filterwarnings("ignore")  # PEFT's, of its own kinds
@pytest.mark.parametrize("kind", adapter_config._CONVERTIBLE)
def test_a_kind_that_is_not_read_is_after_the_conversion_that_the_message_names(kind, tmp_path):
    """The change of the weights is PEFT's own, merged into the base."""
    config: Any = peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType(kind)]
    options = OTHERS.get(kind, {"r": 4} if "r" in inspect.signature(config).parameters else {})
    adapted: Any = get_peft_model(qwen(), config(target_modules=MLP, **options))
    torch.manual_seed(1)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.5)
    adapted.save_pretrained(str(tmp_path / "own"))
    with pytest.raises(SettingError, match=rf"peft_type {kind} in .*; peft\.save_as_lora\(path, model, rank\) writes"):
        load_expert(tmp_path / "own", qwen())
    peft.save_as_lora(tmp_path / "lora", adapted, 1.0)
    read, before, after = load_expert(tmp_path / "lora", qwen()), qwen(), adapted.merge_and_unload()
    assert len(read) == 4
    for name, update in read.items():
        change = after.get_submodule(name).weight - before.get_submodule(name).weight
        torch.testing.assert_close(update.dense(), change, rtol=1e-3, atol=1e-3 * float(change.abs().max()))


def test_an_adapter_on_a_tied_head_comes_with_a_warning():
    """Merged, the embedding changes with the head: PEFT does it silently."""
    model = qwen()
    assert tied(model, ["lm_head", "model.layers.0.mlp.up_proj"]) == ""
    model.config.tie_word_embeddings = True
    model.tie_weights()
    assert tied(model, ["model.layers.0.mlp.up_proj"]) == ""
    assert tied(model, ["lm_head", "model.embed_tokens"]).startswith(
        "lm_head and model.embed_tokens: this model's head"
    )


def test_an_adapter_on_a_tied_head_is_not_merged(tmp_path):
    model = qwen()
    model.config.tie_word_embeddings = True
    model.tie_weights()
    written("head", tmp_path)
    base = Base(model, load_base("pocket").tokenizer, "tiny", "", False)
    adapter = Adapter(load_expert(tmp_path, qwen()), Card("tiny", ""), Layout())
    with pytest.raises(SettingError, match=r"lm_head: this model's head and embedding are one weight, .*format=model"):
        merge_into(base, adapter)
