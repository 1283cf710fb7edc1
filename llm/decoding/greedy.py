"""Asking a composed model: greedy answers for every prompt and every composition in one batch, and log-probabilities of
given answers."""

import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, overload

import torch
from jaxtyping import Float
from torch import Tensor

from lora_reuse.llm.adapters.adapter import check_base
from lora_reuse.llm.compositions import Composition
from lora_reuse.llm.decoding.cache import roomy_cache
from lora_reuse.llm.decoding.models import Base, after, example, prompt, stop_ids
from lora_reuse.llm.decoding.resident import Resident
from lora_reuse.runs.settings import SettingError


@overload
def answers(
    base: Base,
    compositions: Composition | None,
    questions: Sequence[str],
    max_new_tokens: int = 96,
    rows: int = 256,
    done: Callable[[int], object] = id,
) -> list[str]: ...
@overload
def answers(
    base: Base,
    compositions: Sequence[Composition | None],
    questions: Sequence[str],
    max_new_tokens: int = 96,
    rows: int = 256,
    done: Callable[[int], object] = id,
) -> list[list[str]]: ...
@overload
def answers(
    base: Base,
    compositions: Mapping[str, Composition | None],
    questions: Sequence[str],
    max_new_tokens: int = 96,
    rows: int = 256,
    done: Callable[[int], object] = id,
) -> dict[str, list[str]]: ...
def answers(
    base: Base,
    compositions: Composition | Sequence[Composition | None] | Mapping[str, Composition | None] | None,
    questions: Sequence[str],
    max_new_tokens: int = 96,
    rows: int = 256,
    done: Callable[[int], object] = id,
) -> list[str] | list[list[str]] | dict[str, list[str]]:
    """The greedy answer to each question under a composition, or under several, which are decoded in one batch.

    The composition is added to the outputs of the base's modules while the base stays as it is. Of the checkpoint's own
    generation settings only the stops are used: some hold a repetition penalty, which is not greedy.

    Args:
        base: the model that is asked, each question as its chat template or, without one, as plain text.
        compositions: an adapter or a composition; None asks the base alone; a list of these, or a dict of them by name,
            asks each of them.
        questions: the prompts.
        max_new_tokens: where an answer is cut.
        rows: how many prompts are decoded together, in groups of one length or nearly; half as many from where memory
            runs out on.
        done: is told how many answers have come, for a progress bar.

    Returns:
        `answers[question]`; for a list `answers[composition][question]`; and for a dict `answers[name][question]`,
        of which `pandas.DataFrame(..., index=questions)` is a table.

    Raises:
        SettingError: a composition of another model, or one prompt that does not fit into memory.

    Examples:
        >>> lr.answers(base, None, ["Where does Plato live?"], max_new_tokens=8)
        ['Plato lives in ...']
        >>> lr.answers(base, {"base": None, "a": a}, ["Where does Plato live?"], max_new_tokens=8)
        {'base': ['Plato lives in ...'], 'a': [...]}
    """
    if isinstance(questions, str):
        raise SettingError("questions", repr(questions), "a list of questions", f"[{questions!r}]")
    if isinstance(compositions, Mapping) and any(it is None or isinstance(it, Mapping) for it in compositions.values()):
        by_name: Any = compositions
        several = answers(base, list(by_name.values()), questions, max_new_tokens, rows, done)
        return dict(zip(by_name, several, strict=True))
    if compositions is None or isinstance(compositions, Mapping):
        one: Any = compositions
        return answers(base, [one], questions, max_new_tokens, rows, done)[0]
    check_base(base, *compositions)
    prompts = [prompt(base, question) for question in questions]
    texts: list[list[str]] = [[""] * len(questions) for _ in compositions]

    def decode(resident: Resident, lot: list[int], chosen: list[int]) -> None:
        said = base.tokenizer.batch_decode(
            _greedy(base, resident, [prompts[i] for i in chosen], len(lot), max_new_tokens), skip_special_tokens=True
        )
        for place, (k, i) in enumerate(itertools.product(lot, chosen)):
            texts[k][i] = said[place].strip()
        done(len(chosen) * len(lot))

    _in_groups(base, compositions, [len(p) for p in prompts], rows, decode)
    return texts


def _greedy(base: Base, resident: Resident, prompts: Sequence[list[int]], copies: int, longest: int) -> list[list[int]]:
    """The greedy answers, as tokens, of `copies` batches of the prompts, one a composition.

    `generate` carries every row until the last has ended. Here rows leave the batch, with their keys and values, once
    an eighth of it has ended: step-by-step answers of several compositions differ much in length."""
    model, stops = base.model, torch.tensor(sorted(stop_ids(base)), device=base.device)
    placed = "position_ids" in inspect.signature(model.forward).parameters  # other models count positions in the mask
    ids, attended = (part.repeat(copies, 1) for part in _left_padded(prompts, base))
    places = (attended.cumsum(-1) - 1).clamp_min(0)
    live = torch.arange(len(ids), device=base.device)
    ended = torch.zeros_like(live, dtype=torch.bool)
    said = torch.full((len(ids), longest), int(stops[0]), device=base.device)
    cache = roomy_cache(model.config)
    resident.share([])
    for step in range(longest):
        extra = last_logits(base, 1) | ({"position_ids": places} if placed else {})
        logits = model(input_ids=ids, attention_mask=attended, past_key_values=cache, use_cache=True, **extra).logits
        token = torch.where(ended, stops[0], logits[:, -1].argmax(-1).to(base.device))
        said[live, step] = token
        ended = ended | torch.isin(token, stops)
        if ended.all():
            break
        ids, places = token[:, None], places[:, -1:] + 1
        attended = torch.cat([attended, attended.new_ones(len(attended), 1)], -1)
        if 8 * int(ended.sum()) >= len(ended):
            stay = (~ended).nonzero()[:, 0]
            ids, places, attended, live, ended = (part[stay] for part in (ids, places, attended, live, ended))
            cache.batch_select_indices(stay.cpu())  # layers may be on several devices
            resident.share(torch.bincount(live // len(prompts), minlength=copies).tolist())
    stop = set(stops.tolist())
    return [list(itertools.takewhile(lambda token: token not in stop, row)) for row in said.tolist()]


def log_probs(
    base: Base,
    compositions: Sequence[Composition | None],
    questions: Sequence[str],
    beginnings: Sequence[str],
    candidates: Sequence[Sequence[str]],
    rows: int = 256,
    whole: bool = False,
) -> list[list[list[float]]]:
    """log P(candidate | question, beginning of the answer) for each composition, question and candidate of that
    question, in nats.

    The beginning is the answer up to where the candidate stands. What all candidates of a question share counts as
    given, so a candidate's first token is judged in its context; what follows the candidate does not count. `whole`:
    every token after the question is judged, the beginning and what candidates share, too."""
    jobs: list[tuple[int, list[int], list[tuple[int, list[int], int]]]] = []
    for i, (question, beginning) in enumerate(zip(questions, beginnings, strict=True)):
        asked = prompt(base, question)
        texts = [asked + after(base, asked, question, beginning + candidate)[:-1] for candidate in candidates[i]]
        shared = len(asked) if whole else where_they_differ(texts)
        read: list[tuple[int, list[int], list[tuple[int, list[int], int]]]] = []
        for j, ids in sorted(enumerate(texts), key=lambda pair: -len(pair[1])):
            # Candidates of one token are all judged by one reading of the question: a hundred names cost as much as
            # one.
            told = next((told for _, inputs, told in read if inputs[: len(ids) - 1] == ids[:-1]), None)
            if told is None:
                read.append((i, ids[:-1], told := []))
            told.append((j, ids, shared))
        jobs += read
    found = [[[0.0] * len(listed) for listed in candidates] for _ in compositions]

    def score(resident: Resident, lot: list[int], chosen: list[int]) -> None:
        listed, copies = [jobs[n] for n in chosen], len(lot)
        ids, attended = (part.repeat(copies, 1) for part in right_padded([inputs for _, inputs, _ in listed], base))
        judged = ids.shape[1] - min(shared - 1 for _, _, told in listed for _, _, shared in told)
        logits = base.model(input_ids=ids, attention_mask=attended, use_cache=False, **last_logits(base, judged)).logits
        before = ids.shape[1] - logits.shape[1]
        wanted = [
            (place, k, i, j, position, tokens[position + 1])
            for place, (k, (i, _, told)) in enumerate(itertools.product(lot, listed))
            for j, tokens, shared in told
            for position in range(shared - 1, len(tokens) - 1)
        ]
        spots = {
            spot: n for n, spot in enumerate(dict.fromkeys((place, position) for place, _, _, _, position, _ in wanted))
        }
        at_rows, positions = (torch.tensor(column, device=logits.device) for column in zip(*spots, strict=True))
        spoken = torch.log_softmax(logits[at_rows, positions - before].float(), -1)
        values = spoken[
            [spots[place, position] for place, _, _, _, position, _ in wanted], [token for *_, token in wanted]
        ].tolist()
        for (_, k, i, j, _, _), value in zip(wanted, values, strict=True):
            found[k][i][j] += value

    _in_groups(base, compositions, [len(inputs) for _, inputs, _ in jobs], rows, score)
    return found


def gates(
    base: Base, composition: Composition, questions: Sequence[str], said: Sequence[str], rows: int = 256
) -> list[Float[Tensor, "tokens experts"]]:
    """Of a routed composition, the expert weights at each token of each answer (where the token is predicted), averaged
    over modules."""
    texts = [example(base, question, answer) for question, answer in zip(questions, said, strict=True)]
    found: dict[int, Tensor] = {}

    def look(resident: Resident, lot: list[int], chosen: list[int]) -> None:
        resident.use([composition])  # forgets the gates of the group before
        ids, attended = right_padded([[*texts[i][0], *texts[i][1]] for i in chosen], base)
        base.model(input_ids=ids, attention_mask=attended, use_cache=False, **last_logits(base, 1))
        # OPT's MLPs have no axis of rows, so it is made anew.
        mean = torch.stack([weights.view(*ids.shape, -1) for (weights,) in resident.gates[0].values()]).mean(0)
        for weights, i in zip(mean, chosen, strict=True):
            asked, told = texts[i]
            found[i] = weights[len(asked) - 1 : len(asked) + len(told) - 1]

    _in_groups(base, [composition], [len(asked) + len(told) for asked, told in texts], rows, look, record=True)
    return [found[i] for i in range(len(texts))]


def last_logits(base: Base, count: int) -> dict[str, int]:
    """Asks for the logits of the last `count` tokens where the model can be asked: those of all tokens are the largest
    thing a forward pass makes."""
    return {"logits_to_keep": count} if "logits_to_keep" in inspect.signature(base.model.forward).parameters else {}


def where_they_differ(texts: Sequence[list[int]]) -> int:
    """How many tokens all texts begin with; one fewer where that is the whole of one, so that its last token is judged
    too."""
    differing = (n for n, column in enumerate(zip(*texts, strict=False)) if len(set(column)) > 1)
    return next(differing, min(map(len, texts)) - 1)


def right_padded(texts: Sequence[list[int]], base: Base) -> tuple[Tensor, Tensor]:
    """Ids and attention mask; padding is on the right, so that positions are those of the text."""
    length = max(map(len, texts))
    ids = torch.tensor([text + [0] * (length - len(text)) for text in texts], device=base.device)
    attended = torch.tensor([[1] * len(text) + [0] * (length - len(text)) for text in texts], device=base.device)
    return ids, attended


def _left_padded(prompts: Sequence[list[int]], base: Base) -> tuple[Tensor, Tensor]:
    """Ids and attention mask; padding is on the left, so that all answers start at one place."""
    length = max(map(len, prompts))
    pad: Any = base.tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (length - len(p)) + p for p in prompts], device=base.device)
    attended = torch.tensor([[0] * (length - len(p)) + [1] * len(p) for p in prompts], device=base.device)
    return ids, attended


def _in_groups(
    base: Base,
    compositions: Sequence[Composition | None],
    lengths: Sequence[int],
    rows: int,
    run: Callable[[Resident, list[int], list[int]], None],
    record: bool = False,
) -> None:
    """Runs (compositions, prompts) by number, with the compositions on the base and at most `rows` prompts together,
    those of like lengths; half as many from where memory runs out on. Raises SettingError when one alone is too
    much."""
    order = sorted(range(len(lengths)), key=lambda n: lengths[n])
    with Resident(base.model, record=record) as resident, torch.inference_mode():
        for lot in _lots(base, resident, compositions):
            resident.use([compositions[k] for k in lot])
            start, size = 0, max(1, rows // len(lot))
            while start < len(order):
                chosen = order[start : start + size]
                try:
                    run(resident, lot, chosen)
                except torch.OutOfMemoryError:
                    if len(chosen) == 1:
                        raise SettingError(
                            "batch_rows", 1, "a device with room for one prompt", "a smaller model, or device_map=auto"
                        ) from None
                    size = len(chosen) // 2
                    print(f"out of memory: {size} prompts at once from here on")
                    continue
                start += size


def _lots(base: Base, resident: Resident, compositions: Sequence[Composition | None]) -> list[list[int]]:
    """The compositions that share a batch, by number: all, or each alone where a module gets tokens without an axis of
    rows, as OPT's MLPs do."""
    resident.use(compositions)
    try:
        base.model(input_ids=torch.zeros(len(compositions), 2, dtype=torch.long, device=base.device), use_cache=False)
    except (SettingError, torch.OutOfMemoryError):
        return [[k] for k in range(len(compositions))]
    return [list(range(len(compositions)))]
