"""Rows of whole documents: how the pocket model's corpus is packed, and that documents of a row do not see each
other."""

import dataclasses
import random
from typing import Any

import torch

from lora_reuse.llm.pocket import pretrain
from lora_reuse.llm.pocket.corpus import World, documents
from lora_reuse.llm.pocket.size import ROW, ROWS
from tests.llm.test_pocket import SMALL
from tests.llm.test_pocket_tokenizer import tokenizer

torch.set_num_threads(1)


def packed(size=SMALL, step=0):
    stream = documents(World(size, size.seed), random.Random(f"documents {size.seed} {step}"))
    listed = (
        pretrain._filling(stream, tokenizer())
        if size.packing == "drawn"
        else [next(stream) for _ in range(pretrain.MANY)]
    )
    return listed, pretrain._packed(listed, tokenizer())


def pieces(batch):
    """(row, start, end) of each document, its EOS included; the padding of a row is no document."""
    for row in range(ROWS):
        starts = [i for i in range(ROW) if batch.positions[row, i] == 0]
        for start, end in zip(starts, [*starts[1:], ROW], strict=True):
            if (batch.weights[row, start:end] > 0).any():
                yield row, start, end


def test_rows_hold_whole_documents_and_positions_restart():
    listed, batch = packed()
    left: list[Any] = [f"{d.prompt} {d.answer}".strip() for d in listed]
    for row, start, end in pieces(batch):
        *ids, last = batch.ids[row, start:end].tolist()
        assert last == tokenizer().eos_token_id
        left.remove(tokenizer().decode(ids))
        assert batch.positions[row, start:end].tolist() == list(range(end - start))
    shortest_room = min(ROW - sum(end - start for r, start, end in pieces(batch) if r == row) for row in range(ROWS))
    assert all(len(tokenizer()(text)["input_ids"]) + 1 > shortest_room for text in left)


def test_packing_what_is_drawn_leaves_out_few_documents_and_not_the_short_ones():
    single, kept_single, all_, kept = 0, 0, 0, 0
    for step in range(5):
        listed, batch = packed(dataclasses.replace(SMALL, packing="drawn"), step=step)
        held = [tokenizer().decode(batch.ids[row, start : end - 1]) for row, start, end in pieces(batch)]
        for d in listed:
            text = f"{d.prompt} {d.answer}".strip()
            one_hop = d.prompt.count("?") == 1 and text.count("?") == 1
            single, kept_single, all_, kept = (
                single + one_hop,
                kept_single + (one_hop and text in held),
                all_ + 1,
                kept + (text in held),
            )
    assert kept > 0.95 * all_
    assert kept_single > 0.9 * single


def test_a_prompt_counts_a_tenth_and_no_token_is_foretold_from_another_document():
    listed, batch = packed()
    prompts: dict[Any, int] = {
        f"{d.prompt} {d.answer}".strip(): len(tokenizer()(d.prompt)["input_ids"]) for d in listed
    }
    inside = torch.zeros(ROWS, ROW, dtype=torch.bool)
    for row, start, end in pieces(batch):
        inside[row, start:end] = True
        count = prompts[tokenizer().decode(batch.ids[row, start : end - 1])]
        expected = [0.1] * count + [1.0] * (end - start - count)
        expected[0] = 0.0
        torch.testing.assert_close(batch.weights[row, start:end], torch.tensor(expected))
    assert not batch.weights[~inside].any()
    assert (batch.weights == 0.1).any()


@torch.no_grad()
def test_documents_of_a_row_do_not_see_each_other():
    model, _ = pretrain._start(SMALL, tokenizer(), "cpu")
    model.eval()
    _, batch = packed()
    run = lambda ids, positions: model(input_ids=ids, position_ids=positions, use_cache=False).logits  # noqa: E731
    rows = run(batch.ids, batch.positions)
    random_ids = torch.randint(5, 500, (ROWS, ROW), generator=torch.Generator().manual_seed(0))
    for row, start, end in list(pieces(batch))[:12]:
        others = random_ids[row].clone()
        others[start:end] = batch.ids[row, start:end]
        among_others = run(torch.cat([batch.ids[:row], others[None], batch.ids[row + 1 :]]), batch.positions)[
            row, start:end
        ]
        assert torch.equal(rows[row, start:end], among_others)  # exactly: not a bit of another document comes through
        alone = run(batch.ids[row : row + 1, start:end], batch.positions[row : row + 1, start:end])[0]
        torch.testing.assert_close(rows[row, start:end], alone, rtol=1e-4, atol=1e-5)
    running_on = run(batch.ids, torch.arange(ROW).repeat(ROWS, 1))
    row, start, end = next(place for place in pieces(batch) if place[1] > 0)
    assert (running_on[row, start:end] - rows[row, start:end]).abs().max() > 1e-2


def test_a_batch_depends_on_the_seed_and_its_step_alone():
    size = dataclasses.replace(SMALL, tokens=20_000)
    every = list(pretrain.batches(size, tokenizer(), 0))
    assert len(every) == size.steps == 7
    later = list(pretrain.batches(size, tokenizer(), 5))
    assert len(later) == 2
    for one, other in zip(every[5:], later, strict=True):
        assert torch.equal(one.ids, other.ids)
        assert torch.equal(one.positions, other.positions)
        assert torch.equal(one.weights, other.weights)
    assert len({batch.ids.numpy().tobytes() for batch in every}) == 7
    (first, *_) = pretrain.batches(dataclasses.replace(size, width=64, tokens=30_000), tokenizer(), 0)
    assert torch.equal(first.ids, every[0].ids)
    (first, *_) = pretrain.batches(dataclasses.replace(size, seed=1), tokenizer(), 0)
    assert not torch.equal(first.ids, every[0].ids)
