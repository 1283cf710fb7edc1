"""Facts of one hop, each with the prompt it is learned in and others it is asked in: of our own, or of a file.

Files are read in two forms. CounterFact's, as it is published (Meng et al. 2022): a JSON list, or one JSON object a
line, of `requested_rewrite` (`prompt` with {} in the place of the `subject`, `target_new` and `target_true`, each with
its `str`), `paraphrase_prompts` and `neighborhood_prompts`. A phone book's, of which no published form was found: a
JSON object of names and numbers, or CSV with the columns `name` and `phone`. Our own facts are new homes of made-up
people, and their neighbours are homes that the pocket model has read of. `counterfact` makes a file in CounterFact's
form of what the pocket model knows (`lora-reuse data counterfact=FILE`)."""

import csv
import functools
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lora_reuse.llm.data.names import cities, fake_people
from lora_reuse.llm.data.subsets import SPLITS, templates
from lora_reuse.llm.scoring.two_hop import named
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
    if not found:
        raise SettingError("data", f"{data}, which has no fact", FORMS, "write a record into it, or name another file")
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


def counterfact(seed: int) -> list[dict[str, Any]]:
    """Records in CounterFact's form about where people study in the pocket model's world: each is moved to another
    city, and the neighbours are the others who study where the subject did, ten at most. A prompt is a question and its
    answer up to the city, as the model has read them."""
    from lora_reuse.llm.pocket.corpus import World
    from lora_reuse.llm.pocket.size import Corpus

    rng = random.Random(f"counterfact {seed}")
    known = World(Corpus()).facts["study_in"]
    ending = [text for text in templates("study_in") if text[1].endswith(" {b}.")]
    first, *others = (f"{question} {answer.removesuffix(' {b}.')}" for question, answer in ending)
    found = []
    for person, city in known.items():
        near = [other for other, where in known.items() if where == city and other != person]
        rewrite = {
            "prompt": first.replace("{a}", person, 1).replace("{a}", "{}"),
            "subject": person,
            "target_new": {"str": rng.choice([it for it in cities() if it != city])},
            "target_true": {"str": city},
        }
        asked = {
            "paraphrase_prompts": [text.format(a=person) for text in rng.sample(others, 2)],
            "neighborhood_prompts": [first.format(a=other) for other in rng.sample(near, min(10, len(near)))],
        }
        found.append({"case_id": len(found), "requested_rewrite": rewrite} | asked)
    return found


@functools.lru_cache(maxsize=2)
def _read(path: Path) -> tuple[Fact, ...]:
    """The facts in the order of the file, which is read once for all seeds."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(
            "data", f"{path} ({type(error).__name__})", FORMS, "name a file that is there, in UTF-8"
        ) from None
    if path.suffix == ".csv":
        return tuple(_phone(path, row.get("name"), row.get("phone")) for row in csv.DictReader(text.splitlines()))
    try:
        records = json.loads(text)
    except ValueError:
        records = [_json(path, number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if isinstance(records, dict) and "requested_rewrite" not in records:
        return tuple(_phone(path, name, number) for name, number in records.items())
    listed = records if isinstance(records, list) else [records]
    return tuple(_rewrite(path, number, record) for number, record in enumerate(listed, 1))


def _json(path: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        mend = "a JSON list in one piece is read, too; look for a comma or a bracket that is missing"
        raise SettingError(f"{path}:{number}", repr(line[:40]), "one JSON object a line", mend) from None


def _phone(path: Path, name: Any, number: Any) -> Fact:
    if not isinstance(name, str) or not name.strip() or not isinstance(number, str | int) or not str(number).strip():
        got = f"{path}, with {name!r:.40} and {number!r:.40}"
        raise SettingError("data", got, "a name and a number each", 'CSV begins with the line "name,phone"')
    asked = tuple(text.format(a=name) for text in OTHER_PHONE)
    return Fact(name, PHONE.format(a=name), str(number), str(number), "", asked)


def _rewrite(path: Path, number: int, record: Any) -> Fact:
    """A record of CounterFact."""
    try:
        said = record["requested_rewrite"]
        words = [said["subject"], said["prompt"], said["target_new"]["str"], said["target_true"]["str"]]
        listed = [record.get("paraphrase_prompts", []), record.get("neighborhood_prompts", [])]
    except (KeyError, TypeError, AttributeError):
        got = f"{path}, whose record {number} has {_keys(record)}"
        needed = "requested_rewrite with prompt, subject, target_new.str and target_true.str"
        raise SettingError("data", got, needed, "records are those of the published counterfact.json") from None
    if wrong := _wrong(words, listed):
        allowed, got = wrong
        mend = "mend the record, or leave it out"
        raise SettingError("data", f"{path}, whose record {number} has {got}", allowed, mend)
    subject, prompt, new, old = (word.strip() for word in words)
    asked, near = listed
    return Fact(subject, prompt.replace("{}", subject), new, new, old, tuple(asked), tuple((it, old) for it in near))


def _wrong(words: list[Any], listed: list[Any]) -> tuple[str, str] | None:
    """What is allowed and what came, of the parts of a record: the first that cannot be asked or scored."""
    for name, word in zip(("subject", "prompt", "target_new.str", "target_true.str"), words, strict=True):
        if not isinstance(word, str) or not word.strip():
            return "text", f"{name} {word!r:.40}"
    for name, texts in zip(("paraphrase_prompts", "neighborhood_prompts"), listed, strict=True):
        if not isinstance(texts, list) or not all(isinstance(text, str) and text.strip() for text in texts):
            return "a list of prompts, each a text", f"{name} {texts!r:.40}"
    if "{}" not in words[1]:
        return "a prompt with {} in the place of the subject", f"prompt {words[1]!r:.40}"
    new, old = (word.strip() for word in words[2:])
    if new == old:
        return "two answers", f"{new!r:.40} as target_new and as target_true"
    try:
        named("", (new, old))
    except ValueError as error:
        return "two answers that a reader can tell apart", str(error)
    return None


def _keys(record: Any) -> str:
    return ", ".join(map(str, list(record)[:5])) or "nothing" if isinstance(record, Mapping) else f"{record!r:.40}"
