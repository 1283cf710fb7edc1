"""Whether an answer is right, as a person who reads it would say: the entity named, and not a substring of another.

Case, accents, punctuation, markup and white space do not matter; a name is named in full or not at all; a place that
its clause denies ("not Zint", "I cannot say whether Frosk lives in Zint") is not named. Thinking is no answer: what
stands in <think>...</think>, after a <think> that is never closed and before a </think> that was opened in the prompt
does not count. Nor does what follows a new question ("Question:", "Answer the following question ...", the turn of a
user): the model has gone on with something else. `tests/llm/test_scoring.py` holds the hard cases."""

import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple


class Score(NamedTuple):
    """A direct answer: strict, the gold place and no other is named; lenient, it is named at all."""

    strict: bool
    lenient: bool


class Steps(NamedTuple):
    """A step-by-step answer, as a whole and hop by hop; `gold_right_given_bridge` is None where the bridge is not
    right."""

    strict: bool
    lenient: bool
    bridge_right: bool
    gold_right_given_bridge: bool | None
    template: bool


class _Mention(NamedTuple):
    entity: str
    start: int
    end: int


# Letters that Unicode does not decompose, and the apostrophes that people and models type.
_LETTERS = str.maketrans(
    dict(zip("łøđðıæœþ", ("l", "o", "d", "d", "i", "ae", "oe", "th"), strict=True)) | dict.fromkeys("’‘ʼʻ`", "'")
)
_INITIALS = re.compile(r"\b\w\.(?:\s?\w\.)+|\b\w\.\w\b")
# An apostrophe belongs to its word (O'Brien) unless it makes a possessive. An ideograph is a word of its own:
# 答案是Zint names Zint.
_IDEOGRAPH = r"\u3040-\u30ff\u3400-\u9fff"
_WORD = re.compile(rf"[{_IDEOGRAPH}]|[^\W_{_IDEOGRAPH}]+(?:'(?!s\b)[^\W_{_IDEOGRAPH}]+)*")

_DENIAL = re.compile(r"\b(?:not(?! only)|never|neither|nor|cannot|whether|\w+n't)\b")
_CLAUSE = re.compile(r"[.,;:!?()\n–—]|\s-\s|\b(?:and|but|yet|because|though|although)\b")
_SENTENCE_END = re.compile(r"[\n。]|(?<!\b\w)[.!?]+(?=[\s*_\"')\]}]|$)")

_MARKUP = r"[\s*_#>]*"
_NEW_TURN = re.compile(
    rf"(?:^|\n|[.!?]\s){_MARKUP}"
    r"(?:(?:question|q|user|human|instruction)[\s\d]*[*_]*:|answer the following question)|<\||</s>"
)
_QUESTION_LINE = re.compile(r"\n(?=([^\n]*\?)[ \t*_\"')\]]*(?:\n|$))")
_PAUSE = re.compile(rf"\n(?=[^\S\n]*\n)|{_QUESTION_LINE.pattern}")
_ANNOUNCEMENT = re.compile(rf"(?:^|:|\banswer is|(?:^|\n){_MARKUP}answer)[\s*_#$\\\[]*$")

# Not \b, to which the underscore of _First_ is a letter.
_ANSWER_IS = re.compile(r"(?<![^\W_])the[\s*_]+answer[\s*_]+is(?![^\W_])")
_FIRST, _SECOND = (re.compile(rf"(?:^|[.!?:\n])[\W\d_]*{word}(?![^\W_])") for word in ("first", "second"))
_THEREFORE = re.compile(rf"(?<![^\W_])therefore[\s,*_]+{_ANSWER_IS.pattern}")


def named(text: str, entities: Collection[str]) -> list[str]:
    """The entities that the text names, in order, repeats included: whole words only, and of two names at one place the
    longer."""
    return [mention.entity for mention in _mentions(_folded(text), frozenset(entities))]


def last_sentence(answer: str) -> str:
    """What an answer in the corpus's own steps ends with, where its conclusion stands; "" of an empty one."""
    parts = [part for line in answer.split("\n") for part in line.split(". ") if part.strip()]
    return parts[-1] if parts else ""


def direct(answer: str, gold: str, places: Collection[str], people: Collection[str] = ()) -> Score:
    """Scores an answer given at once, which ends at a blank line or a line that asks, unless a colon before it says
    that more is to come.

    `people` keeps a place in a person's name (Denzel Washington) from being one.
    """
    _refuse_strangers({gold: places})
    text = _own(answer)
    for pause in _PAUSE.finditer(text):
        if not _ANNOUNCEMENT.search(text[: pause.start()]):
            text = text[: pause.start()]
            break
    mentions = _mentions(text, frozenset(places) | frozenset(people))
    said = {m.entity for m in mentions if m.entity in places and not _denied(text, m)}
    return Score(strict=said == {gold}, lenient=gold in said)


def step_by_step(
    answer: str, *, subject: str, bridge: str, gold: str, people: Collection[str], places: Collection[str]
) -> Steps:
    """Scores an answer of the form "First, ... Second, ... Therefore, the answer is ...", which ends where another
    person is asked about.

    - strict: the sentence after the last "the answer is" names the gold place and no other;
    - lenient: that sentence names it among others, or it is the last place that the answer names and is not denied
      there;
    - bridge_right: from "First" to "Second" the bridge, and beside the subject no other person, is named;
    - gold_right_given_bridge: from "Second" to the last "the answer is" (after that, if no place comes before) the gold
      place and no other is named;
    - template: "First" and "Second", each at the head of a sentence, and "Therefore, the answer is" come in this order.

    The hops are judged apart from the template: a missing "First" is the beginning, a missing "Second" the other end of
    the hop."""
    _refuse_strangers({subject: people, bridge: people, gold: places})
    everyone = frozenset(people) | frozenset(places)
    text = _own(answer)
    text = text[: _next_question(text, _mentions(text, everyone), set(people) - {subject, bridge})]
    mentions = _mentions(text, everyone)
    said = [m for m in mentions if not _denied(text, m)]

    def within(group: Collection[str], start: int, end: int) -> set[str]:
        return {m.entity for m in said if start <= m.start < end and m.entity in group}

    conclusions = list(_ANSWER_IS.finditer(text))
    conclusion = conclusions[-1].start() if conclusions else len(text)
    concluded = within(places, *_sentence(text, conclusions[-1].end(), mentions)) if conclusions else set()
    first = _FIRST.search(text)
    hop_one = first.end() if first else 0
    second = _SECOND.search(text, hop_one)
    bridge_right = within(people, hop_one, second.start() if second else conclusion) - {subject} == {bridge}
    # A denial of the gold place takes it back; a denial of another leaves what was said before.
    last = next((m for m in reversed(mentions) if m.entity == gold or (m.entity in places and m in said)), None)
    reached = within(places, second.end() if second else 0, conclusion) or concluded
    return Steps(
        strict=concluded == {gold},
        lenient=gold in concluded or (last is not None and last in said and last.entity == gold),
        bridge_right=bridge_right,
        gold_right_given_bridge=reached == {gold} if bridge_right else None,
        template=bool(first and second and _THEREFORE.search(text, second.end())),
    )


def _refuse_strangers(members: Mapping[str, Collection[str]]) -> None:
    """A gold answer spelled as no entity is spelled would be scored wrong in silence."""
    for name, group in members.items():
        if name not in group:
            raise ValueError(f"{name!r} is not among the entities to score")


def _folded(text: str) -> str:
    """Lower case without accents, invisible characters or the full stops of initials: Łódź is lodz and D.C. is dc."""
    if text.isascii():
        text = text.lower().replace("`", "'")
    else:
        text = unicodedata.normalize("NFKD", text).casefold().translate(_LETTERS)
        text = "".join(c for c in text if unicodedata.category(c) not in ("Mn", "Cf"))
    return _INITIALS.sub(lambda initials: re.sub(r"[.\s]", "", initials[0]), text)


def _words(folded: str) -> list[tuple[str, int, int]]:
    return [(match[0].replace("'", ""), *match.span()) for match in _WORD.finditer(folded)]


@lru_cache(maxsize=64)
def _lexicon(entities: frozenset[str]) -> dict[str, list[tuple[list[str], str]]]:
    """The entities by first word, the longest first: a look-up a word, where one pattern of all names would try each at
    every word."""
    lexicon: dict[str, list[tuple[list[str], str]]] = {}
    spelled: dict[tuple[str, ...], str] = {}
    for entity in sorted(entities):
        words = [word for word, _, _ in _words(_folded(entity))]
        if not words:
            raise ValueError(f"{entity!r} has no word to look for")
        if (twin := spelled.setdefault(tuple(words), entity)) != entity:
            raise ValueError(f"{twin!r} and {entity!r} cannot be told apart")
        lexicon.setdefault(words[0], []).append((words, entity))
    for names in lexicon.values():
        names.sort(key=lambda name: -len(name[0]))
    return lexicon


def _mentions(folded: str, entities: frozenset[str]) -> list[_Mention]:
    lexicon, words = _lexicon(entities), _words(folded)
    mentions: list[_Mention] = []
    at = 0
    while at < len(words):
        length = 1
        for name, entity in lexicon.get(words[at][0], ()):
            if [word for word, _, _ in words[at : at + len(name)]] == name:
                length = len(name)
                mentions.append(_Mention(entity, words[at][1], words[at + length - 1][2]))
                break
        at += length
    return mentions


def _own(answer: str) -> str:
    """The folded answer without its thinking and without what follows a new turn."""
    text = re.sub(r"<think(?:ing)?>.*?</think(?:ing)?>", "", _folded(answer), flags=re.DOTALL)
    text = re.sub(r"^.*</think(?:ing)?>|<think(?:ing)?>.*$", "", text, flags=re.DOTALL).strip()
    for turn in _NEW_TURN.finditer(text):
        if _WORD.search(text[: turn.start()]):  # what comes first is the question restated, not a new one
            return text[: turn.start()]
    return text


def _next_question(text: str, mentions: Sequence[_Mention], others: set[str]) -> int:
    """Where, after a conclusion, a line asks about someone else: a model that does not stop goes on so, with another
    "the answer is"."""
    if conclusion := _ANSWER_IS.search(text):
        for line in _QUESTION_LINE.finditer(text, conclusion.end()):
            if any(line.start(1) <= m.start < line.end(1) and m.entity in others for m in mentions):
                return line.start()
    return len(text)


def _denied(text: str, mention: _Mention) -> bool:
    before, after = _CLAUSE.split(text[: mention.start])[-1], _CLAUSE.split(text[mention.end :], maxsplit=1)[0]
    return bool(_DENIAL.search(before) or _DENIAL.search(after))


def _sentence(text: str, start: int, mentions: Sequence[_Mention]) -> tuple[int, int]:
    """The sentence of the first word from `start`; the full stop of a name (St. Petersburg) does not end it."""
    if not (word := _WORD.search(text, start)):
        return len(text), len(text)
    stops = (stop.start() for stop in _SENTENCE_END.finditer(text, word.start()))
    return word.start(), next((stop for stop in stops if not any(m.start <= stop < m.end for m in mentions)), len(text))
