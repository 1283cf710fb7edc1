"""The final table of a protocol: this run, hop by hop, beside the paper's number for the nearest model and what theory
allows; which cells are void, because a positive control failed."""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from lora_reuse.llm.protocols.controls import Verdict, verdicts
from lora_reuse.llm.scoring.differences import compared
from lora_reuse.llm.scoring.intervals import Limits, over_seeds
from lora_reuse.runs.rows import by_setting, row_hash
from lora_reuse.runs.table import aligned, value, varying

Row = Mapping[str, Any]
HEAD = (
    "hits/total",
    "share [95 %]",
    "control",
    "lenient",
    "B",
    "C|B",
    "form",
    "z/other",
    "paper",
    "theory",
    "made in",
    "learned",
    "from",
)


UNMEASURED = "not measured: no rows say whether the experts' own hops are kept (prompting=first,second), or whether the oracle answers"


def table(protocol: str, rows: Sequence[Row], known: Sequence[Row] = ()) -> str:
    """One line a setting: hits over all seeds, and an interval over seeds (`llm.scoring.intervals`). Columns without a
    value in any line are left out.

    Controls are looked for among the rows and others that are `known`; below the table is which failed.
    """
    groups = list(by_setting(rows).values())
    if not groups:
        return "no rows"
    names = varying(groups)
    lines = [[*names, "seeds", *HEAD]]
    judged = _judged(protocol, [*known, *rows])
    reasons: dict[str, str] = {}
    for group in sorted(groups, key=lambda g: _order(g[0]["settings"], names)):
        void, unmeasured = judged[row_hash(protocol, group[0]["settings"])]
        control = (
            f"void ({reasons.setdefault(void, str(len(reasons) + 1))})"
            if void
            else "not measured"
            if unmeasured
            else ""
        )
        lines.append(
            [value(group[0]["settings"], name) for name in names] + [str(len(group))] + _cells(protocol, group, control)
        )
    notes = [f"({mark}) void: {reason}" for reason, mark in reasons.items()]
    notes += [UNMEASURED] if any(line[lines[0].index("control")] == "not measured" for line in lines) else []
    return "\n\n".join(part for part in (aligned(lines), "\n".join(notes), _differences(rows, names)) if part)


def _order(settings: Mapping[str, Any], names: Sequence[str]) -> list[tuple[bool, Any]]:
    return [(name in settings, settings.get(name)) for name in names if name != "composition"]


def _differences(rows: Sequence[Row], settings: Sequence[str]) -> str:
    """Where several rules were asked the same in several seeds: by how much the best of them is better than each
    other."""
    found = compared(rows)
    if not found:
        return ""
    names = [name for name in settings if name != "composition"]
    lines = [[*names, "best", "against", "seeds", "points [95 %]", "p"]]
    for pair in found:
        mean, low, high, _ = pair.difference
        points = f"{100 * mean:+.0f} [{100 * low:+.0f}, {100 * high:+.0f}]"
        told = f"{pair.p:.3f}" if pair.p >= 0.001 else "< 0.001"
        lines.append(
            [*(value(pair.settings, name) for name in names), pair.best, pair.other, str(pair.seeds), points, told]
        )
    return f"Differences paired over seeds and questions; p is Holm's, over all pairs of rules of a setting.\n{aligned(lines)}"


def _judged(protocol: str, rows: Sequence[Row]) -> dict[str, Verdict]:
    """The verdict on each row's cell, by the row's hash; each measurement counts once."""
    once = {row_hash(protocol, row["settings"]): row for row in rows}
    return dict(
        zip(
            once,
            verdicts(importlib.import_module(f"lora_reuse.llm.{protocol}").PROTOCOL, list(once.values())),
            strict=True,
        )
    )


class Pooled(NamedTuple):
    """Hits and total over seeds, and the interval of their share; None for one seed."""

    hits: int
    total: int
    limits: Limits | None

    @property
    def share(self) -> str:
        """The share in percent, with its interval where there is one."""
        said = f"{100 * self.hits / self.total:.0f} %"
        return said + (f" [{100 * self.limits.low:.0f}, {100 * self.limits.high:.0f}]" if self.limits else "")


def pooled(group: Sequence[Row], mark: str = "hits") -> Pooled:
    """Rows of a setting that differ in the seed alone: how many answers have a mark, of how many. What varies together
    within a seed is a triplet, or where questions are problems a group of them."""
    hits, total = (np.array([row["measured"].get(name, 0) for row in group], dtype=float) for name in (mark, "total"))
    alike = sum(len(row["measured"].get("by_group", row["measured"].get("by_triplet", ()))) for row in group)
    return Pooled(int(hits.sum()), int(total.sum()), over_seeds(hits, total, alike))


def _cells(protocol: str, group: Sequence[Row], control: str) -> list[str]:
    found = pooled(group)
    hits, total = found.hits, found.total
    measured = [row["measured"] for row in group]
    count = lambda name: sum(m[name] for m in measured) if name in measured[0] else None  # noqa: E731
    mean = lambda name: float(np.mean([m[name] for m in measured])) if all(name in m for m in measured) else None  # noqa: E731
    bridge, given, form = (count(name) for name in ("bridge_right", "gold_right_given_bridge", "template"))
    z, other = mean("logp_z"), mean("logp_other")
    bound = [row["predicted"]["at_most"] for row in group if "at_most" in row["predicted"]]
    return [
        f"{hits}/{total}",
        found.share,
        control,
        str(count("lenient")),
        "" if bridge is None else f"{100 * bridge / total:.0f} %",
        f"{100 * given / bridge:.0f} %" if bridge and given is not None else "",
        "" if form is None else f"{100 * form / total:.0f} %",
        "" if z is None or other is None else f"{z - other:+.2f}",
        reported(protocol, group[0]["settings"]),
        f"<= {100 * sum(bound) / total:.0f} %" if bound else "",
        *(_cost(group) if protocol == "methods" else ("", "", "")),
    ]


def _cost(group: Sequence[Row]) -> tuple[str, str, str]:
    """Seconds to compose trained experts, numbers learned, and examples they were learned from; the mean over seeds."""
    seconds = float(np.mean([row["provenance"].get("compose_seconds", 0.0) for row in group]))
    learned = [str(group[0]["measured"].get(name, "")) for name in ("extra_parameters", "examples_used")]
    return f"{seconds:.2g} s", learned[0] and f"{learned[0]} numbers", learned[1] and f"{learned[1]} examples"


def reported(protocol: str, settings: Mapping[str, Any]) -> str:
    """The paper's number for the same cell and the nearest model (its smallest, if it did not use this one), or
    nothing."""
    alone = protocol == "two_hop" and settings["library"] in ("oracle", "mixed")
    unsaid = protocol == "large_library"  # the paper does not say how it asked
    if settings["prompting"] not in (("steps", "direct") if alone or unsaid else ("steps",)):
        return ""
    found = _reported(protocol, settings)
    return f"{found} %" if found else ""


def _reported(protocol: str, settings: Mapping[str, Any]) -> str:
    from lora_reuse.paper_checks.reported import load

    composition = str(settings["composition"])
    column = {
        "2-combination": "2-combination library",
        "3-combination": "3-combination library",
        "oracle": "Oracle Expert",
        "mixed": "Mixed Two-hop Expert",
    }
    layers = {"mlp": "MLP layers", "attention": "Attention layers", "both": "MLP+Attention layers"}[
        str(settings["layers"])
    ]
    if protocol == "two_hop":
        cells, wanted = load(7), {"dataset": settings["dataset"], "column": column.get(str(settings["library"]), "")}
        if settings["layers"] != "mlp":
            cells, wanted = load(8), wanted | {"layers": layers.replace("+", " + ")}
    elif protocol in ("bridge", "placement"):
        cells, wanted = load(9), {"setup": f"Setup {settings['setup']}", "layers": layers}
        if settings["layers"] == "mlp" and settings["setup"] != "1":
            cells, wanted = load(10), {"setup": settings["setup"]}
    elif protocol == "bridge_minimum":
        cells, wanted = load(10), {"setup": _setup(settings) if settings["layers"] == "mlp" else ""}
    elif protocol == "methods":
        rule = {"cat:two_hop": "cat", "lori_concat": "concat", "lori_linear": "linear"}.get(composition, composition)
        kind = {"lora": "LoRA", "lori_d": "LoRI-D", "lori_s": "LoRI-S"}[str(settings["adapter"])]
        paired = settings["setup"] == "0" and settings["library"] == "pair"
        cells, wanted, composition = load(2), {"adaptation": kind if paired else ""}, rule
    elif protocol == "large_library":
        asked = [settings[name] for name in ("library", "held_out", "pairs", "layers")] == [
            "10-combination",
            "12",
            "direct",
            "mlp",
        ]
        cells, wanted = load(12), {"graphs": f"{settings['graph'].capitalize()} Graphs" if asked else ""}
    else:
        return ""
    rows = [
        cell
        for cell in cells.to_dict("records")
        if all(cell[name] == value for name, value in wanted.items())
        and composition in ("alone", cell["composition"].lower())
    ]
    name = str(settings["model"]).rstrip("/").split("/")[-1]
    rows = [cell for cell in rows if cell["base_model"] == name] or [
        cell
        for cell in rows
        if cell["base_model"] == ("Qwen2.5-7B" if protocol == "methods" else "Qwen2.5-3B-Instruct")
    ]
    return str(rows[0]["value"]) if rows else ""


def _setup(settings: Mapping[str, Any]) -> str:
    """The setup of Table 10 that a point of `bridge_minimum` is; those in between have no number."""
    if settings["bridge_triplets"] == 0:
        return "0"
    if (
        settings["bridge_triplets"] < settings["triplets"]
        or settings["bridge_templates"] < 46
        or settings["relations"] != "same"
    ):
        return ""
    setups = {("both", 1.0): "2", ("both", 0.0): "3", ("first", 1.0): "4", ("second", 1.0): "5"}
    return setups.get((settings["bridge_in"], settings["steps_share"]), "")
