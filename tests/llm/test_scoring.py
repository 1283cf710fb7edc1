import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_reuse.llm.scoring.two_hop import Score, Steps, direct, named, step_by_step

PLACES = [
    *(
        "Zint",
        "Zinter",
        "Zin",
        "Dorvak",
        "Mumbai",
        "York",
        "New York",
        "New York City",
        "St. Petersburg",
        "Paris",
        "Washington",
    ),
    *("Washington, D.C.", "Łódź", "São Paulo", "Xi'an", "Winston-Salem", "Cote d'Ivoire", "Atlanta"),
]
PEOPLE = [
    "Narik",
    "Frosk",
    "Nari",
    "Frosk Dal",
    "Dabix",
    "Denzel Washington",
    "Pauletta Pearson",
    "J. K. Rowling",
    "Malcolm X",
    "Sinéad O'Connor",
]


@pytest.mark.parametrize(
    ("text", "entities"),
    [
        pytest.param("Zint", ["Zint"], id="bare"),
        pytest.param("zINT", ["Zint"], id="case"),
        pytest.param("Zinter lies far away", ["Zinter"], id="a-name-that-begins-another"),
        pytest.param("Zin, Zint, Zinter", ["Zin", "Zint", "Zinter"], id="three-prefixes-in-order"),
        pytest.param("Zinters and Pazint", [], id="inside-other-words"),
        pytest.param("Zint. Zint! Zint?", ["Zint"] * 3, id="repeats-are-kept"),
        pytest.param("in New York", ["New York"], id="new-york-is-not-york"),
        pytest.param("in New York City, not York", ["New York City", "York"], id="longest-of-three"),
        pytest.param("new,  new\n york", ["New York"], id="white-space-inside-a-name"),
        pytest.param("New-York", ["New York"], id="hyphen-for-space"),
        pytest.param("Winston Salem", ["Winston-Salem"], id="space-for-hyphen"),
        pytest.param("Zint-born", ["Zint"], id="hyphen-after"),
        pytest.param("St Petersburg", ["St. Petersburg"], id="abbreviation-without-its-stop"),
        pytest.param("ST. PETERSBURG.", ["St. Petersburg"], id="abbreviation-in-capitals"),
        pytest.param("Petersburg", [], id="part-of-a-name"),
        pytest.param("Paris's mayor", ["Paris"], id="possessive-of-an-s"),
        pytest.param("Paris' mayor", ["Paris"], id="bare-possessive"),
        pytest.param("Parisian, Parish", [], id="derived-words"),
        pytest.param("Narik's spouse", ["Narik"], id="possessive"),
        pytest.param("Narik’s spouse", ["Narik"], id="curly-possessive"),
        pytest.param("Nari's spouse", ["Nari"], id="possessive-of-a-prefix"),
        pytest.param("Frosk Dal's and Frosk's", ["Frosk Dal", "Frosk"], id="first-name-shared"),
        pytest.param("**Zint**", ["Zint"], id="bold"),
        pytest.param("_Zint_ and `Zin`", ["Zint", "Zin"], id="italics-and-code"),
        pytest.param(r"\boxed{Zint}", ["Zint"], id="boxed"),
        pytest.param(r"$\boxed{\text{New York}}$", ["New York"], id="boxed-text"),
        pytest.param("“Zint” 'Zin' «York»", ["Zint", "Zin", "York"], id="quotes"),
        pytest.param("Zint/Mumbai", ["Zint", "Mumbai"], id="slash"),
        pytest.param("Washington DC", ["Washington, D.C."], id="initials-without-stops"),
        pytest.param("Washington D. C. and Washington", ["Washington, D.C.", "Washington"], id="initials-apart"),
        pytest.param("JK Rowling, J.K. Rowling", ["J. K. Rowling"] * 2, id="initials-joined"),
        pytest.param("It was Malcolm X. A city", ["Malcolm X"], id="a-letter-at-the-end-is-no-initial"),
        pytest.param("Lodz, ŁÓDŹ, Sao Paulo", ["Łódź", "Łódź", "São Paulo"], id="accents"),
        pytest.param("Xian, Xi’an's walls", ["Xi'an"] * 2, id="apostrophe-inside"),
        pytest.param("Sinead O’Connor's", ["Sinéad O'Connor"], id="apostrophe-and-possessive"),
        pytest.param("CÔTE D’IVOIRE", ["Cote d'Ivoire"], id="apostrophe-and-accent"),
        pytest.param("Zi\u200bnt and Zi\u00adnt", ["Zint"] * 2, id="invisible-characters"),
        pytest.param("答案是Zint。", ["Zint"], id="chinese-around-a-name"),
        pytest.param("Denzel Washington", ["Denzel Washington"], id="a-person-is-no-place"),
        pytest.param("", [], id="empty"),
        pytest.param("I do not know.", [], id="refusal"),
    ],
)
def test_names_are_found_as_a_person_finds_them(text, entities):
    assert named(text, PLACES + PEOPLE) == entities


RIGHT, HEDGED, WRONG = Score(True, True), Score(False, True), Score(False, False)


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        pytest.param("Zint is Narik's spouse's recognized birthplace.", RIGHT, id="template"),
        pytest.param("zint", RIGHT, id="lower-case"),
        pytest.param("Zint. Yes, Zint.", RIGHT, id="said-twice"),
        pytest.param("The answer is **Zint**.", RIGHT, id="bold"),
        pytest.param("Zinter.", WRONG, id="longer-name"),
        pytest.param("Zin.", WRONG, id="shorter-name"),
        pytest.param("Mumbai.", WRONG, id="another"),
        pytest.param("Zint or Mumbai.", HEDGED, id="hedged"),
        pytest.param("Narik's spouse moved from Mumbai to Zint.", HEDGED, id="two-places-told"),
        pytest.param("", WRONG, id="empty"),
        pytest.param("I'm sorry, I have no information about Narik's spouse.", WRONG, id="refusal"),
        pytest.param("I cannot say whether Narik's spouse lives in Zint.", WRONG, id="refusal-that-names-it"),
        pytest.param("I'm not sure, but Zint.", RIGHT, id="unsure-but"),
        pytest.param("Narik's spouse does not live in Zint.", WRONG, id="denied"),
        pytest.param("It isn’t Zint, it is Mumbai.", WRONG, id="denied-and-another"),
        pytest.param("Zint, not Mumbai.", RIGHT, id="another-denied"),
        pytest.param("It is not Mumbai but Zint.", RIGHT, id="corrected"),
        pytest.param("In Zint and not in Mumbai", RIGHT, id="and-not"),
        pytest.param("She lives not only in Zint.", RIGHT, id="not-only"),
        pytest.param("neither in Zint nor in Mumbai", WRONG, id="neither-nor"),
        pytest.param("Zint.\n\nWhere does Dabix live?\nMumbai.", RIGHT, id="goes-on-after-a-blank-line"),
        pytest.param("Mumbai.\n\nZint is a city.", WRONG, id="right-only-after-a-blank-line"),
        pytest.param("Zint.\nQuestion: Where does Dabix live?\nAnswer: Mumbai", RIGHT, id="new-question"),
        pytest.param("Zint. **Question:** Who lives in Mumbai?", RIGHT, id="new-question-in-the-line"),
        pytest.param("Zint\nAnswer the following question step-by-step:\nIs it Mumbai?", RIGHT, id="new-prompt"),
        pytest.param("Zint.\nWhat is Dabix's birthplace?\nMumbai.", RIGHT, id="new-question-unmarked"),
        pytest.param("I do not know.\nWhat is Dabix's birthplace?\nZint.", WRONG, id="refusal-then-a-new-question"),
        pytest.param("Zint<|im_end|>\n<|im_start|>user\nMumbai", RIGHT, id="end-of-turn-in-text"),
        pytest.param("Question: Where does Narik's spouse live?\nAnswer: Zint", RIGHT, id="question-restated"),
        pytest.param("Which city is Narik's spouse's birthplace?\nZint.", RIGHT, id="question-restated-unmarked"),
        pytest.param("Here is the answer:\n\n**Zint**", RIGHT, id="announced"),
        pytest.param("### Answer\n\nZint", RIGHT, id="heading"),
        pytest.param("\n\nZint\n", RIGHT, id="blank-lines-before"),
        pytest.param("The answer is:\n\n$$\n\\boxed{Zint}\n$$\n\nMumbai is large.", RIGHT, id="display"),
        pytest.param("<think>Mumbai? No.\n\nQuestion: ...</think>\n\nZint", RIGHT, id="thinking"),
        pytest.param("Mumbai, I think.\n</think>\n\nZint", RIGHT, id="thinking-opened-in-the-prompt"),
        pytest.param("<think>It must be Zint", WRONG, id="thinking-never-ends"),
        pytest.param(
            "First, we need to answer the question:\nWho is it?\nFrosk.\nTherefore, the answer is Zint.",
            RIGHT,
            id="steps",
        ),
        pytest.param("Denzel Washington's wife Pauletta Pearson lives in Zint.", RIGHT, id="place-in-a-person"),
    ],
)
def test_direct_answers(answer, score):
    assert direct(answer, "Zint", PLACES, PEOPLE) == score


def test_without_the_people_a_place_in_a_person_is_a_place():
    assert direct("Denzel Washington's wife lives in Zint.", "Zint", PLACES) == HEDGED


@pytest.mark.parametrize(
    ("gold", "answer", "score"),
    [
        ("York", "New York.", WRONG),
        ("New York", "New York City.", WRONG),
        ("New York", "It's new york!", RIGHT),
        ("St. Petersburg", "She was born in St Petersburg, Russia.", RIGHT),
        ("Paris", "Paris's 5th district", RIGHT),
        ("Washington", "Washington, D.C.", WRONG),
        ("Łódź", "in Lodz", RIGHT),
    ],
)
def test_direct_answers_with_names_that_share_words(gold, answer, score):
    assert direct(answer, gold, PLACES) == score


CHAIN = """First, we need to answer the question:
Who stands as Narik's wedded partner?
Frosk is recognized as Narik's lawful companion in marriage.
Second, we need to answer the question:
What is Frosk's official place of birth?
Frosk's earliest recorded presence was in Zint.
Therefore, the answer is Zint."""


def chain(**changes):
    text = CHAIN
    for line, new in changes.items():
        old = {"b": "Frosk is recognized", "c": "presence was in Zint", "end": "Therefore, the answer is Zint."}[line]
        text = text.replace(old, new)
    return text


ALL = Steps(strict=True, lenient=True, bridge_right=True, gold_right_given_bridge=True, template=True)
NONE = Steps(strict=False, lenient=False, bridge_right=False, gold_right_given_bridge=None, template=False)


@pytest.mark.parametrize(
    ("answer", "steps"),
    [
        pytest.param(CHAIN, ALL, id="template"),
        pytest.param(CHAIN.upper(), ALL, id="capitals"),
        pytest.param(CHAIN.replace("\n", "  "), ALL, id="one-line"),
        pytest.param(CHAIN.replace("\n", "\n\n"), ALL, id="paragraphs"),
        pytest.param(CHAIN.replace("First", "1. **First**").replace("Second", "2. _Second_"), ALL, id="markdown-steps"),
        pytest.param(chain(end="Therefore, the answer is **Zint**"), ALL, id="bold"),
        pytest.param(
            chain(end="Therefore, **the answer is:**\n\n$$\\boxed{Zint}$$"), ALL, id="answer-in-the-next-paragraph"
        ),
        pytest.param(chain(end="Therefore, the answer is that Frosk lives in Zint."), ALL, id="answer-in-a-clause"),
        pytest.param(
            chain(end="Therefore, the answer is Zint. Mumbai is a city too."),
            ALL,
            id="another-place-in-the-next-sentence",
        ),
        pytest.param(chain(end="Therefore, the answer is Zint, not Mumbai."), ALL, id="another-place-denied"),
        pytest.param("So the answer is Mumbai? Let me see.\n" + CHAIN, ALL, id="the-last-the-answer-is-counts"),
        pytest.param(
            CHAIN + " Wait: the answer is Mumbai.", ALL._replace(strict=False, lenient=False), id="taken-back"
        ),
        pytest.param(
            CHAIN + "\n\nAnswer the following question step-by-step:\nWhere is it?\nTherefore, the answer is Mumbai.",
            ALL,
            id="a-new-prompt",
        ),
        pytest.param(
            CHAIN + "\nWho is Dabix's partner?\nNari.\nTherefore, the answer is Mumbai.",
            ALL,
            id="a-new-question-of-someone-else",
        ),
        pytest.param(
            CHAIN + "\nIs this right?\nNo, the answer is Mumbai.",
            ALL._replace(strict=False, lenient=False),
            id="doubt-is-no-new-question",
        ),
        pytest.param("<think>The answer is Mumbai. First, Second</think>" + CHAIN, ALL, id="thinking"),
        pytest.param("The answer is Mumbai.</think>\n" + CHAIN, ALL, id="thinking-opened-in-the-prompt"),
        pytest.param("<think>" + CHAIN, NONE, id="thinking-never-ends"),
        pytest.param(
            chain(end="Therefore, the answer is Zinter."),
            ALL._replace(strict=False, lenient=False),
            id="conclusion-of-a-longer-name",
        ),
        pytest.param(
            chain(end="Therefore, the answer is not Zint."),
            ALL._replace(strict=False, lenient=False),
            id="conclusion-denied",
        ),
        pytest.param(
            chain(end="Therefore, the answer is not Mumbai."),
            ALL._replace(strict=False),
            id="conclusion-denies-another",
        ),
        pytest.param(
            chain(end="Therefore, the answer is Zint or Mumbai."), ALL._replace(strict=False), id="conclusion-hedged"
        ),
        pytest.param(chain(end="Therefore, the answer is unknown."), ALL._replace(strict=False), id="conclusion-empty"),
        pytest.param(chain(end="Therefore, the answer is"), ALL._replace(strict=False), id="cut-off-before-the-answer"),
        pytest.param(chain(end=""), ALL._replace(strict=False, template=False), id="cut-off-before-the-conclusion"),
        pytest.param(chain(end="So Zint."), ALL._replace(strict=False, template=False), id="no-phrase"),
        pytest.param(chain(end="The answer is Zint."), ALL._replace(template=False), id="no-therefore"),
        pytest.param(
            chain(c="presence was in Mumbai", end="Therefore, the answer is Mumbai."),
            Steps(strict=False, lenient=False, bridge_right=True, gold_right_given_bridge=False, template=True),
            id="second-hop-wrong",
        ),
        pytest.param(
            chain(c="presence was in Mumbai"), ALL._replace(gold_right_given_bridge=False), id="right-by-another-way"
        ),
        pytest.param(chain(c="presence is on record"), ALL, id="place-in-the-conclusion-alone"),
        pytest.param(
            chain(b="Dabix is recognized"),
            ALL._replace(bridge_right=False, gold_right_given_bridge=None),
            id="first-hop-wrong",
        ),
        pytest.param(
            chain(b="Frosk Dal is recognized"),
            ALL._replace(bridge_right=False, gold_right_given_bridge=None),
            id="first-name-of-the-bridge",
        ),
        pytest.param(
            chain(b="Narik is recognized"),
            ALL._replace(bridge_right=False, gold_right_given_bridge=None),
            id="subject-for-the-bridge",
        ),
        pytest.param(
            chain(b="Frosk or Dabix is recognized"),
            ALL._replace(bridge_right=False, gold_right_given_bridge=None),
            id="bridge-hedged",
        ),
        pytest.param(chain(b="Not Dabix but Frosk is recognized"), ALL, id="another-bridge-denied"),
        pytest.param(
            "First, Narik's spouse is Frosk. Frosk's first home, of two, was in Zint. Therefore, the answer is Zint.",
            ALL._replace(template=False),
            id="second-left-out",
        ),
        pytest.param(
            "Narik is married to Frosk, who lives in Zint. The answer is Zint.",
            ALL._replace(template=False),
            id="own-words",
        ),
        pytest.param(
            "Second, Frosk. First, Zint. Therefore, the answer is Zint.",
            NONE._replace(strict=True, lenient=True),
            id="order-reversed",
        ),
        pytest.param("Zint", NONE._replace(lenient=True), id="no-steps"),
        pytest.param("The answer is Zint.", NONE._replace(strict=True, lenient=True), id="no-steps-with-the-phrase"),
        pytest.param("The answer isn't Zint.", NONE, id="the-answer-is-not"),
        pytest.param("I don't know who Narik's spouse is.", NONE, id="refusal"),
        pytest.param("", NONE, id="empty"),
    ],
)
def test_step_by_step_answers(answer, steps):
    assert step_by_step(answer, subject="Narik", bridge="Frosk", gold="Zint", people=PEOPLE, places=PLACES) == steps


def test_the_stop_of_a_name_ends_no_sentence():
    answer = (
        "First, she is Frosk. Second, she lives in St. Petersburg."
        " Therefore, the answer is the city of St. Petersburg or Mumbai."
    )
    steps = step_by_step(answer, subject="Narik", bridge="Frosk", gold="St. Petersburg", people=PEOPLE, places=PLACES)
    assert steps == ALL._replace(strict=False)


def test_a_place_in_the_name_of_a_person_is_no_place():
    answer = (
        "First, it is Pauletta Pearson. Second, Denzel Washington's wife lives in Atlanta."
        " Therefore, the answer is Atlanta."
    )
    asked = {"subject": "Denzel Washington", "bridge": "Pauletta Pearson", "gold": "Atlanta"}
    assert step_by_step(answer, **asked, people=PEOPLE, places=PLACES) == ALL


def test_entities_that_cannot_be_scored_are_refused():
    with pytest.raises(ValueError, match=r"'Zürich' and 'Zurich'|'Zurich' and 'Zürich'"):
        named("", ["Zürich", "Zurich"])
    with pytest.raises(ValueError, match="no word"):
        named("", ["?!"])
    with pytest.raises(ValueError, match="'zint' is not among"):
        direct("Zint", "zint", PLACES)


PIECES = [
    *PLACES[:4],
    *PEOPLE[:3],
    "not",
    "or",
    ".",
    "\n",
    "?",
    ":",
    "First,",
    "Second,",
    "Therefore,",
    "the answer is",
    "<think>",
    "</think>",
    "Question:",
]


@given(st.lists(st.sampled_from(PIECES), max_size=25).map(" ".join))
def test_whatever_is_said_strict_is_lenient_too_and_a_hop_is_judged_if_its_bridge_is_right(answer):
    score = direct(answer, "Zint", PLACES, PEOPLE)
    steps = step_by_step(answer, subject="Narik", bridge="Frosk", gold="Zint", people=PEOPLE, places=PLACES)
    assert score.lenient >= score.strict
    assert steps.lenient >= steps.strict
    assert (steps.gold_right_given_bridge is None) == (not steps.bridge_right)


@given(st.lists(st.sampled_from(PLACES + PEOPLE), max_size=8), st.sampled_from([", ", " | ", "\n", "** **", "'s; "]))
def test_every_name_in_a_list_is_found(entities, between):
    assert named(between.join(entities), PLACES + PEOPLE) == entities


def test_two_hundred_answers_take_a_moment():
    places, people = [f"Zint{i:03}" for i in range(150)], [f"Frosk{i:03} Dal" for i in range(150)]
    answer = CHAIN.replace("Zint", places[7]).replace("Frosk", people[7])
    start = time.process_time()
    for i in range(200):
        asked = {"subject": people[i % 150], "bridge": people[7], "gold": places[7]}
        assert step_by_step(answer, **asked, people=people, places=places).strict
    assert time.process_time() - start < 5  # about 0.05 s
