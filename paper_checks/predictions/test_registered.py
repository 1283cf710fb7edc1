"""A claim is as old as the last change of its file; rows that are not younger, or not of committed code, are
exploration."""

import subprocess
import tomllib
from importlib import import_module
from importlib.util import find_spec

import pytest

from lora_reuse.paper_checks.predictions import registered
from lora_reuse.paper_checks.predictions.registered import FOLDER, Parted, claims, registration, unit, units
from lora_reuse.runs.settings import parse

CLAIM = """statement = "No answer is right."
reason = "Theorem 2."
command = "python -m llm.two_hop"
rows = [{ experiment = "llm_two_hop", library = ["1", "2"] }]
[bounds]
most = 0.25
"""
OLD = """CLAIM = (
    "No answer"
    " is right.", "Theorem 2.", "python -m llm.two_hop")
EXPERIMENTS, LIBRARIES, MOST = "llm_two_hop", {"1": "first", "2": "second"}, 0.25
"""


@pytest.fixture
def git(tmp_path):
    """Runs git in a history of its own; `commit` makes a commit of all files and returns it."""

    def run(*words):
        identity = [
            "-c",
            "user.name=a",
            "-c",
            "user.email=a@b",
            "-c",
            "init.defaultBranch=main",
            "-c",
            "commit.gpgsign=false",
        ]
        return subprocess.run(
            ["git", *identity, *words], cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout.strip()

    def commit():
        run("add", "-A")
        run("commit", "--allow-empty", "-qm", "more")
        return run("rev-parse", "HEAD")

    run("init", "-q")
    run.commit = commit  # type: ignore[attr-defined]
    return run


def row(commit, seed=0, dirty: bool | None = False, dataset="R", library="1", experiment="llm_two_hop"):
    settings = {"seed": seed, "dataset": dataset, "library": library}
    return {"experiment": experiment, "settings": settings, "provenance": {"commit": commit, "dirty": dirty}}


@pytest.fixture
def history(git, tmp_path):
    """The commit before the claim, its own, and one after it."""
    before = git.commit()
    (tmp_path / "A.toml").write_text(CLAIM)
    own = git.commit()
    (tmp_path / "other").write_text("")
    return before, own, git.commit()


def claim(folder):
    return claims(folder)["A"]


def parted(claim, rows) -> Parted:
    return registered.parted(claim, registration(claim), rows)


def test_rows_younger_than_the_claim_test_it_and_earlier_ones_are_exploration(history, tmp_path):
    before, own, after = history
    assert registration(claim(tmp_path)) == (own, "")
    rows = [row(own, 1), row(after, 2), row(before, 3), row(None, 4), row("0" * 40, 5)]
    found = parted(claim(tmp_path), rows)
    assert found.tests == rows[:2]
    assert found.exploration == rows[2:]
    assert list(found.reasons) == [
        f"made at {before[:8]}, before the claim",
        "made outside a git history",
        "made at 00000000, which is not in the git history here",
    ]


def test_a_row_of_changed_code_is_exploration_and_taints_no_other(history, tmp_path):
    rows = [row(history[2], 1, dirty=True), row(history[2], 1, library="2"), row(history[2], 2, dirty=None)]
    found = parted(claim(tmp_path), rows)
    assert found.tests == rows[1:2]
    assert found.reasons == {"made by code that is in no commit": 2}


def test_a_seed_that_was_looked_at_is_exploration_ever_after(history, tmp_path):
    before, _, after = history
    rows = [row(before, 1), row(after, 1, library="2"), row(after, 1, dataset="F"), row(after, 2)]
    found = parted(claim(tmp_path), rows)
    assert found.tests == rows[2:]
    assert found.reasons["made later, of people and a seed that had been looked at"] == 1


def test_only_the_rows_that_the_claim_is_about_are_parted(history, tmp_path):
    before, _, after = history
    rows = [row(before, 1, library="oracle"), row(before, 1, experiment="llm_bridge"), row(after, 1)]
    assert parted(claim(tmp_path), rows) == (rows[2:], [], {})


def test_a_changed_claim_is_void_until_it_is_committed_and_then_younger(history, git, tmp_path):
    _, own, after = history
    rows = [row(after, 1)]
    digest = claim(tmp_path).digest
    (tmp_path / "A.toml").write_text(CLAIM.replace("0.25", "0.3"))
    assert claim(tmp_path).digest != digest
    assert registration(claim(tmp_path)) == (None, "its file was changed and not committed since")
    assert parted(claim(tmp_path), rows).reasons == {
        "the claim is not registered: its file was changed and not committed since": 1
    }
    again = git.commit()
    assert registration(claim(tmp_path)).commit == again != own
    assert not parted(claim(tmp_path), rows).tests
    assert parted(claim(tmp_path), [row(git.commit(), 2)]).tests


def test_a_claim_outside_a_history_or_in_no_commit_is_not_registered(tmp_path, git):
    (tmp_path / "A.toml").write_text(CLAIM)
    assert registration(claim(tmp_path)) == (None, "its file is in no commit of a git history here")
    found = parted(claim(tmp_path), [row(git.commit(), 1)])
    assert found.tests  # committed with it by now
    subprocess.run(["rm", "-rf", str(tmp_path / ".git")], check=True)
    assert registration(claim(tmp_path)) == (None, "its file is in no commit of a git history here")
    assert not parted(claim(tmp_path), [row("0" * 40, 1)]).tests


def test_a_claim_that_stood_in_another_file_is_as_old_as_that(git, tmp_path):
    (tmp_path / "old.py").write_text(OLD)
    old = git.commit()
    middle = git.commit()
    since = f'[since]\ncommit = "{old}"\nfile = "old.py"\n'
    (tmp_path / "A.toml").write_text(CLAIM + since)
    git.commit()
    assert registration(claim(tmp_path)) == (old, "")
    assert parted(claim(tmp_path), [row(middle, 1)]).tests


@pytest.mark.parametrize(
    ("planted", "missing"),
    [
        (("No answer", "Hardly an answer"), "'Hardly an answer is right.'"),
        (("0.25", "0.3"), "0.3"),
        (('"2"', '"oracle"'), "'oracle'"),
    ],
)
def test_words_numbers_and_rows_that_did_not_stand_there_are_found(git, tmp_path, planted, missing):
    (tmp_path / "old.py").write_text(OLD)
    old = git.commit()
    (tmp_path / "A.toml").write_text(CLAIM.replace(*planted) + f'[since]\ncommit = "{old}"\nfile = "old.py"\n')
    git.commit()
    assert registration(claim(tmp_path)) == (None, f"{old[:8]}:old.py does not say {missing}")


def test_a_commit_that_never_was_registers_nothing(git, tmp_path):
    (tmp_path / "A.toml").write_text(CLAIM + '[since]\ncommit = "1234567890"\nfile = "old.py"\n')
    git.commit()
    assert registration(claim(tmp_path)) == (None, "12345678:old.py is not in the git history here")


def test_units():
    rows = [row("", 2), row("", 0, dataset="F"), row("", 1), {"settings": {"setup": "1", "seed": 3}}]
    assert [unit(one) for one in rows] == [("R", 2), ("F", 0), ("R", 1), ("F", 3)]
    assert units(rows) == "F 0, 3; R 1, 2"


# The claims of this folder


def test_the_claims_p1_to_p6_say_what_was_said_before_their_rows():
    """Needs the history; an archive without it registers nothing, and every row is exploration."""
    if subprocess.run(["git", "rev-parse", "5f9fb3db"], cwd=FOLDER, capture_output=True).returncode:
        pytest.skip("no git history here")
    for id in ("P1", "P2", "P3", "P4", "P5", "P6"):
        claim = claims()[id]
        since = claim.content["since"]["commit"]
        assert registration(claim).commit == since or "not committed" in registration(claim).why


def selectors(content):
    """What the claim and each of its tests says of rows."""
    yield from content["rows"]
    for test in content.get("tests", ()):
        about = content["rows"][0] | test["rows"]
        yield about
        if isinstance(test.get("less"), dict):
            yield about | test["less"]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.toml")), ids=lambda path: path.stem)
def test_claims_name_settings_that_the_protocols_have(path):
    """And values of them: a claim about rows that no command makes would never be tested."""
    content = tomllib.loads(path.read_text())
    needed = {"statement", "reason", "command", "rows"}
    assert needed <= set(content) <= needed | {"bounds", "tests", "models", "seen", "since"}
    for settings in selectors(content):
        names = settings["experiment"] if isinstance(settings["experiment"], list) else [settings["experiment"]]
        for name in names:
            module = name.replace("llm_", "llm.", 1)
            if find_spec(module) is None:
                continue
            protocol = import_module(module).PROTOCOL
            given = {
                setting: values if isinstance(values, list) else [values]
                for setting, values in settings.items()
                if setting != "experiment"
            }
            parse(
                [f"{setting}={','.join(map(str, values))}" for setting, values in given.items()],
                protocol.axes,
                protocol.options,
            )
