"""Questions of HotpotQA whose answer is a city or a country, in their own words and asked for the continent (A.6).

A file is one of the published forms, told apart by what is in it: KILT's (a JSON object a line with `input` and
`output`), HotpotQA's own (one JSON list with `question` and `answer`), or the list's objects a line each, as datasets
libraries write them."""

import functools
import json
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lora_reuse.llm.data.continents import Place, normal, place_of
from lora_reuse.llm.data.facts import triplets
from lora_reuse.llm.data.subsets import examples
from lora_reuse.runs.settings import SettingError

OWN = "own"
PROMPTS = {
    "original": "{question}",
    "continent": "On which continent is the location related to the following question: {question}",
}
"""Table 19's, and the question as it is."""
FORMS = "KILT's JSONL (input, output) or HotpotQA's JSON or JSONL (question, answer)"
_ASKS_FOR_A_PLACE = re.compile(
    r"\b(?:where|(?:what|which|whose)\b.*\b(?:city|cities|country|countries|nation|state|town|capital|place|location|located|republic|kingdom))\b",
    re.I,
)


class Question(NamedTuple):
    """A question, the answers that count, the first of which is the place."""

    id: str
    question: str
    answers: tuple[str, ...]
    place: Place


def questions(data: str, count: int, seed: int, own_triplets: int = 20) -> list[Question]:
    """The file's questions that ask for a place and whose answer is one, `count` drawn by the seed (0: all), in the
    order of the file; data=own: held-out questions about who lives and who studies where (R2 and R4), the stand-in that
    the pocket model can answer.

    Raises SettingError for a file that cannot be read or has no such question.
    """
    found = _own(seed, own_triplets) if data == OWN else _places(data)
    if not count or count >= len(found):
        return list(found)
    chosen = sorted(random.Random(f"hotpot {seed}").sample(range(len(found)), count))
    return [found[i] for i in chosen]


@functools.lru_cache(maxsize=4)
def _places(data: str) -> tuple[Question, ...]:
    found = []
    for id_, question, answers in _pairs(Path(data).expanduser()):
        place = place_of(answers[0]) if _ASKS_FOR_A_PLACE.search(question) else None
        if place:
            found.append(Question(id_, question.strip(), answers, place))
    if not found:
        raise SettingError(
            "data", f"{data} without a question for a city or a country", "questions and answers of HotpotQA"
        )
    return tuple(found)


def _own(seed: int, count: int) -> list[Question]:
    facts = triplets("R", seed)[:count]
    asked = [(kind, e) for kind in ("R2", "R4") for e in examples(kind, facts, "test")]
    places = [(kind, e, place_of(e.gold)) for kind, e in asked]
    return [
        Question(f"{kind}-{e.triplet}-{e.template}", e.question, (e.gold,), place) for kind, e, place in places if place
    ]


def _pairs(path: Path) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Id, question and answers of every record that has an answer. Raises SettingError with the line or number of the
    first that is none."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(
            "data",
            f"{path} ({type(error).__name__})",
            "a file of questions and answers",
            "such as HotpotQA's or KILT's validation questions",
        ) from None
    for number, record in enumerate(_records(path, text), start=1):
        try:
            answers = _answers(record)
            question = record["question"] if "question" in record else record["input"]
            if not isinstance(question, str) or not all(isinstance(answer, str) for answer in answers):
                raise TypeError
        except (KeyError, TypeError):
            raise SettingError("data", f"{path}, whose record {number} has another form", FORMS) from None
        if answers:
            yield str(record.get("id", record.get("_id", number))), question, answers


def _records(path: Path, text: str) -> Sequence[Any]:
    try:
        if text.lstrip().startswith("["):
            return json.loads(text)
    except ValueError:
        raise SettingError("data", f"{path}, which is not whole", FORMS) from None
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            found += [json.loads(line)] if line.strip() else []
        except ValueError:
            raise SettingError(f"{path}:{number}", repr(line[:40]), "one JSON object a line") from None
    return found


def _answers(record: dict[str, Any]) -> tuple[str, ...]:
    """KILT lists several outputs, some of which are provenance alone, and says one answer in several spellings."""
    said = (
        [record["answer"]]
        if "answer" in record
        else [output["answer"] for output in record["output"] if "answer" in output]
    )
    spellings: dict[str, str] = {}
    for answer in said:
        spellings.setdefault(normal(answer), answer)
    return tuple(spellings.values())


def exact(answer: str, question: Question, prompting: str) -> bool:
    """Whether the answer is nothing but the right one, as HotpotQA compares them."""
    right = question.answers if prompting == "original" else (question.place.continent,)
    return normal(answer) in {normal(text) for text in right}
