"""Experts against a plain PEFT loop; found again, refused where a loss is not finite, on a base that stays as it was;
every family end to end."""

import dataclasses
import json
import math
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch.optim.lr_scheduler import LambdaLR

from lora_reuse.llm.adapters import training as experts
from lora_reuse.llm.adapters.folders import load_expert
from lora_reuse.llm.adapters.modules import target_modules
from lora_reuse.llm.adapters.training import Spec, expert
from lora_reuse.llm.compositions import compose
from lora_reuse.llm.data.facts import triplets
from lora_reuse.llm.data.subsets import examples
from lora_reuse.llm.decoding.greedy import answers, gates
from lora_reuse.llm.decoding.models import load_base
from lora_reuse.llm.decoding.resident import Resident
from lora_reuse.llm.protocols.settings import Training
from lora_reuse.runs.settings import SettingError
from tests.llm.tiny import FAMILIES, tiny
from tests.llm.training import TEXT, TRAINING, WEIGHTS, close, ids, is_bare, saved, spec

torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("tokens_once")


# The same as in PEFT


@pytest.mark.parametrize("loss", ["example", "token"])
def test_an_expert_is_what_a_plain_loop_with_peft_trains(loss, base, folder, tmp_path):
    wanted = spec(loss=loss, clip=0.022, weight_decay=0.1, warm_up=0.3)
    found = expert(base, wanted, tmp_path)
    plain, training = load_base(str(folder)), wanted.training
    torch.manual_seed(experts._seed(wanted, "start", wanted.role))
    modules = target_modules(plain.model, "mlp")
    model = get_peft_model(plain.model, LoraConfig(r=2, lora_alpha=4, target_modules=modules, task_type="CAUSAL_LM"))
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=training.rate, weight_decay=0.1)
    schedule = LambdaLR(optimizer, lambda step: (step + 1) / 2 if step < 2 else (7 - step) / 5)
    norms = []
    for step in range(7):
        batch = experts._batch(*experts.tokens(plain, wanted), wanted, step)
        total = sum(len(told) for _, told in batch)
        for asked, told in batch:
            labels = torch.tensor([[-100] * len(asked) + told])
            mean = model(input_ids=torch.tensor([asked + told]), labels=labels).loss
            (mean / 4 if loss == "example" else mean * len(told) / total).backward()
        norms.append(torch.nn.utils.clip_grad_norm_(weights, 0.022))
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    assert min(norms) < 0.022 < max(norms)  # some are clipped
    model.save_pretrained(str(tmp_path / "plain"))
    close(found, tmp_path / "plain")
    assert all(tensor.abs().max() > 1e-3 for tensor in load_file(found / WEIGHTS).values())


def test_loss_and_steps_are_on_the_card(base, tmp_path):
    wanted = spec(bridge=(), steps=0, epochs=2, batch=46, rate=1e-2)
    card = json.loads((expert(base, wanted, tmp_path) / "expert.json").read_text())
    assert (card["steps"], card["own"], card["bridge"], card["role"]) == (
        8,
        ["R1"],
        [],
        1,
    )  # 2 epochs of 4 triplets in 46 templates
    assert card["base_digest"] == base.digest
    assert card["training"] == dataclasses.asdict(wanted.training)
    assert 0 < card["loss"] < math.log(len(base.tokenizer))


def test_the_folder_is_an_ordinary_peft_folder(base, folder, tmp_path):
    path = expert(base, spec(), tmp_path)
    update = load_expert(path, base.model)
    assert list(update) == sorted(target_modules(base.model, "mlp"))
    with torch.no_grad(), Resident(base.model) as resident:
        resident.use([update])
        ours = base.model(ids()).logits
        theirs = PeftModel.from_pretrained(load_base(str(folder)).model, str(path)).eval()(ids()).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert json.loads((path / "adapter_config.json").read_text())["base_model_name_or_path"] == base.name


@pytest.mark.parametrize("name", ["somewhere/else", "~/nowhere"])
def test_saving_asks_nobody_for_the_base(name, base, tmp_path):
    """PEFT would look its config up on the hub."""
    path = expert(dataclasses.replace(base, name=name), spec(steps=1), tmp_path)
    assert set(load_expert(path, base.model)) == set(target_modules(base.model, "mlp"))


def test_the_base_stays_as_it_was(base, tmp_path):
    weights = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    before = base.model(ids()).logits
    for layers in ("mlp", "both"):
        expert(base, spec(layers=layers, dropout=0.1, rate=0.1), tmp_path)
        assert is_bare(base)
        assert base.model.state_dict().keys() == weights.keys()
        assert all(torch.equal(tensor, weights[name]) for name, tensor in base.model.state_dict().items())
        assert torch.equal(base.model(ids()).logits, before)


# Found again


def test_an_expert_is_trained_once(base, tmp_path, monkeypatch):
    path = expert(base, spec(), tmp_path)
    before = saved(path)
    monkeypatch.setattr(experts, "train", lambda *_: pytest.fail("trained again"))
    assert expert(base, spec(), tmp_path) == path
    assert saved(path) == before


def test_whatever_makes_an_expert_is_in_its_key(base, folder):
    wanted = spec()
    fields = {f.name: getattr(TRAINING, f.name) for f in dataclasses.fields(Training)}
    words = {"adapter": "lori_d", "loss": "token", "layers": "attention"}
    changed: dict[str, Any] = {
        n: words.get(n) or (not value if isinstance(value, bool) else value + 1) for n, value in fields.items()
    }
    specs = [
        dataclasses.replace(wanted, training=dataclasses.replace(TRAINING, **{name: value}))
        for name, value in changed.items()
    ]
    specs += [
        spec(seed=1),
        spec(role=2),
        spec(own=("R2",)),
        spec(own=("R1", "R2")),
        spec(bridge=("F12-CoT", "F1")),
        spec(bridge=()),
    ]
    specs += [dataclasses.replace(wanted, triplets=3), dataclasses.replace(wanted, bridge_triplets=3)]
    bases = [
        dataclasses.replace(base, digest="0" * 16),
        dataclasses.replace(base, chat=True),
        load_base(str(folder), dtype="bfloat16"),
    ]
    keys = [wanted.key(base), *(one.key(base) for one in specs), *(wanted.key(one) for one in bases)]
    assert len(set(keys)) == len(keys) == len(fields) + 12
    assert all(len(key) == 16 for key in keys)
    assert wanted.key(dataclasses.replace(base, name="elsewhere")) == wanted.key(base)


def test_bridge_triplets_say_nothing_without_a_bridge(base):
    keys = {Spec(("R1",), (), 4, count, TRAINING, 0, 1).key(base) for count in (0, 4, 100)}
    assert len(keys) == 1
    assert Spec(("R1",), (), 4, 100, TRAINING, 0, 1).pairs()[1] == []


def test_settings_of_a_point_do_not_reach_the_key(base):
    """A protocol's row has the training settings and more: only those of Training make the expert."""

    @dataclasses.dataclass(frozen=True)
    class More(Training):
        temperature: float = 1.0

    one, other = (More(**dataclasses.asdict(TRAINING), temperature=t) for t in (1.0, 2.0))
    assert (
        dataclasses.replace(spec(), training=one).key(base)
        == dataclasses.replace(spec(), training=other).key(base)
        == spec().key(base)
    )


# Losses that are not finite


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_one_line_and_no_expert(loss, base, tmp_path, monkeypatch):
    monkeypatch.setattr(experts, "_backward", lambda *_: loss)
    with pytest.raises(SettingError) as error:
        expert(base, spec(), tmp_path)
    assert (
        str(error.value)
        == f"rate: got 0.003, and the loss is {loss} at step 0; allowed: a rate at which training stays finite"
    )
    assert not any(tmp_path.iterdir())
    assert is_bare(base)


def test_a_last_step_that_is_not_finite_is_no_expert_either(base, tmp_path, monkeypatch):
    real = experts._step

    def step(model, optimizer, batch, wanted, step, steps, *others):
        result = real(model, optimizer, batch, wanted, step, steps, *others)
        if step == steps - 1:
            next(p for p in model.parameters() if p.requires_grad).data[0, 0] = math.nan
        return result

    monkeypatch.setattr(experts, "_step", step)
    with pytest.raises(SettingError, match=r"^rate: got 0\.003, and weights are not finite in the end; allowed: .*$"):
        expert(base, spec(), tmp_path)
    assert not any(tmp_path.iterdir())


# Every family


@pytest.mark.parametrize(
    ("family", "layers"),
    [(family, "mlp") for family in FAMILIES if family != "mixtral"] + [("gpt2", "attention"), ("mixtral", "attention")],
)
def test_every_family_from_training_to_answers(family, layers, tmp_path):
    base = load_base(str(tiny(family, tmp_path / "base", text=TEXT)))
    before = base.model(ids()).logits
    made = [
        expert(base, spec((f"R{role}",), (), role, layers=layers, steps=2, rate=0.1), tmp_path / "experts")
        for role in (1, 2)
    ]
    assert is_bare(base)
    assert torch.equal(base.model(ids()).logits, before)
    library = [load_expert(path, base.model) for path in made]
    assert [sorted(one) for one in library] == [sorted(target_modules(base.model, layers))] * 2
    assert all(update.norm() > 0 for one in library for update in one.values())
    theirs = PeftModel.from_pretrained(load_base(base.name).model, str(made[0])).eval()(ids()).logits
    with torch.no_grad(), Resident(base.model) as resident:
        resident.use([library[0]])
        torch.testing.assert_close(base.model(ids()).logits, theirs, rtol=1e-4, atol=1e-4)
    compositions = [compose("arrow", library), None, compose("uniform", library)]
    asked = [e.question for e in examples("R12", triplets("R")[:4], "test")[:3]]
    together = answers(base, compositions, asked, 5)
    assert together == [answers(base, [one], asked, 5)[0] for one in compositions]
    assert len({tuple(said) for said in together}) > 1
    (weights,) = gates(base, compositions[0] or {}, asked[:1], ["Paris"])
    torch.testing.assert_close(weights.sum(-1), torch.ones(len(weights)))
