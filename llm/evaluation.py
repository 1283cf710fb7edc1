"""Asking a composed model: greedy answers for every prompt and every composition in one batch, and log-probabilities of given answers."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import GenerationConfig

from llm.compositions import Composition
from llm.models import Base, example, prompt, stop_ids
from llm.resident import Resident
from runs.settings import SettingError


def answers(
    base: Base,
    compositions: Sequence[Composition | None],
    questions: Sequence[str],
    longest: int,
    rows: int = 256,
    done: Callable[[int], object] = id,
) -> list[list[str]]:
    """The greedy answer to each question under each composition (None: the base alone): answers[composition][question].

    At most `rows` prompts are decoded together, in groups of one length or nearly; half as many when memory runs out. `done` is told how
    many answers have come. The checkpoint's own generation settings are not used: some hold a repetition penalty, which is not greedy.
    """
    greedy = GenerationConfig(
        do_sample=False, max_new_tokens=longest, eos_token_id=stop_ids(base), pad_token_id=base.tokenizer.pad_token_id, use_cache=True
    )
    prompts = [prompt(base, question) for question in questions]
    texts: list[list[str]] = [[""] * len(questions) for _ in compositions]

    def decode(chosen: list[int]) -> None:
        ids, attended = _left_padded([prompts[i] for i in chosen], base)
        copies = len(compositions)
        made: Any = base.model.generate(input_ids=ids.repeat(copies, 1), attention_mask=attended.repeat(copies, 1), generation_config=greedy)  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
        said = base.tokenizer.batch_decode(made[:, ids.shape[1] :], skip_special_tokens=True)
        for k in range(copies):
            for place, i in enumerate(chosen):
                texts[k][i] = said[k * len(chosen) + place].strip()
        done(len(chosen) * copies)

    with Resident(base.model) as resident, torch.inference_mode():
        resident.use(compositions)
        _in_groups(sorted(range(len(prompts)), key=lambda i: len(prompts[i])), max(1, rows // len(compositions)), decode)
    return texts


def log_probs(
    base: Base,
    compositions: Sequence[Composition | None],
    questions: Sequence[str],
    beginnings: Sequence[str],
    candidates: Sequence[Sequence[str]],
    rows: int = 256,
) -> list[list[list[float]]]:
    """log P(candidate | question, beginning of the answer) for each composition, question and candidate of that question, in nats.

    The beginning is the answer up to where the candidate stands. What all candidates of a question share counts as given, so a candidate's
    first token is judged in its context; what follows the candidate does not count.
    """
    jobs = []
    for i, (question, beginning) in enumerate(zip(questions, beginnings, strict=True)):
        whole = [asked + answer[:-1] for asked, answer in (example(base, question, beginning + candidate) for candidate in candidates[i])]
        shared = (
            len(whole[0]) - 1
            if len(set(map(tuple, whole))) == 1
            else next(n for n, column in enumerate(zip(*whole, strict=False)) if len(set(column)) > 1)
        )
        jobs += [(i, j, ids, shared) for j, ids in enumerate(whole)]
    found = [[[0.0] * len(listed) for listed in candidates] for _ in compositions]

    def score(chosen: list[int]) -> None:
        listed, copies = [jobs[n] for n in chosen], len(compositions)
        longest = max(len(ids) for _, _, ids, _ in listed)  # padding on the right, so that positions are those of the text
        ids = torch.tensor([ids + [0] * (longest - len(ids)) for _, _, ids, _ in listed], device=base.device).repeat(copies, 1)
        attended = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for _, _, ids, _ in listed], device=base.device).repeat(copies, 1)
        logits = base.model(input_ids=ids, attention_mask=attended, use_cache=False).logits[:, :-1]
        told = torch.log_softmax(logits.float(), -1).gather(-1, ids[:, 1:, None].to(logits.device))[..., 0].cpu()
        for k in range(copies):
            for place, (i, j, tokens, shared) in enumerate(listed):
                found[k][i][j] = told[k * len(chosen) + place, shared - 1 : len(tokens) - 1].sum().item()

    with Resident(base.model) as resident, torch.inference_mode():
        resident.use(compositions)
        _in_groups(sorted(range(len(jobs)), key=lambda n: len(jobs[n][2])), max(1, rows // len(compositions)), score)
    return found


def gates(base: Base, composition: Composition, questions: Sequence[str], said: Sequence[str]) -> list[Float[Tensor, "tokens experts"]]:
    """Of a routed composition, the expert weights at each token of each answer (where the token is predicted), averaged over modules."""
    found = []
    with Resident(base.model, record=True) as resident, torch.inference_mode():
        for question, answer in zip(questions, said, strict=True):
            asked, told = example(base, question, answer)
            resident.use([composition])
            base.model(input_ids=torch.tensor([asked + told], device=base.device), use_cache=False)
            modules = torch.stack([weights[0][0] for weights in resident.gates[0].values()])
            found.append(modules.mean(0)[len(asked) - 1 : -1])
    return found


def _left_padded(prompts: Sequence[list[int]], base: Base) -> tuple[Tensor, Tensor]:
    """Ids and attention mask; padding is on the left, so that all answers start at one place."""
    length = max(map(len, prompts))
    pad: Any = base.tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (length - len(p)) + p for p in prompts], device=base.device)
    attended = torch.tensor([[0] * (length - len(p)) + [1] * len(p) for p in prompts], device=base.device)
    return ids, attended


def _in_groups(order: list[int], size: int, run: Callable[[list[int]], None]) -> None:
    """Runs groups of at most `size`, half of it from where memory runs out on. Raises SettingError when one alone is too much."""
    start = 0
    while start < len(order):
        try:
            run(order[start : start + size])
        except torch.OutOfMemoryError:
            if size == 1:
                raise SettingError("batch_rows", 1, "a device with room for one prompt", "a smaller model, or device_map=auto") from None
            size = max(1, size // 2)
            print(f"out of memory: {size} prompts at once from here on")
            continue
        start += size
