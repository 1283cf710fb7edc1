"""lora-reuse sweep width=256,1024,2**20,inf dim=inf seeds=32

Runs an experiment of the theory over a grid of settings. Any setting can be a comma list; every point is repeated over
seeds. Each (point, seed) is one row in `out`; rows that are there are not run again, so an interrupted sweep goes on
where it stopped. The last thing printed is a table."""

import importlib
import os
import sys
import time
from collections.abc import Iterator, Sequence

from lora_reuse.runs.command import begin, command, without_help
from lora_reuse.runs.grid import Cell, axes_of, found, hash_of, rows_of, settings_of, share
from lora_reuse.runs.progress import progress_bar
from lora_reuse.runs.rows import Rows
from lora_reuse.runs.settings import grid, help_table, parse, short
from lora_reuse.theory.settings import EXPERIMENTS, Options, Point, settled

# Features drawn together before their rows are written: what a kill can lose, about a second on two cores.
_BATCH = 2**26


def main(words: Sequence[str]) -> int:
    """Runs the command; returns its exit code: 0 done, 2 a mistake in the settings or the folder, 130 interrupted."""
    return command(
        "theory.sweep", _main, words, "every finished row is on disk, and the same command goes on from there"
    )


def _main(words: list[str]) -> int:
    words, help = without_help(words)
    _, named = parse([word for word in words if word.startswith("experiment=")], Point, Options)
    axes_class = EXPERIMENTS[named.get("experiment", Options.experiment)]
    axes, given = parse(words, axes_class, Options)
    options = Options(**given)
    if help:
        print((__doc__ or "").strip() + "\n\n" + help_table(axes_class, Options))
        return 0
    points = settled(list(grid(axes_class, axes)), axes)
    cells = share([(point, seed) for point in points for seed in options.every_seed], options.shard)
    begin(options.out)
    if options.dry_run:
        return _dry_run(cells, options)
    if options.launcher != "none":
        from lora_reuse.runs.launch import launch

        code = launch("theory.sweep", main, words, options.experiment, options)
        if code is not None:
            return code
    _run(cells, options)
    return 0


def _run(cells: Sequence[Cell], options: Options) -> None:
    rows = rows_of(options.experiment, options)
    todo = [cell for cell in cells if hash_of(options.experiment, cell) not in rows.known]
    if todo:
        _measure(todo, rows, options)

    from lora_reuse.theory.table import table

    if cells:
        print(table(found(cells, options.experiment, rows.known)))
    print(f"{len(cells)} rows in {options.out}: {len(todo)} new, {len(cells) - len(todo)} from before")


def _measure(todo: Sequence[Cell], rows: Rows, options: Options) -> None:
    use_every_core()
    import jax

    from lora_reuse.runs.provenance import provenance
    from lora_reuse.theory.streaming import PRNG

    experiment = importlib.import_module(f"lora_reuse.theory.experiments.{options.experiment}")
    device = jax.devices()[0]
    where = {
        "device": f"{device.platform}:{device.device_kind}",
        "devices": jax.device_count(),
        "prng": PRNG,
        "dtype": "float32, sums float64",
    }
    source = provenance("jax", "jaxlib", "numpy", "scipy", "optax")
    total = sum(1 + point.features() for point, _ in todo)
    with progress_bar(total=total, unit=" features", unit_scale=True, desc=options.experiment) as bar:
        for point, seeds in _batches(todo):
            size = {name: short(value) for name, value in vars(point).items() if name in ("width", "dim")}
            bar.set_postfix(size, refresh=False)
            start, before = time.perf_counter(), bar.n
            results = experiment.run(point, seeds, bar.update)
            bar.update(before + (1 + point.features()) * len(seeds) - bar.n)
            wall = (time.perf_counter() - start) / len(seeds)
            for seed, result in zip(seeds, results, strict=True):
                row = {"experiment": options.experiment, "settings": settings_of((point, seed)), **result._asdict()}
                rows.append(row | {"provenance": source | where | {"wall_seconds": round(wall, 4)}})


def _batches(cells: Sequence[Cell]) -> Iterator[tuple[Point, list[int]]]:
    """Seeds of one setting that are run together."""
    batch: list[Cell] = []
    for cell in cells:
        point, _ = cell
        if batch and (point != batch[0][0] or (len(batch) + 1) * point.features() > _BATCH or len(batch) == 64):
            yield batch[0][0], [seed for _, seed in batch]
            batch = []
        batch.append(cell)
    if batch:
        yield batch[0][0], [seed for _, seed in batch]


def use_every_core() -> None:
    """One JAX device a CPU core, unless XLA_FLAGS says otherwise; it must come before JAX's first use."""
    import jax

    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))


def _dry_run(cells: Sequence[Cell], options: Options) -> int:
    points = list(dict.fromkeys(point for point, _ in cells))
    seeds = options.every_seed
    print(
        f"experiment={options.experiment}: {len(points)} settings x seeds {seeds[0]}..{seeds[-1]}, "
        f"shard {options.shard}: {len(cells)} rows in {options.out}"
    )
    print(axes_of(cells))
    sizes = [point.prompts_and_rank() for point, _ in cells]
    features = sum(point.features() for point, _ in cells)
    normals = sum(point.features() * rank for (point, _), (_, rank) in zip(cells, sizes, strict=True))
    flops = sum(point.flops() for point, _ in cells)
    counts = sorted({prompts for prompts, _ in sizes}) or [0]
    prompts = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    print(f"cost: {features:.3g} features of {prompts} prompts, {normals:.3g} normals, {flops:.3g} FLOP")
    seconds = normals * 4e-9 + flops / 100e9 + len(cells) * 0.01 + 5
    print(f"time: about {seconds:.0f} s at 4 ns a normal and 100 GFLOP/s (two CPU cores); nothing was run")
    return 0


if __name__ == "__main__":
    from lora_reuse.theory import sweep  # by its own name, so that a launched job finds `main` there

    sys.exit(sweep.main(sys.argv[1:]))
