import shutil
import subprocess

import pytest

from lora_reuse.runs import provenance as ours


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A committed source tree of one module and one file of rows, as the place `provenance` looks at."""
    for name, text in {"runs/provenance.py": "one\n", "results/paper/rows.jsonl": "{}\n"}.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text)
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "."], [*author, "commit", "-qm", "one"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    monkeypatch.setattr(ours, "__file__", str(tmp_path / "runs" / "provenance.py"))
    ours._tree.cache_clear()
    yield tmp_path
    ours._tree.cache_clear()


@pytest.mark.parametrize(
    ("changed", "dirty"),
    [
        ("runs/provenance.py", True),
        ("runs/new.py", True),
        ("llm/compositions/new.py", True),
        ("results/paper/rows.jsonl", False),
        ("results/paper/new.py", False),
        ("llm/notes.txt", False),
        ("new.py", False),
    ],
)
def test_changed_code_and_new_modules_are_dirty_and_added_rows_are_not(changed, dirty, tree):
    (tree / changed).parent.mkdir(parents=True, exist_ok=True)
    with (tree / changed).open("a") as file:
        file.write("two\n")
    assert ours.provenance()["dirty"] is dirty


def test_a_tree_around_an_installed_package_is_not_its_own(tree):
    subprocess.run(["git", "rm", "-q", "--cached", "runs/provenance.py"], cwd=tree, check=True)
    assert (ours.provenance()["commit"], ours.provenance()["dirty"]) == (None, None)


def test_outside_git_nothing_is_claimed(tree):
    shutil.rmtree(tree / ".git")
    assert (ours.provenance()["commit"], ours.provenance()["dirty"]) == (None, None)


def test_two_commands_of_one_process_are_named_each(tree, monkeypatch):
    for words in (["one=1"], ["two=2"]):
        monkeypatch.setattr("sys.argv", ["program", *words])
        assert ours.provenance()["command"].endswith(" ".join(words))
