"""Figures are drawn whole from few rows, with the same bytes from the same rows, and say which rows are missing."""

import math
import subprocess
import sys

import pytest

from lora_reuse.figures import __main__ as command
from lora_reuse.figures import registry
from lora_reuse.figures.rows import MissingRows, Rows
from tests.drawn_figures import NAMES, PAPER, ROOT, committed, few, module, table_of, write

FIGURES = ROOT / "results" / "figures"
"""Of all committed rows, as `make figures` has drawn them, which `make fresh` does before these tests."""


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_is_drawn_from_few_rows(name, tmp_path):
    table = table_of(name, write(tmp_path / "rows", name, few(name)))
    with registry.picture(module(name), table) as figure:
        figure.draw_without_rendering()
    assert module(name).caption(table)
    assert (table["measured"] < 1e5).all(), "the row of another mask is left out"


@pytest.mark.parametrize("name", ["kernel_limit", "proposition_1", "theorem_2", "many_facts"])
def test_one_row_a_point_is_enough(name):
    rows = [row for row in committed(name) if row["settings"]["seed"] == 0]
    table = module(name).data(_Given(rows, module(name).NEEDS))
    assert (
        table["low"].isna().all() or name == "kernel_limit"
    )  # whose root mean squares have an interval of χ² with one degree of freedom
    with registry.picture(module(name), table) as figure:
        figure.draw_without_rendering()
    assert module(name).caption(table)


class _Given(Rows):
    """Rows that are given and not read."""

    def __init__(self, rows, needs):
        import pandas

        super().__init__("nowhere", needs)
        self.table = pandas.json_normalize(rows).replace({"inf": math.inf}).infer_objects()

    def all(self, experiment):
        return self.table.copy()


@pytest.mark.parametrize("name", NAMES)
def test_files_hold_what_they_should(name):
    pdf, png = (FIGURES / f"{name}.pdf").read_bytes(), (FIGURES / f"{name}.png").read_bytes()
    assert b"/FontFile2" in pdf, "fonts are embedded"
    assert not [word for word in (b"/Type3", b"CreationDate", b"Producer") if word in pdf]
    assert not [chunk for chunk in (b"tEXt", b"tIME") if chunk in png]
    caption = (FIGURES / f"{name}.md").read_text()
    assert f"]({name}.png)" in caption
    assert "seeds" in caption
    assert f"- `{name}.jsonl`: `python -m theory.sweep" in caption
    assert "nan" not in caption.lower()
    hashes = {row["hash"] for row in committed(name)}
    assert set(table_of(name)["row"]) <= hashes


def test_the_same_bytes_in_another_process(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    registry.draw(registry.Item("kernel_limit", "figure"), PAPER, here)
    words = [sys.executable, "-m", "figures", "only=kernel_limit", f"rows={PAPER}", f"out={there}"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    for name in (f"kernel_limit.{ending}" for ending in ("pdf", "png", "csv", "md")):
        assert (here / name).read_bytes() == (there / name).read_bytes(), name


@pytest.mark.parametrize("name", NAMES)
def test_missing_rows_say_which_command_makes_them(name, tmp_path, capsys):
    assert command.main([f"only={name}", f"rows={tmp_path}", f"out={tmp_path / 'out'}"]) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"figures: rows: got no rows of {name} in {tmp_path}")
    assert f"`{module(name).NEEDS[name]} out={tmp_path}`" in line
    assert line.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_commands_that_make_rows_make_rows_that_are_drawn(tmp_path, capsys):
    """Each command is one the sweep accepts, and its grid has the settings the figure selects (checked on the cheapest
    that draws)."""
    import shlex

    from lora_reuse.theory import sweep

    for name in NAMES:
        words = shlex.split(module(name).NEEDS[name])[3:]
        assert sweep.main([*words, "dry_run=true", f"out={tmp_path}"]) == 0, name
    words = shlex.split(module("large_library").NEEDS["large_library"])[3:]
    assert (
        sweep.main([word if not word.startswith("seeds") else "seeds=2" for word in words] + [f"out={tmp_path}"]) == 0
    )
    registry.draw(registry.Item("large_library", "figure"), tmp_path, tmp_path / "out")
    capsys.readouterr()


def test_all_of_a_bare_folder_goes_on_and_says_what_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        registry, "items", lambda: {name: registry.Item(name, "figure") for name in ("scale", "capacity")}
    )
    write(tmp_path, "scale", few("scale"))
    assert command.main([f"rows={tmp_path}", f"out={tmp_path / 'out'}"]) == 0
    scale_, capacity_ = capsys.readouterr().out.splitlines()
    assert scale_.startswith("scale: ")
    assert "scale.pdf" in scale_
    assert "capacity: rows: got no rows of capacity" in capacity_
    assert not list((tmp_path / "out").glob("capacity*"))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["only=theorem2"],
            "only: got 'theorem2'; allowed: activations, bench, bridge, bridge_controls, bridge_examples,",
        ),
        (["only=theorem2"], "did you mean 'theorem_2'?"),
        (["onyl=scale"], "did you mean 'only'?"),
        (["rows=nowhere"], "rows: got nowhere; allowed: a folder that is there"),
        (["report=true", "only=scale"], "report: got true with only=scale"),
        (["only=scale", "out=Makefile"], "out: got Makefile"),
    ],
)
def test_mistakes_are_one_line(words, says, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert command.main(words) == 2
    line = capsys.readouterr().err
    assert says in line
    assert line.count("\n") == 1


def test_a_figure_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def fails(table, figure):
        raise MissingRows("rows", "none", "some")

    monkeypatch.setattr(module("scale"), "draw", fails)
    made = registry.draw_or_say(registry.Item("scale", "figure"), PAPER, tmp_path / "out")
    assert made.missing == "rows: got none; allowed: some"
    assert not made.files
    assert not (tmp_path / "out").exists()


def test_list_names_every_figure_and_its_command(capsys):
    assert command.main(["list=true"]) == 0
    text = capsys.readouterr().out
    for name in NAMES:
        assert f"{name} (figure)" in text
        assert module(name).NEEDS[name] in text


def test_help_is_quick():
    heavy = "[name for name in ('matplotlib', 'pandas', 'jax') if name in sys.modules]"
    code = f"import sys; from figures.__main__ import main; code = main(['--help']); print(code, {heavy})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.endswith("0 []\n"), done.stderr
    assert "only" in done.stdout


def test_only_names_of_needs_can_be_read():
    with pytest.raises(KeyError, match="not in NEEDS"):
        Rows(PAPER, {"scale": "..."}).all("bridge")
    with pytest.raises(MissingRows, match=r"no rows of scale in .* with facts=3"):
        Rows(PAPER, {"scale": "make it"}).select("scale", facts=3)
