"""Strict JAX everywhere: no silent promotion of dtypes or ranks; two CPU devices, so that sharding is always
exercised. And types with shapes are checked at calls, in the modules that have some (`tests.shapes`); other types are
checked by `make check`. `paper_checks`, which measures with the same functions, runs without."""

import gc
from pathlib import Path

import jax
import jaxtyping
import pytest
from hypothesis import settings

from tests import shapes

CHECKOUT = Path(__file__).parent.parent
SHAPED = [
    ".".join(("lora_reuse", *path.relative_to(CHECKOUT).with_suffix("").parts)).removesuffix(".__init__")
    for folder in ("llm", "theory")
    for path in sorted((CHECKOUT / folder).rglob("*.py"))
    if "from jaxtyping import" in path.read_text(encoding="utf-8")
]
jaxtyping.jaxtyped = shapes.jaxtyped
jaxtyping.install_import_hook(SHAPED, "beartype.beartype")

gc.set_threshold(200_000, 20, 100)  # as the figures' command has it, for the rows that tests read

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

settings.register_profile("same every time", derandomize=True, deadline=None)
settings.load_profile("same every time")


@pytest.fixture
def getkey():
    """A function that gives a new key at each call, the same ones in every run."""
    keys = iter(jax.random.split(jax.random.key(2026), 1000))
    return lambda: next(keys)
