"""Whom composition reaches: people whom pretraining chained, and people whom it never chained

Pocket models that read two-hop questions about a share of the people, asked about all of them without an adapter."""

import math
from typing import Any

import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lora_reuse.figures import _cells, _shares, style
from lora_reuse.figures.rows import Rows
from lora_reuse.llm.protocols.controls import ENOUGH
from lora_reuse.llm.protocols.table import pooled

NEEDS = {"llm_exposure": "python -m llm.exposure model=results/pocket-exposure-25-0"}
PROMPTINGS = {"direct": "asked directly", "steps": "asked step by step"}
PEOPLE = {"chained": "chained in pretraining", "never": "never chained"}
MET, DEALT = "never, spouse met", "dealt anew"
"""Of the never chained those whose spouse is also the spouse of somebody chained; the share of right answers if the
places were dealt anew among the never chained."""
MADE = "provenance.pocket."


def data(rows: Rows) -> pandas.DataFrame:
    """Shares in percent, of people of whom both hops are known, by how they are asked, exposure and people; a seed is a
    pretraining. Of several families of pretrainings, which differ in more than exposure and seed, the largest."""
    found = rows.all("llm_exposure")
    if found.empty:
        raise rows.missing("llm_exposure")
    found = _family(found.assign(**{f"{MADE}exposure": found.get(f"{MADE}exposure", pandas.Series(dtype=float))}))
    lines = []
    for prompting in PROMPTINGS:
        asked = found[found["settings.prompting"] == prompting]
        for exposure, group in asked.fillna({f"{MADE}exposure": 0.0}).groupby(f"{MADE}exposure"):
            said = {"prompting": prompting, "exposure": exposure}
            cells = {people: _share(group[group["settings.people"] == people]) for people in PEOPLE}
            cells[MET] = _share(group[group["settings.people"] == "never"], "measured.met_by_group")
            cells[DEALT] = _dealt(group[group["settings.people"] == "never"])
            void = _void(cells)
            lines += [
                said | {"people": people} | cell | {"void": void[people]} for people, cell in cells.items() if cell
            ]
    if not lines:
        raise rows.missing("llm_exposure")
    return pandas.DataFrame(lines)


def _family(found: pandas.DataFrame) -> pandas.DataFrame:
    """The rows of pretrainings alike, each once, in the wordings of most."""
    alike = [
        name for name in map(str, found) if name.startswith(MADE) and name not in (f"{MADE}exposure", f"{MADE}seed")
    ]
    alike += ["settings.wordings", "settings.seed", "settings.dtype"]
    parts = [part for _, part in found.groupby(alike, dropna=False, sort=False)]
    once = ["provenance.base_digest", "settings.people", "settings.prompting"]
    return max(parts, key=len).drop_duplicates(once, keep="last")


def _share(group: pandas.DataFrame, among: str = "measured.known_by_group") -> dict[str, Any]:
    """Hits of the known people of `among`, over pretraining seeds. Nothing where there are none."""
    counts = []
    for line in group.sort_values(f"{MADE}seed").to_dict("records"):
        each = zip(
            *(line[f"measured.{name}"] for name in ("by_group", "group_sizes", "known_by_group")),
            line[among],
            strict=True,
        )
        kept = [(hits, size) for hits, size, known, chosen in each if known and chosen]
        hits, sizes = ([pair[i] for pair in kept] for i in (0, 1))
        counts.append({"measured": {"hits": sum(hits), "total": sum(sizes), "by_group": hits}})
    counts = [count for count in counts if count["measured"]["total"]]
    if not counts:
        return {}
    hits, total, limits = pooled(counts)
    low, high = limits or (math.nan, math.nan)
    found = {"hits": hits, "total": total, "percent": 100 * hits / total, "low": 100 * low, "high": 100 * high}
    by_seed = (f"{100 * one['measured']['hits'] / one['measured']['total']:.4g}" for one in counts)
    asked = group["measured.total"].sum()
    found |= {"seeds": len(counts), "by_seed": " ".join(by_seed), "known": 100 * group["measured.known"].sum() / asked}
    return found | _cells.source(group.assign(experiment="llm_exposure"))


def _dealt(group: pandas.DataFrame) -> dict[str, Any]:
    """What the answers to the never chained would get if the right places were dealt anew: a mean over all deals, which
    is no count and has no error."""
    cell = _share(group)
    if not cell:
        return {}
    dealt = 100 * group["measured.permuted_known"].sum() / group["measured.known"].sum()
    return cell | {"hits": math.nan, "percent": dealt, "low": math.nan, "high": math.nan, "by_seed": ""}


def _void(cells: dict[str, dict[str, Any]]) -> dict[str, str]:
    """The others' share is void where the chained are not answered either (`llm.protocols.controls`)."""
    chained, never = (cells[people] for people in PEOPLE)
    failed = bool(chained and never) and max(chained["percent"], never["percent"]) < 100 * ENOUGH
    reason = f"the chained people got {chained['hits']} of {chained['total']}" if failed else ""
    return {people: "" if people == "chained" else reason for people in cells}


def draw(table: pandas.DataFrame, figure: Figure) -> None:
    """A panel for how it is asked, a line for the chained and one for the others over the exposure."""
    style.height(figure, 2.4)
    for letter, axes, (prompting, title) in zip(
        "ab", figure.subplots(1, len(PROMPTINGS), sharey=True), PROMPTINGS.items(), strict=True
    ):
        part = table[table["prompting"] == prompting]
        _panel(axes, part)
        counted = part[part["people"].isin(PEOPLE)]
        axes.set_xlabel(f"people chained in pretraining (%)\n{_shares.n(counted)}")
        style.title(axes, letter, title)
    figure.axes[0].set_ylabel("right answers (%)")
    drawn = [Line2D([], [], label=label, **style.series(i)) for i, label in enumerate(PEOPLE.values())]
    drawn.append(Line2D([], [], label="places dealt anew", **style.CHANCE))
    style.legend(
        figure, 3, *drawn, *_shares.seed_handle(table), *([_shares.void_handle()] if _shares.void(table).any() else [])
    )
    style.note(figure, _shares.N)


def _panel(axes: Axes, part: pandas.DataFrame) -> None:
    for i, people in enumerate(PEOPLE):
        own = part[part["people"] == people].sort_values("exposure")
        _shares.points(axes, own, [100 * share + 2.5 * (i - 0.5) for share in own["exposure"]], 5, style.series(i))
    dealt = part[part["people"] == DEALT].sort_values("exposure")
    axes.plot(100 * dealt["exposure"], dealt["percent"], **style.CHANCE)
    axes.set_xticks([0, 25, 50, 75, 100])
    axes.set_ylim(-4, 104)
    axes.set_yticks(range(0, 101, 25))


def caption(table: pandas.DataFrame) -> str:
    """What was read and asked, who counts, and what those say whose spouse was met."""
    met = table[(table["people"] == MET) & (table["void"] == "")]
    met = met[met["exposure"] > 0].groupby("prompting", sort=False)[["hits", "total"]].sum()
    told = "; ".join(
        f"{PROMPTINGS[str(way)]} {100 * line['hits'] / line['total']:.0f} %" for way, line in met.iterrows()
    )
    known = _shares.span(table["known"])
    return f"""Pocket models read every one-hop fact of a hundred people with a spouse and a home, and two-hop questions
        (where does A's spouse live?) about a share of them, directly and step by step; at 0 % such questions are about
        other relations alone. Asked without any adapter, about the people whom pretraining chained and about the
        others, in wordings of pretraining. Only people of whom both hops are answered in every wording are counted
        ({known} % of those asked). Of the others, those whose spouse is the spouse of somebody chained:
        {told or "none"}.
        Dealt anew: how often answers about the others would be right if the places were dealt anew among them. A seed
        is a pretraining. {_shares.MEANING} {_shares.told_void(table)}"""
