"""Every kind of adapter, composed by every rule that is a formula of ΔW, on every architecture: against the formula in
dense float64 on how PEFT itself changes the weights when it merges, and against PEFT with what was saved."""

import copy
import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import AdaLoraConfig, LoHaConfig, LoKrConfig, LoraConfig, PeftModel, VeraConfig, get_peft_model
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from lora_reuse.llm.adapters.folders import load_expert
from lora_reuse.llm.adapters.lowrank import LowRank
from lora_reuse.llm.adapters.modules import target_modules
from lora_reuse.llm.adapters.saving import Card, save_composition
from lora_reuse.llm.compositions import compose
from tests.llm.test_adapters import IDS, with_composition
from tests.llm.test_spectral import cut, iso_c, slerp, svd, tsv, wudi
from tests.llm.tiny import FAMILIES

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning")
KINDS: dict[str, Any] = {
    "lora": lambda **on: LoraConfig(r=4, lora_alpha=6, **on),
    "rslora": lambda **on: LoraConfig(r=4, lora_alpha=6, use_rslora=True, **on),
    "dora": lambda **on: LoraConfig(r=3, lora_alpha=6, use_dora=True, **on),
    "adalora": lambda **on: AdaLoraConfig(init_r=3, lora_alpha=6, total_step=10, tinit=1, tfinal=1, **on),
    "vera": lambda **on: VeraConfig(r=5, **on),
    "loha": lambda **on: LoHaConfig(r=2, alpha=6, **on),
    "lokr": lambda **on: LoKrConfig(r=2, alpha=6, **on),
}
ENDS = ("bos_token_id", "eos_token_id", "pad_token_id")
WEIGHTS = (0.5, 2.0, -0.7)
DIALS: dict[str, Any] = {"cat": {"weights": WEIGHTS}}


@pytest.fixture(autouse=True)
def no_cards(monkeypatch):
    """PEFT's model cards, which take a fifth of the time."""
    monkeypatch.setattr(PeftModel, "create_or_update_model_card", lambda *_: None)


def knots(updates, ranks):
    """TIES on the Σ V_iᵀ of [ΔW_1 ... ΔW_N]."""
    left, values, right = svd(np.hstack(updates))
    return left @ ties(np.hsplit(values[:, None] * right, len(updates)), ranks)


def ties(parts, ranks):
    """The mean of those of the fifth of largest entries of each that have the sign of their sum."""
    cuts = [np.sort(np.abs(part).ravel())[-max(round(0.2 * part.size), 1)] for part in parts]
    kept = np.stack([np.where(np.abs(part) >= cut - 1e-9, part, 0.0) for part, cut in zip(parts, cuts, strict=True)])
    agree = (np.sign(kept) == np.sign(kept.sum(axis=0))) & (kept != 0)
    return np.where(agree, kept, 0.0).sum(axis=0) / np.maximum(agree.sum(axis=0), 1)


def weighted(updates, weights):
    return sum(w * update for w, update in zip(weights, updates, strict=True))


FORMULAS: dict[str, Any] = {
    "sum": lambda updates, ranks: sum(updates),
    "average": lambda updates, ranks: sum(updates) / 3,
    "cat": lambda updates, ranks: weighted(updates, WEIGHTS),
    "lori_concat": lambda updates, ranks: sum(updates) / 2,
    "slerp": lambda updates, ranks: slerp([update for update in updates if update.any()], ranks),
    "svd": cut,
    "tsv": tsv,
    "iso_c": iso_c,
    "wudi": lambda updates, ranks: wudi([update for update in updates if update.any()], ranks),
    "knots": knots,
    "ties_svd": lambda updates, ranks: cut([ties(updates, ranks)], ranks),
}
"""The rules that are formulas of the ΔW_i of three experts: those on factors and at random have theirs in
`test_compositions` and `test_add_weighted_adapter`."""


def written(kind: str, family: str, folder: Path) -> tuple[Any, list[dict[str, torch.Tensor]]]:
    """What makes the base, and of three adapters in `folder`, two of the kind and a LoRA of another rank on half of
    their modules, how PEFT changes the weights of each module when it merges them, in float64 and outputs times
    inputs."""
    configuration, sizes = FAMILIES[family]
    settings: Any = {"vocab_size": 64} | dict.fromkeys(ENDS, 0) | sizes
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(configuration(**settings)).eval()
    base = functools.partial(copy.deepcopy, made)
    before: Any = dict(made.named_modules())
    names = target_modules(made, "attention" if family == "mixtral" else "mlp")  # whose experts are no modules
    conv = isinstance(before[names[0]], Conv1D)
    deltas = []
    for i, (make, on) in enumerate([(KINDS[kind], names), (KINDS[kind], names), (KINDS["lora"], names[::2])]):
        adapted: Any = get_peft_model(base(), make(target_modules=on))
        torch.manual_seed(i)
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.5)
        adapted.save_pretrained(str(folder / str(i)), save_embedding_layers=False)
        after = dict(adapted.double().merge_and_unload().named_modules())
        changes = {name: (after[name].weight - before[name].weight.double()).detach() for name in on}
        deltas.append({name: change.T if conv else change for name, change in changes.items()})
    return base, deltas


def off(rule: str, library: list[Any], deltas: list[dict[str, torch.Tensor]]) -> float:
    """By how much what the rule makes of the library is off its formula in a module, over the largest entry there."""
    composition, most = compose(rule, library, **DIALS.get(rule, {})), 0.0
    for name in set().union(*deltas):
        shape = next(delta[name] for delta in deltas if name in delta).shape
        updates = [delta.get(name, torch.zeros(shape).double()).numpy() for delta in deltas]
        wanted = FORMULAS[rule](updates, [expert[name].rank if name in expert else 0 for expert in library])
        update: Any = composition.get(name, LowRank(torch.zeros(shape[0], 0), torch.zeros(shape[1], 0)))
        most = max(most, float(np.abs(update.dense().double().numpy() - wanted).max() / np.abs(wanted).max()))
    return most


CELLS = [  # PEFT has no LoHa and LoKr of Conv1D
    (family, kind) for family in FAMILIES for kind in KINDS if not (family == "gpt2" and kind in ("loha", "lokr"))
]


def read(base: Any, folder: Path) -> list[Any]:
    return [load_expert(folder / str(i), base()) for i in range(3)]


@pytest.mark.parametrize(("family", "kind"), CELLS)
def test_every_rule_of_a_kind_on_an_architecture(family, kind, tmp_path):
    base, deltas = written(kind, family, tmp_path)
    library = read(base, tmp_path)
    wrong = {rule: error for rule in FORMULAS if not (error := off(rule, library, deltas)) < 1e-4}
    assert not wrong
    rule = list(FORMULAS)[(list(FAMILIES).index(family) + list(KINDS).index(kind)) % len(FORMULAS)]
    composition = compose(rule, library, **DIALS.get(rule, {}))
    save_composition(composition, base(), tmp_path / "merged", Card("tiny", rule))
    theirs: Any = PeftModel.from_pretrained(base(), str(tmp_path / "merged")).eval()
    with torch.no_grad():
        answer = theirs(IDS).logits
    scale = float(answer.abs().max())
    torch.testing.assert_close(with_composition(base(), composition) / scale, answer / scale, rtol=1e-4, atol=1e-4)


def test_planted_mistakes_are_seen(tmp_path, monkeypatch):
    """A module of one expert that is forgotten, √w for w, and α/r for α/√r."""
    base, deltas = written("rslora", "llama", tmp_path)
    library = read(base, tmp_path)
    dropped = next(iter(library[0]))
    lost = [{name: update for name, update in library[0].items() if name != dropped}, *library[1:]]
    assert all(off(rule, lost, deltas) > 0.01 for rule in FORMULAS)
    with monkeypatch.context() as planted:
        planted.setitem(DIALS, "cat", {"weights": tuple(np.copysign(abs(w) ** 0.5, w) for w in WEIGHTS)})
        assert off("cat", library, deltas) > 0.01
    monkeypatch.setattr("lora_reuse.llm.adapters.config.math.sqrt", lambda rank: rank)
    assert all(off(rule, read(base, tmp_path), deltas) > 0.01 for rule in FORMULAS)
