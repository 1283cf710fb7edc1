"""The cache with room holds what transformers' holds."""

import itertools

import torch
from transformers import MistralConfig, Qwen2Config
from transformers.cache_utils import DynamicLayer

from lora_reuse.llm.decoding.cache import ROOM, RoomyLayer, roomy_cache


def test_it_holds_what_the_growing_layer_holds_through_many_steps_and_rows_that_leave():
    draw = torch.Generator().manual_seed(0)
    plain, roomy = DynamicLayer(), RoomyLayer()
    rows = 6
    for step in range(3 * ROOM):
        tokens = 5 if step == 0 else 1
        states = [torch.randn(rows, 2, tokens, size, generator=draw) for size in (4, 3)]
        for one, other in zip(plain.update(*states), roomy.update(*states), strict=True):
            assert torch.equal(one, other)
        assert roomy.get_seq_length() == plain.get_seq_length() == 5 + step
        if step in (0, ROOM // 2, 2 * ROOM):
            stay = torch.arange(0, rows)[torch.arange(rows) != 1]
            plain.batch_select_indices(stay)
            roomy.batch_select_indices(stay)
            rows -= 1
            for part in ("keys", "values"):
                assert torch.equal(getattr(plain, part), getattr(roomy, part))


def test_states_are_copied_once_in_a_while():
    layer = RoomyLayer()
    places = [layer.update(torch.zeros(2, 1, 1, 4), torch.zeros(2, 1, 1, 4))[0].data_ptr() for _ in range(3 * ROOM)]
    assert (
        sum(before != after for before, after in itertools.pairwise(places)) == 2
    )  # the old place is held while the new one is filled


def test_layers_with_a_window_stay_as_they_were():
    plain = roomy_cache(Qwen2Config(num_hidden_layers=2, use_sliding_window=False))
    windowed = roomy_cache(MistralConfig(num_hidden_layers=2, sliding_window=8))
    assert [type(layer).__name__ for layer in plain.layers] == ["RoomyLayer"] * 2
    assert [type(layer).__name__ for layer in windowed.layers] == ["DynamicSlidingWindowLayer"] * 2
