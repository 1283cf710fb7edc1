"""Facts of one hop, each with the prompt it is learned in and others it is asked in: of our own, or of a file.

Files are read in two forms. CounterFact's, as it is published (Meng et al. 2022, and what has been converted to it, as
zsRE): a JSON list, or one JSON object a line, of `requested_rewrite` (`prompt` with {} in the place of the `subject`,
`target_new` and `target_true`, each with its `str`), `paraphrase_prompts` and `neighborhood_prompts`. A phone book's,
of which no published form was found: a JSON object of names and numbers, or CSV with the columns `name` and `phone`.
Our own facts are new homes of made-up people, and their neighbours are homes that the pocket model has read of."""

import csv
import functools
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lora_reuse.llm.data.names import cities, fake_people
from lora_reuse.llm.data.subsets import SPLITS, templates
from lora_reuse.runs.settings import SettingError

OWN = "own"
FORMS = "own, or a file of CounterFact's form (.json, .jsonl) or of a phone book (.json, .csv)"
NEIGHBOURS = 2
"""Of each of our own facts; CounterFact has ten."""
PHONE = "What is the phone number of {a}?"
OTHER_PHONE = ("Which number has {a}?", "What number do I dial to call {a}?")


class Fact(NamedTuple):
    """`prompt` and `answer` are learned; `new` is the answer's name and `old` the one it replaces ("" where none is
    known). `paraphrases` ask for the same. `neighbours` are prompts about other subjects, whose answer is to stay."""

    subject: str
    prompt: str
    answer: str
    new: str
    old: str = ""
    paraphrases: tuple[str, ...] = ()
    neighbours: tuple[tuple[str, str], ...] = ()


@functools.lru_cache(maxsize=8)
def facts(data: str, seed: int) -> tuple[Fact, ...]:
    """All facts there are, in an order that the seed draws. Raises SettingError for a file that is not there or of
    another form."""
    found = _own(seed) if data == OWN else _read(Path(data).expanduser())
    return tuple(random.Random(f"facts {seed}").sample(found, len(found)))


def _own(seed: int) -> list[Fact]:
    """A new home of each made-up person."""
    from lora_reuse.llm.pocket.corpus import World
    from lora_reuse.llm.pocket.size import Corpus

    rng = random.Random(f"homes {seed}")
    wordings = templates("live_in")
    question, answer = wordings[0]
    others = [text for split in ("dev", "test") for text, _ in wordings[SPLITS[split]]]
    known = sorted(World(Corpus()).facts["live_in"].items())
    found = []
    for person in fake_people():
        home = rng.choice(cities())
        near = tuple(
            (question.format(a=a), b) for a, b in rng.sample([it for it in known if it[1] != home], NEIGHBOURS)
        )
        asked = tuple(text.format(a=person) for text in others)
        found.append(Fact(person, question.format(a=person), answer.format(a=person, b=home), home, "", asked, near))
    return found


def _read(path: Path) -> list[Fact]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError("data", f"{path} ({type(error).__name__})", FORMS) from None
    if path.suffix == ".csv":
        return [_phone(path, row.get("name"), row.get("phone")) for row in csv.DictReader(text.splitlines())]
    try:
        records = json.loads(text)
    except ValueError:
        records = [_json(path, number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if isinstance(records, dict) and "requested_rewrite" not in records:
        return [_phone(path, name, number) for name, number in records.items()]
    return [
        _rewrite(path, i, record) for i, record in enumerate(records if isinstance(records, list) else [records], 1)
    ]


def _json(path: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        raise SettingError(f"{path}:{number}", repr(line[:40]), "one JSON object a line") from None


def _phone(path: Path, name: Any, number: Any) -> Fact:
    if not isinstance(name, str) or not name.strip() or not isinstance(number, str | int) or not str(number).strip():
        raise SettingError("data", f"{path}, with {name!r:.40} and {number!r:.40}", "a name and a number each")
    asked = tuple(text.format(a=name) for text in OTHER_PHONE)
    return Fact(name, PHONE.format(a=name), str(number), str(number), "", asked)


def _rewrite(path: Path, number: int, record: Any) -> Fact:
    """A record of CounterFact."""
    try:
        said = record["requested_rewrite"]
        words = [said["subject"], said["prompt"], said["target_new"]["str"], said["target_true"]["str"]]
        asked, near = list(record.get("paraphrase_prompts", ())), list(record.get("neighborhood_prompts", ()))
    except (KeyError, TypeError, AttributeError):
        words, asked, near = [], [], []
    if not words or not all(isinstance(word, str) and word.strip() for word in (*words, *asked, *near)):
        got = f"{path}, whose record {number} has {_keys(record)}"
        raise SettingError("data", got, "requested_rewrite with prompt, subject, target_new.str and target_true.str")
    subject, prompt, new, old = (word.strip() for word in words)
    return Fact(subject, prompt.replace("{}", subject), new, new, old, tuple(asked), tuple((it, old) for it in near))


def _keys(record: Any) -> str:
    return ", ".join(map(str, list(record)[:5])) or "nothing" if isinstance(record, Mapping) else f"{record!r:.40}"
