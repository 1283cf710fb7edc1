"""Memory that was freed stays with the process."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of glibc's malloc.h."""


def keep_freed() -> None:
    """With glibc, up to 1 GiB of what this process frees stays with it, in pieces of 128 MiB at most. Elsewhere nothing
    changes.

    By default large tensors go back to the system when they are freed, and the next ones are faulted in page by page,
    tens of thousands of them in a training step of SmolLM2-135M.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        # Releases that know a largest threshold for pieces of their own refuse more than 32 MiB.
        if not mallopt(M_MMAP_THRESHOLD, 128 << 20):
            mallopt(M_MMAP_THRESHOLD, 32 << 20)
        mallopt(M_TRIM_THRESHOLD, 1 << 30)
