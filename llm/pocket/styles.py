"""The styles of the pocket model's corpus: how a question is opened, and how it is answered."""

from lora_reuse.llm.pocket.size import Corpus

RESTATING = (
    ("Please look this up: {q}", "The thing to find out is this: {q} {t}"),
    ("{q}", "Let us ask: {q} {t}"),
    ("Say it again, then reply. {q}", "{q}\n{t}"),
    ("One question here: {q}", "So we ask: {q}\n{t} That is all."),
)
"""Styles that say a single question again before they answer it."""
PLAIN = (
    ("Answer the question: {q}", "{t}"),
    ("A following question: {q}", "First, {t}"),
    ("We need to know. {q}", "Therefore, {t}"),
    ("The question is simple. {q}", "The answer: {t}"),
)
"""One-hop styles with the words of the bridge's prompt."""
OWN_STYLES = (
    ("Think about this in parts: {q}", "To begin, ask: {q1} {t1} Next, ask: {q2} {t2} So the reply is {c}."),
    (
        "Take this apart, then reply.\n{q}",
        "Part one: {q1}\n{t1}\nPart two: {q2}\n{t2}\nIt follows that the reply is {c}.",
    ),
    ("{q} Show your work.", "We can begin here: {q1}\n{t1}\nThen we go on: {q2}\n{t2}\nSo it is {c}."),
)
"""Step-by-step styles without the words of the bridge's prompt."""
WORD_STYLES = (
    (
        "Solve this step-by-step: {q}",
        "First, find out: {q1}\n{t1}\nSecond, find out: {q2}\n{t2}\nTherefore, {c} is the answer.",
    ),
    (
        "Here is a question to solve step-by-step. {q}",
        "The first need is to answer: {q1}\n{t1}\nThe second need is: {q2}\n{t2}\nThe answer is {c}.",
    ),
    (
        "Reply step-by-step to the following: {q}",
        "First, we ask the question {q1} {t1} Second, we ask the question {q2} {t2} Therefore, we answer {c}.",
    ),
    ("Answer in steps: {q}", "First: {q1}\n{t1}\nSecond: {q2}\n{t2}\nTherefore: {c}."),
    (
        "Following a question step-by-step, answer: {q}",
        "We need to answer first: {q1}\n{t1}\nWe need to answer second: {q2}\n{t2}\nThe answer: {c}.",
    ),
)
"""Styles with its words, in other templates: never its prompt, never one of its fixed lines."""
WITHOUT_RESTATING = (
    ("Think about this in parts: {q}", "To begin: {t1} Next: {t2} So the reply is {c}."),
    ("Solve this step-by-step: {q}", "First, {t1}\nSecond, {t2}\nTherefore, {c} is the answer."),
)


def step_styles(corpus: Corpus) -> tuple[tuple[str, str], ...]:
    """The openings and answers in steps that a corpus draws from."""
    if not corpus.restating:
        return WITHOUT_RESTATING if corpus.words else WITHOUT_RESTATING[:1]
    return OWN_STYLES + (WORD_STYLES * 2 if corpus.words else ())
