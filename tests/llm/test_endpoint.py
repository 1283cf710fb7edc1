"""A chat model behind an address: how it is asked, what it may fail at, and its opinion as a judge."""

from typing import Any

import pytest
import torch

from lora_reuse.llm.data.word_problems import problem
from lora_reuse.llm.protocols.protocol import Question, counted
from lora_reuse.llm.scoring import judge, word_problems
from lora_reuse.llm.scoring.endpoint import Endpoint
from lora_reuse.runs.settings import SettingError

torch.set_num_threads(1)


def test_an_endpoint_is_asked_in_the_usual_form(stub: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("A_KEY", "the secret")
    server = stub(lambda messages, before: messages[-1]["content"].upper() if before else 503)
    said = Endpoint(server.url + "/", "small", "A_KEY", pause=0.0).say([("system", "be loud"), ("user", "hello")])
    assert said == "HELLO"
    assert len(server.asked) == 2  # once more after a 503
    assert server.asked[1]["path"] == "/v1/chat/completions"
    assert (server.asked[1]["model"], server.asked[1]["temperature"]) == ("small", 0)
    assert server.headers[1]["Authorization"] == "Bearer the secret"


@pytest.mark.parametrize(
    ("answer", "tries", "why"), [(401, 1, "status 401, not now"), (429, 3, "status 429"), ("", 1, "no chat completion")]
)
def test_an_endpoint_that_gives_no_answer_is_one_line_without_the_key(
    stub: Any, monkeypatch: Any, answer: str | int, tries: int, why: str
):
    monkeypatch.setenv("A_KEY", "the secret")
    server = stub(lambda messages, before: answer)
    with pytest.raises(SettingError, match=why) as error:
        Endpoint(server.url, "small", "A_KEY", tries=3, pause=0.0).say([("user", "hello")])
    assert len(server.asked) == tries
    assert "the secret" not in str(error.value)


def test_nobody_there_is_one_line():
    with pytest.raises(SettingError, match=r"endpoint: got http://127\.0\.0\.1:9/v1"):
        Endpoint("http://127.0.0.1:9/v1", "small", "NO_KEY", tries=2, pause=0.0).say([("user", "hello")])


def test_a_judge_is_heard_and_compared_with_the_rules(stub: Any):
    chosen = [problem(n, "p2", 0, 0) for n in range(4)]
    said = [chosen[0].answer, chosen[1].answer.rsplit("\n", 2)[0], "1 + 1 = 3", chosen[3].answer]
    opinions = [
        '{"kind": "text", "correct": true, "error": "none"}',
        'Well: {"kind": "text", "correct": false, "error": "step_missing"}',
        '```json\n{"kind": "code", "correct": true, "error": "none"}\n```',
        '{"kind": "poem", "correct": true, "error": "none"}',
    ]
    server = stub(lambda messages, before: opinions[before])
    marks = word_problems.mark(chosen, said, False, Endpoint(server.url, "judge", "NO_KEY"))
    assert [m["judge_unclear"] for m in marks] == [False, False, False, True]
    assert [m.get("agreed") for m in marks] == [True, True, False, None]
    assert [m.get("same_error") for m in marks] == [None, True, False, None]
    assert [m.get("judged_kind") for m in marks] == ["text", "text", "code", None]
    asked = [Question("", p.id, {}, p) for p in chosen]
    counts = counted(None, asked, marks)
    assert (counts["hits"], counts["total"], counts["agreed"], counts["same_error"], counts["judge_unclear"]) == (
        2,
        4,
        2,
        1,
        1,
    )
    assert (counts["judged_kind_text"], counts["error_calculation"], counts["error_none"]) == (2, 1, 2)
    told = server.asked[1]["messages"][1]["content"]
    assert all(part in told for part in (chosen[1].question, chosen[1].answer, said[1]))


@pytest.mark.parametrize(
    "said", ["", "no", "{", "[]", '{"kind": "text"}', '{"kind": ["text"], "correct": 1, "error": "none"}']
)
def test_a_judge_that_rambles_has_no_opinion(said: str):
    class Rambling(Endpoint):
        def say(self, messages: Any) -> str:
            return said

    assert judge.judge(Rambling("http://nowhere", "m"), "q", "r", "s") is None
