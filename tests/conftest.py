"""Strict JAX everywhere: no silent promotion of dtypes or ranks; two CPU devices, so that sharding is always
exercised. And types with shapes are checked at every call: `paper_checks`, which measures with the same functions, runs
without in a third of the time."""

import jax
import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

install_import_hook(["lora_reuse.llm", "lora_reuse.theory", "lora_reuse.runs"], "beartype.beartype")

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
