"""Whether an expert can store a fact about someone its base has never read of

Facts about real people, on a pocket model whose corpus does not speak of all of them (`coverage=`): right answers by
whether it speaks of the person."""

import dataclasses
import functools
import math
from typing import Any

import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lora_reuse.figures import _cells, _groups, _names, _shares, style
from lora_reuse.figures.rows import Rows
from lora_reuse.llm.data.facts import triplets
from lora_reuse.llm.pocket.corpus import World, tested
from lora_reuse.llm.pocket.size import Corpus
from lora_reuse.llm.protocols.controls import ENOUGH
from lora_reuse.llm.protocols.table import pooled

NEEDS = {"llm_two_hop": "python -m llm.two_hop model=results/pocket-half dataset=R"}
ASKED = {"first": "hop 1: A's spouse", "second": "hop 2: B's home", "direct": "two hops, directly"}
"""Of the second hop the person is B, else A."""
RULES = ("alone", "uniform", "average", "sum", "arrow", "arrow_after")
AXES = ("library", "composition", "prompting")
LIBRARIES = {(library, hop) for library in ("mixed", "2-combination") for hop in ("first", "second")}
LIBRARIES |= {("oracle", "direct"), ("3-combination", "direct")}


def data(rows: Rows) -> pandas.DataFrame:
    """Hits by model, what is asked, composition, and whether the corpus speaks of the person; `alone` is an expert
    trained on what is asked."""
    groups, _ = _groups.grouped(rows, ["llm_two_hop"], AXES, dataset="R", **_groups.PLAIN)
    partly = {key: group for key, group in groups.items() if _coverage(group) < 1}
    names, lines = _groups.called(partly), []
    for (model, library, composition, prompting), group in partly.items():
        if (library, prompting) in LIBRARIES and composition in RULES:
            said = {"model": names[model], "coverage": _coverage(group), "library": library, "composition": composition}
            said |= {"prompting": prompting}
            lines += [
                said | {"familiar": familiar} | share
                for familiar in (True, False)
                if (share := _share(group, prompting, familiar))
            ]
    if not lines:
        raise rows.missing("llm_two_hop", model="results/pocket-half", dataset="R")
    table = _void(pandas.DataFrame(lines))
    order = {name: i for i, name in enumerate((*ASKED, *RULES))}
    return table.sort_values(
        ["model", "prompting", "composition"],
        key=lambda column: column.map(order) if column.name != "model" else column,
    )


def _coverage(group: pandas.DataFrame) -> float:
    """The share of the people of whom the model's corpus speaks; 1 of a model that no corpus of ours has."""
    made = group.get("provenance.pocket.coverage", pandas.Series(dtype=float)).dropna()
    return float(made.iloc[0]) if len(made) else 1.0


def _void(table: pandas.DataFrame) -> pandas.DataFrame:
    """A rule's share is void where an expert alone cannot answer the same questions about the same people
    (`llm.protocols.controls`)."""
    key = lambda line: (line["model"], line["prompting"], line["familiar"])  # noqa: E731
    lines = table.to_dict("records")
    alone = {key(line): line for line in lines if line["composition"] == "alone"}
    void = []
    for line in lines:
        control = alone.get(key(line), line)
        failed = control is not line and max(control["percent"], line["percent"]) < 100 * ENOUGH
        void.append(f"expert alone got {control['hits']} of {control['total']}" if failed else "")
    return table.assign(void=void)


def _share(group: pandas.DataFrame, prompting: str, familiar: bool) -> dict[str, Any]:
    """Hits of the triplets whose person the corpus speaks of, or does not, over the group's seeds; a triplet of a seed
    is a cluster. Nothing where there are none."""
    counts = []
    for line in group.to_dict("records"):
        made = {
            str(name).removeprefix("provenance.pocket."): value
            for name, value in line.items()
            if str(name).startswith("provenance.pocket.")
        }
        known = _familiar(
            Corpus(
                **{
                    f.name: made[f.name]
                    for f in dataclasses.fields(Corpus)
                    if f.name in made and not pandas.isna(made[f.name])
                }
            ),
            int(made["seed"]),
        )
        facts = triplets("R", line["settings.seed"])[: line["settings.triplets"]]
        right = [
            hits
            for fact, hits in zip(facts, line["measured.by_triplet"], strict=True)
            if ((fact.b if prompting == "second" else fact.a) in known) == familiar
        ]
        each = line["measured.total"] // len(facts)
        counts.append({"measured": {"hits": sum(right), "total": each * len(right), "by_triplet": right}})
    counts = [count for count in counts if count["measured"]["total"]]
    if not counts:
        return {}
    hits, total, limits = pooled(counts)
    low, high = limits or (math.nan, math.nan)
    shares = {
        "hits": hits,
        "total": total,
        "percent": 100 * hits / total,
        "low": 100 * low,
        "high": 100 * high,
        "seeds": len(counts),
    }
    by_seed = " ".join(f"{100 * count['measured']['hits'] / count['measured']['total']:.4g}" for count in counts)
    extent = {"by_seed": by_seed, "void": "", "chance": 100 / _shares.facts_of(group)}
    return shares | extent | _cells.source(group)


@functools.cache
def _familiar(corpus: Corpus, seed: int) -> frozenset[str]:
    """The people of R of whom a corpus speaks, as its seed has drawn them."""
    return frozenset(World(corpus, seed).facts["study_in"]) & frozenset(tested())


def draw(table: pandas.DataFrame, figure: Figure) -> None:
    """A line a model, a panel for what is asked."""
    models = list(table["model"].unique())
    style.height(figure, 0.8 + 2.1 * len(models))
    letters = style.letters()
    for model, line in zip(models, figure.subplots(len(models), len(ASKED), squeeze=False, sharey=True), strict=True):
        for axes, (prompting, text) in zip(line, ASKED.items(), strict=True):
            part = table[(table["model"] == model) & (table["prompting"] == prompting)]
            _panel(axes, part)
            axes.set_xlabel(", ".join(filter(None, (_counted(part, True), _counted(part, False)))), fontsize=7)
            style.title(axes, next(letters), text)
        line[0].set_ylabel(f"{_names.wrapped(str(model), 24)}\nright answers (%)", linespacing=1.0)
    style.legend(figure, 2, *style.filled("the corpus speaks of the person", "it does not"), *_shares.handles(table))
    style.note(figure, _shares.N)


def _counted(part: pandas.DataFrame, familiar: bool) -> str:
    """What n is for the familiar people, or for the others."""
    said = _shares.n(part[part["familiar"] == familiar])
    return said and f"{said} ({'full' if familiar else 'hollow'})"


def _panel(axes: Axes, part: pandas.DataFrame) -> None:
    rules = [rule for rule in RULES if rule in set(part["composition"])]
    for place, rule in enumerate(rules):
        for familiar, fill, aside in ((True, "full", -0.2), (False, "hollow", 0.2)):
            own = part[(part["familiar"] == familiar) & (part["composition"] == rule)]
            if len(own):
                _shares.points(axes, own, [place + aside], 0.3, style.rule(rule, linestyle="none", **style.FILLS[fill]))
    _shares.chance(axes, part)
    axes.set_xticks(range(len(rules)), rules, rotation=30, ha="right", fontsize=6.5)
    axes.set_xlim(-0.6, len(rules) - 0.4)
    axes.set_ylim(-4, 104)
    axes.set_yticks(range(0, 101, 25))


def caption(table: pandas.DataFrame) -> str:
    """What is asked of whom, and what a point is."""
    models = "; ".join(
        f"{model} (coverage={share:g})"
        for model, share in dict(table[["model", "coverage"]].itertuples(index=False, name=None)).items()
    )
    return f"""Beyond the paper, experts learn facts of real people (R) on a base whose corpus speaks of some of them
        only, or of none. Alone is one expert trained on what is asked. The other rules compose both one-hop experts
        and, where two hops are asked, an expert on the pair with them. People of whom the corpus does not speak have
        names of tokens that the base was never trained on, unlike the fake names of F. {_shares.MEANING} The dotted
        line is the chance of a guess among the edited answers. The models are {models}. {_shares.told_void(table)}"""
