"""The documentation says what the code does: its examples run, its pages name every public name and every command, and
its links lead somewhere. That the site builds without a warning is checked by `make docs`."""

import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml

import lora_reuse
from docs import generate
from lora_reuse.__main__ import commands

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "generated" not in path.parts)
TEXTS = [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
README = (ROOT / "README.md").read_text()


def name(path):
    return str(path.relative_to(ROOT))


def blocks(text, language):
    """The code in the fences of a language."""
    return re.findall(rf"^```(?: \{{ \.)?{language}(?: \}})?\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def printed(*words, cwd=ROOT):
    done = subprocess.run([sys.executable, "-m", *words], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


# Examples


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    """With two steps of training; the first block is the example of the practitioner's page."""
    first, second = blocks(README, "python")
    assert first == (DOCS / "examples" / "practitioner.py").read_text()
    assert first.count("steps=100") == 2
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(first.replace("steps=100", "steps=2, progress=False"), names)
    assert "verdict" in capsys.readouterr().out
    assert (tmp_path / "merged" / "adapter_model.safetensors").is_file()
    exec(second, names)
    said, found = (numbers(text) for text in (second.split("# ")[1], capsys.readouterr().out))
    assert found == pytest.approx(said, rel=0.02, abs=0.02)


def numbers(text):
    return [float(number) for number in re.findall(r"[-+]?\d+\.\d+", text)]


def test_the_example_of_the_theorist_prints_what_its_page_says(capsys):
    """To two hundredths, since another processor rounds sums of float32 in another order."""
    runpy.run_path(str(DOCS / "examples" / "theorist.py"))
    found, said = capsys.readouterr().out, (DOCS / "examples" / "theorist.txt").read_text()
    assert re.sub(r"[-+]?\d+\.\d+", "", found) == re.sub(r"[-+]?\d+\.\d+", "", said)
    assert numbers(found) == pytest.approx(numbers(said), rel=0.02, abs=0.02)


def test_the_recipe_is_the_commands_of_its_page():
    page = (DOCS / "quickstart" / "practitioner.md").read_text()
    commands = printed("lora_reuse", "run", "docs/examples/recipe.yaml", "print=command").splitlines()
    assert [line.split()[1] for line in commands] == ["compose", "forecast", "harness"]
    assert commands[0] in page


@pytest.mark.parametrize(("target", "start"), [("sweep", "c_first"), ("two-hop", "composition")])
def test_what_the_readme_prints_is_printed_from_the_committed_rows(target, start, tmp_path):
    """The command of the Makefile finds the rows there and prints its table."""
    recipe = re.search(rf"^{target}:.*\n\t.*\$\(RUN\) -m (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe
    for file in ("kernel_limit.jsonl", "llm_two_hop.jsonl", "withdrawn.csv"):
        shutil.copy(ROOT / "results" / "paper" / file, tmp_path)
    there = printed(*shlex.split(recipe[1]), f"out={tmp_path}")
    assert " 0 new, " in there
    (block,) = (block for block in blocks(README, "") if block.startswith(start))
    lines = [line.rstrip() for line in there.splitlines()]
    assert [line for line in block.splitlines() if line not in lines] == []


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_code_of_a_page_is_a_file_that_a_test_runs(path):
    tests = "".join(test.read_text() for test in (ROOT / "tests").rglob("test_*.py"))
    for code in blocks(path.read_text(), "python"):
        (included,) = re.findall(r'^--8<-- "docs/examples/(\w+)\.py"\n$', code)
        assert (DOCS / "examples" / f"{included}.py").is_file()
        side = included.removesuffix("_rule") if included.endswith("_rule") else ""
        assert included in tests or f'"{side}"' in tests, included


def test_every_example_stands_on_a_page():
    included = set(re.findall(r'--8<-- "docs/examples/([\w.]+)"', "".join(path.read_text() for path in PAGES)))
    assert included == {path.name for path in (DOCS / "examples").iterdir() if path.is_file()}


# Names and commands


def test_every_public_name_stands_on_the_page_of_the_api():
    named = re.findall(r"^::: lora_reuse\.(\w+)$", (DOCS / "api.md").read_text(), re.MULTILINE)
    assert sorted(named) == sorted(lora_reuse.__all__)


def test_every_command_stands_on_the_page_of_commands(monkeypatch):
    monkeypatch.setattr(generate, "help_of", lambda words: f"help of {' '.join(words)}")
    page = generate.settings()
    for word in commands():
        assert f"\n## {word}\n" in page
        assert f"help of {word}" in page


WRITTEN = sorted(
    {
        line
        for path in TEXTS
        for line in re.findall(r"lora-reuse (\w+ [^`\n#]*=[^`\n#]*)", path.read_text())
        if "key=value" not in line
    }
)


@pytest.mark.parametrize("word", sorted({line.split()[0] for line in WRITTEN}))
def test_settings_of_commands_in_texts_are_settings_of_those_commands(word):
    """A rule or kind of adapter of an example is there when its file is; its dials are not."""
    assert word in commands()
    for line in (line for line in WRITTEN if line.split()[0] == word):
        keys = {given.split("=")[0] for given in line.split() if "=" in given}
        experiment = re.findall(r"experiment=\w+", line)
        help = generate.help_of((word, *experiment))
        own = {"share"} if "halved" in line else set()
        assert {key for key in keys if not re.search(rf"^ +{key}  ", help, re.MULTILINE)} <= own, line


# Links, navigation, versions


@pytest.mark.parametrize("path", TEXTS, ids=name)
def test_links_lead_somewhere(path):
    for link in re.findall(r"\]\(([^)#\s]*)", path.read_text()):
        if link and "://" not in link:
            target = (path.parent / link).resolve()
            generated = target.parent == DOCS / "generated" and target.name in generate.PAGES
            assert generated or target.exists(), link


def test_every_page_is_in_the_navigation():
    def pages(entry):
        if isinstance(entry, str):
            return [entry]
        return [page for part in (entry if isinstance(entry, list) else entry.values()) for page in pages(part)]

    nav = pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    there = [path.relative_to(DOCS).as_posix() for path in PAGES] + [f"generated/{page}" for page in generate.PAGES]
    assert sorted(nav) == sorted(there)


def test_what_is_generated_of_the_results_has_all_three_pages():
    pages = generate.results()
    assert "](figures/report.html#row-" in pages["results.md"]
    assert "](figures/kernel_limit.png)" in pages["figures.md"]
    assert "](figures/table_07.csv)" in pages["tables.md"]
    assert "](#row-" not in "".join(pages.values())
    assert "its own page" in (ROOT / "results/figures/report.md").read_text()
    assert "its own page" not in pages["tables.md"]
    assert re.search(r"^\| pocket \| step by step \| 0 \| 0/240 ", pages["tables.md"], re.MULTILINE)


def test_versions_agree():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
    released = re.findall(r"^## \[(\d[\d.]*)\] - (\d{4}-\d\d-\d\d)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert released[0][0] == version


def test_hooks_run_what_make_check_runs():
    """With the tools of .venv, which has the versions of constraints.txt."""
    recipe = re.search(r"^check: .*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe
    checks = [line.strip().replace("$(RUN)", ".venv/bin/python") for line in recipe[1].splitlines()]
    (repo,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [hook["entry"] for hook in repo["hooks"]] == checks
    assert {hook["language"] for hook in repo["hooks"]} == {"system"}
    pinned = (ROOT / "constraints.txt").read_text()
    for tool in ("ruff", "basedpyright"):
        assert f"\n{tool}=={metadata.version(tool)}\n" in pinned


@pytest.mark.parametrize(
    "path", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.stem
)
def test_issue_forms_are_forms(path):
    form = yaml.safe_load(path.read_text())
    assert {"name", "description", "body"} <= form.keys()
    for field in form["body"]:
        assert field["type"] in ("input", "textarea", "checkboxes")
        assert field["attributes"]["label"]
    assert len({field["id"] for field in form["body"]}) == len(form["body"])
