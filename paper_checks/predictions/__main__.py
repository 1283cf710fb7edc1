"""lora-reuse predictions [rows=results/paper] [out=results/paper]

Compares the rows of every language model with the registered predictions. It prints a table, and writes it as
predictions.md."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lora_reuse.runs.command import begin, settings_are_right, with_options
from lora_reuse.runs.files import write
from lora_reuse.runs.rows import load_rows
from lora_reuse.runs.settings import Place, SettingError, setting

if TYPE_CHECKING:
    from lora_reuse.paper_checks.predictions.outcomes import Outcome


@dataclass(frozen=True)
class Options:
    """The predictions:"""

    rows: str = setting("results/paper", Place("a folder"), "folder with the rows of language models")
    out: str = setting("results/paper", Place("a folder"), "folder for predictions.md")


def main(words: Sequence[str]) -> int:
    """Runs the command: 0 whatever the verdicts, which are results; 2 for a mistake in the settings."""
    return with_options("paper_checks.predictions", _main, Options, words)


def _main(options: Options) -> int:
    settings_are_right(options.out)
    if not Path(options.rows).is_dir():
        raise SettingError("rows", options.rows, "a folder with rows", "python -m llm.two_hop makes some in results")
    begin(options.out)
    from lora_reuse.paper_checks.predictions.outcomes import compare
    from lora_reuse.paper_checks.predictions.page import markdown

    outcomes = compare(load_rows(options.rows))
    print(_terminal(outcomes))
    path = Path(options.out) / "predictions.md"
    try:
        write(path, markdown(outcomes))
    except OSError as error:
        raise SettingError("out", f"{options.out} ({error.strerror})", "a folder that can be written") from None
    print(f"\nwritten to {path}")
    return 0


def _terminal(outcomes: "Sequence[Outcome]") -> str:
    lines = []
    for outcome in outcomes:
        lines.append(f"{outcome.model}  {outcome.prediction.id}: {outcome.verdict}")
        for test, verdict in zip(outcome.tests, outcome.verdicts, strict=True):
            if test.measured:
                lines.append(
                    f"  {verdict:<9}  {test.what:<74}  {test.measured:<40}  predicted: {test.predicted or 'nothing'}"
                )
        if not outcome.rows:
            lines.append(f"    rows: {outcome.prediction.claim.command}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
