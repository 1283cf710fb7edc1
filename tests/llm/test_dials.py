"""Dials from signatures: what is read from the source is what is imported, and what a row and a command make of it."""

import dataclasses
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import pytest

from lora_reuse.llm.adapters.composing import check_rule
from lora_reuse.llm.adapters.kinds import KINDS
from lora_reuse.llm.adapters.specs import trained
from lora_reuse.llm.compositions import RULES, compose, rule
from lora_reuse.llm.learned import LEARNED
from lora_reuse.llm.protocols.dials import (
    ADAPTERS,
    EVERY,
    GIVEN,
    TO_LEARN,
    WORDS,
    PointDials,
    made_with,
    of_point,
    read_by,
    settled,
)
from lora_reuse.llm.protocols.settings import Composed, Options, Scale, TwoHop, preset_dials
from lora_reuse.runs.dials import dials
from lora_reuse.runs.grid import settings_of
from lora_reuse.runs.settings import Number, SettingError, parse

BASE: Any = SimpleNamespace(digest="0" * 16, chat=False, model=SimpleNamespace(dtype="float32"))


def plain(found):
    return {name: (dial.kind.allowed, dial.default, dial.doc) for name, dial in found.items()}


@pytest.mark.parametrize(("declared", "imported"), [(GIVEN, RULES), (TO_LEARN, LEARNED)], ids=["given", "learned"])
def test_what_is_read_from_the_source_is_what_is_imported(declared, imported):
    assert declared.keys() == imported.keys()
    for name, it in imported.items():
        assert plain(declared[name].dials) == plain(it.dials)
        assert declared[name].promises == {promise: getattr(it, promise) for promise in declared[name].promises}
        assert len(declared[name].promises) >= 4
        assert declared[name].doc == (it.rule if hasattr(it, "rule") else it.build).__doc__


def test_a_dial_without_kind_meaning_or_default_is_refused():
    def no_kind(library: list, *, share: float = 0.2): ...
    def no_meaning(library: list, *, share: Annotated[float, Number(0, 1)] = 0.2): ...
    def no_default(library: list, *, share: Annotated[float, Number(0, 1), "kept"]): ...
    def whole(library: list, *, share: Annotated[float, Number(0, 1), "kept"] = 0.2): ...
    def word(library: list, *, trim: Annotated[Literal["all", "each"], "of what"] = "all"): ...

    for function in (no_kind, no_meaning, no_default):
        with pytest.raises(TypeError, match="share should be share: Annotated"):
            dials(function)
    assert plain(dials(whole)) == {"share": ("a number from 0 to 1", 0.2, "kept")}
    assert plain(dials(word)) == {"trim": ("all | each", "all", "of what")}


def test_a_rule_of_ones_own_is_known_by_its_name_and_dials():
    promises = {"static": True, "gauge_free": True, "alone": False, "symmetric": True}

    def scaled(library: list, *, share: Annotated[float, Number(0, 1), "of the sum"] = 0.5) -> Any:
        return compose("cat", library, weights=(share,) * len(library))

    def sum_(library: list) -> Any: ...

    try:
        rule(**promises)(rule(**promises)(scaled))  # a cell that is run again
        check_rule("scaled")
        assert made_with(["scaled"], {"share": 0.3}, {}) == {"scaled": {"share": 0.3}}
        with pytest.raises(SettingError, match=r"^share: got 2; allowed: a number from 0 to 1$"):
            made_with(["scaled"], {"share": 2}, {})
        with pytest.raises(SettingError, match="did you mean 'scaled'"):
            check_rule("scale")
        with pytest.raises(TypeError, match=r"^sum of .*test_dials: got the name of a rule of lora_reuse.llm.compos"):
            rule(**promises)(sum_)
    finally:
        GIVEN.pop("scaled", None)
        RULES.pop("scaled", None)


def test_dials_are_no_settings_of_their_points_by_another_name():
    """A dial of the name of another setting would be two things in one row."""
    others = {f.name for f in dataclasses.fields(TwoHop)} - {f.name for f in dataclasses.fields(PointDials)}
    assert not others & EVERY.keys()


def test_a_row_names_a_dial_that_has_not_its_default():
    point = TwoHop(composition="ties")
    assert not settings_of((point, 0)).keys() & {"density", "trim", "then", "merged_rank", "weights"}
    assert {"temperature", "top_k", "normalise"} <= settings_of((point, 0)).keys()
    assert settings_of((dataclasses.replace(point, density=0.3), 0)) == settings_of((point, 0)) | {"density": 0.3}


def test_a_grid_of_several_rules_has_a_dial_where_it_is_read():
    points = [TwoHop(composition=how, density=d) for how in ("ties", "uniform", "base") for d in (0.2, 0.3)]
    found = settled(points, {"density": (0.2, 0.3)})
    assert [(p.composition, p.density) for p in found] == [
        ("ties", 0.2),
        ("ties", 0.3),
        ("uniform", 0.2),
        ("base", 0.2),
    ]
    with pytest.raises(
        SettingError, match=r"^density: got 0.3; allowed: .*composition=magnitude_prune,.*,ties,dare,knots$"
    ):
        settled([TwoHop(composition="uniform", density=0.3)], {"density": (0.3,)})
    with pytest.raises(SettingError, match="normalise: got true"):
        settled([TwoHop(composition="sum", normalise=True)], {"normalise": (True,)})
    warm = [TwoHop(composition="uniform", temperature=0.5)]
    assert settled(warm, {}) == warm  # every row says the temperature, also where no router is


def test_a_point_gives_its_rule_what_it_reads():
    point = TwoHop(composition="arrow:swapped", temperature=0.5, normalise=True)
    said = {"temperature": 0.5, "top_k": 0, "scores": "cosine", "prototypes": "swapped", "seed": 3}
    assert of_point(point, 3) == said
    assert of_point(TwoHop(composition="dare", density=0.5, then="ties"), 1) == {
        "density": 0.5,
        "then": "ties",
        "seed": 1,
    }
    for how in ("base", "alone", "sum", "moe:own"):
        assert of_point(Composed(composition=how), 0) == {}


def test_an_axis_of_weights_has_colons_in_it():
    axes, _ = parse(["composition=cat", "weights=0.3:0.7,1:1"], TwoHop, Options)
    assert axes["weights"] == ((0.3, 0.7), (1.0, 1.0))
    with pytest.raises(SettingError, match=r"weights: got \(1.0, 2.0\); allowed: scale="):
        Scale(weights=(1.0, 2.0))


@pytest.mark.parametrize("how", [*WORDS, "base"])
def test_one_word_is_one_composition_in_every_command(how):
    """llm.compose, llm.harness and llm.forecast make it with the dials of a protocol's point at the model's preset."""
    for model in ("pocket", "Qwen/Qwen2.5-3B-Instruct"):
        preset = preset_dials(model)
        point: Any = TwoHop(model=model, composition=how, **preset)
        assert made_with([how], {}, preset)[how] == of_point(point, 0)
    if "temperature" in read_by(how):
        assert made_with([how], {}, preset_dials("pocket"))[how]["temperature"] == 0.25
        assert made_with([how], {"temperature": 2.0}, preset_dials("pocket"))[how]["temperature"] == 2.0


def test_a_dial_of_a_kind_of_adapter_makes_another_expert_and_no_dial_does_not():
    """LoRI-S has `kept`. An expert's hash has it where it has not its default, and a kind without it never has."""
    keys = lambda **said: trained(TwoHop(**said), 0, [(("R1",), (), 1)])[0].key(BASE)  # noqa: E731
    assert keys(adapter="lori_s") == keys(adapter="lori_s", kept=0.1) != keys(adapter="lori_s", kept=0.2)
    points = [TwoHop(adapter=kind, kept=0.2) for kind in ADAPTERS]
    assert [p.kept for p in settled(points, {"kept": (0.2,)})] == [0.1, 0.1, 0.2]
    with pytest.raises(SettingError, match=r"kept: got 0\.2; allowed: no kept= but with adapter=lori_s"):
        settled([TwoHop(kept=0.2)], {"kept": (0.2,)})
    assert plain({name: dial for kind in KINDS.values() for name, dial in kind.dials.items()}).keys() == {"kept"}
    assert {name: it.promises["label"] for name, it in ADAPTERS.items()} == {n: k.label for n, k in KINDS.items()}
