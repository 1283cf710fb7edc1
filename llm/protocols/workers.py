"""Worker processes: on a CPU, one-thread processes side by side train and ask faster than one process of all
threads."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerContext
from typing import Any

from lora_reuse.llm.protocols import own_rules
from lora_reuse.llm.protocols.settings import Options
from lora_reuse.runs.settings import SettingError


def worker_count(options: Options) -> int:
    """The number of processes that train and ask."""
    import torch

    on_cpu = options.device == "cpu" or (
        options.device == "auto" and not torch.cuda.is_available() and not torch.backends.mps.is_available()
    )
    return options.workers or (len(os.sched_getaffinity(0)) if on_cpu else 1)


class pool:
    """Runs (function, arguments) jobs, in worker processes of one thread each or, for one worker, here; results as they
    come."""

    def __init__(self, workers: int):
        self.workers = workers
        self.executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> Callable[[list], Iterable[Any]]:
        if self.workers > 1:
            context = _server()
            threads = max(1, len(os.sched_getaffinity(0)) // self.workers)
            self.executor = ProcessPoolExecutor(
                self.workers, mp_context=context, initializer=_start_worker, initargs=(threads, own_rules.files())
            )
        return self._run

    def __exit__(self, kind: Any, *_: Any) -> None:
        if self.executor is not None:
            if kind is not None:
                for process in list((self.executor._processes or {}).values()):
                    process.terminate()
            self.executor.shutdown(cancel_futures=True)

    def _run(self, jobs: list) -> Iterable[Any]:
        if self.executor is None:
            for function, arguments in jobs:
                yield function(*arguments)
            return
        try:
            for future in as_completed([self.executor.submit(function, *arguments) for function, arguments in jobs]):
                yield future.result()
        except BrokenProcessPool:
            raise SettingError(
                "workers", f"{self.workers}, and one was killed", "fewer of them", "mostly it is memory that runs out"
            ) from None


def _server() -> ForkServerContext:
    """The process that workers are forked from. Forked from here they would inherit torch's threads, which are not
    there; it has none, and has imported, which takes seconds, once for all of them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", "lora_reuse.llm.protocols.measure"])
    resource_tracker.ensure_running()  # the server would start it, and it unblocks the signal when it has started
    # Control-C reaches the parent, too, which ends its workers.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    # Whoever interrupts the imports leaves a child that has nothing to do, and none that looks for its parent's queues.
    first = context.Process(target=int)
    first.start()
    first.join()
    return context


def _start_worker(threads: int, files: list[str]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch
    from tqdm import tqdm

    tqdm.set_lock(
        threading.RLock()
    )  # its own lock between processes would be reported as leaked when the worker is ended
    torch.set_num_threads(threads)
    for file in files:
        own_rules.read(file)


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for jobs for ever."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)
