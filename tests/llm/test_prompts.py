"""Prompts and answers as tokens: with a chat template and without, and where an answer ends."""

import dataclasses
from typing import Any

import pytest
from tokenizers import Tokenizer, models, processors
from transformers import PreTrainedTokenizerFast

from lora_reuse.llm.decoding.models import Base, example, load_base, prompt, stop_ids

SOURCE, TARGET = "Who is the spouse of Ann Lee?", "Bo Chan"


def text(base, ids):
    return base.tokenizer.decode(ids)


def test_without_chat_a_prompt_goes_on_with_a_blank_the_target_and_eos(folder_of):
    base = load_base(str(folder_of("qwen2")), chat="off")
    asked, answer = example(base, SOURCE, TARGET)
    assert asked == prompt(base, SOURCE)
    assert text(base, asked) == SOURCE
    assert text(base, answer) == f" {TARGET}</s>"
    assert asked + answer[:-1] == base.tokenizer(f"{SOURCE} {TARGET}").input_ids


def test_a_bos_is_kept_once(folder_of):
    base = load_base(str(folder_of("llama")))
    asked, answer = example(base, SOURCE, TARGET)
    assert text(base, asked) == f"<s>{SOURCE}"
    assert text(base, answer) == f" {TARGET}</s>"


def ending_in_eos(base):
    """The same model, with a tokenizer that ends what it encodes with EOS."""
    tokenizer = base.tokenizer
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return base


def test_an_eos_that_the_tokenizer_appends_is_no_part_of_a_prompt(folder_of):
    base = ending_in_eos(load_base(str(folder_of("llama"))))
    assert base.tokenizer("Ann").input_ids[-1] == base.tokenizer.eos_token_id
    asked, answer = example(base, SOURCE, TARGET)
    assert text(base, asked) == f"<s>{SOURCE}"
    assert text(base, answer) == f" {TARGET}</s>"
    assert text(base, prompt(base, "Ann</s>")) == "<s>Ann</s>"  # the user's own


def test_a_token_across_the_border_is_not_used(folder_of):
    merging = Tokenizer(models.BPE({"a": 0, " ": 1, "b": 2, "a ": 3, "</s>": 4}, [("a", " ")]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=merging, eos_token="</s>")
    base = dataclasses.replace(load_base(str(folder_of("llama"))), tokenizer=tokenizer)
    assert tokenizer("a b").input_ids == [3, 2]
    assert example(base, "a", "b") == ([0], [1, 2, 4])


def test_with_chat_the_answer_ends_the_turn(folder_of):
    base = load_base(str(folder_of("qwen2")))
    asked, answer = example(base, SOURCE, TARGET)
    assert asked == prompt(base, SOURCE)
    assert text(base, asked) == f"<|im_start|>user\n{SOURCE}<|im_end|>\n<|im_start|>assistant\n"
    assert text(base, answer) == f"{TARGET}<|im_end|>"  # and not the template's newline after it
    assert answer[-1] in stop_ids(base)


def with_template(base: Base, template: str) -> Base:
    base.tokenizer.chat_template = template
    return base


OPEN = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "asked", "answer"),
    [
        (
            OPEN + "{% if add_generation_prompt %}[assistant]{% endif %}",
            "[user]Ann[assistant]",
            "Bo</s>",
        ),  # closes no turn
        (
            OPEN + "{% if add_generation_prompt %}[assistant]<think>\n{% endif %}",
            "[user]Ann[assistant]<think>\n",
            "Bo</s>",
        ),
        (  # Qwen 3
            OPEN + "{% if add_generation_prompt %}[assistant]"
            "{% if not enable_thinking %}<think></think>{% endif %}{% endif %}",
            "[user]Ann[assistant]<think></think>",
            "Bo</s>",
        ),
        (
            "{{ date_string }} " + OPEN + "{% if add_generation_prompt %}[assistant]{% endif %}",
            "26 Jul 2024 [user]Ann[assistant]",
            "Bo</s>",
        ),
    ],
)
def test_templates_of_other_kinds(template, asked, answer, folder_of):
    base = with_template(load_base(str(folder_of("qwen2"))), template)
    assert tuple(text(base, ids) for ids in example(base, "Ann", "Bo")) == (asked, answer)


def test_templates_may_give_a_batch(folder_of, monkeypatch):
    base = load_base(str(folder_of("qwen2")))
    expected, plain = prompt(base, SOURCE), base.tokenizer.apply_chat_template
    monkeypatch.setattr(
        base.tokenizer, "apply_chat_template", lambda *args, **options: plain(*args, **options | {"return_dict": True})
    )
    assert prompt(base, SOURCE) == expected


def test_answers_stop_at_every_eos_and_at_known_ends_of_turn(folder_of):
    base = load_base(str(folder_of("qwen2")))
    model: Any = base.model
    assert base.tokenizer.convert_ids_to_tokens(stop_ids(base)) == ["</s>", "<|im_end|>"]
    model.generation_config.eos_token_id = [7, 2]
    assert stop_ids(base) == [2, 5, 7]
    model.generation_config = None
    assert stop_ids(base) == [2, 5]
