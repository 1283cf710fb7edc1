"""Figures of language models that the paper does not have: drawn from a few rows made up, their numbers those of the
rows and of the theory."""

import importlib
import itertools
import json
import math
import shlex
from typing import Any

import numpy as np
import pytest
from matplotlib.text import Text
from scipy import stats

from lora_reuse.figures import _means, _theory, registry
from lora_reuse.figures.rows import MissingRows, Rows
from lora_reuse.llm.data.facts import triplets
from lora_reuse.llm.pocket.corpus import World
from lora_reuse.llm.pocket.size import Corpus
from lora_reuse.llm.protocols.protocol import main
from lora_reuse.llm.protocols.table import pooled
from lora_reuse.llm.scoring.intervals import mean_over_seeds
from lora_reuse.paper_checks.predictions import limit
from tests.drawn_figures import whole
from tests.rows_of_models import row, write

PAPER = "results/paper"
NAMES = ("bridge_minimum", "model_capacity", "model_overlap", "model_probabilities", "model_scale")
LESS = {
    "bridge_triplets": (0, 1, 5),
    "bridge_templates": (1, 10),
    "steps_share": (0.0, 0.25),
    "relations": ("disjoint", "reversed"),
    "bridge_in": ("first", "second"),
}
OTHER = "someone/a-model-with-a-rather-long-name-7B"
NAMED = {"pocket": "pocket", OTHER: "a-model-with-a-rather-long-name-7B", "results/narrow": "pocket, width 64"}


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)


def module(name):
    return importlib.import_module(f"lora_reuse.figures.{name}")


def data(name, folder):
    return module(name).data(Rows(folder, module(name).NEEDS))


def rows_of(folder):
    return {
        one["hash"]: one for path in folder.glob("*.jsonl") for one in map(json.loads, path.read_text().splitlines())
    }


def made(model, seeds):
    """Rows of each figure, answers and logarithms that differ from cell to cell."""
    for seed in range(seeds):
        of: dict[str, Any] = {"model": model, "seed": seed, "triplets": 4}
        for i, rule in enumerate(("uniform", "arrow")):
            for name, values in LESS.items():
                for j, value in enumerate(values):
                    yield row(
                        "llm_bridge_minimum",
                        [i * j, 0, 1, seed],
                        composition=rule,
                        **of,
                        **{"bridge_triplets": 20, name: value},
                    )
            yield row("llm_bridge_minimum", [2, 2, i, seed], composition=rule, bridge_triplets=20, **of)
        for facts, rank, rule, prompting in itertools.product(
            (2, 4), (2, 16), ("sum", "arrow_after"), ("steps", "first", "second")
        ):
            told = {"update_ratio": 0.1 * rank, "prototype_cos": 0.3}
            alpha = {"pocket": 2}.get(model, 1) * rank
            point: dict[str, Any] = of | {
                "triplets": facts,
                "rank": rank,
                "alpha": alpha,
                "composition": rule,
                "prompting": prompting,
            }
            right = [2 - (prompting == "steps") * (rank < 16), seed] * (facts // 2)
            yield row(
                "llm_bridge", right, setup="2", measured=told, pocket=size(256) if model == "pocket" else None, **point
            )
            if model == "pocket":
                narrow: dict[str, Any] = point | {"model": "results/narrow"}
                yield row("llm_bridge", right, setup="2", measured=told, pocket=size(64), **narrow)
        for library, prompting in (
            ("1", "first"),
            ("2-combination", "second"),
            ("1", "direct"),
            ("2", "direct"),
            ("2-combination", "direct"),
        ):
            for w in (0.0, 0.375, 0.5, 1.0, 2.0):
                right = [2 * (w > 0.4 and prompting != "direct")] * 4
                yield row("llm_scale", right, library=library, prompting=prompting, scale=w, **of)
        for rule, library in (("base", "none"), ("sum", "2-combination")):
            told = {
                f"logp_{name}_by_triplet": [-i - 0.1 * k - (rule == "base") + 0.1 * (2 * seed - 1) for k in range(4)]
                for i, name in enumerate(CANDIDATES)
            }
            yield row(
                "llm_two_hop",
                [0] * 4,
                composition=rule,
                library=library,
                dataset="R",
                prompting="direct",
                measured=told,
                **of,
            )
        for expert, state in ((1, "base"), (1, "sum"), (2, "base"), (2, "sum")):
            told = {
                f"log_ratio_{kind}_by_triplet": [
                    -0.3 * i - 0.05 * k - 0.1 * expert + 0.1 * (2 * seed - 1) for k in range(4)
                ]
                for i, kind in enumerate(KINDS)
            }
            yield row("llm_overlap", [0] * 4, expert=expert, state=state, measured=told | {"r2_linear": 0.61}, **of)


def size(width):
    return {"skill": "other", "seed": 0, "width": width, "feed_forward": 3 * width}


CANDIDATES = ("old", "y", "z", "other", "old_second", "old_first")
KINDS = ("two_hop", "two_hop_other", "same_relation", "same_entity", "unrelated")


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Two seeds of the pocket model, one of another."""
    return write(tmp_path_factory.mktemp("models") / "rows", *made("pocket", 2), *made(OTHER, 1))


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_of_few_rows_is_whole(name, few):
    table = data(name, few)
    assert set(table["model"]) - {NAMED["results/narrow"]} == {"pocket", NAMED[OTHER]}
    assert set(table["row"]) <= set(rows_of(few))
    with registry.picture(module(name), table) as figure:
        whole(figure)
        said = " ".join(text.get_text() for text in figure.findobj(Text))
    assert "$N$ = seeds ×" in said
    assert "$N$ = 2 ×" in said
    assert "$N$ = 1 ×" in said
    caption = module(name).caption(table)
    assert "nan" not in caption


@pytest.mark.parametrize("name", NAMES)
def test_missing_rows_say_a_command_that_works(name, tmp_path, capsys):
    with pytest.raises(MissingRows, match=r"make them with `python -m llm\."):
        data(name, tmp_path)
    (command,) = module(name).NEEDS.values()
    _, _, protocol, *words = shlex.split(command)
    assert main(importlib.import_module(protocol).PROTOCOL, [*words, "dry_run=true"]) == 0
    capsys.readouterr()


def test_familiarity_tells_apart_whom_the_corpus_speaks_of(tmp_path):
    """Planted: everything is right of the familiar people, nothing of the others; a model that knows everybody, and an
    expert trained in another way, are not drawn."""
    known = set(World(Corpus(coverage=0.5), 3).facts["study_in"])
    for seed, (library, prompting) in itertools.product(
        (0, 1), (("mixed", "first"), ("2-combination", "second"), ("oracle", "direct"))
    ):
        people = [fact.b if prompting == "second" else fact.a for fact in triplets("R", seed)[:8]]
        point: dict[str, Any] = {
            "library": library,
            "prompting": prompting,
            "seed": seed,
            "triplets": 8,
            "dataset": "R",
        }
        point["composition"] = "sum" if library == "2-combination" else "alone"
        for coverage, name in ((0.0, "results/none"), (0.5, "results/half"), (1.0, "pocket")):
            made = size(256) | {"seed": 3, "coverage": coverage}
            named: dict[str, Any] = point | {"model": name}
            write(
                tmp_path,
                row("llm_two_hop", [2 * (who in known and coverage > 0) for who in people], pocket=made, **named),
            )
    other: dict[str, Any] = {"model": "results/half", "library": "oracle", "composition": "alone", "rank": 4}
    made = size(256) | {"seed": 3, "coverage": 0.5}
    write(
        tmp_path,
        row("llm_two_hop", [1] * 8, pocket=made, prompting="direct", dataset="R", triplets=8, seed=0, **other),
    )
    both = data("familiarity", tmp_path)
    assert (both["percent"] == 100 * both["familiar"]).all()
    named = {kind: f"pocket, {kind} of the people known, pretraining seed 3" for kind in ("half", "none")}
    table, none = (both[both["model"] == name] for name in named.values())
    assert len(both) == len(table) + len(none) == 6 + 3
    assert not none["familiar"].any()
    assert (table.groupby(["prompting", "composition"])["total"].sum() == 2 * 2 * 8).all()
    with registry.picture(module("familiarity"), both) as figure:
        whole(figure)
    assert f"{named['half']} (coverage=0.5); {named['none']} (coverage=0)" in module("familiarity").caption(both)
    direct: dict[str, Any] = {
        "library": "3-combination",
        "prompting": "direct",
        "triplets": 8,
        "dataset": "R",
        "composition": "sum",
    }
    unable = {"pocket": size(256) | {"seed": 3, "coverage": 0.0}, "model": "results/none"}
    write(tmp_path, row("llm_two_hop", [0] * 8, seed=0, **unable, **direct))
    table = data("familiarity", tmp_path)
    assert set(table[table["void"] != ""]["composition"]) == {"sum"}, (
        "the expert on the pair alone answers nothing either"
    )
    assert set(table["void"]) == {"", "expert alone got 0 of 32"}
    with pytest.raises(MissingRows, match=r"python -m llm\.two_hop model=results/pocket-half dataset=R"):
        data("familiarity", write(tmp_path / "none", row("llm_two_hop", [0] * 8, triplets=8)))


@pytest.mark.parametrize("name", ["bridge_minimum", "model_scale"])
def test_shares_are_those_of_the_rows(name, few):
    rows, table = rows_of(few), data(name, few)
    for line in table.to_dict("records"):
        first = rows[line["row"]]
        group = [one for one in rows.values() if one["settings"] | {"seed": 0} == first["settings"] | {"seed": 0}]
        hits, total, limits = pooled(group)
        low, high = limits or (math.nan, math.nan)
        assert (line["hits"], line["total"], line["seeds"]) == (hits, total, len(group))
        assert (line["low"], line["high"]) == pytest.approx((100 * low, 100 * high), nan_ok=True)
        shares = [f"{100 * one['measured']['hits'] / one['measured']['total']:.4g}" for one in group]
        assert line["by_seed"].split() == shares
        assert line["chance"] == 100 / first["settings"]["triplets"]
        said = {key: line[key] for key in line if key in first["settings"]} | {"model": first["settings"]["model"]}
        assert said.items() <= first["settings"].items()
        assert line["model"] == NAMED[first["settings"]["model"]]


def test_each_panel_varies_one_thing(few):
    table = data("bridge_minimum", few)
    figure = module("bridge_minimum")
    assert list(dict.fromkeys(table["panel"])) == list(LESS)
    for name, values in LESS.items():
        panel = table[(table["panel"] == name) & (table["model"] == "pocket")]
        whole_bridge = 20 if name == "bridge_triplets" else figure.WHOLE[name]
        assert set(panel[name]) == {*values, whole_bridge}
        assert len(panel) == 2 * len(set(panel[name]))
        for other, value in {"bridge_triplets": 20, **figure.WHOLE}.items():
            assert other == name or set(panel[other]) == {value}


def test_capacity_varies_facts_rank_and_width(few):
    rows, table = rows_of(few), data("model_capacity", few)
    assert set(zip(table["of"], table["panel"], strict=True)) == {
        ("pocket", name) for name in ("triplets", "rank", "width")
    } | {(NAMED[model], name) for model in (OTHER, "results/narrow") for name in ("triplets", "rank")}
    for (_, name), panel in table.groupby(["of", "panel"]):
        assert set(panel["value"]) == {"triplets": {2, 4}, "rank": {2, 16}, "width": {64, 256}}[name]
        assert all(panel[other].nunique() == 1 for other in ("triplets", "rank") if other != name)
        assert set(panel["series"]) == {"sum", "arrow_after", module("model_capacity").KEPT}
    for line in table.to_dict("records"):
        group = [rows[hash] for hash in line["rows"].split()]
        assert {one["settings"]["prompting"] for one in group} == (
            {"steps"} if line["series"] in ("sum", "arrow_after") else {"first", "second"}
        )
        assert line["hits"] == sum(one["measured"]["hits"] for one in group)
        assert line["update_ratio"] == pytest.approx(0.1 * line["rank"])
    wide = table[(table["panel"] == "width") & (table["value"] == 256)].iloc[0]
    v = np.random.default_rng(0).standard_normal((2, 4000, 256))
    alike = np.abs((v[0] * v[1]).sum(-1)) / np.linalg.norm(v[0], axis=-1) / np.linalg.norm(v[1], axis=-1)
    assert wide["random_cos"] == pytest.approx(alike.mean() * (2 + 3**-0.5) / 3, rel=0.03)


def test_an_axis_without_rows_has_no_panel(tmp_path):
    rows = [one for one in made("pocket", 1) if one["experiment"] == "llm_bridge_minimum"]
    some = [one for one in rows if one["settings"]["steps_share"] == 1.0 and one["settings"]["bridge_in"] == "both"]
    assert set(data("bridge_minimum", write(tmp_path / "some", *some))["panel"]) == {
        "bridge_triplets",
        "bridge_templates",
        "relations",
    }
    with pytest.raises(MissingRows, match="bridge_triplets=0,1,2,5,10,20"):
        data("bridge_minimum", write(tmp_path / "one", rows[0]))


def test_flips_are_those_of_the_theory(few):
    table = data("model_scale", few)
    assert set(table[table["prompting"] != "direct"]["flip"]) == {0.5}
    _, second, other = _theory.coefficients()
    assert set(table[table["prompting"] == "direct"]["flip"]) == {(1 + 3 * other) / second}
    # At that w the second expert alone has z pass the old answer: w times what it adds to z is 1.
    assert (1 + 3 * other) / second * limit.outputs(4)["z"] == pytest.approx(1)


def test_log_probabilities_are_means_over_seeds(few):
    table = data("model_probabilities", few).set_index(["model", "composition", "candidate"])
    seeds = np.array([np.mean([-2 - 0.1 * k for k in range(4)]) + shift for shift in (-0.1, 0.1)])
    cell = table.loc[("pocket", "sum", "z")]
    half = stats.t.ppf(0.975, 1) * seeds.std(ddof=1) / math.sqrt(2)  # more than within seeds; a seed is the unit
    assert (cell["measured"], cell["low"], cell["high"]) == pytest.approx(
        (seeds.mean(), seeds.mean() - half, seeds.mean() + half)
    )
    assert (cell["facts"], cell["seeds"], cell["triplets"]) == (4, 2, 4)
    assert [float(mean) for mean in cell["by_seed"].split()] == pytest.approx(seeds)
    assert math.isnan(table.loc[(NAMED[OTHER], "sum", "z"), "low"]), "one seed has no interval"
    assert table.loc[("pocket", "base", "z"), "measured"] == pytest.approx(cell["measured"] - 1)
    outputs = limit.outputs(4)
    assert {name: table.loc[("pocket", "sum", name), "predicted"] for name in CANDIDATES} == pytest.approx(outputs)
    assert list(CANDIDATES) == sorted(outputs, key=lambda name: -round(outputs[name], 9))
    assert table.loc[("pocket", "base", "old"), "predicted"] == 1
    assert table.loc[("pocket", "base", "y"), "predicted"] == 0


def test_means_of_seeds_that_agree_have_the_interval_of_the_verdicts():
    seeds = [np.array([-3.0, 1.0, 2.0]), np.array([-3.1, 1.1, 2.0])]
    found = _means.over_seeds(seeds, np.exp)
    mean = mean_over_seeds(seeds)
    assert mean
    limits = mean.limits()
    assert found["low"] == pytest.approx(math.exp(limits.low))
    assert found["high"] == pytest.approx(math.exp(limits.high))
    assert found["high"] > 1 > found["low"]


def test_rows_without_log_probabilities_are_not_drawn(tmp_path):
    folder = write(
        tmp_path / "rows", row("llm_two_hop", [0] * 4, composition="sum", library="2-combination", prompting="direct")
    )
    with pytest.raises(MissingRows, match="no rows of llm_two_hop"):
        data("model_probabilities", folder)
    told = {f"logp_{name}_by_triplet": [-1.0, -2.0] for name in CANDIDATES}
    write(
        folder,
        row(
            "llm_two_hop",
            [0] * 2,
            composition="sum",
            library="2-combination",
            prompting="direct",
            dataset="F",
            measured=told,
        ),
    )
    assert set(data("model_probabilities", folder)["measured"]) == {-1.5}


def test_ratios_are_geometric_means_beside_the_theorys(few):
    table = data("model_overlap", few).set_index(["model", "expert", "state", "kind"])
    cell = table.loc[("pocket", 2, "base", "same_relation")]
    assert cell["measured"] == pytest.approx(math.exp(np.mean([-0.6 - 0.05 * k - 0.2 for k in range(4)])))
    assert cell["low"] < cell["measured"] < cell["high"]
    assert cell["r2"] == pytest.approx(0.61)
    for expert in (1, 2):
        for kind in KINDS:
            assert table.loc[("pocket", expert, "sum", kind), "predicted"] == limit.ratio(expert, kind, 4)


def test_a_falsified_row_gives_another_figure(few, tmp_path):
    for name in NAMES:
        rows = list(rows_of(few).values())
        for one in rows:
            for key, value in one["measured"].items():
                if key.endswith("_by_triplet") and isinstance(value[0], float):
                    one["measured"][key] = [-2 * each for each in value]
            one["measured"]["hits"] += 1
        folder = write(tmp_path / name, *rows)
        before, after = data(name, few), data(name, folder)
        column = "measured" if "measured" in before else "percent"
        assert (before[column] != after[column]).mean() > 0.9
