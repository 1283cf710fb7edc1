"""How well a score ranks what then worked: the area under the ROC curve, with an interval, beside what else could have been done."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats

from llm.forecast.verdict import HALF

Row = Mapping[str, Any]
WORKED = 0.5
"""The share of right answers from which a composition has worked."""
KINDS = {"composes": ("direct", "steps"), "joins skills": ("both",), "keeps": ("first", "second")}
"""What there is to forecast: whether two-hop questions are answered, whether questions that need two skills are, and whether the one-hop questions of
the experts still are."""
PREDICTORS = ("score", "hidden", "confidence", "cosine", "random", "never")
"""The forecast from who would say each token (of one-hop questions: from what the composition leaves of the expert); the forecast from hidden
states; the composed model's mean log P of its own answers; how alike the two updates are; a random number; and no for all."""
RESAMPLES = 2000


def auc(score: Float[np.ndarray, " rows"], worked: Bool[np.ndarray, " rows"]) -> float:
    """P(score of a row that worked > score of one that did not) + P(=)/2 (Mann & Whitney); NaN where all or none worked."""
    yes, no = score[worked], score[~worked]
    if not len(yes) or not len(no):
        return float("nan")
    return float(stats.mannwhitneyu(yes, no).statistic / (len(yes) * len(no)))


def interval(score: Float[np.ndarray, " rows"], worked: Bool[np.ndarray, " rows"], cluster: Sequence[str], seed: int = 0) -> tuple[float, float]:
    """The 95 % percentile bootstrap of `auc`, drawing whole clusters: rows of one pair of adapters work or fail together. Draws in which all or
    none worked say nothing and are left out; NaN when more than half of them are such."""
    names, numbers = np.unique(np.asarray(cluster), return_inverse=True)
    member = np.equal.outer(np.arange(len(names)), numbers).astype(float)
    yes, no = member[:, worked], member[:, ~worked]
    # Of a draw that holds cluster g m_g times the area is mᵀ W m/(mᵀ y)(mᵀ n), W the pairs in order between clusters.
    ordered = np.greater.outer(score[worked], score[~worked]) + 0.5 * np.equal.outer(score[worked], score[~worked])
    pairs = yes @ ordered @ no.T
    drawn = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=RESAMPLES).astype(float)
    counts = (drawn @ yes.sum(1)) * (drawn @ no.sum(1))
    if np.mean(counts > 0) < 0.5:
        return float("nan"), float("nan")
    areas = np.einsum("rg,gh,rh->r", drawn, pairs, drawn)[counts > 0] / counts[counts > 0]
    low, high = np.quantile(areas, [0.025, 0.975])
    return float(low), float(high)


def ranking(rows: Sequence[Row]) -> str:
    """The table: for each kind, for rows that were seen while the forecast was made and for those that were not."""
    lines = [["kind", "rows", "worked", "pairs", "predictor", "AUC [95 %]", "right calls"]]
    for kind, promptings in KINDS.items():
        of_kind = [row for row in rows if row["settings"]["prompting"] in promptings]
        for seen in (False, True):
            chosen = [row for row in of_kind if row["settings"]["seen"] == seen]
            if chosen:
                lines += _lines(kind + (", seen before" if seen else ""), chosen)
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)


def _lines(kind: str, rows: Sequence[Row]) -> list[list[str]]:
    worked = np.array([row["measured"]["hits"] >= WORKED * row["measured"]["total"] for row in rows])
    cluster = [row["settings"]["pair"] for row in rows]
    called = np.array([forecast_of(row)[1] for row in rows])
    lines = []
    for name in PREDICTORS:
        values = np.array([_value(row, name) for row in rows], dtype=float)
        low, high = interval(values, worked, cluster)
        head = [kind, str(len(rows)), str(int(worked.sum())), str(len(set(cluster)))] if name == PREDICTORS[0] else [""] * 4
        calls = {"score": called, "never": np.zeros_like(called)}.get(name)
        right = "" if calls is None else f"{np.mean(calls == worked):.0%}"
        area = auc(values, worked)
        lines.append([*head, name, f"{area:.2f} [{low:.2f}, {high:.2f}]" if not np.isnan(area) else "all or none worked", right])
    return lines


def forecast_of(row: Row) -> tuple[float, bool]:
    """The score and the call. A hop is called kept when its expert's own prompts are."""
    measured, prompting = row["measured"], row["settings"]["prompting"]
    if prompting in KINDS["keeps"]:
        share = measured["kept"][KINDS["keeps"].index(prompting)]
        return share, share >= HALF
    return measured["score"], bool(measured["called"])


def _value(row: Row, name: str) -> float:
    """The score of a row by a predictor; the random one is drawn by the row's name."""
    if name == "score":
        return forecast_of(row)[0]
    if name == "random":
        return float(np.random.default_rng(int(row["settings"]["row"], 16)).random())
    return 0.0 if name == "never" else float(row["measured"][name])
