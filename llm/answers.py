"""lora-reuse answers run=FOLDER rows=results/paper

Keeps a sample of a run's answers beside the rows that they belong to. Of each row with the lowest seed of its setting
it keeps the first count= questions in the order they were asked, so that nobody chose among them. The sample goes to
ROWS/answers/EXPERIMENT.jsonl, a line a row: its hash, the run's command and commit, how many questions were asked, and
of each question kept the right answer, what the model said and whether that counted as a hit.

Answers are marked anew by the protocol. The run is refused as a whole unless all marks of each row count up to what
the committed row of that hash measured on the same weights, so that what is shown is what was counted."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_reuse.llm.protocols.by_name import protocol_of
from lora_reuse.llm.protocols.controls import point_of
from lora_reuse.runs.command import begin, settings_are_right, with_options
from lora_reuse.runs.files import write
from lora_reuse.runs.rows import by_setting, load_rows
from lora_reuse.runs.settings import Place, SettingError, Whole, setting

Row = Mapping[str, Any]
COUNTED = ("hits", "total", "by_triplet", "by_group")
"""What a sample's row has to measure as the committed one does."""


@dataclass(frozen=True)
class Options:
    """Whose answers to keep, and beside which rows."""

    run: str = setting("", Place("a folder"), "the folder (out=) of a run: its rows, and its answers")
    rows: str = setting(
        "results/paper", Place("a folder"), "the rows that the answers belong to; the sample goes there"
    )
    count: int = setting(4, Whole(1, 1000), "questions of each row, from the first")


def main(words: Sequence[str]) -> int:
    """Runs the command; returns its exit code: 0 done, 2 a mistake in the settings or answers that are not those of the
    rows."""
    return with_options("llm.answers", _main, Options, words, bare=False)


def _main(options: Options) -> int:
    if not options.run:
        raise SettingError("run", "nothing", "run=FOLDER", "--help says more")
    settings_are_right()
    groups: dict[str, list[Row]] = {}
    for row in load_rows(options.run):
        groups.setdefault(row["experiment"], []).append(row)
    if not groups:
        raise SettingError("run", f"{options.run}, which has no rows", "the folder (out=) of a run")
    begin()
    samples = {}
    for experiment, made in groups.items():
        kept = {row["hash"]: row for row in load_rows(options.rows, experiment)}
        path = Path(options.rows) / "answers" / f"{experiment}.jsonl"
        firsts = [min(group, key=lambda row: row["settings"]["seed"]) for group in by_setting(made).values()]
        found = {row["hash"]: sample(row, kept, Path(options.run), options.count) for row in firsts}
        samples[path] = {line["row"]: line for line in read(path)} | found
    try:
        for path, lines in samples.items():
            write(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines.values()))
            print(f"{path}: {len(lines)} rows")
    except OSError as error:
        raise SettingError("rows", f"{options.rows} ({error.strerror})", "a folder that can be written") from None
    return 0


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a sample; none where there is no file. Raises SettingError with file and line."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines() if path.exists() else (), start=1):
        try:
            found = json.loads(line)
            yield {name: found[name] for name in ("row", "command", "commit", "asked", "answers")}
        except (ValueError, KeyError, TypeError):
            raise SettingError(f"{path}:{number}", repr(line[:40]), "a line that `lora-reuse answers` wrote") from None


def sample(row: Row, kept: Mapping[str, Row], run: Path, count: int) -> dict[str, Any]:
    """The line of a row of `run`. Raises SettingError if the answers are not there, or are not those of the row in
    `kept` that has its hash."""
    name, made = row["hash"], row["provenance"]
    if name not in kept:
        raise SettingError("run", f"{run} with row {name}", "rows that rows= has, too")
    if made.get("base_digest") != (weights := kept[name]["provenance"].get("base_digest")):
        got = f"row {name} on weights {made.get('base_digest')}"
        raise SettingError("run", got, f"answers of the committed row's weights, {weights}")
    path = run / "answers" / f"{name}.jsonl"
    if not path.is_file():
        raise SettingError("run", f"{run} without answers/{name}.jsonl", "a run with its answers")
    protocol, seed = protocol_of(row["experiment"]), row["settings"]["seed"]
    point = point_of(protocol, row["settings"])
    questions = protocol.questions(point, seed)
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if len(records) != len(questions):
        raise SettingError("run", f"{len(records)} answers of row {name}", f"{len(questions)}, one a question")
    marked = [{**said, **protocol.score(q, said["answer"])} for q, said in zip(questions, records, strict=True)]
    counted, committed = protocol.counts(point, questions, marked), kept[name]["measured"]
    if unlike := next((of for of in COUNTED if counted.get(of) != committed.get(of)), ""):
        got = f"row {name} with {counted['hits']} hits of {counted['total']} ({unlike} is not as committed)"
        wanted = f"answers that count up to the committed row's {committed['hits']} of {committed['total']}"
        raise SettingError("run", got, wanted, "another machine or version may answer otherwise")
    return {
        "row": name,
        "command": made["command"],
        "commit": made["commit"],
        "asked": committed["total"],
        "answers": [
            {
                "question": q.prompt,
                "gold": said.get("gold", ""),
                "answer": said["answer"],
                "hit": bool(said.get("strict", said.get("right"))),
            }
            for q, said in zip(questions[:count], marked[:count], strict=True)
        ],
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
