"""Runs Python that a model wrote: in a process of its own that `llm.sandbox.confinement` has locked, under a time limit
that it cannot change.

    run("print(6 * 7)")  ->  Result(outcome="done", output="42\\n", errors="", seconds=0.04)

Nothing here is called unless a person has said `allow_code_execution=true`. Where the kernel lacks a lock, `require`
refuses."""

import functools
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lora_reuse.llm.sandbox import confinement
from lora_reuse.runs.settings import SettingError

OUTCOMES = ("done", "error", "denied", "memory", "time", "output", "files", "crash")
"""The program ended; an exception ended it; one that came of a lock; of too little memory; it was killed for its time,
for what it printed, for what it wrote; it crashed."""


@dataclass(frozen=True)
class Limits:
    """Seconds by the clock and of processor time; bytes of memory, of output (both streams together) and of files, and
    how many files."""

    seconds: float = 60.0
    cpu_seconds: int = 5
    memory: int = 2**30
    output: int = 2**16
    file_bytes: int = 2**22
    files: int = 100


LIMITS = Limits()


class Result(NamedTuple):
    """One of OUTCOMES, what was printed (to stdout, to stderr), and the seconds it took."""

    outcome: str
    output: str
    errors: str
    seconds: float


@functools.cache
def require() -> None:
    """Raises SettingError unless a confined process is shown to be confined: it can print, and neither read, fork nor
    connect."""
    result = run(_ATTEMPTS.format(file=str(Path(__file__).resolve())))
    if (result.outcome, result.output) != ("done", ""):
        why = (result.errors or result.output or result.outcome).strip().splitlines()[-1]
        allowed = "Linux 6.2 or newer with Landlock and seccomp, on x86-64"
        raise SettingError(
            "allow_code_execution", f"true where code cannot be confined ({why})", allowed, "nothing was run"
        )


def run(program: str, limits: Limits = LIMITS) -> Result:
    """Runs the program and says how it went, whatever it tries. Call `require` first."""
    with tempfile.TemporaryDirectory(prefix="program-", ignore_cleanup_errors=True) as name:
        scratch = Path(name).resolve()
        (scratch / "program.py").write_text(program, errors="replace")
        words = [
            sys.executable,
            "-s",
            "-P",
            "-B",
            confinement.__file__,
            os.getpid(),
            limits.memory,
            limits.cpu_seconds,
            limits.file_bytes,
        ]
        environment = {"PYTHONHASHSEED": "0", "PYTHONUTF8": "1", "HOME": name, "TMPDIR": name} | dict.fromkeys(
            _THREADS, "1"
        )
        pipes: Any = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        start = time.monotonic()
        with subprocess.Popen(
            list(map(str, words)), cwd=scratch, env=environment, start_new_session=True, **pipes
        ) as process:
            try:
                killed, said = _watch(process, scratch, limits, start + limits.seconds)
            finally:
                process.kill()  # SIGKILL; it is the only process there can be
        outcome = killed or _OUTCOMES.get(process.returncode, "crash" if process.returncode < 0 else "error")
        output, errors = (text.decode(errors="replace") for text in said)
        return Result(outcome, output, errors, round(time.monotonic() - start, 3))


def run_all(programs: Sequence[str], limits: Limits = LIMITS) -> list[Result]:
    """Each program's result, as many at a time as there are cores; equal programs are run once."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        unique = list(dict.fromkeys(programs))
        results = dict(zip(unique, threads.map(lambda program: run(program, limits), unique), strict=True))
    return [results[program] for program in programs]


_ATTEMPTS = """
import os, socket
attempts = {{
    "a file can be read": lambda: open({file!r}),
    "a process started": os.fork,
    "a socket opened": socket.socket,
}}
for name, attempt in attempts.items():
    try:
        attempt()
        print(name)
    except PermissionError:
        pass
"""
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")  # numpy's: there can be no second thread
_OUTCOMES = {0: "done", confinement.MEMORY: "memory", confinement.DENIED: "denied", -9: "time", -24: "time"}
"""By return code; SIGKILL that is not ours, and SIGXCPU, come from the limit on processor time."""


def _watch(process: subprocess.Popen, scratch: Path, limits: Limits, end: float) -> tuple[str, list[bytes]]:
    """Reads until both streams end or a limit is passed: which, or "", and what was printed, cut at the limit."""
    streams: dict[Any, bytearray] = {process.stdout: bytearray(), process.stderr: bytearray()}
    killed = ""
    with selectors.DefaultSelector() as selector:
        for stream in streams:
            selector.register(stream, selectors.EVENT_READ)
        while selector.get_map() and not killed:
            for key, _ in selector.select(0.05):
                chunk = os.read(key.fd, 65536)
                streams[key.fileobj] += chunk
                if not chunk:
                    selector.unregister(key.fileobj)
            killed = _passed(streams.values(), scratch, limits, end)
    while not killed and process.poll() is None:  # it may close its streams and go on
        time.sleep(0.01)
        killed = _passed(streams.values(), scratch, limits, end)
    return killed, [bytes(stream[: limits.output]) for stream in streams.values()]


def _passed(streams: Iterable[bytearray], scratch: Path, limits: Limits, end: float) -> str:
    if sum(map(len, streams)) > limits.output:
        return "output"
    if time.monotonic() > end:
        return "time"
    used = count = 0
    with os.scandir(scratch) as entries:
        for entry in entries:
            count += 1
            try:
                used += entry.stat(follow_symlinks=False).st_size
            except FileNotFoundError:
                continue
            if count > limits.files or used > limits.file_bytes:
                return "files"
    return ""
