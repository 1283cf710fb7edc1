"""Every rule that learns, by its name, in the checks that fit what it promises; against dense computations, PEFT and
`theory.compositions`."""

import dataclasses
import runpy
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import XLoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch.func import functional_call

from lora_reuse.llm.adapters.adapter import Card
from lora_reuse.llm.adapters.folders import linear_shape
from lora_reuse.llm.adapters.lowrank import LowRank
from lora_reuse.llm.adapters.modules import target_modules
from lora_reuse.llm.adapters.packing import packing
from lora_reuse.llm.adapters.saving import load_composition, save_composition
from lora_reuse.llm.adapters.writing import save_expert
from lora_reuse.llm.compositions import RULES, Composition, Library, RoutedDelta, compose
from lora_reuse.llm.data.facts import triplets
from lora_reuse.llm.data.subsets import examples
from lora_reuse.llm.decoding.models import Base, example, load_base
from lora_reuse.llm.decoding.resident import Resident
from lora_reuse.llm.learned import LEARNED, Learning, fit, learn
from lora_reuse.llm.learned.fitting import Parameters, answer_loss, search
from lora_reuse.llm.protocols.settings import TwoHop
from lora_reuse.runs.settings import SettingError
from lora_reuse.theory import compositions as theirs
from lora_reuse.theory import edits
from tests.llm.test_compositions import SHAPES, change, library, tokens, turned, zeroed
from tests.llm.tiny import tiny

torch.set_num_threads(1)
BY_GRADIENTS = [name for name, rule in LEARNED.items() if rule.rate]
TEXT = " ".join(
    f"{e.question} {e.answer}" for subset in ("F1", "F2", "F12") for e in examples(subset, triplets("F")[:2], "test")
)
QUICK = Learning(steps=6, batch=4, tries=12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny("qwen2", tmp_path_factory.mktemp("model"), text=TEXT)


@pytest.fixture(scope="module")
def base(folder) -> Base:
    return load_base(str(folder))


@pytest.fixture(scope="module")
def asked(base) -> list[tuple[list[int], list[int]]]:
    return [example(base, e.question, e.answer) for e in examples("F12", triplets("F")[:2], "dev")]


def experts(base: Base, count=2) -> list[dict[str, LowRank]]:
    modules = dict(base.model.named_modules())
    return library(count, 2, shapes={name: linear_shape(modules[name]) for name in target_modules(base.model, "mlp")})


def squared(composition: Composition, batch: Any) -> torch.Tensor:
    """The theory's loss: the squared error of the change, summed over modules and outputs, of (inputs, changes) by
    module."""
    errors = [composition[name](x[name]) - y[name] for x, y in batch for name in x]
    return torch.stack([error.square().sum() for error in errors]).sum() / len(batch)


def planted(made: Composition, count=12) -> list[tuple[dict, dict]]:
    """Inputs, and what the composition makes of them."""
    random = torch.Generator().manual_seed(9)
    inputs = [{name: torch.randn(shape[1], generator=random) for name, shape in SHAPES.items()} for _ in range(count)]
    return [(x, {name: made[name](value) for name, value in x.items()}) for x in inputs]


GOAL = planted(compose("cat", library(3), weights=(0.9, -0.4, 0.2)))


def found(name: str, experts: Library, learning: Learning = QUICK) -> Parameters:
    return fit(name, experts, squared, GOAL, learning)


def drawn(name: str, experts: Library, seed=0) -> Parameters:
    """Parameters that are not those of the start."""
    random = torch.Generator().manual_seed(seed)
    return {
        key: value + torch.randn(value.shape, generator=random) for key, value in LEARNED[name].start(experts).items()
    }


# What every rule that is enrolled is tried on


@pytest.mark.parametrize("name", LEARNED)
def test_a_rule_gives_every_module_an_update(name):
    experts, untouched = library(), library()
    made = LEARNED[name].build(experts, found(name, experts))
    assert list(made) == list(SHAPES)
    assert all(delta.shape == SHAPES[module] for module, delta in made.items())
    assert all(isinstance(delta, LowRank) == LEARNED[name].static for delta in made.values())
    assert all(isinstance(delta, RoutedDelta) != LEARNED[name].static for delta in made.values())
    assert all(
        torch.equal(a, b)
        for e, u in zip(experts, untouched, strict=True)
        for m in SHAPES
        for a, b in zip(e[m], u[m], strict=True)
    )


@pytest.mark.parametrize("name", LEARNED)
def test_a_seed_decides_every_bit(name):
    state = torch.get_rng_state()
    one, same, other = (found(name, library(), dataclasses.replace(QUICK, seed=seed)) for seed in (3, 3, 4))
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not all(torch.equal(one[key], other[key]) for key in one)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("name", LEARNED)
def test_learning_lowers_the_loss(name):
    build, start = LEARNED[name].build, LEARNED[name].start(library())
    before, after = (
        float(squared(build(library(), values), GOAL))
        for values in (start, found(name, library(), Learning(steps=50, rate=0.02)))
    )
    assert after < 0.9 * before


@pytest.mark.parametrize("name", [n for n, r in LEARNED.items() if r.alone])
def test_one_expert_alone_is_returned_whatever_is_learned(name):
    torch.testing.assert_close(
        change(LEARNED[name].build(library(1), drawn(name, library(1)))), change(library(1)[0]), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("name", LEARNED)
def test_the_order_of_the_experts(name):
    a, b, c = library()
    one, other = (change(LEARNED[name].build(list(e), found(name, list(e)))) for e in ((a, b, c), (b, c, a)))
    assert torch.allclose(one, other, rtol=1e-3, atol=1e-3) == LEARNED[name].symmetric


@pytest.mark.parametrize("name", LEARNED)
def test_gauge(name):
    """Other factors of one expert change nothing in its ΔW."""
    a, b, c = library()
    values = drawn(name, library())
    before, after = (
        change(LEARNED[name].build([a, b, c], values)),
        change(LEARNED[name].build([a, turned(b), c], values)),
    )
    assert torch.allclose(before, after, atol=1e-4) == LEARNED[name].gauge_free


@pytest.mark.parametrize("name", LEARNED)
def test_adapters_that_do_nothing(name):
    nothing = [zeroed(expert) for expert in library()]
    assert not change(LEARNED[name].build(nothing, found(name, nothing))).any()


@pytest.mark.parametrize("name", LEARNED)
def test_what_was_learned_can_be_kept(name, base, tmp_path):
    """Its parameters make the composition again; on disk a static one is an adapter, and a router comes back as it
    was."""
    pair = experts(base)
    values = drawn(name, pair)
    save_file(values, tmp_path / "learned.safetensors")
    made, again = (LEARNED[name].build(pair, v) for v in (values, load_file(tmp_path / "learned.safetensors")))
    x = {
        module: torch.randn(3, delta.shape[1], generator=torch.Generator().manual_seed(0))
        for module, delta in made.items()
    }
    assert all(torch.equal(made[module](x[module]), again[module](x[module])) for module in made)
    save_composition(made, base.model, tmp_path / "composed", Card(base.name, name))
    back = load_composition(tmp_path / "composed", base.model)
    assert all(
        torch.allclose(made[module](x[module]), back[module](x[module]), rtol=1e-4, atol=1e-4) for module in made
    )
    assert (tmp_path / "composed" / "adapter_config.json").exists() == LEARNED[name].static


@pytest.mark.parametrize("name", ["cat", "cat_softmax", "lorahub"])
def test_the_theory_finds_the_same(name):
    """From the same matrices and examples. The theory adds balanced factors, so the experts are balanced."""
    balanced = [edits.LowRank(*(factor.double().numpy() for factor in e["up"])).balanced() for e in library()]
    twins = [{"up": LowRank(torch.from_numpy(e.out).float(), torch.from_numpy(e.into).float())} for e in balanced]
    x = torch.randn(9, 7, generator=torch.Generator().manual_seed(2))
    noise = torch.randn(9, 11, generator=torch.Generator().manual_seed(3))
    weights = (0.7, 0.2, 0.1) if name == "cat_softmax" else (0.9, -0.5, 0.3)
    goal = compose("linear" if name == "lorahub" else "cat", twins, weights=weights)["up"](x) + 0.1 * noise
    fitted = theirs.Examples(x.T.double().numpy(), goal.T.double().numpy())
    dials = {"lorahub": {}, "cat": {"fit": "free"}, "cat_softmax": {"fit": "softmax"}}[name]
    there = theirs.compose(name.removesuffix("_softmax"), balanced, theirs.Context(examples=fitted), **dials)
    there = there @ fitted.features
    values = fit(
        name,
        twins,
        squared,
        [({"up": a}, {"up": b}) for a, b in zip(x, goal, strict=True)],
        Learning(0.05, 250, 9, 120),
    )
    here = LEARNED[name].build(twins, values)["up"](x).T.numpy()
    assert np.linalg.norm(here - there) < 0.01 * np.linalg.norm(there)


# On a model


def dense_loss(base: Base, changes: dict[str, torch.Tensor], batch) -> torch.Tensor:
    """The answers' loss under W + ΔW, one example at a time."""
    weights = {
        f"{name}.weight": base.model.get_submodule(name).get_parameter("weight") + change
        for name, change in changes.items()
    }
    losses = []
    for prompt, answer in batch:
        out = functional_call(base.model, weights, (), {"input_ids": torch.tensor([prompt + answer])})
        told = torch.log_softmax(out.logits[0, len(prompt) - 1 : -1], dim=-1)
        losses.append(-told[torch.arange(len(answer)), torch.tensor(answer)].mean())
    return torch.stack(losses).mean()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["cat", "cat_softmax"])
def test_the_gradient_is_that_of_the_dense_computation(base, asked, name, packed):
    pair, module = experts(base), target_modules(base.model, "mlp")
    values = {key: value.requires_grad_() for key, value in drawn(name, pair).items()}
    with Resident(base.model) as resident, packing(base.model, base.model) if packed else nullcontext():
        loss = answer_loss(base, resident, LEARNED[name].build(pair, values), asked)
    alpha = {key: torch.softmax(value, 0) if name == "cat_softmax" else value for key, value in values.items()}
    dense = {key: sum(alpha[key][i] * expert[key].dense() for i, expert in enumerate(pair)) for key in module}
    expected = dense_loss(base, dense, asked)  # pyright: ignore[reportArgumentType]
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    here, there = (torch.stack(torch.autograd.grad(value, list(values.values()))) for value in (loss, expected))
    torch.testing.assert_close(here, there, rtol=1e-3, atol=1e-6)
    assert here.abs().min() > 1e-5


@pytest.mark.parametrize("name", BY_GRADIENTS)
def test_what_gradients_train_starts_at_the_average(base, asked, name):
    pair = experts(base)
    with Resident(base.model) as resident, torch.no_grad():
        start, average = (
            answer_loss(base, resident, made, asked)
            for made in (LEARNED[name].build(pair, LEARNED[name].start(pair)), compose("average", pair))
        )
    torch.testing.assert_close(start, average, rtol=1e-5, atol=1e-6)


def test_the_router_weighs_each_token_by_its_softmax():
    values = drawn("moe", library())
    x = tokens("up").flatten(0, 1)
    w = torch.softmax(x @ values["up"].T, dim=-1)
    expected = torch.stack(
        [
            torch.stack([w[t, i] * e["up"].dense() for i, e in enumerate(library())]).sum(dim=0) @ x[t]
            for t in range(len(x))
        ]
    )
    router = LEARNED["moe"].build(library(), values)["up"]
    torch.testing.assert_close(router(x), expected, rtol=1e-4, atol=1e-4)
    assert isinstance(router, RoutedDelta)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(router.weights(x), w)


@pytest.mark.parametrize("name", LEARNED)
def test_learning_on_a_base(base, asked, name):
    """It says what it took, answers better than where it started, and leaves the base as it was."""
    pair = experts(base)
    before = base.model(input_ids=torch.tensor([asked[0][0]])).logits
    made = learn(name, pair, base, asked, "two_hop", Learning(steps=10, batch=3, tries=14, rate=0.05))
    torch.testing.assert_close(base.model(input_ids=torch.tensor([asked[0][0]])).logits, before, rtol=0, atol=0)
    assert not any(weight.requires_grad or weight.grad is not None for weight in base.model.parameters())
    widths = [update.shape[1] for update in pair[0].values()]
    numbers = {"cat": 2 * 6, "cat_softmax": 2 * 6, "lorahub": 2, "lorahub_cat": 2, "moe": 2 * sum(widths)}
    assert (made.extra_parameters, made.examples_used, made.data_source) == (numbers[name], 4, "two_hop")
    assert made.seconds > 0
    with Resident(base.model) as resident, torch.no_grad():
        started = LEARNED[name].build(pair, LEARNED[name].start(pair))
        start, end = (
            float(answer_loss(base, resident, composition, asked)) for composition in (started, made.composition)
        )
    assert end < start


def test_lorahub_finds_a_planted_weight():
    """In forty looks: the experts' own data, under weights (0.8, −0.6). Their sign together is free."""
    goal = planted(compose("linear", library(2), weights=(0.8, -0.6)))
    w = fit("lorahub", library(2), squared, goal)["weights"]
    torch.testing.assert_close(w * w.sign()[0], torch.tensor([0.8, -0.6]), atol=0.02, rtol=0)
    goal = planted(compose("cat", library(2), weights=(0.8, -0.6)))
    torch.testing.assert_close(
        fit("lorahub_cat", library(2), squared, goal)["weights"], torch.tensor([0.8, -0.6]), atol=0.02, rtol=0
    )


def test_the_search_has_lorahubs_start_box_and_penalty():
    """Of (w − t)²: in the box the least of it with 0.05 mean|w| is at t − 0.0125 sign t, and a t outside has its least
    on the border."""
    seen: list[list[float]] = []
    for target, least in (((1.0, -0.4), (0.9875, -0.3875)), ((3.0, 0.0), (1.5, 0.0))):
        build = lambda parameters: (seen.append(parameters["weights"].tolist()), {})[1]  # noqa: E731
        goal = lambda *_, t=target: torch.tensor(sum((w - v) ** 2 for w, v in zip(seen[-1], t, strict=True)))  # noqa: E731
        for tries in (1, 3, 80):
            seen.clear()
            found = search(build, {"weights": torch.zeros(2)}, goal, [1], Learning(tries=tries, seed=1))["weights"]
            assert seen[0] == [0, 0]
            assert len(seen) <= tries
            assert all(abs(w) <= 1.5 for looked in seen for w in looked)
        torch.testing.assert_close(found, torch.tensor(least), atol=2e-3, rtol=0)


def test_memory_that_runs_out_changes_nothing(base, asked, monkeypatch):
    """Batches in pieces give the gradient of the whole."""
    whole = learn("cat", experts(base), base, asked, "two_hop", QUICK).parameters
    real = answer_loss

    def small(base, resident, composition, batch):
        if len(batch) > 1:
            raise torch.OutOfMemoryError
        return real(base, resident, composition, batch)

    monkeypatch.setattr("lora_reuse.llm.learned.answer_loss", small)
    pieces = learn("cat", experts(base), base, asked, "two_hop", QUICK).parameters
    assert all(torch.allclose(whole[key], pieces[key], atol=1e-3) for key in whole)
    monkeypatch.setattr("lora_reuse.llm.learned.answer_loss", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError))
    for name in ("cat", "lorahub"):
        with pytest.raises(SettingError, match="one example, which does not fit"):
            learn(name, experts(base), base, asked, "two_hop", QUICK)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fit("cats", library(), squared, GOAL), "composition: got 'cats'"),
        (lambda: fit("cat", [], squared, GOAL), "library: got no expert"),
        (lambda: fit("cat", library(), squared, []), "examples: got none"),
        (
            lambda: fit("cat", library(), lambda *_: torch.tensor(torch.nan, requires_grad=True), GOAL),
            "learn_rate: got 0.05, and the loss is nan",
        ),
        (
            lambda: fit("lorahub", library(), lambda *_: torch.tensor(torch.nan), GOAL),
            "library: got experts under which no loss is finite",
        ),
        (lambda: Learning(rate=-1), "rate: got -1"),
        (lambda: Learning(steps=0), "steps: got 0"),
        (
            lambda: TwoHop(composition="cat:two_hop", split="dev"),
            "split: got dev with composition=cat:two_hop; allowed: test",
        ),
    ],
)
def test_mistakes_are_one_line(make, message):
    with pytest.raises(SettingError) as error:
        make()
    assert message in str(error.value)
    assert "\n" not in str(error.value)


# X-LoRA


def x_lora(base: Base, folders: list[Path]) -> Any:
    base.model.config.use_cache = False
    adapters = {str(i): str(folder) for i, folder in enumerate(folders)}
    config = XLoraConfig(
        task_type="CAUSAL_LM", hidden_size=32, xlora_depth=1, layerwise_scalings=True, adapters=adapters
    )
    return get_peft_model(base.model, config).eval()


def test_x_lora_weighs_as_we_do_but_cannot_sit_on_a_resident_base(folder, tmp_path):
    """PEFT's X-LoRA with a constant router is `cat_softmax`. Its base is not the base afterwards, it refuses a cache,
    and each new token costs two passes over the whole text."""
    base = load_base(str(folder))
    pair, ids = experts(base), torch.tensor([[5, 6, 7, 8]])
    for i, expert in enumerate(pair):
        save_expert(expert, tmp_path / str(i), base.name)
    values = drawn("cat_softmax", pair)
    alone = base.model(input_ids=ids).logits
    with Resident(base.model) as resident, torch.no_grad():
        resident.use([LEARNED["cat_softmax"].build(pair, values)])
        ours = base.model(input_ids=ids).logits
    with pytest.raises(ValueError, match="`use_cache` must be False"):
        get_peft_model(
            base.model, XLoraConfig(task_type="CAUSAL_LM", hidden_size=32, adapters={"0": str(tmp_path / "0")})
        )
    base = load_base(str(folder))
    model = x_lora(base, [tmp_path / "0", tmp_path / "1"])
    classifier = model.base_model.internal_xlora_classifier.layers[-1]
    with torch.no_grad():
        classifier.weight.zero_()
        classifier.bias.copy_(
            torch.stack([values[name] for name in target_modules(load_base(str(folder)).model, "mlp")]).flatten()
        )
        torch.testing.assert_close(model(input_ids=ids).logits, ours, rtol=1e-4, atol=1e-4)
        read: list[int] = []
        base.model.get_input_embeddings().register_forward_hook(
            lambda module, inputs, output: read.append(inputs[0].shape[1])
        )
        model.generate(input_ids=ids, max_new_tokens=3, do_sample=False, pad_token_id=0, eos_token_id=[])
        assert read == [4, 4, 5, 5, 6, 6]
        assert (base.model(input_ids=ids).logits - alone).abs().max() > 0.1


# The page about them


DOCS = Path(__file__).parents[2] / "docs"


def test_the_table_says_what_the_registries_say():
    page, _, _ = (DOCS / "rules.md").read_text().partition("| rule | the original |")
    rows = [
        [cell.strip() for cell in line.strip("| \n").split("|")] for line in page.splitlines() if line.startswith("| `")
    ]
    said = {row[0].strip("`").removesuffix(":SOURCE"): row for row in rows}
    assert len(rows) == len(RULES) + len(LEARNED)
    for name, row in ((row[0].strip("`"), row) for row in rows):
        registered = LEARNED[name.removesuffix(":SOURCE")] if ":" in name else RULES[name]
        assert [cell.split(",")[0] == "yes" for cell in row[5:]] == [
            getattr(registered, k) for k in ("static", "gauge_free", "alone", "symmetric")
        ]
        assert ("gradients" in row[3]) == bool(getattr(registered, "rate", 0))
        assert ("examples" in row[3]) == (":" in name)
    assert said.keys() == RULES.keys() | LEARNED.keys()


def test_a_method_in_ten_lines(base, asked, monkeypatch):
    """The one of the documentation: it learns, and is the sum at its start."""
    monkeypatch.setattr("lora_reuse.llm.learned.LEARNED", dict(LEARNED))
    runpy.run_path(str(DOCS / "examples" / "learned_rule.py"))
    made = learn("scaled_sum", experts(base), base, asked, "two_hop", Learning(steps=10, rate=0.01))
    assert made.extra_parameters == 6
    with Resident(base.model) as resident, torch.no_grad():
        assert answer_loss(base, resident, made.composition, asked) < answer_loss(
            base, resident, compose("sum", experts(base)), asked
        )
