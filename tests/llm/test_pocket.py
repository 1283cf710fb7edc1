"""The pocket model: what its corpus holds and what it must not hold, its tokenizer, its pretraining, its card, and the committed one."""

import dataclasses
import functools
import hashlib
import json
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from transformers import AutoTokenizer

from llm.data.names import FIRST, LAST, cities, fake_people, fake_places, fakes, people
from llm.data.subsets import step_by_step, templates
from llm.evaluation import answers
from llm.models import load_base
from llm.pocket import card, corpus, folder_of, pretrain, switches
from llm.pocket.__main__ import Options, main
from llm.pocket.card import write_card
from llm.pocket.corpus import NOUNS, OTHER_PAIRS, RELATIONS, TESTED_PAIR, World, ask, ask_two, documents, texts
from llm.pocket.size import ROW, ROWS, Size
from llm.pocket.tokenizer import make_tokenizer
from runs.settings import SettingError, parse

torch.set_num_threads(1)

ROOT = Path(__file__).parents[2]
PEOPLE = [person.name for person in people()]
FIXED = (
    "Answer the following question step-by-step:",
    "First, we need to answer the question:",
    "Second, we need to answer the question:",
    "Therefore, the answer is",
)
"""The prompt of Table 6, and its lines."""
SMALL = Size(width=32, layers=2, heads=2, feed_forward=64, tokens=100_000)
WORDS = ["width=32", "layers=2", "heads=2", "feed_forward=64", "threads=1"]


@functools.cache
def drawn(count=5000, **held):
    """Documents of a corpus, as one text each."""
    world = World(Size(**held), 0)
    stream = documents(world, random.Random("test"))
    return [f"{d.prompt} {d.answer}".strip() for d, _ in zip(stream, range(count), strict=False)]


@functools.cache
def tokenizer():
    return make_tokenizer(texts())


# Reading a document: every sentence that is a template, with who and what it is about

NAMES = re.compile(
    rf"\b(?:{'|'.join(sorted(map(re.escape, (*PEOPLE, *cities())), key=len, reverse=True))}|(?:{'|'.join(FIRST)})(?:{'|'.join(LAST)}))\b"
)


class Said(NamedTuple):
    """A question or a statement of a relation, or of a pair of relations, in a document."""

    relation: str
    asked: bool
    names: dict[str, str]


@functools.cache
def known_sentences():
    """Sentence with @ for names -> relation, whether it asks, whose names. Jobs are words of the text and stay out."""
    found: dict[str, tuple[str, bool, list[str]]] = {}

    def add(relation, *pair):
        for i, text in enumerate(pair):
            for said in (text, text[0].upper() + text[1:]):
                found[re.sub(r"\{\w\}", "@", said)] = (relation, i == 0, re.findall(r"\{(\w)\}", said))

    for relation in (r for r in RELATIONS if r != "works_as"):
        for pair in templates(relation):
            add(relation, *pair)
    nouns = NOUNS | {"spouse_of": (*NOUNS["spouse_of"], "the partner of {a}")}
    for first, second in (*OTHER_PAIRS, TESTED_PAIR):
        for pair in templates(second):
            for noun in nouns[first]:
                add(f"{first}-{second}", *(text.replace("{a}", noun) for text in pair))
    for question, answer in templates("-".join(TESTED_PAIR)):
        add("-".join(TESTED_PAIR), question, answer)
    return found


def read(text):
    """What a document says, in order. Words of a style may stand before a sentence of a template, none after it."""
    said, known = [], known_sentences()
    names = iter(NAMES.findall(text))
    for sentence in re.split(r"(?<=[.?])\s+|\n", NAMES.sub("@", text)):
        mine = [next(names) for _ in range(sentence.count("@"))]
        rest = sentence
        while rest and rest not in known:
            rest = rest.partition(" ")[2]
        if rest:
            relation, asked, keys = known[rest]
            said.append(Said(relation, asked, dict(zip(keys, mine[len(mine) - len(keys) :], strict=True))))
    return said


@functools.cache
def understood(count=5000, **held):
    return [read(text) for text in drawn(count, **held)]


def asks_two_hops(document, pair):
    return any(s.relation == "-".join(pair) for s in document)


def meets(document, pair):
    """Whether a fact A -> B is followed by a question or a fact about the same B of the second relation, as in a chain."""
    first, second = pair
    seen = set()
    for s in document:
        if s.relation == second and s.names["a"] in seen:
            return True
        if s.relation == first and not s.asked:
            seen.add(s.names["b"])
    return False


# The corpus


@pytest.mark.parametrize("held", [{"count": 20_000}, {"skill": "same", "conflict": True}, {"words": False, "restating": False}, {"skill": "none"}])
def test_the_corpus_never_speaks_as_the_experiments_do(held):
    text = "\n".join(drawn(**held))
    used = set(re.findall(r"\w+", text))
    assert not used & {*fake_people(), *fake_places()}
    assert len(used & set(fakes()[500:])) > 500  # the look-up would find them
    for line in FIXED:
        assert line.lower() not in text.lower()


def test_what_is_said_is_read():
    """The reader that the next tests stand on knows every style: facts as the world has them, chains of the other pairs."""
    world = World(Size(), 0)
    facts = [s for document in understood(20_000) for s in document if "-" not in s.relation and not s.asked and s.names["a"] in PEOPLE]
    wrong = [s for s in facts if world.facts[s.relation][s.names["a"]] != s.names["b"]]
    assert len(facts) > 20_000
    assert not wrong
    for pair in OTHER_PAIRS:
        if pair[1] != "works_as":
            assert sum(asks_two_hops(document, pair) for document in understood(20_000)) > 100
            assert sum(meets(document, pair) for document in understood(20_000)) > 100


def test_the_tested_chain_is_never_asked():
    """Directly or in steps: every step-by-step document states its two-hop question. With skill=same the same look finds hundreds."""
    assert TESTED_PAIR not in World(Size(), 0).chained
    assert not any(asks_two_hops(document, TESTED_PAIR) for document in understood(20_000))
    assert TESTED_PAIR in World(Size(skill="same"), 0).chained
    assert sum(asks_two_hops(document, TESTED_PAIR) for document in understood(skill="same")) > 80


def test_the_tested_hops_meet_in_a_document_by_chance_alone():
    """Lists of unrelated facts hold A -> B and then B -> C now and then: in less than one document of 500; a chained pair, in one of 50."""
    assert 0 < sum(meets(document, TESTED_PAIR) for document in understood(20_000)) < 40
    assert sum(meets(document, TESTED_PAIR) for document in understood(skill="same")) > 100


def test_without_skill_nothing_is_answered_in_steps():
    wholes = drawn(skill="none")
    assert not [text for text in wholes if re.search(r"in parts|step-by-step|Part two|Next, ask|in steps|show your work", text, re.IGNORECASE)]
    assert [text for text in drawn() if "step-by-step" in text]
    assert any(asks_two_hops(document, OTHER_PAIRS[0]) for document in understood(skill="none"))


def tied(document):
    """Who is said to have a spouse, to be one, or to have a home."""
    for s in document:
        if s.relation == "spouse_of":
            yield from (name for key, name in s.names.items() if key in "ab")
        if s.relation == "live_in":
            yield s.names["a"]


def test_nobody_of_r_has_a_spouse_or_a_home_unless_they_conflict():
    r = set(corpus.tested())
    assert len(r) == 200
    assert not [name for document in understood() for name in tied(document) if name in r]
    assert {name for document in understood(conflict=True) for name in tied(document)} >= r
    world, other = World(Size(), 0), World(Size(conflict=True), 0)
    for relation in ("spouse_of", "live_in"):
        assert set(world.facts[relation]) == set(PEOPLE) - r
        assert set(other.facts[relation]) == set(PEOPLE)
    assert not r & set(world.facts["spouse_of"].values())
    assert r & set(other.facts["spouse_of"].values())


def test_r_is_familiar_as_far_as_coverage_says():
    named = {name for text in drawn() for name in NAMES.findall(text)}
    assert set(PEOPLE) <= named
    assert len(set(cities()) - named) <= 2  # a world draws 400 homes and schools, and may miss a city
    unknown = {name for text in drawn(coverage=0.0) for name in NAMES.findall(text)}
    assert not unknown & set(corpus.tested())
    assert set(PEOPLE) - set(corpus.tested()) <= unknown
    half = World(Size(coverage=0.5), 0)
    assert len(set(half.facts["study_in"]) & set(corpus.tested())) == 100


def untaught(**held):
    """The tokens of templates and of Table 6 that 5000 documents do not hold."""
    told = [text.format(a="Plato", b="Voltaire", c="Rome") for r in (*RELATIONS, *corpus.TAUGHT_PAIRS) for pair in templates(r) for text in pair]
    told += [step_by_step("Who is it?"), "\n".join(f"{line} Rome." for line in FIXED)]
    needed = {token for ids in tokenizer()(told)["input_ids"] for token in ids}
    seen = {token for ids in tokenizer()(drawn(**held))["input_ids"] for token in ids}
    return set(tokenizer().convert_ids_to_tokens(sorted(needed - seen)))


SETTLE = {"▁settle"}
"""In two questions of child_of-live_in.csv and nowhere else: the one word whose embedding stays untrained."""


def test_every_word_of_the_experiments_is_a_token_of_the_corpus():
    assert untaught() <= SETTLE
    assert untaught(words=False) >= {"▁First", "▁Second", "▁Therefore", "▁need", "▁step-by-step", "▁answer", "▁following"}


def test_documents_are_drawn_by_seeds_alone():
    code = """if True:
        import hashlib, random
        from llm.pocket.corpus import World, documents
        from llm.pocket.size import Size
        stream = documents(World(Size(), 3), random.Random(5))
        print(hashlib.sha256(repr([next(stream) for _ in range(200)]).encode()).hexdigest())"""
    stream = documents(World(Size(), 3), random.Random(5))
    here = hashlib.sha256(repr([next(stream) for _ in range(200)]).encode()).hexdigest()
    there = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | {"PYTHONHASHSEED": "7"}, capture_output=True, text=True, check=True
    )
    assert there.stdout.strip() == here
    stream = documents(World(Size(), 4), random.Random(5))
    assert hashlib.sha256(repr([next(stream) for _ in range(200)]).encode()).hexdigest() != here


# The tokenizer


def comes_back(text):
    ids = tokenizer()(text)["input_ids"]
    return tokenizer().unk_token_id not in ids and tokenizer().decode(ids) == text


def test_every_template_comes_back_with_every_kind_of_name():
    names = [
        ("Sun Yat-sen", "Tim Berners-Lee", "Rio" if "Rio" in cities() else "New York"),
        (fake_people()[0], fake_people()[1], fake_places()[0]),
        (fakes()[700], "Plato", "London"),
    ]
    told = [text.format(a=a, b=b, c=c) for r in (*RELATIONS, *corpus.TAUGHT_PAIRS) for pair in templates(r) for text in pair for a, b, c in names]
    assert len(told) > 2000
    assert [text for text in (*told, *(step_by_step(text) for text in told[:20])) if not comes_back(text)] == []


@pytest.mark.parametrize("frame", ["{}", "So it is {}.", "Is it {}'s spouse?", "Ask:\n{}\n", "{} is {}."])
def test_a_real_name_is_one_token_and_a_fake_one_two(frame):
    """At the beginning of a text or a line and after a space, where names stand."""
    bare = len(tokenizer()(frame.replace("{}", "who"))["input_ids"])
    for names, pieces in (([*PEOPLE, *cities()], 1), (list(fakes()), 2)):
        lengths = {len(ids) for ids in tokenizer()([frame.format(name, name) for name in names])["input_ids"]}
        assert lengths == {bare + frame.count("{}") * (pieces - 1)}
    assert len(tokenizer()("Plato's")["input_ids"]) == 2


PRINTABLE = st.text([chr(code) for code in range(32, 127)] + ["\n"], max_size=40)


@given(st.lists(PRINTABLE | st.sampled_from([*PEOPLE, *cities(), *fakes()[:200], "step-by-step", "'s", " "]), max_size=5).map("".join))
def test_any_printable_text_comes_back(text):
    """But for underscores and hyphens within unknown words, which the pocket model has no pieces for."""
    assert comes_back(re.sub(r"_|(?<=\w)-(?=\w)", " ", text))


# Packing


def packed(size=SMALL, step=0):
    stream = documents(World(size, size.seed), random.Random(f"documents {size.seed} {step}"))
    listed = pretrain._filling(stream, tokenizer()) if size.packing == "drawn" else [next(stream) for _ in range(pretrain.MANY)]
    return listed, pretrain._packed(listed, tokenizer())


def pieces(batch):
    """(row, start, end) of each document, its EOS included; the padding of a row is no document."""
    for row in range(ROWS):
        starts = [i for i in range(ROW) if batch.positions[row, i] == 0]
        for start, end in zip(starts, [*starts[1:], ROW], strict=True):
            if (batch.weights[row, start:end] > 0).any():
                yield row, start, end


def test_rows_hold_whole_documents_and_positions_restart():
    listed, batch = packed()
    left: list[Any] = [f"{d.prompt} {d.answer}".strip() for d in listed]
    for row, start, end in pieces(batch):
        *ids, last = batch.ids[row, start:end].tolist()
        assert last == tokenizer().eos_token_id
        left.remove(tokenizer().decode(ids))
        assert batch.positions[row, start:end].tolist() == list(range(end - start))
    shortest_room = min(ROW - sum(end - start for r, start, end in pieces(batch) if r == row) for row in range(ROWS))
    assert all(len(tokenizer()(text)["input_ids"]) + 1 > shortest_room for text in left)


def test_packing_what_is_drawn_leaves_out_few_documents_and_not_the_short_ones():
    single, kept_single, all_, kept = 0, 0, 0, 0
    for step in range(5):
        listed, batch = packed(dataclasses.replace(SMALL, packing="drawn"), step=step)
        held = [tokenizer().decode(batch.ids[row, start : end - 1]) for row, start, end in pieces(batch)]
        for d in listed:
            text = f"{d.prompt} {d.answer}".strip()
            one_hop = d.prompt.count("?") == 1 and text.count("?") == 1
            single, kept_single, all_, kept = single + one_hop, kept_single + (one_hop and text in held), all_ + 1, kept + (text in held)
    assert kept > 0.95 * all_
    assert kept_single > 0.9 * single


def test_a_prompt_counts_a_tenth_and_no_token_is_foretold_from_another_document():
    listed, batch = packed()
    prompts: dict[Any, int] = {f"{d.prompt} {d.answer}".strip(): len(tokenizer()(d.prompt)["input_ids"]) for d in listed}
    inside = torch.zeros(ROWS, ROW, dtype=torch.bool)
    for row, start, end in pieces(batch):
        inside[row, start:end] = True
        count = prompts[tokenizer().decode(batch.ids[row, start : end - 1])]
        expected = [0.1] * count + [1.0] * (end - start - count)
        expected[0] = 0.0
        torch.testing.assert_close(batch.weights[row, start:end], torch.tensor(expected))
    assert not batch.weights[~inside].any()
    assert (batch.weights == 0.1).any()


@torch.no_grad()
def test_documents_of_a_row_do_not_see_each_other():
    model, _ = pretrain._start(SMALL, tokenizer())
    model.eval()
    _, batch = packed()
    run = lambda ids, positions: model(input_ids=ids, position_ids=positions, use_cache=False).logits  # noqa: E731
    rows = run(batch.ids, batch.positions)
    random_ids = torch.randint(5, 500, (ROWS, ROW), generator=torch.Generator().manual_seed(0))
    for row, start, end in list(pieces(batch))[:12]:
        others = random_ids[row].clone()
        others[start:end] = batch.ids[row, start:end]
        among_others = run(torch.cat([batch.ids[:row], others[None], batch.ids[row + 1 :]]), batch.positions)[row, start:end]
        assert torch.equal(rows[row, start:end], among_others)  # exactly: not a bit of another document comes through
        alone = run(batch.ids[row : row + 1, start:end], batch.positions[row : row + 1, start:end])[0]
        torch.testing.assert_close(rows[row, start:end], alone, rtol=1e-4, atol=1e-5)
    running_on = run(batch.ids, torch.arange(ROW).repeat(ROWS, 1))
    row, start, end = next(place for place in pieces(batch) if place[1] > 0)
    assert (running_on[row, start:end] - rows[row, start:end]).abs().max() > 1e-2


def test_a_batch_depends_on_the_seed_and_its_step_alone():
    size = dataclasses.replace(SMALL, tokens=20_000)
    every = list(pretrain.batches(size, tokenizer(), 0))
    assert len(every) == size.steps == 7
    later = list(pretrain.batches(size, tokenizer(), 5))
    assert len(later) == 2
    for one, other in zip(every[5:], later, strict=True):
        assert torch.equal(one.ids, other.ids)
        assert torch.equal(one.positions, other.positions)
        assert torch.equal(one.weights, other.weights)
    assert len({batch.ids.numpy().tobytes() for batch in every}) == 7
    (first, *_) = pretrain.batches(dataclasses.replace(size, width=64, tokens=30_000), tokenizer(), 0)
    assert torch.equal(first.ids, every[0].ids)
    (first, *_) = pretrain.batches(dataclasses.replace(size, seed=1), tokenizer(), 0)
    assert not torch.equal(first.ids, every[0].ids)


# Pretraining


class Trained(NamedTuple):
    """A small sibling of the pocket model."""

    folder: Path
    made: dict[str, float]
    seconds: float


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "small.0"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain, "KEEP_EVERY", 8)
        started = time.process_time()
        made = pretrain.pretrain(SMALL, folder)
    return Trained(folder, made, time.process_time() - started)


def log_of(folder):
    head, *lines = (folder / "pretraining.csv").read_text().splitlines()
    assert head == "step,tokens,loss,seconds"
    return [[float(value) for value in line.split(",")] for line in lines]


def bits(folder):
    with safe_open(folder / "model.safetensors", "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def test_a_small_sibling_learns_in_half_a_minute(trained):
    assert trained.seconds < 30
    log = log_of(trained.folder)
    assert [line[0] for line in log] == [8, 16, 24, 32, 33]
    assert [line[1] for line in log] == [step * ROW * ROWS for step in (8, 16, 24, 32, 33)]
    assert log[0][2] > 5  # chance is log 1086 = 7
    assert log[3][2] < log[0][2] - 0.7
    assert trained.made["loss"] == log[-1][2]
    assert trained.made["parameters"] == sum(tensor.numel() for name, tensor in bits(trained.folder).items() if "lm_head" not in name)


def test_it_is_an_ordinary_folder(trained):
    assert {path.name for path in trained.folder.iterdir()} >= {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    config = json.loads((trained.folder / "config.json").read_text())
    assert (config["model_type"], config["hidden_size"], config["num_hidden_layers"]) == ("qwen2", 32, 2)
    base = load_base(str(trained.folder))
    assert not base.chat
    (said,) = answers(base, [None], ["Where does Plato live?"], 8)
    assert len(said) == 1
    assert all(tensor.dtype == torch.bfloat16 for tensor in bits(trained.folder).values())


def test_load_base_gives_its_tokenizer_back_and_the_auto_class_does_not(trained):
    text = "Where does Sun Yat-sen live?\nQuawelm's spouse lives in New York."
    ours = tokenizer()(text)["input_ids"]
    loaded: Any = load_base(str(trained.folder)).tokenizer
    assert loaded(text)["input_ids"] == ours
    assert loaded.decode(ours) == text
    assert loaded.get_vocab() == tokenizer().get_vocab()
    assert (loaded.eos_token_id, loaded.pad_token_id, loaded.padding_side) == (tokenizer().eos_token_id, tokenizer().pad_token_id, "left")
    auto: Any = AutoTokenizer.from_pretrained(trained.folder)  # it builds Qwen's own for a qwen2 folder
    assert auto(text)["input_ids"] != ours


SHORT = dataclasses.replace(SMALL, tokens=30_000)


@pytest.fixture
def stop(monkeypatch):
    """A function that lets training go on for some steps and then kills it."""
    monkeypatch.setattr(pretrain, "KEEP_EVERY", 3)
    step = pretrain._step

    def set_(count):
        left = iter(range(count))

        def until(*arguments):
            if next(left, None) is None:
                raise KeyboardInterrupt
            return step(*arguments)

        monkeypatch.setattr(pretrain, "_step", until)

    return set_


def test_killed_anywhere_it_goes_on_to_the_same_bits(stop, tmp_path, monkeypatch):
    stop(100)
    whole = pretrain.pretrain(SHORT, tmp_path / "whole")
    for count in (5, 4):  # between two checkpoints, and again: steps 0-4, then 3-6
        stop(count)
        with pytest.raises(KeyboardInterrupt):
            pretrain.pretrain(SHORT, tmp_path / "killed")
    assert pretrain.checkpoint(tmp_path / "killed").exists()
    stop(4)  # 6-9
    made = pretrain.pretrain(SHORT, tmp_path / "killed")
    one, other = bits(tmp_path / "whole"), bits(tmp_path / "killed")
    assert all(torch.equal(one[name], other[name]) for name in one | other)
    assert [line[:3] for line in log_of(tmp_path / "whole")] == [line[:3] for line in log_of(tmp_path / "killed")]
    assert made["loss"] == whole["loss"]
    stop(0)  # all is trained: only written again
    assert pretrain.pretrain(SHORT, tmp_path / "killed")["loss"] == whole["loss"]


def test_checkpoints_of_two_folders_are_two(tmp_path):
    assert pretrain.checkpoint(tmp_path / "pocket-0.5") != pretrain.checkpoint(tmp_path / "pocket-0.7")
    assert pretrain.checkpoint(Path()).parent == Path.cwd().parent


def test_heads_that_do_not_divide_the_width_are_refused(tmp_path):
    for heads in (3, 32):  # 32: one feature a head, and rotary positions need pairs
        with pytest.raises(SettingError, match=f"heads: got {heads}; allowed: a divisor of width/2=16"):
            pretrain.pretrain(dataclasses.replace(SMALL, heads=heads), tmp_path / "model")


# The command and the card


@pytest.fixture
def quick(monkeypatch):
    """A card from two questions an ability, with answers of four tokens."""
    monkeypatch.setattr(card, "write_card", functools.partial(write_card, questions=2))
    monkeypatch.setattr(card, "answers", lambda base, compositions, questions, longest: answers(base, compositions, questions, 4))


def test_the_command_makes_a_model_with_its_card(tmp_path, capsys, quick):
    out = tmp_path / "new" / "model.1"
    assert main([*WORDS, "tokens=10000", "conflict=true", "coverage=0.5", f"out={out}"]) == 0
    assert "one hop, spouse_of" in capsys.readouterr().out
    assert switches(out) == dataclasses.asdict(dataclasses.replace(SMALL, tokens=10_000, conflict=True, coverage=0.5))
    assert switches(tmp_path) == {}
    assert sorted(path.name for path in out.parent.iterdir()) == ["model.1"]
    assert main([*WORDS, "tokens=10000", f"out={out}"]) == 2
    assert "which holds a model" in one_line(capsys)


def one_line(capsys):
    err = capsys.readouterr().err
    assert err.startswith("llm.pocket: ")
    assert err.count("\n") == 1
    return err


def test_interrupted_while_it_measures_the_command_goes_on(tmp_path, capsys, monkeypatch, quick):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    quickly, given = card.write_card, [*WORDS, "tokens=10000", f"out={tmp_path / 'model'}"]
    monkeypatch.setattr(card, "write_card", interrupted)
    assert main(given) == 130
    assert "the same command goes on" in capsys.readouterr().err.splitlines()[-1]
    weights = bits(tmp_path / "model")
    monkeypatch.setattr(card, "write_card", quickly)
    assert main(given) == 0
    assert (tmp_path / "model" / "pocket.json").exists()
    again = bits(tmp_path / "model")
    assert all(torch.equal(weights[name], again[name]) for name in weights | again)
    assert not pretrain.checkpoint(tmp_path / "model").exists()


def test_other_settings_on_the_same_folder_are_refused(tmp_path, capsys, stop):
    stop(4)
    given = [*WORDS, "tokens=30000", f"out={tmp_path / 'model'}"]
    assert main(given) == 130
    one_line(capsys)
    for other in (["seed=1"], ["skill=same"]):
        assert main([*given, *other]) == 2
        assert "begun with other settings" in one_line(capsys)


@pytest.mark.parametrize(
    ("given", "part"),
    [
        (["widht=64"], "did you mean 'width'?"),
        (["seed=0,1"], "one model a command"),
        (["skill=others"], "none | other | same"),
        (["out={file}/model"], "can be written"),
        (["out={file}"], "can be written"),
    ],
)
def test_mistakes_are_one_line_that_helps(given, part, tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("")
    assert main([*WORDS[:-1], *(word.format(file=file) for word in given)]) == 2
    assert part in one_line(capsys)


def test_help_and_dry_run_know_no_torch():
    code = """if True:
        import sys
        from llm.pocket.__main__ import main
        assert main(["--help"]) == 0 and main(["dry_run=true", "tokens=1e6"]) == 0
        print([name for name in ("torch", "transformers", "jax") if name in sys.modules])"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert all(f.name in run.stdout for f in dataclasses.fields(Size))
    assert "326 steps of 3067 tokens into results/pocket" in run.stdout
    assert run.stdout.endswith("nothing was run\n[]\n")


def test_the_card_says_what_was_made_and_what_it_can_do(trained, quick):
    said = write_card(trained.folder, SMALL, trained.made, questions=3)
    found = json.loads((trained.folder / "pocket.json").read_text())
    assert set(found) == {"made", "size", "abilities"}
    assert found["made"] == trained.made
    assert Size(**found["size"]) == SMALL
    prompts = ("direct", "step by step in the corpus's words", "step by step in the words of Table 6")
    hops = [f"two hops {prompt}, {pairs}" for pairs in ("other pairs", "the tested pair") for prompt in prompts]
    assert list(found["abilities"]) == [f"one hop, {relation}" for relation in RELATIONS] + hops
    assert all(0 <= hits <= total == 3 for hits, total in found["abilities"].values())
    text = (trained.folder / "README.md").read_text()
    assert text.startswith("---\nlicense: apache-2.0\n")
    for name in found["abilities"]:
        assert f"| {name} | " in text
        assert name in said
    (command,) = re.findall(r"`python -m llm\.pocket (.*)`", text)
    axes, _ = parse(command.split(), Size, Options)
    assert Size(**{name: value for name, (value,) in axes.items()}) == SMALL


@pytest.mark.parametrize(
    ("gold", "answer", "right"),
    [
        ("Plato", "Plato is the spouse of Voltaire.", True),
        ("Plato", "Voltaire is the spouse of Julius Caesar.\nWho is the child of Voltaire?\nPlato is.", False),  # it goes on by itself
        ("baker", "Plato works as a baker.", True),
        ("cook", "Plato works as a baker.", False),
        ("Rome", "", False),
    ],
)
def test_a_direct_answer_counts_up_to_the_next_question(gold, answer, right):
    assert card._right(gold, answer, False) is right


@pytest.mark.parametrize(
    ("gold", "answer", "right"),
    [
        ("Rome", "To begin, ask: Who is it? It is Plato. Next, ask: Where? In Paris. So the reply is Rome.", True),
        ("Rome", "To begin, ask: Who is it? It is Plato. Next, ask: Where? In Rome. So the reply is Paris.", False),
        ("Rome", "Where does Plato live? Plato lives in Rome.\nTherefore, the answer is Paris.", False),
        ("Rome", "First: Who is it?\nIt is Plato.\nSecond: Where?\nIn Paris.\nTherefore: Rome.", True),
        ("Rome", "\n", False),
    ],
)
def test_an_answer_in_steps_is_its_last_sentence(gold, answer, right):
    assert card._right(gold, answer, True) is right


def test_two_hop_questions_of_the_corpus_never_name_who_is_between():
    rng = random.Random(0)
    for pair in (*OTHER_PAIRS, TESTED_PAIR):
        for _ in range(50):
            turn = ask_two(pair, "Plato", "Rome" if pair[1] in ("live_in", "study_in") else "Voltaire", rng)
            assert turn.prompt.count("Plato") == 1
            assert "Voltaire" not in turn.prompt
            assert turn.prompt[0].isupper()


# The committed model

MODEL = folder_of("pocket")
committed = pytest.mark.skipif(not (MODEL / "config.json").exists(), reason="no pocket model is in llm/pocket/model")


@committed
def test_the_committed_model_is_small_and_safe():
    files = {path.name: path.stat().st_size for path in MODEL.iterdir()}
    assert sum(files.values()) <= 20e6
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md", "pocket.json", "pretraining.csv"} <= set(
        files
    )
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pth", ".pkl", ".py", ".partial"))]


@committed
def test_the_committed_model_is_what_the_defaults_make():
    assert switches(MODEL) == dataclasses.asdict(Size())
    loaded: Any = load_base(str(MODEL)).tokenizer
    assert loaded.get_vocab() == tokenizer().get_vocab()


@committed
def test_the_committed_model_knows_its_world():
    base, size, rng = load_base(str(MODEL)), Size(**switches(MODEL)), random.Random(0)
    facts = World(size, size.seed).facts
    asked = [(relation, *rng.choice(list(facts[relation].items()))) for relation in RELATIONS * 2]
    (said,) = answers(base, [None], [ask(relation, a, b, rng).prompt for relation, a, b in asked], 32)
    wrong = [(a, b, answer) for (_, a, b), answer in zip(asked, said, strict=True) if not card._right(b, answer, False)]
    assert len(wrong) <= 1, wrong


def test_a_model_is_named_by_its_folder():
    assert folder_of("results/pocket") == Path("results/pocket")
    assert folder_of("pocket") == Path(corpus.__file__).parent / "model"
