"""The figures of what experts keep, of where a chain breaks, of wordings, of a new hop before a known one, of how many
skills compose and of how large a bridge is: their numbers are those of rows made up, and they are drawn whole."""

import importlib

import pytest

from lora_reuse.figures import registry
from lora_reuse.figures.rows import MissingRows, Rows
from lora_reuse.figures.tables import skill_rules
from lora_reuse.llm.data.skill_sets import FORMS
from tests.drawn_figures import whole
from tests.rows_of_models import row, write


def of(name, folder):
    module = importlib.import_module(f"lora_reuse.figures.{name}")
    return module, module.data(Rows(folder, module.NEEDS))


def kept(library, composition, by_expert, seed):
    measured = {"by_expert": by_expert, "asked_of_each": [4] * len(by_expert)}
    measured |= {"group_sizes": [4] * len(by_expert), "total": 4 * len(by_expert)}
    return row("llm_own_answers", by_expert, seed=seed, library=library, composition=composition, measured=measured)


def test_what_experts_keep_is_counted_for_each(tmp_path):
    rows = [kept("1", "alone", [4], 0), kept("12", "ties", [1, 0], 0), kept("12", "sum", [1, 2], 0)]
    rows += [kept("12", "sum", [2, 2], 1), kept("123", "sum", [0, 0, 1], 0), kept("135", "sum", [2, 2, 2], 0)]
    module, table = of("own_answers", write(tmp_path / "rows", *rows))
    cells = table.set_index(["library", "composition"])
    assert cells.loc[("12", "sum"), "each"] == "37.5 50"
    assert cells.loc[("12", "sum"), ["least", "most", "percent"]].tolist() == [37.5, 50, 43.75]
    assert "135" not in set(table["library"])  # only the libraries that grow by one are in the figure
    assert "An expert alone answers 100 % of its own." in " ".join(module.caption(table).split())
    with registry.picture(module, table) as figure:
        whole(figure)


def links(split, direct, back, seed, layers="mlp"):
    lenses = {name: [0.0, 0.5, value] for name, value in (("y_at_x", 0.25), ("y_at_end", 1.0), ("z_at_end", 0.25))}
    patches = {"patched": [0.75, 0.5], "other_follows": [1.0, 0.0], "other_patched": [0.0, 0.0]}
    pairs = {"back_pairs": [[1, 0], [2, 0]], "back_at_x": back, "back_at_x_other": [0.25, 0.125]}
    measured = {"direct": direct, "first": 1.0, "second": 1.0, **lenses, **patches, **pairs}
    said = {"library": "2-combination", "composition": "sum", "layers": layers}
    return row("llm_links", [1, 1], split=split, seed=seed, measured=measured, **said)


def test_the_pair_of_blocks_is_chosen_on_other_wordings(tmp_path):
    rows = [links("test", direct, [0.0, 1.0], seed) for seed, direct in enumerate((0.0, 0.5))]
    rows += [links("dev", 0.0, [0.5, 0.25], seed) for seed in (0, 1)]
    rows += [links("test", 0.5, [1.0, 1.0], 0, layers="lower/upper")]
    module, table = of("links", write(tmp_path / "rows", *rows))
    usual = table[table["layers"] == "mlp"].set_index("quantity")
    assert usual.loc["direct", "measured"] == 25
    assert usual.loc["back", "measured"] == 0  # the best on dev is the first pair, not the best on test
    assert usual.loc["back_other", "measured"] == 25
    assert usual.loc["y_at_end", "depth"].tolist() == [0, 0.5, 1]
    assert usual.loc["patched", "depth"].tolist() == [0, 0.5]
    assert not set(table[table["layers"] == "lower/upper"]["quantity"]) & {"back", "back_other"}  # dev was not asked
    said = " ".join(module.caption(table).split())
    alone = module.caption(table[table["quantity"] != "patched_dev"])
    assert "dev wordings" not in alone, "where dev was not asked"
    assert "y leads at x in 50 % of the questions and at the answer in 100 %; with y's state put in, z leads in" in said
    assert " z leads in 75 % (75 % in the dev wordings)" in said
    with registry.picture(module, table) as figure:
        whole(figure)


def worded(split, right, seed, prompting="steps", **settings):
    return row(
        "llm_bridge", right, setup="2", composition="sum", seed=seed, split=split, prompting=prompting, **settings
    )


def test_wordings_are_compared_over_the_seeds_that_were_asked_both(tmp_path):
    rows = [worded("test", right, seed) for seed, right in enumerate(([2, 2], [2, 0], [2, 2]))]
    rows += [worded("dev", right, seed) for seed, right in enumerate(([0, 1], [2, 0]))]
    rows += [worded("dev", [0, 0], 0, "first"), worded("test", [0, 0], 1, "first")]  # no seed was asked both
    rows += [worded("test", [1, 0], 0, "direct"), worded("dev", [0, 2], 0, "direct")]
    module, table = of("wordings", write(tmp_path / "rows", *rows))
    cells = table.set_index("prompting")
    assert cells.loc["steps", ["seeds", "test", "dev", "measured"]].tolist() == [2, 75, 37.5, 37.5]
    assert cells.loc["steps", "by_seed"] == "75 0"
    assert cells.loc["direct", ["measured", "seeds"]].tolist() == [-25, 1]
    assert cells.loc["direct", ["low", "high"]].isna().all(), "one seed has no interval"
    assert "first" not in cells.index
    said = " ".join(module.caption(table).split())
    assert "is step by step +37.5 points [-439.0, 514.0]." in said, "75 and 0, a mean of two seeds"
    with registry.picture(module, table) as figure:
        whole(figure)


def coupled(right, second, seed, chat="on", **settings):
    measured = {"first_kept": 3, "second_kept": second, "permuted": 0.5}
    said = {"fact": "birth_country", "names": "fake", "rate": 0.001, "steps": 150, "chat": chat, **settings}
    return row("llm_semi_synthetic", right, seed=seed, measured=measured, **said)


def test_what_the_base_knows_stands_beside_what_the_adapter_chains(tmp_path):
    alone, base = {"library": "1", "composition": "alone"}, {"library": "none", "composition": "base"}
    rows = [coupled([0, 1, 0, 0], 1, 0, **alone), coupled([0, 0, 0, 0], 8, 0, **base)]
    rows += [coupled([1, 1, 0, 0], 3, 0, replay=True, **alone), coupled([0, 0, 0, 0], 3, 1, **base)]
    rows += [coupled([1, 0, 0, 0], 3, 0, "off", **alone), coupled([0, 0, 0, 0], 1, 0, "off", **base)]
    module, table = of("semi_synthetic", write(tmp_path / "rows", *rows))
    cells = table.set_index(["replay", "asked"])
    assert cells.loc[("false", "both"), "percent"] == 12.5
    assert cells.loc[("true", "both"), "percent"] == 25
    assert cells.loc[("true", "dealt"), "percent"] == 6.25
    assert cells.loc[("true", "known"), ["percent", "seeds"]].tolist() == [100, 1]  # of the seeds of the adapter
    assert set(table["chat"]) == {"on"}  # without a chat template the base says too little
    assert "couples alone: rate 0.001, 150 steps" in " ".join(module.caption(table).split())
    with registry.picture(module, table) as figure:
        whole(figure)


def skilled(asked, right, seed=0, library="asked", composition="sum"):
    formed = {asked: sum(right)} if library == asked in FORMS else {}
    settings = {"seed": seed, "asked": asked, "library": library, "composition": composition}
    return row("llm_skill_sets", right, measured=formed, **settings)


def test_sets_of_as_many_skills_are_taken_together_seed_by_seed(tmp_path):
    """By hand: of two sets with the fact, 4 and 2 of 4 answers are right in one seed, 3 and 1 in the other."""
    rows = [skilled("homes+code", [2, 2], 0), skilled("homes+style", [2, 0], 0)]
    rows += [skilled("homes+code", [1, 2], 1), skilled("homes+style", [0, 1], 1)]
    rows += [skilled("code+style", [0, 1], seed) for seed in (0, 1)] + [skilled("homes+call", [0, 0], 0)]
    rows += [skilled("homes+code", [0, 0], 0, "homes", "alone")]
    rows += [skilled(f"homes+{form}", [1, 1], 0, "mixed", "alone") for form in ("code", "call", "style")]
    rows += [skilled("call", [0, 0], 0, "call", "alone"), skilled("homes", [2, 2], 0, "homes", "alone")]
    rows += [
        skilled("homes+code", [2, 2], 0, composition="linear"),
        skilled("code+style", [0, 0], 0, "oracle", "alone"),
    ]
    rows += [skilled(form, [2, 2], 0, form, "alone") for form in ("code", "style")]
    for one in rows:  # as rows are on disk: without what is at its default
        del one["settings"]["learn_share"]
    rows += [row("llm_skill_sets", [1, 1], asked="code+style", composition="cat:own", learn_share=0.2)]
    rows += [skilled("code+style", [2, 1], composition="lego")]
    rows += [skilled(f"homes+{form}", [2, 1], composition="ties") for form in ("code", "call", "style")]
    module, table = of("skill_sets", write(tmp_path / "rows", *rows))
    cells = table.set_index(["panel", "skills", "composition"])
    fact = cells.loc[("fact", "2", "sum")]
    assert (fact["hits"], fact["total"], fact["by_seed"], fact["sets"]) == (10, 16, "75 50", 2)  # without homes+call
    assert cells.loc[("forms", "2", "sum"), "by_seed"] == "25 25"
    assert not cells["unmeasured"].any()
    assert ("fact", "2", "linear") not in cells.index  # it was asked one set of three
    assert cells.loc[("pairs", "homes+code", "sum"), "percent"] == pytest.approx(700 / 8)
    assert cells.loc[("pairs", "homes+call", "sum"), "void"] == "call alone got 0 of 4"
    assert cells.loc[("fact", "2", "joint"), "percent"] == 50
    assert ("forms", "2", "cat:own") not in cells.index  # it learned from more than others
    assert ("forms", "2", "lego") not in cells.index  # which is in the table alone
    lines = skill_rules.table(Rows(tmp_path / "rows", module.NEEDS)).reset_index().to_dict("records")
    by_rule = {(line["composition"], line["asked at once"]): line for line in lines}
    numbers = {key: [cell[name] for name in ("hits", "total", "by_seed")] for key, cell in by_rule.items()}
    both = "two skills, the fact among them"
    assert numbers["lego", "two forms"] == [3, 4, "75"]
    assert numbers["sum", both] == [10, 16, "75 50"]
    assert numbers["ties", both] == [6, 8, "75"]  # without homes+call, too, of which it has three quarters
    assert all(cell["rows"] == cell["row"] for cell in lines)  # of hundreds
    said = by_rule["lego", both]["fill"]
    assert said.startswith("python -m llm.skill_sets composition=lego model=")
    with registry.picture(module, table) as figure:
        whole(figure)


def bridged(choice, examples, right, seed=0, rule="sum"):
    about = {"choice": choice, "examples": examples, "composition": rule, "seed": seed, "bridge_in": "first"}
    return [row("llm_bridge_examples", right, prompting="steps", **about)] + [
        row("llm_bridge_examples", kept, prompting=hop, **about)
        for hop, kept in (("first", [2, 2]), ("second", [2, 1]))
    ]


def test_few_examples_stand_between_none_and_the_whole_bridge_of_the_same_seeds(tmp_path):
    rows = [
        one for seed in (0, 1) for one in bridged("compiled", 16, [2, seed], seed) + bridged("random", 16, [1, 0], seed)
    ]
    rows += bridged("compiled", 16, [0, 0], rule="average")
    for setup, right in (("0", [0, 0]), ("4", [2, 2])):
        settings = {"setup": setup, "composition": "sum"}
        rows += [row("llm_bridge", right, prompting="steps", seed=seed, **settings) for seed in (0, 1)]
        rows += [
            row("llm_bridge", [2, 2], prompting=hop, seed=seed, **settings)
            for hop in ("first", "second")
            for seed in (0, 1)
        ]
        rows += [row("llm_bridge", [1, 1], prompting="steps", seed=2, **settings)]  # a seed that few examples have not
    rows += [row("llm_methods", [2, 1], setup="2", library="data_mix", composition="alone", prompting="steps")]
    of_rules = [{"setup": setup, "composition": "sum", "seed": seed} for setup in "02" for seed in range(3)]
    rows += [row("llm_methods", [0, 0], library="pair", prompting="steps", **settings) for settings in of_rules]
    module, table = of("bridge_examples", write(tmp_path / "rows", *rows))
    cells = table.set_index(["composition", "asked", "choice", "examples"]).sort_index()
    assert cells.loc[("sum", "steps", "compiled", 16), "by_seed"] == "50 75"
    assert cells.loc[("sum", "own", "random", 16), "by_seed"] == "87.5 87.5"
    assert list(cells.loc[("sum", "steps", "random")].index) == [0, 16, 2760]
    assert list(cells.loc[("sum", "steps", "compiled")].index) == [0, 16]
    assert cells.loc[("sum", "steps", "random", 2760), "by_seed"] == "100 100"
    assert set(table["joint"].dropna()) == {75}
    said = " ".join(module.caption(table).split())
    assert (
        "The dotted line is reached by sum with 2760 random ones. Not drawn, because nothing is right, is average."
        in said
    )
    with registry.picture(module, table) as figure:
        whole(figure)


def controlled(condition, right, composition="sum", prompting="steps", **settings):
    settings = {"condition": condition, "composition": composition, "prompting": prompting, **settings}
    return row("llm_bridge_controls", right, **settings)


def test_an_adapter_alone_and_the_base_stand_beside_every_rule(tmp_path):
    rows = [controlled("bridge", [2, seed], rule, seed=seed) for rule in ("sum", "arrow") for seed in (0, 1)]
    rows += [controlled("expert_1", [0, 1], "alone"), controlled("first_given", [1, 1], "base")]
    rows += [
        controlled("bridge", [1, 1], "base"),  # with nothing stated the base says nothing of the bridge
        controlled("first_given", [2, 2], beside=3),  # a harder question
        controlled("bridge", [1, 1], prompting="second"),  # no two hops
    ]
    module, table = of("bridge_controls", write(tmp_path / "rows", *rows))
    cells = table.set_index(["rule", "condition", "asked"])
    assert len(cells) == 6
    for rule in ("sum", "arrow"):
        assert cells.loc[(rule, "bridge", "steps"), "by_seed"] == "50 75"
        assert cells.loc[(rule, "expert_1", "steps"), "percent"] == 25
        assert cells.loc[(rule, "first_given", module.BASE), "percent"] == 50
    with registry.picture(module, table) as figure:
        whole(figure)


@pytest.mark.parametrize(
    "name",
    [
        "own_answers",
        "links",
        "semi_synthetic",
        "skill_sets",
        "bridge_controls",
        "bridge_examples",
        "exposure",
        "chains",
    ],
)
def test_without_rows_the_command_is_said(name, tmp_path):
    with pytest.raises(MissingRows, match=f"python -m llm.{name}"):
        of(name, write(tmp_path / "rows"))


def reading(exposure, seed, people, prompting, right, known=(), met=()):
    measured = {"known": 2 * sum(known or [1] * len(right)), "permuted_known": 0.5}
    measured |= {"known_by_group": list(known or [1] * len(right)), "met_by_group": list(met or [0] * len(right))}
    hits = sum(one for one, yes in zip(right, measured["known_by_group"], strict=True) if yes)
    made = {"width": 256, "seed": seed, "direct": 3.0} | ({"exposure": exposure} if exposure else {})
    name = f"pocket-exposure-{exposure}-{seed}"
    return row(
        "llm_exposure",
        right,
        model=name,
        weights=f"{exposure}-{seed}",
        pocket=made,
        people=people,
        prompting=prompting,
        measured=measured | {"hits_known": hits},
    )


def test_whom_composition_reaches_is_counted_of_the_known_by_pretraining_seed(tmp_path):
    rows = [
        reading(
            exposure, seed, people, prompting, [2, 2, 2, 1] if people == "chained" or prompting == "steps" else [0] * 4
        )
        for exposure in (0.25, 0.5)
        for seed in (0, 1)
        for people in ("chained", "never")
        for prompting in ("direct", "steps")
    ]
    rows += [reading(0, seed, "never", "direct", [2, 0, 0, 1], [1, 1, 1, 0]) for seed in (0, 1)]
    rows += [reading(0.75, 0, "never", "direct", [2, 0, 1, 0], met=[0, 1, 1, 0])]
    rows += [reading(0.75, 0, "chained", "direct", [2, 0, 0, 0])]
    other = reading(0.5, 7, "never", "direct", [2, 2, 2, 2])
    other["provenance"]["pocket"]["width"] = 64
    module, table = of("exposure", write(tmp_path / "rows", *rows, other))
    cells = table.set_index(["prompting", "exposure", "people"])
    assert cells.loc[("direct", 0.5, "never"), ["hits", "total", "seeds"]].tolist() == [0, 16, 2]
    assert cells.loc[("direct", 0.5, "chained"), "percent"] == 87.5
    assert cells.loc[("direct", 0.0, "never"), ["hits", "total", "by_seed"]].tolist() == [4, 12, "33.33 33.33"]
    assert cells.loc[("direct", 0.0, "dealt anew"), "percent"] == pytest.approx(100 / 12)
    assert cells.loc[("direct", 0.75, "never, spouse met"), ["hits", "total"]].tolist() == [1, 4]
    assert ("direct", 0.0, "chained") not in cells.index
    void = table[table["void"] != ""]
    assert set(zip(void["exposure"], void["prompting"], strict=True)) == {(0.75, "direct")}
    assert "the chained people: 3 cells" in " ".join(module.caption(table).split())
    with registry.picture(module, table) as figure:
        whole(figure)


def asked_chain(hops, right, known, library="experts", composition="sum", prompting="steps", bridge="all", **settings):
    """A row about four chains, whose known ones are said."""
    settings = {"hops": hops, "library": library, "composition": composition, **settings}
    kept = [hits for hits, there in zip(right, known, strict=True) if there]
    measured = {"known": 2 * sum(known), "hits_known": sum(kept), "known_by_group": list(known), "permuted_known": 0.5}
    settings |= {"prompting": prompting, "bridge": bridge}
    return row("llm_chains", right, measured=measured, **settings)


def test_chains_count_where_every_hop_is_known_and_are_void_where_none_is(tmp_path):
    rows = [asked_chain(2, [2, 1, 0, seed], [1, 1, 0, 1], seed=seed) for seed in (0, 1, 2)]
    rows += [asked_chain(3, [2, 2, 2, 2], [0, 0, 0, 0], seed=seed) for seed in (0, 1)]
    rows += [asked_chain(4, [0, 0, 0, 0], [1, 1, 1, 1])]
    rows += [asked_chain(2, [2, 2, 1, 1], [0, 0, 0, 0], "oracle", "alone", "direct", "none")]
    rows += [
        asked_chain(hops, [2 - (hops == 4)] * 3 + [0], [1] * 4, "joint", "alone", seed=seed)
        for hops in (2, 3, 4)
        for seed in (0, 1)
    ]
    module, table = of("chains", write(tmp_path / "rows", *rows))
    cells = table.set_index(["composition", "hops"])
    assert cells.loc[("sum", 2), "by_seed"] == "50 66.67 83.33"
    assert (cells.loc[("sum", 2), "known"], cells.loc[("joint", 3), "percent"]) == (75, 75)
    assert cells.loc[("sum", 3), "void"] == module.UNKNOWN
    assert cells.loc[("sum", 4), "void"] == "one expert on everything got 6 of 16"
    assert cells.loc[(module.DEALT, 2), "percent"] == pytest.approx(100 / 12)
    assert (cells.loc[("oracle", 2), "percent"], cells.loc[("oracle", 2), "void"]) == (75, "")
    with registry.picture(module, table) as figure:
        whole(figure)
    known = table[(table["prompting"] == "steps") & (table["composition"] == "sum")].sort_values("hops")["known"]
    assert list(known) == [75, 0, 100]
