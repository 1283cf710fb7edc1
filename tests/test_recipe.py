"""The examples of the documentation that extend the repository. To add a rule, write one file on each side: nothing
else is edited, and every check that fits its promises runs on it. A kind of adapter is one file, too."""

import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from lora_reuse.runs.rows import load_rows
from tests.llm.tiny import tiny

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "docs" / "examples"


def written(tree: Path, promise: bool) -> None:
    for side in ("theory", "llm"):
        text = (EXAMPLES / f"{side}_rule.py").read_text()
        assert text.count("alone=False") == 1
        (tree / side / "compositions" / "halved.py").write_text(text.replace("alone=False", f"alone={promise}"))


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tree")
    for name in ("lora_reuse", "theory", "llm", "paper_checks", "runs", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    written(folder, promise=False)
    return folder


def said(tree: Path, *words: str) -> str:
    run = subprocess.run([sys.executable, "-m", *words], cwd=tree, capture_output=True, text=True)
    return run.stdout + run.stderr


def test_the_commands_of_both_sides_know_it(tree):
    listed = said(
        tree,
        "llm.two_hop",
        "composition=halved,sum",
        "share=0.25,0.5",
        "dataset=F",
        "library=2-combination",
        "prompting=direct",
        "dry_run=true",
    )
    assert "3 rows in results" in listed  # the sum does not read the share
    assert "share=0.5,0.25" in listed or "share=0.25,0.5" in listed
    assert "halved" in said(tree, "llm.methods", "--help")
    assert "share" in said(tree, "llm.compose", "--help")
    assert "halved: of each update" in said(tree, "llm.harness", "--help")
    assert "halved: of each update" in said(tree, "llm.forecast", "--help")
    sweep = ("theory.sweep", "experiment=theorem_3", "share=0.25,0.5", "dry_run=true")
    assert "theorem_3: 3 settings" in said(tree, *sweep, "composition=halved,sum")  # the sum does not read the share
    assert "share: got 0.25,0.5; allowed: no share= but with composition=halved" in said(
        tree, *sweep, "composition=sum"
    )
    assert "halved: of each update" in said(tree, "theory.sweep", "experiment=many_facts", "--help")


def test_the_checks_of_both_sides_run_on_it_and_its_promises_count(tree):
    """It promises wrongly that one expert alone is that expert: the checks of that fail on each side, and no others."""
    written(tree, promise=True)
    checks = [f"{side}/test_compositions.py" for side in ("tests", "tests/llm")]
    found = said(tree, "pytest", "-p", "no:cacheprovider", *checks, "-k", "halved")
    written(tree, promise=False)
    failed = [line.split()[1] for line in found.splitlines() if line.startswith("FAILED ")]
    alone = [f"{file}::test_one_expert_alone_is_returned_unchanged[halved]" for file in checks]
    assert sorted(failed) == sorted([*alone, f"{checks[1]}::test_modules_may_differ[halved]"])
    assert "error" not in found.splitlines()[-1]
    assert int(found.split(" passed")[0].split()[-1]) >= 12


def test_a_kind_of_adapter_is_one_file_and_trains_what_it_says(tree, tmp_path):
    """B starts at zero, so that it stays zero where nothing is trained."""
    shutil.copy(EXAMPLES / "upper_layers.py", tree / "llm" / "adapters" / "kinds")
    assert "upper_layers: A and B from one layer upwards" in said(tree, "llm.bridge", "--help")
    asked = "dataset=F library=2-combination composition=sum prompting=direct".split()
    small = "triplets=2 bridge_triplets=2 steps=2 batch=2 rank=2 answer_tokens=2 workers=1 log_probs=false".split()
    words = (*asked, *small, f"model={tiny('qwen2', tmp_path / 'model')}", f"out={tmp_path / 'out'}")
    printed = said(tree, "llm.two_hop", "adapter=upper_layers", "first_layer=1", *words)
    assert "1 rows in" in printed, printed
    (row,) = load_rows(tmp_path / "out", "llm_two_hop")
    assert (row["settings"]["adapter"], row["settings"]["first_layer"]) == ("upper_layers", 1)
    experts = sorted((tmp_path / "out" / "experts").glob("*/adapter_model.safetensors"))
    assert len(experts) == 2
    for expert in experts:
        trained = {
            key.split(".layers.")[1][0]
            for key, weight in load_file(expert).items()
            if ".lora_B." in key and weight.abs().max() > 0
        }
        assert trained == {"1"}
    assert "first_layer: got 1; allowed: no first_layer=" in said(tree, "llm.two_hop", "first_layer=1", *words)


def test_an_assumption_of_the_theory_is_changed_in_a_file_of_ones_own():
    """One head and two that attend alike have the paper's closed forms. A head on x and one on r1 share half of `x r1`
    with the two-hop prompt, and keys and prompt have one length."""
    printed = said(ROOT, "docs.examples.several_heads")
    found = [tuple(map(float, pair)) for pair in re.findall(r"c₁ = (\S+), c₂ = (\S+) at", printed)]
    kernel = lambda cosine: (math.sqrt(1 - cosine**2) + (math.pi - math.acos(cosine)) * cosine) / math.pi  # noqa: E731
    assert len(found) == 6
    assert found[0] == found[2] == pytest.approx((0.4122, 0.5730), abs=1e-4)
    assert found[4] == pytest.approx((kernel(1 / 4), kernel(1 / 2)), abs=0.01)  # of a decay that is not quite zero
    for exact, drawn in zip(found[::2], found[1::2], strict=True):
        assert drawn == pytest.approx(exact, abs=0.01)  # six standard errors
