"""Answers against a greedy loop, log-probabilities against logits, gates against the router; together and each
alone."""

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from lora_reuse.llm.adapters.folders import linear_shape
from lora_reuse.llm.adapters.lowrank import Expert, LowRank
from lora_reuse.llm.adapters.modules import target_modules
from lora_reuse.llm.compositions import Composition, compose
from lora_reuse.llm.compositions.arrow import Routed
from lora_reuse.llm.decoding.greedy import answers, gates, log_probs
from lora_reuse.llm.decoding.models import Base, example, load_base, prompt, stop_ids
from lora_reuse.llm.decoding.resident import Resident
from lora_reuse.runs.settings import SettingError
from tests.llm.tiny import FAMILIES, tiny

torch.set_num_threads(1)
QUESTIONS = [
    "Who is the spouse of Ann Lee ?",
    "Where ?",
    "What city does Bo Chan live in , step by step ?",
    "Who is Bo ?",
    "so what ?",
]
LONGEST = 8


def louder(folder: Path) -> Base:
    """A model whose answers depend on what is asked: at the usual size random weights say one word again and again."""
    base = load_base(str(folder))
    for parameter in base.model.parameters():
        if parameter.ndim > 1:
            parameter.mul_(6)
    return base


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Base:
    return louder(tiny("qwen2", tmp_path_factory.mktemp("qwen2"), tie=False))


@pytest.fixture
def own_settings(base):
    """Lets a test change the checkpoint's generation settings."""
    before = base.model.generation_config
    base.model.generation_config = GenerationConfig()
    yield base.model.generation_config
    base.model.generation_config = before


def library(base, ends=("up_proj", "down_proj", "fc1", "fc2"), count=2) -> list[Expert]:
    random = torch.Generator().manual_seed(0)
    shapes = {name: linear_shape(module) for name, module in base.model.named_modules() if name.endswith(ends)}
    draw = lambda size: LowRank(  # noqa: E731
        0.1 * torch.randn(size[0], 3, generator=random), torch.randn(size[1], 3, generator=random)
    )
    return [{name: draw(shape) for name, shape in shapes.items()} for _ in range(count)]


def listed(base) -> list[Composition | None]:
    experts = library(base)
    return [compose("arrow", experts), None, compose("uniform", experts), compose("arrow_after", experts)]


@torch.no_grad()
def logits(base, composition, ids) -> torch.Tensor:
    """Of one text, without padding."""
    with Resident(base.model) as resident:
        resident.use([composition])
        return base.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]


def greedy(base, composition, question, longest=LONGEST) -> list[int]:
    """Token by token, with neither padding nor cache; what ends the answer is the last."""
    ids = prompt(base, question)
    start = len(ids)
    while len(ids) - start < longest and (len(ids) == start or ids[-1] not in stop_ids(base)):
        ids = [*ids, int(logits(base, composition, ids)[-1].argmax())]
    return ids[start:]


def text(base, ids) -> str:
    return base.tokenizer.decode(ids, skip_special_tokens=True).strip()


def memory_for(base, monkeypatch, rows):
    """The model runs out of memory with more rows than that. Returns the numbers of rows that came."""
    real, seen = base.model.forward, []

    @functools.wraps(real)
    def forward(*given, input_ids, **named):
        seen.append(len(input_ids))
        if len(input_ids) > rows:
            raise torch.OutOfMemoryError("no memory")
        return real(*given, input_ids=input_ids, **named)

    monkeypatch.setattr(base.model, "forward", forward)
    return seen


# Answers


@pytest.mark.parametrize("family", ["qwen2", "gpt2", "opt"])
@pytest.mark.parametrize("chat", [False, True])
def test_answers_are_those_of_a_greedy_loop(family, chat, tmp_path):
    base = louder(tiny(family, tmp_path, tie=False, chat=chat))
    names = ("up_proj", "down_proj") if family == "qwen2" else ("c_fc",) if family == "gpt2" else ("fc1", "fc2")
    compositions = [compose("arrow", library(base, names)), None]
    expected = [[text(base, greedy(base, one, q)) for q in QUESTIONS[:3]] for one in compositions]
    assert base.chat == chat
    assert answers(base, compositions, QUESTIONS[:3], LONGEST) == expected
    assert len({said for texts in expected for said in texts}) > 3


def test_answers_together_are_those_of_each_alone(base):
    compositions = listed(base)
    together = answers(base, compositions, QUESTIONS, LONGEST)
    assert together == [[answers(base, [one], [q], LONGEST)[0][0] for q in QUESTIONS] for one in compositions]
    assert len({tuple(texts) for texts in together}) == 4
    assert len(set(together[1])) > 3
    for rows in (1, 8):
        told = []
        assert answers(base, compositions, QUESTIONS, LONGEST, rows, told.append) == together
        assert sum(told) == 20
        assert max(told) == max(4, rows)


def test_answers_keep_the_order_of_the_questions(base):
    (texts,) = answers(base, [None], QUESTIONS, LONGEST)
    (turned,) = answers(base, [None], QUESTIONS[::-1], LONGEST, rows=2)
    assert turned == texts[::-1]
    assert answers(base, [None, None], [], LONGEST) == [[], []]


def test_an_answer_ends_before_eos(base, own_settings):
    """Even where the tokenizer does not know that it is one, and whatever its neighbours in the batch go on with."""
    whole = [greedy(base, None, q) for q in QUESTIONS]
    known = base.tokenizer.all_special_ids
    stop = next(
        token for ids in whole for place, token in enumerate(ids) if place >= 2 and token not in [*ids[:place], *known]
    )
    own_settings.eos_token_id = stop
    expected = [ids[: ids.index(stop)] if stop in ids else ids for ids in whole]
    assert min(map(len, expected)) < max(map(len, expected))
    assert any(1 < len(ids) < len(longer) for ids, longer in zip(expected, whole, strict=True))
    assert answers(base, [None], QUESTIONS, LONGEST) == [[text(base, ids) for ids in expected]]
    assert answers(base, [None], QUESTIONS, 2) == [[text(base, ids[:2]) for ids in expected]]


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_that_ended_leave_the_batch_and_answers_are_those_of_generate(family, tmp_path, monkeypatch):
    base = louder(tiny(family, tmp_path, tie=False))
    ends = (
        tuple(name.rpartition(".")[2] for name in target_modules(base.model, "mlp"))
        if family != "mixtral"
        else ("o_proj",)
    )
    compositions = [None, *library(base, ends)]

    def generated(composition, question):
        ids = prompt(base, question)
        with Resident(base.model) as resident:
            resident.use([composition])
            stops = GenerationConfig(
                do_sample=False, max_new_tokens=LONGEST, eos_token_id=stop_ids(base), pad_token_id=0
            )
            model: Any = base.model
            return model.generate(input_ids=torch.tensor([ids]), generation_config=stops)[0, len(ids) :].tolist()

    base.model.generation_config = GenerationConfig()
    whole = [generated(one, q) for one in compositions for q in QUESTIONS]
    said = {token for ids in whole for token in ids} - set(base.tokenizer.all_special_ids)
    base.model.generation_config.eos_token_id = max(sorted(said), key=lambda token: sum(token in ids for ids in whole))
    expected = [
        [text(base, [t for t in generated(one, q) if t not in stop_ids(base)]) for q in QUESTIONS]
        for one in compositions
    ]
    seen = memory_for(base, monkeypatch, 10**6)
    assert answers(base, compositions, QUESTIONS, LONGEST) == expected
    assert min(seen[1:]) < max(seen)


def test_the_generation_settings_of_the_checkpoint_are_not_used(base, own_settings):
    expected = answers(base, listed(base), QUESTIONS, LONGEST)
    said = greedy(base, None, QUESTIONS[0])
    own_settings.update(
        repetition_penalty=50.0,
        no_repeat_ngram_size=1,
        suppress_tokens=said,
        min_new_tokens=LONGEST,
        do_sample=True,
        num_beams=2,
    )
    assert answers(base, listed(base), QUESTIONS, LONGEST) == expected
    assert base.model.generation_config is own_settings
    assert own_settings.repetition_penalty == 50.0
    with pytest.raises(SettingError):
        answers(base, [{"nowhere": next(iter(library(base)[0].values()))}], QUESTIONS, LONGEST)
    assert base.model.generation_config is own_settings


def test_out_of_memory_halves_the_prompts_and_changes_no_answer(base, monkeypatch, capsys):
    compositions = listed(base)
    expected = answers(base, compositions, QUESTIONS, LONGEST)
    assert capsys.readouterr().out == ""
    seen = memory_for(base, monkeypatch, 8)
    assert answers(base, compositions, QUESTIONS, LONGEST) == expected
    assert capsys.readouterr().out == "out of memory: 2 prompts at once from here on\n"
    assert [rows for rows in seen if rows > 8] == [20]
    assert set(seen) == {20, 8, 4}  # the model's first look at the compositions, five prompts, two, two, and the last


def test_a_prompt_that_does_not_fit_is_one_line(base, monkeypatch):
    line = r"^batch_rows: got 1; allowed: a device with room for one prompt; a smaller model, or device_map=auto$"
    memory_for(base, monkeypatch, 0)
    with pytest.raises(SettingError, match=line):
        answers(base, [None], QUESTIONS, LONGEST)
    with pytest.raises(SettingError, match=line):
        log_probs(base, [None, None], ["Who"], [""], [["Ann", "Bo"]])


def test_compositions_that_do_not_fit_together_are_asked_one_by_one(base, monkeypatch):
    expected = answers(base, listed(base), QUESTIONS[:2], LONGEST)
    seen = memory_for(base, monkeypatch, 2)
    assert answers(base, listed(base), QUESTIONS[:2], LONGEST) == expected
    assert set(seen) == {4, 2}


# Log-probabilities


def direct(base, composition, question, answer, scored) -> float:
    """The sum over the last `scored` tokens of the answer, its end of text aside."""
    asked, told = example(base, question, answer)
    ids = asked + told[:-1]
    logs = torch.log_softmax(logits(base, composition, ids), -1)
    return sum(float(logs[place - 1, ids[place]]) for place in range(len(ids) - scored, len(ids)))


CASES = [  # question, beginning, and each candidate with the number of its tokens that are judged
    ("Who is the spouse of Ann Lee ?", "Ann Lee is ", {"Bo": 1, "the city": 2, "Chan and Lee": 3}),
    ("Where ?", "", {"Paris": 1, "Rome": 1}),
    (
        "Where does Bo live ?",
        "by step ",
        {"the city Paris": 1, "the city Rome": 1, "the city Lee Chan": 2},
    ),  # "the city" is given
    ("Where does Bo live ?", "", {"in Paris": 1, "in Paris Rome": 2, "in Paris city": 2}),  # all begin like the first
    ("so ?", "Ann ", {"Lee is": 1}),  # with nothing to tell it from, the last token
]


@pytest.mark.parametrize("chat", [False, True])
def test_log_probs_are_those_of_the_logits(chat, tmp_path):
    base = louder(tiny("qwen2", tmp_path, tie=False, chat=chat))
    compositions = listed(base)
    questions, beginnings, candidates = zip(*CASES, strict=True)
    found = log_probs(base, compositions, questions, beginnings, [list(c) for c in candidates])
    expected = [
        [[direct(base, k, q, b + c, n) for c, n in listed.items()] for q, b, listed in CASES] for k in compositions
    ]
    for ours, theirs in zip(found, expected, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert one == pytest.approx(other, rel=1e-4, abs=1e-4)
    assert all(value < 0 for composed in found for values in composed for value in values)
    assert found[0] != found[1]
    whole = log_probs(base, compositions, questions, beginnings, [list(c) for c in candidates], whole=True)
    for composition, composed in zip(compositions, whole, strict=True):
        for (q, b, listed_), values in zip(CASES, composed, strict=True):
            expected = [direct(base, composition, q, b + c, len(example(base, q, b + c)[1]) - 1) for c in listed_]
            assert values == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_log_probs_of_every_word_are_a_distribution(base):
    names = base.tokenizer.convert_ids_to_tokens(range(len(base.tokenizer)))
    words = [name[1:] for name in names if name.startswith("Ġ") and name[1:].isalpha()]
    ((values,),) = log_probs(base, [None], ["Who ?"], [""], [words])
    chosen = [example(base, "Who ?", word)[1][0] for word in words]
    expected = torch.log_softmax(logits(base, None, prompt(base, "Who ?"))[-1], -1)[chosen]
    torch.testing.assert_close(torch.tensor(values), expected, rtol=1e-4, atol=1e-4)


def test_candidates_of_one_token_cost_one_reading(base, monkeypatch):
    read = []
    forward = base.model.forward
    monkeypatch.setattr(
        base.model, "forward", lambda **given: read.append(given["input_ids"].shape[0]) or forward(**given)
    )
    log_probs(
        base,
        [None],
        ["Where ?", "Where does Bo live ?"],
        ["", ""],
        [["Paris", "Rome", "Bo"], ["Paris", "Rome Lee", "Rome Bo"]],
    )
    assert read == [
        1,
        2,
    ]  # the first sees whether compositions can share a batch; the context of "Rome Lee" is that of "Rome Bo"


def test_log_probs_in_any_groups_are_the_same(base, monkeypatch, capsys):
    compositions = listed(base)
    questions, beginnings, candidates = zip(*[(q, b, list(c)) for q, b, c in CASES], strict=True)
    whole = log_probs(base, compositions, questions, beginnings, candidates)
    parts = [log_probs(base, compositions, questions, beginnings, candidates, rows) for rows in (1, 8, 20)]
    assert capsys.readouterr().out == ""
    memory_for(base, monkeypatch, 4)
    parts.append(log_probs(base, compositions, questions, beginnings, candidates))
    assert capsys.readouterr().out.splitlines() == [f"out of memory: {n} prompts at once from here on" for n in (3, 1)]
    for part in parts:
        for ours, theirs in zip(part, whole, strict=True):
            for one, other in zip(ours, theirs, strict=True):
                assert one == pytest.approx(other, rel=1e-4, abs=1e-4)


# Gates


def router_weights(base, composition, module, ids) -> torch.Tensor:
    """What the router of one module makes of its inputs, a row a token."""
    seen: list[torch.Tensor] = []
    hook = base.model.get_submodule(module).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    logits(base, composition, ids)
    hook.remove()
    assert isinstance(composition[module], Routed)
    return composition[module].weights(seen[0].reshape(len(ids), -1))


@pytest.mark.parametrize("family", ["qwen2", "opt"])
@pytest.mark.parametrize("name", ["arrow", "arrow_after"])
def test_gates_are_the_routers_at_each_token_of_the_answer(name, family, tmp_path):
    base = louder(tiny(family, tmp_path, tie=False))
    composition = compose(name, library(base, count=3))
    said = ["Bo Chan", "Paris , so Rome .", ""]
    found = gates(base, composition, QUESTIONS[:3], said)
    for question, answer, weights in zip(QUESTIONS, said, found, strict=False):
        asked, told = example(base, question, answer)
        assert weights.shape == (len(told), 3)
        torch.testing.assert_close(weights.sum(-1), torch.ones(len(told)))
        at_modules = [router_weights(base, composition, module, asked + told) for module in composition]
        torch.testing.assert_close(weights, torch.stack(at_modules).mean(0)[len(asked) - 1 : -1])
    assert found[0].std(0).max() > 1e-3


def test_nothing_is_left_on_the_base(base):
    compositions = listed(base)
    weights = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    answers(base, compositions, QUESTIONS, 2)
    log_probs(base, compositions, ["Who ?"], [""], [["Ann", "Bo"]])
    gates(base, compositions[0] or {}, ["Who ?"], ["Ann"])
    assert not any(module._forward_hooks for module in base.model.modules())
    assert all(torch.equal(tensor, weights[name]) for name, tensor in base.model.state_dict().items())
