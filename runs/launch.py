"""Shards of a grid as jobs: the same command, once a shard, through submitit's local executor or a Slurm array."""

import functools
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from lora_reuse.runs.grid import Run
from lora_reuse.runs.provenance import program
from lora_reuse.runs.rows import load_rows
from lora_reuse.runs.settings import SettingError

# Importing submitit otherwise resets the logging of the whole process, and closes the handlers of other libraries
# (absl's).
os.environ.setdefault("SUBMITIT_LOG_LEVEL", "NOCONFIG")
import submitit


def launch(
    name: str, main: Callable[[Sequence[str]], int], words: Sequence[str], experiment: str, run: Run
) -> int | None:
    """Submits `main([*words, "shard=i/jobs"])` for every i, without the words that name the launcher or a shard. Logs
    go to out/jobs.

    Returns an exit code of the command `name`: 0 for jobs that Slurm has now, the largest of the local jobs' where one
    failed. Returns None where all of them are done, so that their rows can be shown. Raises SettingError for a shard,
    for rows that cannot be read, and for what submitit refuses."""
    if run.shard != "1/1":
        raise SettingError("shard", run.shard, "no shard= with launcher=", "jobs= says how many shards are started")
    try:
        load_rows(Path(run.out), experiment)  # refuses a bad folder before anything is submitted
    except OSError as error:
        raise SettingError("out", f"{run.out} ({error.strerror})", "a folder whose rows can be read") from None
    kept = [word for word in words if word.split("=")[0] not in ("launcher", "jobs", "slurm", "shard")]
    given = (pair.partition(":") for pair in run.slurm.split("+") if pair)
    folder = Path(run.out) / "jobs"
    job = functools.partial(_job, main, program())
    try:
        executor = submitit.AutoExecutor(folder=folder / "%j", cluster=run.launcher)
        executor.update_parameters(**{key: int(value) if value.isdecimal() else value for key, _, value in given})
        jobs = executor.map_array(job, [[*kept, f"shard={i}/{run.jobs}"] for i in range(1, run.jobs + 1)])
    except (RuntimeError, NameError, TypeError, ValueError, OSError) as error:
        raise SettingError(
            "launcher",
            f"{run.launcher}, refused by submitit ({error})",
            "launcher=local, or slurm where sbatch is installed and takes the jobs",
        ) from None
    if run.launcher == "slurm":
        print(f"submitted {len(jobs)} jobs: {', '.join(job.job_id for job in jobs)}; logs in {folder}")
        print("when they are done, the same command without launcher= prints the table")
        return 0
    codes = [1 if job.exception() else job.result() for job in jobs]
    if any(codes):
        print(f"{name}: {sum(map(bool, codes))} of {len(codes)} jobs failed; see {folder}", file=sys.stderr)
        return max(codes)
    return None


def _job(main: Callable[[Sequence[str]], int], program: Sequence[str], words: Sequence[str]) -> int:
    """`main(words)` in a job, whose rows say the command that was typed and not submitit's."""
    sys.argv = [shlex.join(program), *words]
    return main(words)
