"""Asking a composed model: greedy answers for every prompt and every composition in one batch, and log-probabilities of given answers."""

import itertools
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
    stops = stop_ids(base)
    greedy = GenerationConfig(do_sample=False, max_new_tokens=longest, eos_token_id=stops, pad_token_id=base.tokenizer.pad_token_id, use_cache=True)
    prompts = [prompt(base, question) for question in questions]
    texts: list[list[str]] = [[""] * len(questions) for _ in compositions]

    def decode(lot: list[int], chosen: list[int]) -> None:
        ids, attended = _left_padded([prompts[i] for i in chosen], base)
        copies = len(lot)
        made: Any = base.model.generate(input_ids=ids.repeat(copies, 1), attention_mask=attended.repeat(copies, 1), generation_config=greedy)  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
        tokens = [list(itertools.takewhile(lambda token: token not in stops, row)) for row in made[:, ids.shape[1] :].tolist()]
        said = base.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        for place, (k, i) in enumerate(itertools.product(lot, chosen)):
            texts[k][i] = said[place].strip()
        done(len(chosen) * copies)

    own, base.model.generation_config = base.model.generation_config, greedy  # `generate` takes from there what its argument leaves open
    try:
        _in_groups(base, compositions, [len(p) for p in prompts], rows, decode)
    finally:
        base.model.generation_config = own
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
    jobs: list[tuple[int, list[int], list[tuple[int, list[int], int]]]] = []
    for i, (question, beginning) in enumerate(zip(questions, beginnings, strict=True)):
        whole = [asked + answer[:-1] for asked, answer in (example(base, question, beginning + candidate) for candidate in candidates[i])]
        differing = (n for n, column in enumerate(zip(*whole, strict=False)) if len(set(column)) > 1)
        shared = next(differing, min(map(len, whole)) - 1)  # where one begins like all others, its last token is judged too
        read: list[tuple[int, list[int], list[tuple[int, list[int], int]]]] = []
        for j, ids in sorted(enumerate(whole), key=lambda pair: -len(pair[1])):
            # Candidates of one token are all judged by one reading of the question: a hundred names cost as much as one.
            told = next((told for _, inputs, told in read if inputs[: len(ids) - 1] == ids[:-1]), None)
            if told is None:
                read.append((i, ids[:-1], told := []))
            told.append((j, ids, shared))
        jobs += read
    found = [[[0.0] * len(listed) for listed in candidates] for _ in compositions]

    def score(lot: list[int], chosen: list[int]) -> None:
        listed, copies = [jobs[n] for n in chosen], len(lot)
        longest = max(len(inputs) for _, inputs, _ in listed)  # padding on the right, so that positions are those of the text
        ids = torch.tensor([inputs + [0] * (longest - len(inputs)) for _, inputs, _ in listed], device=base.device).repeat(copies, 1)
        attended = torch.tensor([[1] * len(inputs) + [0] * (longest - len(inputs)) for _, inputs, _ in listed], device=base.device)
        logits = base.model(input_ids=ids, attention_mask=attended.repeat(copies, 1), use_cache=False).logits
        wanted = [
            (place, k, i, j, position, tokens[position + 1])
            for place, (k, (i, _, told)) in enumerate(itertools.product(lot, listed))
            for j, tokens, shared in told
            for position in range(shared - 1, len(tokens) - 1)
        ]
        spots = {spot: n for n, spot in enumerate(dict.fromkeys((place, position) for place, _, _, _, position, _ in wanted))}
        at_rows, positions = (torch.tensor(column, device=logits.device) for column in zip(*spots, strict=True))
        spoken = torch.log_softmax(logits[at_rows, positions].float(), -1)
        values = spoken[[spots[place, position] for place, _, _, _, position, _ in wanted], [token for *_, token in wanted]].tolist()
        for (_, k, i, j, _, _), value in zip(wanted, values, strict=True):
            found[k][i][j] += value

    _in_groups(base, compositions, [len(inputs) for _, inputs, _ in jobs], rows, score)
    return found


def gates(base: Base, composition: Composition, questions: Sequence[str], said: Sequence[str]) -> list[Float[Tensor, "tokens experts"]]:
    """Of a routed composition, the expert weights at each token of each answer (where the token is predicted), averaged over modules."""
    found = []
    with Resident(base.model, record=True) as resident, torch.inference_mode():
        for question, answer in zip(questions, said, strict=True):
            asked, told = example(base, question, answer)
            resident.use([composition])
            base.model(input_ids=torch.tensor([asked + told], device=base.device), use_cache=False)
            modules = torch.stack([weights.flatten(0, -2) for (weights,) in resident.gates[0].values()])  # OPT's have no axis of rows
            found.append(modules.mean(0)[len(asked) - 1 : -1])
    return found


def _left_padded(prompts: Sequence[list[int]], base: Base) -> tuple[Tensor, Tensor]:
    """Ids and attention mask; padding is on the left, so that all answers start at one place."""
    length = max(map(len, prompts))
    pad: Any = base.tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (length - len(p)) + p for p in prompts], device=base.device)
    attended = torch.tensor([[0] * (length - len(p)) + [1] * len(p) for p in prompts], device=base.device)
    return ids, attended


def _in_groups(
    base: Base, compositions: Sequence[Composition | None], lengths: Sequence[int], rows: int, run: Callable[[list[int], list[int]], None]
) -> None:
    """Runs (compositions, prompts) by number, with the compositions on the base and at most `rows` prompts together, those of like lengths;
    half as many from where memory runs out on. Raises SettingError when one alone is too much."""
    order = sorted(range(len(lengths)), key=lambda n: lengths[n])
    with Resident(base.model) as resident, torch.inference_mode():
        for lot in _lots(base, resident, compositions):
            resident.use([compositions[k] for k in lot])
            start, size = 0, max(1, rows // len(lot))
            while start < len(order):
                chosen = order[start : start + size]
                try:
                    run(lot, chosen)
                except torch.OutOfMemoryError:
                    if len(chosen) == 1:
                        raise SettingError("batch_rows", 1, "a device with room for one prompt", "a smaller model, or device_map=auto") from None
                    size = len(chosen) // 2
                    print(f"out of memory: {size} prompts at once from here on")
                    continue
                start += size


def _lots(base: Base, resident: Resident, compositions: Sequence[Composition | None]) -> list[list[int]]:
    """The compositions that share a batch, by number: all, or each alone where a module gets tokens without an axis of rows, as OPT's MLPs do."""
    resident.use(compositions)
    try:
        base.model(input_ids=torch.zeros(len(compositions), 2, dtype=torch.long, device=base.device), use_cache=False)
    except (SettingError, torch.OutOfMemoryError):
        return [[k] for k in range(len(compositions))]
    return [list(range(len(compositions)))]
