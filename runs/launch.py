"""Shards of a grid as jobs: the same command, once a shard, through submitit's local executor or a Slurm array."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from lora_reuse.runs.settings import SettingError

# Importing submitit otherwise resets the logging of the whole process, and closes the handlers of other libraries
# (absl's).
os.environ.setdefault("SUBMITIT_LOG_LEVEL", "NOCONFIG")
import submitit


def launch(
    run: Callable[[Sequence[str]], int],
    words: Sequence[str],
    *,
    cluster: str,
    jobs: int,
    folder: Path,
    parameters: dict[str, int | str],
) -> list[submitit.Job]:
    """Submits `run([*words, "shard=i/jobs"])` for every i; logs go to `folder`. Raises SettingError for what submitit
    refuses."""
    try:
        executor = submitit.AutoExecutor(folder=folder / "%j", cluster=cluster)
        executor.update_parameters(**parameters)
    except (RuntimeError, NameError, TypeError, ValueError, OSError) as error:
        raise SettingError(
            "launcher",
            f"{cluster}, refused by submitit ({error})",
            "launcher=local, or slurm where sbatch is installed",
        ) from None
    return executor.map_array(run, [[*words, f"shard={i}/{jobs}"] for i in range(1, jobs + 1)])
