"""predictions.md: what was predicted and when, each model's verdicts, and each test with its interval."""

from collections import Counter
from collections.abc import Sequence

from lora_reuse.llm.protocols.controls import ENOUGH
from lora_reuse.paper_checks.predictions.outcomes import FAMILY, Outcome
from lora_reuse.paper_checks.predictions.registered import units
from lora_reuse.paper_checks.predictions.verdicts import FALSE_REFUTATION, FALSE_SUPPORT, MARGIN, Test

READING = f"""P1 to P12 are predictions of the theory, or against it, for language models. C0 to C4 are the *primary \
contrasts*: five comparisons whose error is controlled together. The eight characters after a model's name are the \
beginning of its weights' digest.

Each prediction is a file in `paper_checks/predictions/registered`, and is registered by the commit that \
last changed it, or by the commit named in it in which its words and numbers already stood. A row *tests* it if the \
row was made by committed code at a commit that descends from that one; other rows are *exploration* and get no \
verdict. So are later rows of people and a seed that had been looked at.

The predictions P1 to P6 are older than the rows that test them. The three verdicts, their margins and the condition \
on kept hops are not: they were stated when the rows of the pocket models were known. No refutation depends on a \
margin. The model `pocket` was chosen among six pretrainings because a bridge works best on it, on dev templates and \
seed 0: what P5 and C1 to C3 say of it is conditional on that choice.

| verdict | when |
|---|---|
| refuted | So much on the wrong side of the bound has a small probability: {100 * FALSE_REFUTATION:g} % for all tests \
of one of P1 to P12 together (Holm's correction), {100 * FAMILY:g} % for all tests of C0 to C4 together. |
| supported | So much on the right side of the bound plus a margin has a small probability: {100 * FALSE_SUPPORT:g} % \
for each test of P1 to P12, of which all have to be supported, and {100 * FAMILY:g} % for all tests of C0 to C4 \
together. The margin is {100 * MARGIN:g} points above chance, one fact of the n for C0, one country of ten for P8, one \
person of ten for P10, and none where a threshold stands half-way between the theory, or the paper, and no effect. |
| undecided | Neither. One seed decides nothing. |
| void | Fewer than {100 * ENOUGH:g} % of the answers are right, and an expert's own hop is kept in fewer under the \
same composition, or no row asks for it: wrong answers then say nothing of composing. Void tests are left out of a \
prediction's verdict. |
| exploration | All rows are older than the prediction, or of a seed that had been looked at. |
| shown | All rows are of settings for which nothing is predicted. |

Intervals are of 95 %, over seeds (`llm.scoring.intervals`). Shares are of triplets, each of which counts with the \
share of its prompts that is right."""


def markdown(outcomes: Sequence[Outcome]) -> str:
    """The page."""
    predictions = {outcome.prediction.id: outcome for outcome in outcomes}
    models = list(dict.fromkeys(outcome.model for outcome in outcomes))
    by_name = {(outcome.model, outcome.prediction.id): outcome for outcome in outcomes}
    lines = [
        "# Theory against language models",
        "",
        "Made by `python -m paper_checks.predictions` from rows.",
        "",
        READING,
        "",
    ]
    lines += [f"| prediction | {' | '.join(models)} |", "|---" * (len(models) + 1) + "|"]
    for id in predictions:
        found = [by_name[model, id] for model in models]
        cells = [f"[{o.verdict}](#{_anchor(o.model, id)})" if o.rows else o.verdict for o in found]
        lines.append(f"| [{id}](#{id.lower()}) | {' | '.join(cells)} |")
    lines += ["", "## What is predicted"]
    for id, outcome in predictions.items():
        prediction, claim = outcome.prediction, outcome.prediction.claim
        lines += ["", f'<a id="{id.lower()}"></a>', "", f"**{id}.** {claim.statement} *{claim.reason}*"]
        lines += [f"What had been seen before this was written: {claim.seen}"] * bool(claim.seen) + [
            prediction.remark
        ] * bool(prediction.remark)
        where = (
            f"Registered in {outcome.registration.commit[:8]}"
            if outcome.registration.commit
            else f"Not registered: {outcome.registration.why}"
        )
        lines += [f"{where} ({claim.digest}). Rows: `{claim.command}`"]
    for (model, id), outcome in by_name.items():
        if outcome.rows:
            lines += [
                "",
                f'<a id="{_anchor(model, id)}"></a>',
                "",
                f"## {id}, {model}: {outcome.verdict}",
                "",
                *_evidence(outcome),
            ]
    return "\n".join([*lines, ""])


def _evidence(outcome: Outcome) -> list[str]:
    rows = outcome.parted
    lines = [_summary(outcome), ""] if rows.tests and outcome.verdict != "shown" else []
    lines.append(
        f"The rows that test it have these people and seeds: {units(rows.tests)}." if rows.tests else "No row tests it."
    )
    if rows.exploration:
        why = "; ".join(f"{count} {reason}" for reason, count in rows.reasons.items())
        lines[-1] += f" Exploration: {units(rows.exploration)}; rows: {why}."
    explored = {test.what: test.measured for test in outcome.exploration}
    judged = (
        zip(outcome.tests, outcome.verdicts, strict=True)
        if rows.tests
        else [(test, "") for test in outcome.exploration]
    )
    lines += ["", "| | predicted | measured | | exploration |", "|---|---|---|---|---|"]
    for test, verdict in judged:
        said = (
            ""
            if verdict in ("", "shown")
            else "no rows yet"
            if not (test.rows or test.void)
            else f"{verdict}: {test.void}"
            if verdict == "void"
            else f"**{verdict}**"
            if verdict != "supported"
            else verdict
        )
        cells = [test.what, test.predicted, test.measured if rows.tests else "", said, explored.pop(test.what, "")]
        lines.append(f"| {' | '.join(map(_cell, cells))} |")
    lines += [f"| {_cell(what)} | | | | {_cell(measured)} |" for what, measured in explored.items() if measured]
    return lines


def _summary(outcome: Outcome) -> str:
    """How many tests have each verdict, and how many no rows; which are refuted."""
    judged = [each for each in zip(outcome.tests, outcome.verdicts, strict=True) if each[1] != "shown"]
    counts = Counter(verdict if test.rows or test.void else "without rows" for test, verdict in judged)
    said = ", ".join(
        f"{counts[verdict]} {verdict}"
        for verdict in ("refuted", "undecided", "supported", "void", "without rows")
        if counts[verdict]
    )
    refuted = [test for test, verdict in judged if verdict == "refuted"]
    return f"Of {len(judged)} tests: {said}." + "".join(f" Refuted: {_said(test)}." for test in refuted)


def _said(test: Test) -> str:
    return f"{test.what} is {test.measured}, predicted {test.predicted}"


def _anchor(model: str, id: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in f"{id}-{model}".lower())


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
