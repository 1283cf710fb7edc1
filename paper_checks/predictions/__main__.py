"""python -m paper_checks.predictions [rows=results/paper] [out=results/paper]

Compares the rows of every language model with the six predictions of the theory, prints a table, and writes it as predictions.md.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runs.command import command
from runs.rows import load_rows
from runs.settings import SettingError, Text, help_table, parse_options, setting

if TYPE_CHECKING:
    from paper_checks.predictions.verdicts import Prediction, Test, Verdict


@dataclass(frozen=True)
class Options:
    """The predictions:"""

    rows: str = setting("results/paper", Text("a folder"), "folder with the rows of language models")
    out: str = setting("results/paper", Text("a folder"), "folder for predictions.md")


@dataclass(frozen=True)
class Outcome:
    """A prediction on one model: its tests, the verdict of each, and of all."""

    model: str
    prediction: "Prediction"
    tests: "list[Test]"
    verdicts: "list[Verdict]"
    verdict: "Verdict"


def main(words: Sequence[str]) -> int:
    """Runs the command: 0 whatever the verdicts, which are results; 2 for a mistake in the settings."""
    return command("paper_checks.predictions", _main, words)


def _main(words: list[str]) -> int:
    wanted = [word for word in words if word not in ("--help", "-h")]
    options = parse_options(wanted, Options)
    if wanted != words:
        print((__doc__ or "").strip() + "\n\n" + help_table(Options))
        return 0
    if not Path(options.rows).is_dir():
        raise SettingError("rows", options.rows, "a folder with rows", "python -m llm.two_hop makes some in results")
    outcomes = compare(load_rows(options.rows))
    print(_terminal(outcomes))
    path = Path(options.out) / "predictions.md"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(markdown(outcomes))
    except OSError as error:
        raise SettingError("out", f"{options.out} ({error.strerror})", "a folder that can be written") from None
    print(f"\nwritten to {path}")
    return 0


def compare(rows: Sequence[Mapping[str, Any]]) -> list[Outcome]:
    """Every prediction on every model that has rows, a name and the weights that it stood for; or on none, which says how to make some."""
    from paper_checks.predictions import load_predictions
    from paper_checks.predictions.verdicts import FALSE_FAILURE, PREDICTIONS

    load_predictions()
    models: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["experiment"].startswith("llm_") and "model" in row["settings"]:
            name = f"{row['settings']['model'].rstrip('/').split('/')[-1]} ({row['provenance'].get('base_digest', 'unknown weights')[:8]})"
            models.setdefault(name, []).append(row)
    outcomes = []
    for model, group in models.items() or [("no model", [])]:
        for id in sorted(PREDICTIONS):
            tests = PREDICTIONS[id].compare(group)
            verdicts: list[Verdict] = [test.verdict(FALSE_FAILURE / len(tests)) for test in tests]
            outcomes.append(Outcome(model, PREDICTIONS[id], tests, verdicts, PREDICTIONS[id].verdict(tests)))
    return outcomes


def _terminal(outcomes: Sequence[Outcome]) -> str:
    lines = []
    for outcome in outcomes:
        lines.append(f"{outcome.model}  {outcome.prediction.id}: {outcome.verdict}")
        for test, verdict in zip(outcome.tests, outcome.verdicts, strict=True):
            mark = {"holds": " ", "fails": "x", "not enough rows": "?"}[verdict]
            lines.append(f"  {mark} {test.what:<74}  {test.measured or '-':<40}  predicted: {test.predicted}")
        if outcome.verdict == "not enough rows":
            lines.append(f"    rows: {outcome.prediction.command}")
    return "\n".join(lines)


def markdown(outcomes: Sequence[Outcome]) -> str:
    """The page: what was predicted, each model's verdicts, and each comparison with its interval."""
    from paper_checks.predictions.verdicts import FALSE_FAILURE

    predictions = {outcome.prediction.id: outcome.prediction for outcome in outcomes}
    models = list(dict.fromkeys(outcome.model for outcome in outcomes))
    by_name = {(outcome.model, outcome.prediction.id): outcome for outcome in outcomes}
    lines = [
        "# Theory against language models",
        "",
        "Made by `python -m paper_checks.predictions` from rows. The predictions and their thresholds are the theory's, for n edited facts an expert"
        " and d = m = ∞, and were written down before the rows were made; a threshold on a size stands half-way between the theory's and no effect."
        " A trial is a triplet, whose prompts are right or wrong together; intervals are of 95 %. A prediction that is true of a model fails on it"
        f" once in {1 / FALSE_FAILURE:g} times at most, shared out evenly among its comparisons. *Not enough rows* cannot tell.",
        "",
    ]
    lines += [f"| prediction | {' | '.join(models)} |", "|---" * (len(models) + 1) + "|"]
    for id, prediction in predictions.items():
        verdicts = [f"[{by_name[model, id].verdict}](#{_anchor(model, id)})" for model in models]
        lines.append(f"| **{id}** {_cell(prediction.statement)} | {' | '.join(verdicts)} |")
    for (model, id), outcome in by_name.items():
        prediction = outcome.prediction
        lines += [
            "",
            f'<a id="{_anchor(model, id)}"></a>',
            "",
            f"## {id}, {model}: {outcome.verdict}",
            "",
            f"{prediction.statement} *{prediction.reason}*",
        ]
        lines += ["", "| | predicted | measured | rows | |", "|---|---|---|---|---|"]
        for test, verdict in zip(outcome.tests, outcome.verdicts, strict=True):
            shown = "" if test.predicted == "nothing" else f"**{verdict}**" if verdict != "holds" else verdict
            lines.append(f"| {_cell(test.what)} | {_cell(test.predicted)} | {_cell(test.measured)} | {test.rows} | {shown} |")
        lines += ["", f"Rows: `{prediction.command}`"]
    return "\n".join([*lines, ""])


def _anchor(model: str, id: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in f"{id}-{model}".lower())


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
