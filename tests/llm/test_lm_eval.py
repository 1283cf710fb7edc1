"""lm-evaluation-harness: the exported tasks stand alone and score as we do; a composed model answers there what it
answers here."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lora_reuse.llm.adapters.folders import load_expert
from lora_reuse.llm.adapters.lowrank import LowRank
from lora_reuse.llm.adapters.modules import target_modules
from lora_reuse.llm.adapters.writing import save_expert
from lora_reuse.llm.compositions import compose
from lora_reuse.llm.data.facts import triplets
from lora_reuse.llm.data.subsets import examples
from lora_reuse.llm.decoding.greedy import answers
from lora_reuse.llm.decoding.models import load_base
from lora_reuse.llm.harness.__main__ import main
from lora_reuse.llm.harness.export import KINDS, task_name, write
from lora_reuse.llm.protocols.hops import marks as score
from lora_reuse.runs.settings import SettingError
from tests.llm.tiny import tiny

torch.set_num_threads(1)
TEXT = " ".join(
    f"{e.question} {e.answer}"
    for subset in ("F1", "F2", "F12-CoT")
    for e in examples(subset, triplets("F")[:2], "test")
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("tasks") / "two_hop"
    names = write(path, ["R12", "R12-CoT", "F1"], 3, 0)
    assert names == ["lora_reuse_r12", "lora_reuse_r12_cot", "lora_reuse_f1"]
    return path


def functions(folder: Path) -> Any:
    """The exported module, alone."""
    spec = importlib.util.spec_from_file_location("exported", folder / "two_hop.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def docs(folder: Path, subset: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{task_name(subset)}.jsonl").read_text().splitlines()]


def test_the_folder_holds_the_questions_and_needs_nothing_of_ours(folder, tmp_path):
    for subset in ("R12", "R12-CoT", "F1"):
        asked = examples(subset, triplets(subset[0])[:3], "test")
        assert [{k: v for k, v in doc.items() if k != "steps"} for doc in docs(folder, subset)] == [
            e._asdict() for e in asked
        ]
    code = f"import sys; sys.path.insert(0, {str(folder)!r}); import two_hop; assert 'llm' not in sys.modules"
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_task_is_whole_yaml(folder):
    class Loader(yaml.SafeLoader):
        """lm-eval's tag for functions."""

    Loader.add_constructor("!function", lambda loader, node: f"function {node.value}")
    for subset in ("R12", "R12-CoT", "F1"):
        task = yaml.load((folder / f"{task_name(subset)}.yaml").read_text(), Loader)
        assert task["task"] == task_name(subset)
        assert task["process_results"] == "function two_hop.process_results"
        assert (folder / task["dataset_kwargs"]["file"]).is_file()
        measured = functions(folder).process_results(docs(folder, subset)[0], ["Paris"])
        assert [metric["metric"] for metric in task["metric_list"]] == list(measured)
        assert all(
            hasattr(functions(folder), m["aggregation"].split(".")[-1])
            for m in task["metric_list"]
            if m["aggregation"] != "mean"
        )


@pytest.mark.parametrize(("subset", "prompting"), [("R12", "direct"), ("R12-CoT", "steps"), ("F1", "first")])
def test_scores_are_ours(folder, subset, prompting):
    asked = examples(subset, triplets(subset[0])[:3], "test")
    exported = functions(folder)
    for e, doc in zip(asked, docs(folder, subset), strict=True):
        wrong = asked[(e.triplet + 1) % 3]
        for answer in (
            e.answer,
            wrong.answer,
            "",
            f"{e.gold} or {wrong.gold}",
            f"First, {e.bridge}. Second, {e.gold}. Therefore, the answer is {e.gold}.",
        ):
            ours = {
                name: -1.0 if value is None else float(value) for name, value in score(e, answer, prompting).items()
            }
            assert exported.process_results(doc, [answer]) == ours


def test_the_share_given_the_bridge_leaves_out_the_others(folder):
    given = functions(folder).share_given
    assert given([1.0, -1.0, 0.0, -1.0]) == 0.5
    assert given([-1.0]) == 0.0


def test_a_folder_is_never_overwritten(folder, tmp_path, capsys):
    with pytest.raises(SettingError, match=r"write: got .*; allowed: a new or empty folder"):
        write(folder, ["R1"], 2, 0)
    assert main([f"write={tmp_path / 'new'}", "triplets=2"]) == 0
    assert f"{3 * len(KINDS)} tasks in" in capsys.readouterr().out
    assert len(list((tmp_path / "new").glob("*.yaml"))) == 3 * len(KINDS)
    assert main([f"write={tmp_path / 'new'}"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["library=a,b"], "composition: got nothing; allowed: svd | "),
        (["composition=sum"], "library: got nothing; allowed: the adapters, with composition=sum"),
        (["library=a", "composition=c"], "composition: got c; allowed: svd | "),
        (["composition=sun"], "composition: got sun, which is no folder; allowed: a folder, or a rule"),
        (["library=a,b", "composition=sun"], "did you mean 'sum'?"),
        (["density=0.3"], "density: got 0.3; allowed: dials of a rule with library="),
        (["method=sum"], "it is composition= now"),
        (["base=pocket"], "it is model= now"),
        (["tasks=a b"], "tasks: got 'a b'"),
    ],
)
def test_mistakes_are_one_line(words, message, capsys):
    assert main(words) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


# With lm-eval, where it is installed


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny("qwen2", tmp_path_factory.mktemp("model"), text=TEXT)


@pytest.fixture(scope="module")
def adapters(model, tmp_path_factory) -> list[str]:
    base = load_base(str(model))
    out = tmp_path_factory.mktemp("adapters")
    modules: dict[str, Any] = dict(base.model.named_modules())
    random = torch.Generator().manual_seed(3)
    for name in ("a", "b"):
        draw = lambda count: torch.randn(count, 2, generator=random)  # noqa: E731
        made = {
            m: LowRank(draw(modules[m].out_features), draw(modules[m].in_features))
            for m in target_modules(base.model, "mlp")
        }
        save_expert(made, out / name, str(model))
    return [str(out / "a"), str(out / "b")]


@pytest.mark.filterwarnings("ignore")  # those of lm-eval and what it imports are not ours to mend
def test_a_composed_model_answers_there_what_it_answers_here(model, adapters, tmp_path, capsys):
    """Arrow, which no other software holds as an adapter: the same greedy answers, so the same counts; and the base
    without it, after it."""
    pytest.importorskip("lm_eval")
    tasks = "lora_reuse_f12,lora_reuse_f12_cot"
    words = [f"model={model}", f"tasks={tasks}", "triplets=2", "limit=3", "batch=2"]
    assert main([*words, f"library={','.join(adapters)}", "composition=arrow", f"out={tmp_path / 'arrow'}"]) == 0, (
        capsys.readouterr().err
    )
    assert "lora_reuse_f12" in capsys.readouterr().out
    assert main([*words, f"out={tmp_path / 'base'}"]) == 0, capsys.readouterr().err
    base = load_base(str(model))
    arrow = compose("arrow", [load_expert(adapter, base.model) for adapter in adapters])
    said = {}
    for name, composition in (("arrow", arrow), ("base", None)):
        found = json.loads((tmp_path / name / "lm_eval.json").read_text())
        assert found["made"]["base_digest"] == base.digest
        for subset, longest in (("F12", 48), ("F12-CoT", 192)):
            asked = examples(subset, triplets("F")[:2], "test")[:3]
            (ours,) = answers(base, [composition], [e.question for e in asked], longest)
            samples = sorted(found["samples"][task_name(subset)], key=lambda sample: sample["doc_id"])
            theirs = [sample["filtered_resps"][0].strip() for sample in samples]
            assert theirs == ours
            assert [sample["doc"]["question"] for sample in samples] == [e.question for e in asked]
            said[name, subset] = theirs
    assert said["arrow", "F12"] != said["base", "F12"]


@pytest.mark.filterwarnings("ignore")
def test_an_unknown_task_is_one_line(model, capsys):
    pytest.importorskip("lm_eval")
    assert main([f"model={model}", "tasks=lora_reuse_r12_cto"]) == 2
    assert (
        "tasks: got lora_reuse_r12_cto; allowed: a task of lm-eval, or lora_reuse_...; did you mean"
        in capsys.readouterr().err
    )
