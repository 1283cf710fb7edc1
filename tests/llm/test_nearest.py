"""The nearest matrix of a low rank, against that of the whole SVD."""

import pytest
import torch

from lora_reuse.llm.adapters import nearest as module
from lora_reuse.llm.adapters.lowrank import LowRank
from lora_reuse.llm.adapters.nearest import nearest
from lora_reuse.llm.compositions import compose
from lora_reuse.llm.compositions.sparse import keep_largest

SHAPE = 320, 360


def drawn(seed: int, rank: int, falls: float = 1.0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    left, right = (torch.randn(size, rank, generator=random) for size in SHAPE)
    return (left * falls ** torch.arange(rank)) @ right.T


MATRICES = {
    "of adapters": lambda: keep_largest(drawn(0, 4), 0.2) + keep_largest(drawn(1, 4), 0.2),
    "of values that fall": lambda: keep_largest(drawn(0, 4, 0.5), 0.2) + keep_largest(drawn(1, 4, 0.5), 0.2),
    "of noise": lambda: drawn(0, 320),
    "of a lower rank": lambda: drawn(0, 2),
    "of zeros": lambda: torch.zeros(SHAPE),
    "wide": lambda: keep_largest(drawn(0, 3), 0.3)[:9],
}


def further(matrix, rank):
    """How much further `nearest` is in the Frobenius norm than the nearest, over the largest singular value."""
    values = torch.linalg.svdvals(matrix.double())
    ours = torch.linalg.norm(matrix.double() - nearest(matrix, rank, 8).dense())
    return float(ours - torch.linalg.norm(values[rank:])) / max(float(values[0]), 1e-30)


@pytest.mark.parametrize("name", MATRICES)
def test_it_is_that_of_the_svd(name):
    matrix = MATRICES[name]()
    assert nearest(matrix, 4, 8).shape == matrix.shape
    assert abs(further(matrix, 4)) < 1e-5


def test_not_all_singular_vectors_are_computed(monkeypatch):
    """Of a matrix whose values fall behind a few; of noise they are."""
    sizes, svd = [], torch.linalg.svd

    def noted(matrix, **given):
        sizes.append(min(matrix.shape))
        return svd(matrix, **given)

    monkeypatch.setattr(torch.linalg, "svd", noted)
    nearest(MATRICES["of adapters"](), 4, 8)
    assert max(sizes) <= min(SHAPE) // 4
    nearest(MATRICES["of noise"](), 4, 8)
    assert max(sizes) == min(SHAPE)


def test_too_few_steps_are_seen(monkeypatch):
    """Planted: random directions, and a single step."""
    monkeypatch.setattr(module, "TOLERANCE", 1e3)
    assert further(MATRICES["of adapters"](), 4) > 1e-4


@pytest.mark.parametrize("rule", ["ties_svd", "dare_ties_svd"])
def test_blocks_of_rows_change_nothing(rule, monkeypatch):
    """Cuts, masks and signs are those of the whole matrix."""
    random = torch.Generator().manual_seed(0)
    two = [{"a": LowRank(*(torch.randn(size, 3, generator=random) for size in SHAPE))} for _ in range(2)]
    whole = compose(rule, two)["a"]
    monkeypatch.setattr("lora_reuse.llm.compositions.add_weighted_adapter.ENTRIES", 1000)
    blocks = compose(rule, two)["a"]
    assert isinstance(whole, LowRank)
    assert isinstance(blocks, LowRank)
    torch.testing.assert_close(blocks.dense(), whole.dense(), rtol=1e-4, atol=1e-4)
