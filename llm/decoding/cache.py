"""Keys and values of a batch that is decoded a token a step, in tensors with room at the end.

transformers' layer copies all that it holds for each new token: a third of the time of step-by-step answers of 240 rows
of the pocket model."""

from typing import Any

from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache, PretrainedConfig
from transformers.cache_utils import DynamicLayer

ROOM = 32
"""Tokens a layer grows by: the most it holds in vain, and how many steps share one copy."""


def roomy_cache(config: PretrainedConfig) -> DynamicCache:
    """An empty cache for a model: its plain growing layers have room, those of sliding windows and of other states are
    as they were."""
    cache: Any = DynamicCache(config=config)
    cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


class RoomyLayer(DynamicLayer):
    """`keys` and `values` are views of the filled parts of what is held."""

    def __init__(self) -> None:
        super().__init__()
        self._held: list[Float[Tensor, "rows *heads room size"]] = []

    def update(
        self,
        key_states: Float[Tensor, "rows *heads new keys"],
        value_states: Float[Tensor, "rows *heads new values"],
        *args: object,
        **kwargs: object,
    ) -> tuple[Float[Tensor, "rows *heads tokens keys"], Float[Tensor, "rows *heads tokens values"]]:
        """Appends the states; returns all."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        coming, filled = (key_states, value_states), self.get_seq_length()
        total = filled + key_states.shape[-2]
        if not self._held or total > self._held[0].shape[-2]:
            old, self._held = (
                (self.keys, self.values),
                [s.new_empty(*s.shape[:-2], total + ROOM, s.shape[-1]) for s in coming],
            )
            for held, states in zip(self._held, old, strict=True):
                if filled and states is not None:
                    held[..., :filled, :] = states
        for held, states in zip(self._held, coming, strict=True):
            held[..., filled:total, :] = states
        self.keys, self.values = (held[..., :total, :] for held in self._held)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keeps these rows, and the room."""
        if self._held:
            filled = self.get_seq_length()
            self._held = [held[indices] for held in self._held]
            self.keys, self.values = (held[..., :filled, :] for held in self._held)
