"""Dials from signatures: what is read from the source is what is imported, and what a row and a command make of it."""

import dataclasses
import itertools
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
    GIVEN,
    IN_ROWS,
    TO_LEARN,
    WORDS,
    made_with,
    of_point,
    read_by,
    reads,
    refuse_settings,
    settled,
)
from lora_reuse.llm.protocols.protocol import main
from lora_reuse.llm.protocols.settings import Bridge, Composed, Model, Options, Scale, Training, TwoHop, preset_dials
from lora_reuse.llm.skill_sets import SkillSets
from lora_reuse.llm.two_hop import PROTOCOL
from lora_reuse.runs.dials import Declared, Dial, declared, dials, every, import_all
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
        with pytest.raises(
            SettingError, match=r"^sum: got a rule of .*test_dials with the name of one of lora_reuse.llm"
        ):
            rule(**promises)(sum_)
    finally:
        GIVEN.pop("scaled", None)
        RULES.pop("scaled", None)


HEAD = """
from typing import Annotated
from lora_reuse.runs.settings import Number
Share = Annotated[float, Number(0, 1), "of the sum"]
"""
NAMES = itertools.count()


def module_of(folder, monkeypatch, content):
    """The name of a package with one module of this content."""
    package = f"package_{next(NAMES)}"
    for path in (folder / package, folder / package / "rules"):
        path.mkdir()
        (path / "__init__.py").touch()
    (folder / package / "rules" / "mine.py").write_text(HEAD + content)
    monkeypatch.syspath_prepend(folder)
    return f"{package}.rules"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("def mine(:", r"rules: got mine\.py \(SyntaxError: .*mine\.py, line 5\)\); allowed: a file that runs"),
        (
            "@rule()\ndef mine(x, *, part=0.5): ...",
            r"rules: got mine\.py, line 6 \(TypeError: .*: part should be part: A",
        ),
        ("@rule()\ndef mine(x, *, part: Shar = 0.5): ...", r"rules: got mine\.py, line 6 \(NameError: name 'Shar'"),
        (
            "@rule\ndef mine(x): ...",
            r"rules: got mine\.py, line 5 \(TypeError: @rule stands without its promises, as in",
        ),
        (
            "@rule()\ndef mine(x): ...\n@rule()\ndef mine_(x): ...",
            r"mine: got two of this name \(rules/mine\.py, line 6; rules/mine\.py, line 8\); allowed: names of",
        ),
    ],
)
def test_mistakes_in_a_module_of_rules_are_one_line(content, said, tmp_path, monkeypatch):
    """Nothing of it is imported, so that they are said before anything runs."""
    with pytest.raises(SettingError, match=f"^{said}"):
        declared(module_of(tmp_path, monkeypatch, content), "rule")


def test_a_dial_of_one_name_is_one_dial(tmp_path, monkeypatch):
    package = module_of(tmp_path, monkeypatch, "@rule()\ndef mine(x, *, density: Share = 0.7): ...")
    with pytest.raises(
        SettingError,
        match=r"^density: got one of \w+ \(compositions/\S+, line \d+\) and another of mine \(rules/mine\.py",
    ):
        every(GIVEN, declared(package, "rule"))


def test_a_module_that_cannot_be_imported_is_one_line(tmp_path, monkeypatch):
    package = module_of(tmp_path, monkeypatch, "import nowhere_at_all")
    with pytest.raises(
        SettingError,
        match=r"^rules: got mine\.py, line 5 \(ModuleNotFoundError: .*'nowhere_at_all'\); .*; what it imports has",
    ):
        import_all(package, str(tmp_path / package.replace(".", "/")))


@pytest.mark.parametrize(
    ("known", "name", "points"),
    [
        (GIVEN, "alpha", TwoHop),
        (GIVEN, "workers", TwoHop),
        (GIVEN, "kept", TwoHop),  # of a kind of adapter
        (TO_LEARN, "rank", Bridge),
        (ADAPTERS, "rate", Training),
    ],
)
def test_a_dial_may_not_have_the_name_of_a_setting(known, name, points, monkeypatch):
    """Its default would train the experts of every rule anew."""
    refuse_settings(points, Options)
    dial = Dial(Number(0, 1), 0.5, "a share")
    monkeypatch.setitem(known, "mine", Declared({name: dial}, {}, "", "folder/mine.py, line 3"))
    with pytest.raises(
        SettingError,
        match=rf"^{name}: got the name of a setting for a dial of mine \(folder/mine\.py, line 3\); allowed",
    ):
        refuse_settings(points, Options)
    if known is not ADAPTERS:
        refuse_settings(Model, Options)  # no dial is in its rows


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


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "composition=cat weights=1:2:3",
            "weights: got 3 (1.0:2.0:3.0); allowed: one for each of the 2 experts, joined",
        ),
        (
            "composition=cat weights=1,2",
            "weights: got 1 (1.0); allowed: one for each of the 2 experts, joined by : in a",
        ),
        ("composition=cat weights=0-1=1:2/2-3=1", "weights: got 1 (1.0); allowed: one for each of the 2 experts"),
        ("composition=cat weights=0-1=1:2/rest=1:2:3", "weights: got 3 (1.0:2.0:3.0); allowed: one for each of the 2"),
        ("composition=arrow,sum top_k=3", "top_k: got 3; allowed: at most 2, the experts"),
        ("composition=genknowsub,sum general=2", "general: got 2; allowed: fewer than the 2 experts; name the general"),
        ("composition=genknowsub,sum general=1", ""),
        ("composition=arrow:swapped,sum top_k=2", ""),
        ("composition=cat,sum weights=1:2", ""),
        ("composition=cat weights=0-1=1:2/rest=2:1", ""),
    ],
)
def test_a_dial_that_does_not_fit_the_library_is_refused_before_anything_is_trained(words, said, capsys):
    grid = [*words.split(), "library=2-combination", "prompting=direct", "dataset=R", "dry_run=true"]
    assert main(PROTOCOL, grid) == (2 if said else 0)
    assert said in capsys.readouterr().err


def test_a_row_says_dials_that_its_rule_does_not_read():
    """As the temperature, which every row has; none of these is a setting of experts or questions."""
    router = {"temperature", "top_k", "normalise"}
    for how, read in (("arrow:swapped", router), ("ties", {"density", "trim"}), ("sum", set())):
        assert reads(how) == {"scale", *read}, how
    assert reads("base") == reads("alone") == set()
    assert reads("cat:own") == {"scale", "granularity", "learn_rate", "learn_steps", "learn_tries", "learn_share"}
    assert (
        reads("mine@12345678")
        == IN_ROWS
        == {*router, "density", "trim", "then", "gain", "general", "merged_rank"} | {*("weights", *reads("cat:own"))}
    )


def test_an_axis_of_weights_has_colons_in_it():
    axes, _ = parse(["composition=cat", "weights=0.3:0.7,1:1"], TwoHop, Options)
    assert axes["weights"] == ((0.3, 0.7), (1.0, 1.0))


def test_every_rule_has_a_scale_and_what_is_not_composed_has_none():
    points = [TwoHop(composition=how, scale=w) for how in ("ties", "cat:own", "base", "alone") for w in (0.5, 1.0)]
    found = settled(points, {"scale": (0.5, 1.0)})
    assert [(p.composition, p.scale) for p in found] == [
        *(("ties", w) for w in (0.5, 1.0)),
        *(("cat:own", w) for w in (0.5, 1.0)),
        ("base", 1.0),
        ("alone", 1.0),
    ]
    assert "scale" not in settings_of((TwoHop(composition="ties"), 0))
    assert "scale" in settings_of((Scale(), 0))
    kept = settled([SkillSets(composition=how, learn_share=0.2) for how in ("sum", "cat:own")], {})
    assert [p.learn_share for p in kept] == [SkillSets.learn_share, 0.2]


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
