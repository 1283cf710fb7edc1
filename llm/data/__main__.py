"""lora-reuse data show=R12

Prints examples of a subset, or writes all subsets as JSONL. write=FOLDER writes them as `datasets` reads them.
counterfact=FILE writes counterfactual edits of what the pocket model knows, in CounterFact's form."""

import json
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_reuse.llm.data.fact_files import counterfact
from lora_reuse.llm.data.facts import COUNT, Triplet
from lora_reuse.llm.data.graphs import COUNTS, facts_of
from lora_reuse.llm.data.subsets import SPLITS, SUBSETS, examples, parts
from lora_reuse.runs.command import begin, with_options
from lora_reuse.runs.files import write
from lora_reuse.runs.settings import Choice, Place, SettingError, Text, Whole, setting


@dataclass(frozen=True)
class Options:
    """What to show or write."""

    show: str = setting(
        "", Text("a subset"), "print examples of a subset: " + ", ".join(name for name in SUBSETS if name[0] in "FD")
    )
    write: str = setting("", Place("a folder"), "write every subset and split into folder/<subset>/<split>.jsonl")
    counterfact: str = setting(
        "", Text("a .json file"), "write edits in CounterFact's form, for data= of edit and capacity"
    )
    split: str = setting("test", Choice(*SPLITS), "the split to show")
    count: int = setting(4, Whole(1, 5000), "examples to show")
    triplets: int = setting(
        COUNT, Whole(1, COUNT), "triplets of F, H, R; facts a pair of the graphs D (at most 16) and S (at least 3)"
    )
    seed: int = setting(0, Whole(0), "who goes with whom")


def main(words: Sequence[str]) -> int:
    """Runs the command; returns its exit code: 0 done, 2 a mistake in the settings."""
    return with_options("llm.data", _main, Options, words, bare=False)


def _main(options: Options) -> int:
    if not (options.show or options.write or options.counterfact):
        raise SettingError("show", "nothing", "show=..., write=..., counterfact=... or several", "--help says more")
    if options.show:
        parts(options.show)
    begin(options.write)
    if options.show:
        for example in examples(options.show, _facts(options.show, options), options.split)[: options.count]:
            print(f"{example.question}\n{textwrap.indent(example.answer, '    ')}\n")
    if options.write:
        _write(Path(options.write), options)
    if options.counterfact:
        _edits(Path(options.counterfact).expanduser(), options.seed)
    return 0


def _facts(subset: str, options: Options) -> tuple[Triplet, ...]:
    """As many as were asked for and as the subset's graph can have."""
    fewest, most = COUNTS.get(subset[0], (1, COUNT))
    return facts_of(subset, min(max(options.triplets, fewest), most), options.seed)


def _write(folder: Path, options: Options) -> None:
    for subset in SUBSETS:
        facts = _facts(subset, options)
        try:
            for split in SPLITS:
                lines = [json.dumps(e._asdict()) + "\n" for e in examples(subset, facts, split)]
                write(folder / subset / f"{split}.jsonl", "".join(lines))
        except OSError as error:
            raise SettingError("write", f"{folder} ({error.strerror})", "a folder that can be written") from None
    print(f"{len(SUBSETS)} subsets in {folder}: load_dataset('json', data_dir='{folder}/R12')")


def _edits(file: Path, seed: int) -> None:
    records = counterfact(seed)
    try:
        write(file, json.dumps(records, indent=1) + "\n")
    except OSError as error:
        raise SettingError("counterfact", f"{file} ({error.strerror})", "a file that can be written") from None
    print(f"{len(records)} edits in {file}: lora-reuse edit data={file}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
