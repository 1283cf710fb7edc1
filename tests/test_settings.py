import math
import subprocess
import sys
from dataclasses import dataclass

import pytest

from lora_reuse.runs.grid import settings_of
from lora_reuse.runs.settings import (
    Choice,
    Flag,
    Number,
    Place,
    SettingError,
    Text,
    Whole,
    grid,
    help_table,
    parse,
    setting,
    short,
)
from lora_reuse.runs.table import value, varying


@dataclass(frozen=True)
class Axes:
    """Axes."""

    width: int | float = setting(64, Whole(1, 2**46, infinite=True), "hidden units", grid=(64, 128))
    scale: str = setting("std", Choice("std", "variance"), "reading")
    share: float = setting(1.0, Number(0.0, 1.0), "probability")


@dataclass(frozen=True)
class Options:
    """Options."""

    out: str = setting("results", Text(), "folder")
    dry_run: bool = setting(False, Flag(), "run nothing")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("256", 256),
        ("1e6", 10**6),
        ("2.5e3", 2500),
        ("2**20", 2**20),
        ("inf", math.inf),
        ("1E+2", 100),
        ("10**12", 10**12),
    ],
)
def test_widths_are_read_as_people_write_them(text, value):
    axes, _ = parse([f"width={text}"], Axes, Options)
    assert axes == {"width": (value,)}
    assert type(axes["width"][0]) is type(value)


@pytest.mark.parametrize(
    "text", ["0", "-4", "1.5", "abc", "", "nan", "1e-3", "1.55e1", "2**47", "2**9999", "-inf", "1_000", "2**-1"]
)
def test_widths_that_are_none_are_refused_with_what_came_and_what_is_allowed(text):
    with pytest.raises(SettingError) as error:
        parse([f"width={text}"], Axes, Options)
    assert str(error.value) == f"width: got {text!r}; allowed: a whole number from 1 to 2**46 or inf"


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["wdith=4"], ["wdith", "unknown", "did you mean 'width'?"]),
        (["width"], ["width", "no value", "width=..."]),
        (["width=4", "width=5"], ["width", "earlier", "once"]),  # chz keeps the last in silence
        (["width="], ["width", "''"]),  # chz reads an empty grid
        (["width=4,4"], ["width", "4,4", "once"]),
        (["scale=varianse"], ["scale", "'varianse'", "std | variance", "did you mean 'variance'?"]),
        (["dry_run=yes"], ["dry_run", "'yes'", "true | false"]),
        (["share=1.1"], ["share", "'1.1'", "0 to 1"]),
        (["share=nan"], ["share", "'nan'", "0 to 1"]),
        (["dry_run=true,false"], ["dry_run", "'true,false'"]),  # an option is no axis
    ],
)
def test_mistakes_are_one_line_that_helps(words, parts):
    with pytest.raises(SettingError) as error:
        parse(words, Axes, Options)
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)


def test_a_comma_list_is_an_axis_and_the_grid_is_their_product():
    axes, options = parse(["width=4,inf", "scale=variance,std", "out=a,b"], Axes, Options)
    assert [(p.width, p.scale) for p in grid(Axes, axes)] == [
        (4, "variance"),
        (4, "std"),
        (math.inf, "variance"),
        (math.inf, "std"),
    ]
    assert options == {"out": "a,b"}


def test_without_words_the_default_grid_is_taken():
    assert [p.width for p in grid(Axes, {})] == [64, 128]


def test_help_lists_every_setting_with_default_kind_and_meaning():
    text = help_table(Axes, Options)
    for part in ("64,128", "2**46 or inf", "hidden units", "std | variance", "folder", "false"):
        assert part in text


@pytest.mark.parametrize(
    ("value", "text"),
    [(2**20, "2**20"), (math.inf, "inf"), (True, "true"), (256, "256"), (1000, "1000"), (2**31 - 1, "2**31-1")],
)
def test_values_are_shown_as_people_write_them(value, text):
    assert short(value) == text


def test_help_needs_neither_jax_nor_numpy():
    code = (
        "import sys; from theory.sweep import main; assert main(['--help']) == 0;assert not {'jax', 'numpy', "
        "'torch', 'pandas'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "width" in done.stdout


def test_a_row_leaves_out_what_is_omitted_and_at_its_default():
    @dataclass(frozen=True)
    class Younger(Axes):
        density: float = setting(0.2, Number(0.0, 1.0), "share kept", omitted=True)

    assert settings_of((Younger(), 3)) == settings_of((Axes(), 3)) == {**vars(Axes()), "seed": 3}
    assert settings_of((Younger(density=0.5), 3)) == {**vars(Axes()), "density": 0.5, "seed": 3}


def test_a_table_names_the_settings_that_differ_and_those_left_out():
    groups = [
        [{"settings": settings}] for settings in ({"width": 4, "seed": 0}, {"width": 4, "density": 0.5, "seed": 1})
    ]
    assert varying(groups) == ["density"]
    assert [value(group[0]["settings"], "density") for group in groups] == ["default", "0.5"]


@pytest.mark.parametrize(
    ("word", "kind"), [("width=２５６", "a whole number"), ("width=٢", "a whole"), ("share=０.5", "a n")]
)
def test_digits_are_ascii(word, kind):
    with pytest.raises(SettingError, match=f"allowed: {kind}"):
        parse([word], Axes, Options)


def test_an_error_repeats_at_most_a_line_of_what_came():
    with pytest.raises(SettingError) as error:
        parse(["width=" + "9" * 5000], Axes, Options)
    assert len(str(error.value)) < 400
    assert "(5002 characters)" in str(error.value)


def test_a_list_may_have_spaces_after_its_commas():
    assert parse(["width=64, 128"], Axes, Options)[0] == {"width": (64, 128)}


def test_a_place_in_the_home_is_found_without_a_shell(monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    assert Place("a folder").parse("~/rows") == "/somewhere/rows"
    assert Place("a folder").parse("rows/~") == "rows/~"
