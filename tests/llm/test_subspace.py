"""What adapters do to the tokens of a text, against dense computations."""

import functools
from typing import Any

import pytest
import torch

from lora_reuse.llm.adapters.lowrank import Expert, LowRank
from lora_reuse.llm.adapters.modules import target_modules
from lora_reuse.llm.compositions import compose
from lora_reuse.llm.decoding.models import Base, example, stop_ids
from lora_reuse.llm.forecast.measure import as_tokens
from lora_reuse.llm.forecast.subspace import (
    Reading,
    coordinates,
    keys,
    layers,
    overlap,
    read,
    routing,
    scales,
)

torch.set_num_threads(1)


def adapter(base: Base, seed: int, size: float = 1.0, rank: int = 3) -> Expert:
    """Large enough to change what a random model says."""
    random = torch.Generator().manual_seed(seed)
    modules = dict(base.model.named_modules())
    made = {}
    for name in target_modules(base.model, "mlp"):
        module: Any = modules[name]
        factors = (torch.randn(n, rank, generator=random) for n in (module.out_features, module.in_features))
        made[name] = LowRank(*(factor * size for factor in factors))
    return made


@pytest.fixture(scope="module")
def pair(base) -> list[Expert]:
    return [adapter(base, 1), adapter(base, 2)]


def test_a_reading_is_what_the_model_says_and_sees(base, pair):
    """Of texts of unlike lengths, read two at a time, as of each alone; their ends are left out, as a forecast does."""
    said = ("Ann Lee lives in Rome.", "Rome", "Ann Lee lives in the town of Rome, with Bo.")
    ended = [example(base, "Where does Ann Lee live?"[: 24 - 6 * i], answer) for i, answer in enumerate(said)]
    texts = [(asked, told[:-1]) for asked, told in ended]
    names, before = list(pair[0]), hooks(base)
    readings = read(base, None, texts, names, rows=2)
    for (asked, told), reading in zip(texts, readings, strict=True):
        seen: dict[str, torch.Tensor] = {}
        look = lambda module, inputs, n, seen: seen.__setitem__(n, inputs[0][0])  # noqa: E731
        handles = [
            base.model.get_submodule(n).register_forward_pre_hook(functools.partial(look, n=n, seen=seen))
            for n in names
        ]
        with torch.no_grad():
            logits = base.model(input_ids=torch.tensor([asked + told])).logits[0]
        for handle in handles:
            handle.remove()
        expected = torch.log_softmax(logits, -1)[range(len(asked) - 1, len(asked) + len(told) - 1), told]
        torch.testing.assert_close(reading.log_probs, expected, rtol=1e-4, atol=1e-4)
        for n in names:
            torch.testing.assert_close(reading.inputs[n], seen[n][len(asked) - 1 : -1], rtol=1e-4, atol=1e-4)
    composed = read(base, pair[0], texts, names)
    assert not torch.allclose(composed[0].log_probs, readings[0].log_probs)
    assert hooks(base) == before


def test_an_answer_ends_with_any_token_that_ends_one(base, monkeypatch):
    """An empty answer is read as its end, which a model with two stops may say by either; and never as a space, which
    stands between a prompt and its answer where there is no chat."""
    assert as_tokens(base, "Who?", "")[1] == stop_ids(base)[:1]
    stops, asked = [3, 5], example(base, "Where does Ann Lee live?", "Rome")[0]
    monkeypatch.setattr("lora_reuse.llm.forecast.subspace.stop_ids", lambda _: stops)
    found = [float(read(base, None, [(asked, [token])], [])[0].log_probs.exp()) for token in (*stops, 4)]
    with torch.no_grad():
        every = base.model(input_ids=torch.tensor([asked])).logits[0, -1].softmax(-1)
    assert found == pytest.approx([float(every[stops].sum())] * 2 + [float(every[4])], rel=1e-4)


def hooks(base):
    return [(list(m._forward_pre_hooks), list(m._forward_hooks)) for m in base.model.modules()]


def vectors(pair, count, seed=0):
    random = torch.Generator().manual_seed(seed)
    return {name: torch.randn(count, update.shape[1], generator=random) for name, update in pair[0].items()}


def test_coordinates_keep_lengths_and_angles_of_the_change(pair):
    for name, x in vectors(pair, 4).items():
        u, change = coordinates(pair[0])[name](x), x @ pair[0][name].dense().T
        torch.testing.assert_close(u @ u.T, change @ change.T, rtol=1e-4, atol=1e-3)


def test_overlap_is_the_multiple_of_a_keys_own_change(pair):
    """Against dense ΔW h; the key itself is 1, twice the key 2, and a module without any change counts for nothing."""
    x = vectors(pair, 3)
    readings = [Reading(torch.zeros(1), {name: rows[i : i + 1] for name, rows in x.items()}) for i in range(2)]
    known = keys(pair[0], readings, [0, 0])
    found = overlap(pair[0], known, {name: torch.cat([rows, 2 * rows[:1]]) for name, rows in x.items()})
    dense, alike = [], []
    for name, rows in x.items():
        change = rows @ pair[0][name].dense().T
        dense.append(change[2] @ change[:2].T / change[:2].square().sum(-1))
        alike.append(torch.cosine_similarity(change[2:], change[:2], dim=-1))
    nearest = int(torch.stack(alike).mean(0).argmax())
    expected = float(torch.stack(dense).mean(0)[nearest])
    torch.testing.assert_close(found.best, torch.tensor([1.0, 1.0, expected, 2.0]), rtol=1e-4, atol=1e-4)
    assert found.key.tolist() == [0, 1, nearest, 0]
    size = [(rows @ pair[0][n].dense().T).norm(dim=-1) for n, rows in x.items()]
    typical = torch.stack([s[:2].square().mean().sqrt() for s in size])
    torch.testing.assert_close(found.size[:3], torch.stack(size, -1) / typical, rtol=1e-4, atol=1e-4)
    nothing = {name: LowRank(torch.zeros_like(update.out), update.into) for name, update in pair[0].items()}
    silent = overlap(nothing, keys(nothing, readings, [0, 0]), x)
    assert not silent.best.any()
    assert not silent.size.any()


@pytest.mark.parametrize(
    ("rule", "weights", "expected"),
    [("sum", None, (1.0, 1.0)), ("average", None, (0.5, 0.5)), ("cat", (0.3, -0.7), (0.3, -0.7))],
)
def test_scales_of_rules_without_cross_terms_are_their_weights(pair, rule, weights, expected):
    found = scales(compose(rule, pair, **({"weights": weights} if weights else {})), pair, vectors(pair, 4))
    torch.testing.assert_close(found.each, torch.tensor(expected).expand(4, 2), rtol=1e-3, atol=1e-3)
    assert found.left.max() < 1e-3


def test_scales_are_least_squares_and_say_what_they_leave(pair):
    x = vectors(pair, 3)
    uniform = compose("uniform", pair)
    found = scales(uniform, pair, x)
    norm = {n: torch.cat([e[n](rows) for e in pair]).square().sum().sqrt() for n, rows in x.items()}
    for t in range(3):
        columns = torch.stack([torch.cat([e[n](rows[t]) / norm[n] for n, rows in x.items()]) for e in pair], -1)
        target = torch.cat([uniform[n](rows[t]) / norm[n] for n, rows in x.items()])
        solved = torch.linalg.lstsq(columns, target[:, None])
        torch.testing.assert_close(found.each[t], solved.solution[:, 0], rtol=1e-3, atol=1e-3)
        left = (columns @ solved.solution[:, 0] - target).square().sum() / target.square().sum()
        assert float(found.left[t]) == pytest.approx(float(left), abs=1e-3)
    assert found.left.mean() > 0.1
    assert not scales(None, pair, x).each.any()
    twins = scales(compose("sum", [pair[0], pair[0]]), [pair[0], pair[0]], x)
    torch.testing.assert_close(twins.each, torch.ones(3, 2), rtol=1e-3, atol=1e-3)


def test_routing_is_the_routers(pair):
    x = vectors(pair, 3)
    arrow: Any = compose("arrow", pair)
    found = routing(arrow, x)
    assert found is not None
    torch.testing.assert_close(found[:, 2], list(arrow.values())[2].weights(list(x.values())[2]))
    assert routing(compose("sum", pair), x) is None
    assert routing(None, x) is None


def test_modules_by_layer():
    names = ["model.layers.0.mlp.up_proj", "model.layers.0.mlp.down_proj", "model.layers.11.mlp.up_proj", "head"]
    assert layers(names) == {"0": [0, 1], "11": [2], "head": [3]}
