"""MergeProbe's signals: the first steps are those of the whole training, gradients are those of dense weights, and what
is planted in the signals is found."""

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
import torch

from lora_reuse.figures import registry
from lora_reuse.llm.adapters import training
from lora_reuse.llm.adapters.folders import load_expert
from lora_reuse.llm.adapters.lowrank import LowRank, cosine
from lora_reuse.llm.decoding.models import example
from lora_reuse.llm.forecast import first_steps, merge_probe
from lora_reuse.llm.forecast.first_steps import disturbance, early, gradient, signals
from lora_reuse.llm.forecast.merge_probe import SHARE, SIGNALS, beside, fitted, has_signals, own_hops
from lora_reuse.llm.forecast.trial import trials
from tests.llm.test_decision import planted
from tests.llm.training import TRAINING, spec

torch.set_num_threads(1)


# Measured


@pytest.fixture
def examples(base) -> list[Any]:
    return [example(base, question, answer) for question, answer in spec().pairs()[0][:5]]


@pytest.mark.usefixtures("tokens_once")
def test_the_first_steps_are_those_of_the_whole_training(base, tmp_path, monkeypatch):
    """Learning rates are those of all steps, too."""
    monkeypatch.setattr(first_steps, "SHARE", 3 / 7)
    found = early(base, spec())
    step, rates, weights = training._step, [], []

    def watched(model, optimizer, *others, **named):
        done = step(model, optimizer, *others, **named)
        rates.append(optimizer.param_groups[0]["lr"])
        weights.append([p.detach().clone() for p in model.parameters() if p.requires_grad])
        return done

    monkeypatch.setattr(training, "_step", watched)
    training.train(base, spec(), tmp_path / "kept", tmp_path / "whole")
    assert len(rates) == TRAINING.steps
    training.train(base, spec(), tmp_path / "kept", tmp_path / "part", share=3 / 7)
    assert rates[:3] == rates[TRAINING.steps :]
    assert all(torch.equal(a, b) for a, b in zip(weights[2], weights[-1], strict=True))
    again = load_expert(tmp_path / "part", base.model)
    assert all(torch.equal(found[name].out, again[name].out) for name in again)
    whole = load_expert(tmp_path / "whole", base.model)
    assert any(not torch.equal(found[name].out, whole[name].out) for name in whole)


def test_one_step_is_the_least(base, tmp_path):
    one = dataclasses.replace(spec(), training=dataclasses.replace(TRAINING, steps=1))
    assert training.train(base, one, tmp_path / "kept", tmp_path / "a", share=SHARE)["steps"] == 1


def random_expert(base, seed=0) -> dict[str, LowRank]:
    random = torch.Generator().manual_seed(seed)
    names = [f"model.layers.{i}.mlp.{part}_proj" for i in (0, 1) for part in ("up", "down")]
    shapes = {name: base.model.get_submodule(name).weight.shape for name in names}
    return {name: LowRank(*(0.3 * torch.randn(n, 2, generator=random) for n in s)) for name, s in shapes.items()}


def test_the_gradient_is_that_of_the_weights_with_the_update_in_them(base, examples):
    """By differences along it, of the loss of a model whose weights hold the update: the slope is its length."""
    expert = random_expert(base)
    found, frozen = gradient(base, expert, examples), [p.detach().clone() for p in base.model.parameters()]
    assert not any(p.requires_grad for p in base.model.parameters())
    length = math.sqrt(sum(float(part.square().sum()) for part in found.values()))
    direction = {name: part / length for name, part in found.items()}

    def loss(by: float) -> float:
        for name, update in expert.items():
            base.model.get_submodule(name).weight.data += update.dense() + by * direction[name]
        total = 0.0
        for asked, answer in examples:
            logits = base.model(torch.tensor([asked + answer])).logits[0, len(asked) - 1 : -1]
            total += float(torch.nn.functional.cross_entropy(logits, torch.tensor(answer)))
        for old, now in zip(frozen, base.model.parameters(), strict=True):
            now.data.copy_(old)
        return total / len(examples)

    assert (loss(1e-2) - loss(-1e-2)) / 2e-2 == pytest.approx(length, rel=2e-2)


def test_what_does_nothing_disturbs_nothing_and_twice_as_much_disturbs_more(base, examples):
    expert = random_expert(base)
    scaled = [
        {name: LowRank(update.out * by, update.into) for name, update in expert.items()} for by in (0.0, 0.1, 0.2)
    ]
    nothing, little, more = (disturbance(base, some, examples) for some in scaled)
    assert nothing == 0
    assert 1.8 < more / little < 2.2


@pytest.mark.usefixtures("tokens_once")
def test_an_expert_beside_itself_is_aligned_and_beside_another_less(base):
    same, other = signals(base, [spec(), spec()]), signals(base, [spec(), spec(("R2",), role=2)])
    assert same["updates"] == pytest.approx(1, abs=1e-5)
    assert same["gradients"] == pytest.approx(1, abs=1e-5)
    assert -1 < other["updates"] < 0.9
    assert -1 < other["gradients"] < 0.99
    assert other["updates"] == pytest.approx(cosine(early(base, spec()), early(base, spec(("R2",), role=2))))
    assert all(one["disturbs"] > 0 for one in (same, other))
    halves = [spec(layers="lower"), spec(layers="upper", role=2)]
    apart = signals(base, halves)
    assert (apart["updates"], apart["gradients"]) == (0, 0)


# Fitted


def probed(rows: list[dict[str, Any]], tells: bool = True, seed: int = 0) -> list[Any]:
    """The rows beside signals of their pairs that tell which pairs have a rule that works, or are drawn."""
    rng, probes = np.random.default_rng(seed), []
    works = {row["settings"]["pair"]: False for row in rows}
    for row in rows:
        works[row["settings"]["pair"]] |= row["measured"]["hits"] > 5
    for pair, good in works.items():
        signal = float(good) if tells else float(rng.normal())
        measured = dict(zip(SIGNALS, (signal, 0.1 * float(rng.normal()), 0.0), strict=True))
        probes.append({"settings": {"pair": pair, "share": SHARE}, "measured": measured})
    return beside(rows, probes)


def test_signals_stand_beside_the_forecasts_of_their_pair():
    rows = probed(planted())
    assert has_signals(rows)
    assert not has_signals(planted())
    assert not has_signals([])
    assert not has_signals([*rows, *planted()])
    assert {name: rows[0]["measured"][name] for name in planted()[0]["measured"]} == planted()[0]["measured"]


def test_planted_signals_are_found_and_drawn_ones_are_not():
    """The lookup orders the rules of a pair. A pair that composes step by step is taken for direct questions, too: the
    signals know no way of asking."""
    (told,) = [one for one in trials(probed(planted(pairs=12))) if one.question == "two-hop, same base"]
    line = told.lines["MergeProbe"]
    assert line.regret < 0.7 * told.lines["never"].regret
    drawn = [
        one.lines["MergeProbe"].area.value
        for seed in range(10)
        for one in trials(probed(planted(pairs=12), tells=False, seed=seed))
        if one.question == "two-hop, same base"
    ]
    assert line.area.value > np.quantile(drawn, 0.9)
    assert "MergeProbe" not in next(iter(trials(planted()))).lines


def test_signals_weigh_as_the_fit_says():
    rows = probed(planted(pairs=12))
    seen = [row for row in rows if row["settings"]["seen"] and row["settings"]["prompting"] == "steps"]
    scores = fitted(seen, lambda row: float(row["settings"]["composition"] == "sum"))(rows)
    good = np.array([row["measured"]["updates"] > 0.5 for row in rows])
    assert scores[good].min() > scores[~good].max()
    by_rule = {row["settings"]["composition"]: i for i, row in enumerate(rows) if row["settings"]["pair"] == "1 0"}
    assert scores[by_rule["sum"]] - scores[by_rule["ties"]] == pytest.approx(merge_probe.TIE)


def test_own_hops_are_ranked_on_rows_that_were_not_looked_at():
    areas, count = own_hops(probed(planted()))
    assert count == sum(row["settings"]["prompting"] == "first" and row["settings"]["seed"] > 0 for row in planted())
    assert all(0.5 < areas[name] <= 1 for name in ("forecast", "MergeProbe"))
    assert own_hops(planted()) == ({}, 0)


def test_the_table_of_decisions_has_a_line_where_the_signals_are_there(tmp_path):
    empty = {"schema": 1, "predicted": {}, "stderr": {}}
    rows, probes = planted(), {}
    for row in probed(rows):
        settings = {"pair": row["settings"]["pair"], "share": SHARE}
        measured = {name: row["measured"][name] for name in SIGNALS}
        probes[settings["pair"]] = {"hash": f"{len(probes):x}", "settings": settings, "measured": measured}
    for name, some in (("llm_forecast", rows), ("llm_merge_probe", probes.values())):
        lines = [json.dumps(empty | {"experiment": name, "provenance": rows[0]["provenance"]} | row) for row in some]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
        item = registry.items()["decision"]
        table = item.module.table(registry.Rows(tmp_path, item.module.NEEDS))
        there = "MergeProbe" in table.index.get_level_values("score")
        assert there == (name == "llm_merge_probe")
        assert there == ("MergeProbe: how the updates" in item.module.caption(table))
        assert there == ("MergeProbe is made for these" in item.module.caption(table))
