"""Memory that was freed stays with the process, where the C library can be told so."""

import ctypes
import subprocess
import sys

import pytest

from lora_reuse.llm.decoding import models

AGAIN = """
import resource
import torch
from lora_reuse.llm.decoding.pages import keep_freed

{told}
found = []
for _ in range(10):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    large = torch.ones(10**7)
    del large
    found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(found[5:]))  # the first ones find other pieces in their way
"""


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="a C library without mallopt"
)
def test_a_large_tensor_finds_the_pages_of_the_one_before():
    """40 MB are 9,800 pages."""
    told, untold = (
        int(subprocess.run([sys.executable, "-c", AGAIN.format(told=way)], capture_output=True, check=True).stdout)
        for way in ("keep_freed()", "")
    )
    assert told < 100 < untold


def test_a_base_on_a_cpu_tells_it(monkeypatch):
    told = []
    monkeypatch.setattr(models, "keep_freed", lambda: told.append(True))
    models.load_base("pocket")
    assert told
