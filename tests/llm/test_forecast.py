"""Forecasts on tiny models: what is measured, the commands, and the rows."""

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import lora_reuse as lr
from lora_reuse.llm import skill_sets, skills, two_hop
from lora_reuse.llm.adapters.lowrank import Expert, cosine
from lora_reuse.llm.adapters.writing import save_expert
from lora_reuse.llm.compositions import compose
from lora_reuse.llm.data.facts import triplets
from lora_reuse.llm.data.subsets import examples
from lora_reuse.llm.decoding.models import Base, load_base
from lora_reuse.llm.forecast.__main__ import main, read_prompts
from lora_reuse.llm.forecast.left_out import left_out
from lora_reuse.llm.forecast.measure import measure
from lora_reuse.llm.forecast.ranking import forecast_of
from lora_reuse.llm.forecast.verdict import as_whom, bridge, forecast, restating
from lora_reuse.llm.protocols.protocol import main as protocol_main
from lora_reuse.runs.rows import load_rows
from tests.llm.test_subspace import adapter
from tests.llm.tiny import tiny

torch.set_num_threads(1)
TEXT = " ".join(
    f"{e.question} {e.answer}"
    for subset in ("F1", "F2", "F12-CoT")
    for e in examples(subset, triplets("F")[:2], "test")
)
COUNTERFACT = (
    '{"requested_rewrite": {"prompt": "The mother tongue of {} is", "subject": "Ann", "target_new": {"str": "Welsh"}, '
    '"target_true": {"str": "Dutch"}}}'
)
PROMPTS = {
    "a": ["Who is the spouse of Ann Lee?"],
    "b": ["Where does Bo Chan live?", "What city?"],
    "hoped": ["Where does the spouse of Ann Lee live?"],
}
OF_THREE = PROMPTS | {"c": ["What city does Ann Lee live in?"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny("qwen2", tmp_path_factory.mktemp("model"), text=TEXT)


@pytest.fixture(scope="module")
def base(folder) -> Base:
    """A model that is sure of what it says, as random ones are not."""
    base = load_base(str(folder))
    head: Any = base.model.get_output_embeddings()
    head.weight.data *= 30
    return base


@pytest.fixture(scope="module")
def pair(base) -> list[Expert]:
    return [adapter(base, 1), adapter(base, 2)]


@pytest.fixture(scope="module")
def three(base, pair) -> list[Expert]:
    return [*pair, adapter(base, 3)]


# Measurements


def test_what_is_whose_on_a_model(base, pair):
    """cat with weights (1, 0) is the first adapter, with (0, 1) the second, with (0, 0) the base: on every prompt, and
    the own prompts are kept."""
    weights: Any = {"a": (1.0, 0.0), "b": (0.0, 1.0), "base": (0.0, 0.0)}
    made = {name: compose("cat", pair, weights=w) for name, w in weights.items()}
    found = measure(base, pair, made, PROMPTS, 6)
    forecasts = {name: forecast(composed) for name, composed in found.composed.items()}
    for name, f in forecasts.items():
        assert f.whose == {word: float(word == name) for word in as_whom(2)}
        assert f.verdict == name
        assert f.score <= 0.5
    assert forecasts["a"].kept[0] == forecasts["b"].kept[1] == 1.0
    assert forecasts["a"].own_scale[0] == pytest.approx(1, abs=1e-3)
    assert forecasts["a"].own_scale[1] == pytest.approx(0, abs=1e-3)
    for i in range(2):
        torch.testing.assert_close(found.leaks[i][i].best, torch.ones(len(PROMPTS["ab"[i]])), rtol=1e-3, atol=1e-3)
        assert min(found.own[i].gain) > 0
        assert all(prompt.max() >= 0 for prompt in found.restated[i])
        assert found.own[i].confidence < 0
    assert ("no adapter alone" in bridge(restating(found))) == (not any(restating(found)))


def test_what_is_whose_of_three(base, three):
    """Each adapter alone is that adapter, on every prompt, and what is left of it is on its own prompts."""
    weights = {name: tuple(float(name == c) for c in "abc") for name in "abc"}
    made = {name: compose("cat", three, weights=own) for name, own in weights.items()}
    without = {name: left_out(three, "cat", {"weights": own}) for name, own in weights.items()}
    found = measure(base, three, made, OF_THREE, 6, without)
    for i, (name, composed) in enumerate(found.composed.items()):
        f = forecast(composed)
        assert f.whose == {word: float(word == name) for word in as_whom(3)}
        assert f.kept[i] == 1.0
        assert f.own_scale == pytest.approx([float(i == j) for j in range(3)], abs=1e-3)
        for told in composed.answers:
            others = [told.base if i == j else told.composed for j in range(3)]
            torch.testing.assert_close(told.without, torch.stack(others, dim=-1), rtol=1e-3, atol=1e-3)
    assert len(restating(found)) == 3


def test_a_family_without_an_axis_of_rows(tmp_path):
    base = load_base(str(tiny("opt", tmp_path)))
    pair = [adapter(base, 1), adapter(base, 2)]
    found = measure(base, pair, {"sum": compose("sum", pair), "arrow": compose("arrow", pair)}, PROMPTS, 4)
    assert found.composed["sum"].answers[0].composed.isfinite().all()


# The command


@pytest.fixture(scope="module")
def adapters(base, folder, pair, tmp_path_factory) -> str:
    out = tmp_path_factory.mktemp("adapters")
    for name, expert in zip("ab", pair, strict=True):
        save_expert(expert, out / name, str(folder))
    return f"{out / 'a'},{out / 'b'}"


@pytest.fixture
def prompts(tmp_path) -> Path:
    return written(PROMPTS, tmp_path)


def written(prompts: dict[str, list[str]], folder: Path) -> Path:
    path = folder / "prompts.jsonl"
    path.write_text(
        "".join(json.dumps({"set": name, "prompt": text}) + "\n" for name, texts in prompts.items() for text in texts)
    )
    return path


def test_the_prompts_of_the_facts_of_a_file(tmp_path):
    names = ("Ann", "Bo", "Cy")
    (tmp_path / "facts.json").write_text(
        json.dumps([json.loads(COUNTERFACT.replace("Ann", name)) for name in names]), encoding="utf-8"
    )
    lines = [{"set": "a", "facts": str(tmp_path / "facts.json"), "count": 2}, {"set": "b", "prompt": "Who is Bo?"}]
    lines += [{"set": "b", "facts": "own"}, {"set": "hoped", "prompt": "Where does the boss of Bo live?"}]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = read_prompts(tmp_path / "prompts.jsonl")
    asked = [f"The mother tongue of {name} is" for name in names]
    assert len(found["a"]) == len(set(found["a"]) & set(asked)) == 2
    assert len(found["b"]) == 7
    assert found["b"][0] == "Who is Bo?"
    assert found["hoped"] == ["Where does the boss of Bo live?"]


def test_from_two_adapters_to_a_verdict_and_a_plot(folder, adapters, prompts, tmp_path, capsys):
    words = [
        f"model={folder}",
        f"library={adapters}",
        f"prompts={prompts}",
        "answer_tokens=5",
        "composition=sum,uniform,arrow",
    ]
    files = []
    for name in ("1", "2"):
        assert main([*words, f"out={tmp_path / name}"]) == 0, capsys.readouterr().err
        files.append({path.name: path.read_bytes() for path in sorted((tmp_path / name).iterdir())})
    assert list(files[0]) == ["forecast.json", "forecast.pdf", "forecast.png"]
    assert files[0] == files[1]
    out = capsys.readouterr().out
    assert "composition  verdict" in out
    assert "decision: " in out
    assert out.index("decision: ") < out.index("composition  verdict")
    said = json.loads(files[0]["forecast.json"])
    assert said["layers"] == ["0", "1"]
    assert set(said["decision"]["each"]) == {"sum", "uniform", "arrow"}
    assert f"decision: {said['decision']['action']}" in out
    assert set(said["compositions"]) == {"sum", "uniform", "arrow"}
    for name, found in said["compositions"].items():
        assert found["verdict"] in as_whom(2)
        assert sum(found["whose"].values()) == pytest.approx(1)
        (told,) = found["answers"]
        assert ("routed_a" in told) == (name == "arrow")
        assert len(told["tokens"]) == len(told["p_a"]) == len(told["overlap_b"]) > 0
    assert said["compositions"]["sum"]["own_scale"] == pytest.approx([1, 1], abs=1e-3)


def test_three_adapters_are_forecast_from_four_sets_of_prompts(folder, adapters, three, tmp_path, capsys):
    third = tmp_path / "c"
    save_expert(three[2], third, str(folder))
    words = [f"model={folder}", f"library={adapters},{third}", f"prompts={written(OF_THREE, tmp_path)}"]
    assert main([*words, "answer_tokens=5", "composition=sum,arrow", f"out={tmp_path / 'out'}"]) == 0, (
        capsys.readouterr().err
    )
    out = capsys.readouterr().out
    assert f"c = {third}" in out
    assert re.search(r"leaves \d+% of a's, \d+% of b's and \d+% of c's", out)
    assert re.search(r"keeps a +keeps b +keeps c +scale a +scale b +scale c +cross +a's +b's +c's +nobody's", out)
    found = json.loads((tmp_path / "out" / "forecast.json").read_text())
    assert set(found["own"]) == set("abc")
    assert len(found["leaks"]) == 9
    assert set(found["prompts"]) == {*"abc", "hoped"}
    (told,) = found["compositions"]["arrow"]["answers"]
    assert [sum(shares) for shares in zip(*(told[f"routed_{name}"] for name in "abc"), strict=True)] == pytest.approx(
        [1] * len(told["tokens"]), abs=1e-3
    )
    assert math.prod(found["compositions"]["sum"]["loudness"]) == pytest.approx(1, abs=1e-3)
    base = load_base(str(folder))
    library = [lr.load_adapter(base, place) for place in (*adapters.split(","), third)]
    assert lr.forecast(base, library, OF_THREE, ["sum"], max_new_tokens=5).decision.kept["sum"] == tuple(
        found["decision"]["kept"]["sum"]
    )
    densities = [lr.compose(library, "ties", density=density) for density in (0.3, 0.6)]
    assert list(lr.forecast(base, library, OF_THREE, densities, max_new_tokens=5).verdicts) == [
        f"ties of a, b, c (density={density}, trim=global)" for density in (0.3, 0.6)
    ]
    with pytest.raises(lr.SettingError, match="compositions: got sum of a, b; allowed: a rule, or what"):
        lr.forecast(base, library, OF_THREE, [lr.compose(library[:2], "sum")])
    learned = lr.learn(base, library, "cat", [("Who?", "Bo")], learn_steps=1, progress=False)
    with pytest.raises(lr.SettingError, match="compositions: got cat:learned of a, b, c; allowed: a rule, or what"):
        lr.forecast(base, library, OF_THREE, [learned])
    with pytest.raises(lr.SettingError, match="no list of prompts 'c'"):
        lr.forecast(base, library, PROMPTS, ["sum"])
    with pytest.raises(lr.SettingError, match="adapters: got 1; allowed: two adapters, a and b, or more"):
        lr.forecast(base, library[:1], PROMPTS, ["sum"])


@pytest.mark.parametrize(
    ("words", "lines", "message"),
    [
        ([], None, "library: got nothing; allowed: two"),
        (["library=a"], None, "library: got a; allowed: two"),
        (["library=a,b,a"], None, "library: got a,b,a; allowed: each value once"),
        (["library=a,b,c"], ['{"set": "d", "prompt": "x"}'], "got set 'd'; allowed: a | b | c | hoped"),
        (
            ["library=a,b,c"],
            [json.dumps({"set": s, "prompt": "x"}) for s in ("a", "b", "hoped")],
            "without any of set 'c'; allowed: prompts for a, b, c, and hoped",
        ),
        (["library=a,b"], None, "prompts: got nothing"),
        (["library=a,b"], [], "without any of set 'a'"),
        (["library=a,b"], ['{"set": "a", "prompt": "x"}', "{"], ":2: got '{'; allowed: one JSON object a line"),
        (["library=a,b"], ['{"set": "c", "prompt": "x"}'], "got set 'c'; allowed: a | b | hoped"),
        (["library=a,b"], ['{"set": "a", "prompt": " "}'], ":1: got"),
        (["library=a,b"], ['{"set": "a", "prompt": "x", "answer": "y"}'], "the key 'answer'"),
        (["library=a,b"], ['{"prompt": "x"}'], ':1: got \'{"prompt": "x"}\'; allowed: {"set": "a", "prompt": "..."}'),
        (["library=a,b"], ['{"set": "a", "facts": ""}'], ":1: got facts ''; allowed: {"),
        (["library=a,b"], ['{"set": "a", "facts": "nowhere.json"}'], ":1: data: got nowhere.json (FileNotFoundError)"),
        (["library=a,b"], ['{"set": "a", "facts": "own", "count": 0}'], ":1: got count 0; allowed: a whole number"),
        (
            ["library=a,b"],
            ['{"set": "a", "facts": "own", "count": 9999}'],
            "count 9999; allowed: at most the 300 facts",
        ),
        (
            ["library=a,b"],
            ['{"set": "a", "facts": "own", "prompt": "x"}'],
            "the key 'prompt'; allowed: set, facts, count",
        ),
        (["library=a,b"], ['{"Ann Lee": "555-0142"}'], "facts that do not say whose they are, and no prompts that one"),
        (["library=a,b"], ["[", COUNTERFACT, "]"], 'name this one: {"set": "a", "facts": "counterfact.json", "count"'),
        (
            ["library=a,b", "model=nowhere"],
            [json.dumps({"set": s, "prompt": "x"}) for s in ("a", "b", "hoped")],
            "expert: got a, which is no folder here",
        ),
        (["composition=sun"], None, "did you mean 'sum'?"),
        (["library=a,b", "composition=sum,ties", "density=0.3", "top_k=1"], [], "top_k: got 1; allowed: density, trim"),
        (["adapters=a,b"], None, "adapters: got an unknown setting"),
        (["base=a"], None, "it is model= now"),
    ],
)
def test_mistakes_are_one_line(words, lines, message, tmp_path, capsys):
    path = tmp_path / "prompts.jsonl"
    if lines is not None:
        path.write_text("\n".join(lines))
    assert (
        main(
            [*words, *([f"prompts={path}"] if lines is not None else []), f"out={tmp_path / 'out'}"]
            if words
            else ["top_k=1"]
        )
        == 2
    )
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_adapters_that_name_another_model_are_refused(adapters, tmp_path, capsys):
    for name, folder in zip("ab", adapters.split(","), strict=True):
        shutil.copytree(folder, tmp_path / name)
        path = tmp_path / name / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": "Qwen/Qwen2.5-3B"}))
        (tmp_path / name / "expert.json").unlink(missing_ok=True)
    (tmp_path / "p.jsonl").write_text("\n".join(json.dumps({"set": s, "prompt": "x"}) for s in ("a", "b", "hoped")))
    words = [f"library={tmp_path / 'a'},{tmp_path / 'b'}", f"prompts={tmp_path / 'p.jsonl'}"]
    assert main(words) == 2
    assert "model: got pocket, and" in capsys.readouterr().err
    assert main([*words[1:], f"library={tmp_path / 'a'},{tmp_path / 'a'}/"]) == 2
    assert "two adapters, library=a,b" in capsys.readouterr().err


# Rows


def test_cosine_of_adapters(pair):
    flat = [torch.cat([update.dense().flatten() for update in expert.values()]) for expert in pair]
    assert cosine(*pair) == pytest.approx(float(flat[0] @ flat[1] / (flat[0].norm() * flat[1].norm())), abs=1e-5)
    assert cosine(pair[0], pair[0]) == pytest.approx(1, abs=1e-5)
    first, *others = pair[0]
    apart = {first: pair[0][first]}, {name: pair[0][name] for name in others}
    assert cosine(*apart) == 0
    assert 0 < cosine(apart[1], pair[0]) < 1


def test_rows_of_a_protocol_are_forecast_and_ranked(folder, tmp_path, capsys):
    """From the command that measures to the one that forecasts: every composed row of two experts once, none anew, none
    of another base."""
    small = (
        "triplets=2 bridge_triplets=2 steps=2 batch=4 rank=2 rate=0.05 answer_tokens=4 step_tokens=6 workers=1 "
        "log_probs=false"
    )
    words = [
        f"model={folder}",
        *small.split(),
        "dataset=F",
        "library=2-combination,oracle",
        "composition=sum,arrow,base",
        "prompting=steps,first",
    ]
    rows = tmp_path / "rows"
    assert protocol_main(two_hop.PROTOCOL, [*words, f"out={rows}"]) == 0, capsys.readouterr().err
    capsys.readouterr()
    assert main([f"validate={rows}", f"out={rows}", "asked=2"]) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert "4 rows in" in out
    found = load_rows(rows, "llm_forecast")
    assert len(found) == 4
    assert {(row["settings"]["composition"], row["settings"]["prompting"]) for row in found} == {
        (composition, prompting) for composition in ("sum", "arrow") for prompting in ("steps", "first")
    }
    scored = {row["hash"]: row["measured"]["hits"] for row in load_rows(rows, "llm_two_hop")}
    for row in found:
        assert row["measured"]["hits"] == scored[row["settings"]["row"]]
        assert -1 <= forecast_of(row)[0] <= 1
        assert max(row["measured"]["own_confidence"]) < 0
    assert len({row["settings"]["pair"] for row in found}) == 1
    assert main([f"validate={rows}", f"out={rows}", "asked=2"]) == 0
    assert len(load_rows(rows, "llm_forecast")) == 4
    other = tmp_path / "other"
    other.mkdir()
    text = (rows / "llm_two_hop.jsonl").read_text()
    (other / "llm_two_hop.jsonl").write_text(text.replace('"base_digest": "', '"base_digest": "0'))
    assert main([f"validate={other}", f"out={other}", "asked=2"]) == 0
    assert "left out 4 rows" in capsys.readouterr().out
    assert main([f"validate={tmp_path}", f"out={tmp_path}"]) == 2
    assert "without rows of composed experts" in capsys.readouterr().err


def test_two_skills_are_forecast_from_prompts_that_were_not_scored(folder, tmp_path, capsys):
    rows, words = tmp_path / "rows", f"model={folder} steps=1 batch=2 rank=2 epochs=1 answer_tokens=2 workers=1".split()
    assert protocol_main(skills.PROTOCOL, [*words, "library=both,first", "composition=sum", f"out={rows}"]) == 0, (
        capsys.readouterr().err
    )
    assert (
        protocol_main(skills.PROTOCOL, [*words, "library=both", "composition=sum", "asked=second", f"out={rows}"]) == 0
    )
    capsys.readouterr()
    assert main([f"validate={rows}", f"out={rows}", "asked=3"]) == 0, capsys.readouterr().err
    assert "joins skills" in capsys.readouterr().out
    assert [row["settings"]["prompting"] for row in load_rows(rows, "llm_forecast")] == [
        "both",
        "both",
    ]  # in known formats, and in new ones
    for formats in ("known", "new"):
        point = skills.Skills(formats=formats)
        found = skills.hoped(point, 0, 6)
        assert found
        assert {name: len(set(prompts)) for name, prompts in found.items()} == {"a": 6, "b": 6, "hoped": 6}
        assert not {question.prompt for question in skills.questions(point, 0)} & set(found["hoped"])


def test_more_than_two_skills_are_forecast_apart_from_two(folder, tmp_path, capsys):
    rows, words = tmp_path / "rows", f"model={folder} steps=1 batch=2 rank=2 epochs=1 answer_tokens=2 workers=1".split()
    words += ["library=asked", "asked=homes+code,homes+code+style", "composition=sum,uniform", f"out={rows}"]
    assert protocol_main(skill_sets.PROTOCOL, words) == 0, capsys.readouterr().err
    capsys.readouterr()
    assert main([f"validate={rows}", f"out={rows}", "asked=2"]) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert "joins more skills" in out
    found = load_rows(rows, "llm_forecast")
    assert sorted(row["settings"]["prompting"] for row in found) == ["all", "all", "both", "both"]
    for row in found:
        count = 3 if row["settings"]["prompting"] == "all" else 2
        assert len(row["measured"]["own_confidence"]) == len(row["measured"]["kept"]) == count
        assert len(json.loads(row["settings"]["pair"])) == count
        assert ("size" in row["measured"]) == (count == 3)
    assert len(load_rows(rows, "llm_merge_probe")) == 1
