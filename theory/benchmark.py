"""lora-reuse theory.benchmark width=1e9

Times the streamed Gram matrix against a plain NumPy program and against the machine's own rate.

All is measured in this run, and printed as ratios:
- four prompts at `width`, in a process of its own: seconds, relative error, z-score, and peak memory beside that of
  width 1e6;
- seconds a feature of NumPy that draws U in full (d = 1024, float64), applies the ReLU and multiplies, over ours;
- the random features that sampling would need for the error of the limit by quasi-Monte Carlo (`theory.quasi`), over
  the evaluations that this takes, for four and six prompts;
- seconds for the tangent kernel of 64 prefixes and 32 blocks (`theory.depth`);
- the larger of the bare times, random numbers alone and matrix products alone, for the same counts, over ours: 1 is the
  machine's limit."""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from lora_reuse.runs.command import begin, with_options
from lora_reuse.runs.settings import Text, Whole, setting

PROMPTS = [(0, 3), (1, 4), (0, 3, 4), (2, 3, 4)]
SIX = [*PROMPTS[:3], (2, 5), (0, 6), (1, 3, 4)]
THOUSAND = [(x, 50 + r, *second) for x in range(50) for r in range(4) for second in ((), (50,), (51,), (52,), (53,))]


@dataclass(frozen=True)
class Options:
    """The benchmark:"""

    width: int = setting(10**9, Whole(10**6, 2**46), "features of the four-prompt run")
    out: str = setting("", Text(), "folder for a row of the results; none is written without it")


def main(words: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    return with_options("theory.benchmark", _main, Options, words)


def _main(options: Options) -> int:
    begin(options.out)
    measured = _benchmark(options.width)
    if options.out:
        _write(Path(options.out), options.width, measured)
    return 0


def _benchmark(width: int) -> dict[str, float]:
    from lora_reuse.theory.sweep import use_every_core

    use_every_core()
    import jax

    print(f"{jax.device_count()} x {jax.devices()[0].platform}:{jax.devices()[0].device_kind}, jax {jax.__version__}\n")
    small, large = _in_a_process(10**6), _in_a_process(width)
    measured = {
        "seconds": large["seconds"],
        "nanoseconds_a_feature": large["seconds"] / width * 1e9,
        "relative_error": large["relative_error"],
        "z": large["z"],
        "extra_peak_gb": (large["peak_gb"] - small["peak_gb"]),
    }
    print(
        f"four prompts at width {width:g}: {measured['seconds']:.1f} s,"
        f" {measured['nanoseconds_a_feature']:.1f} ns a feature"
    )
    print(
        f"  c_first off by {measured['relative_error']:+.1e} of its closed form,"
        f" {measured['z']:+.2f} predicted standard errors"
    )
    print(f"  peak memory {large['peak_gb']:.2f} GB, {measured['extra_peak_gb']:+.2f} GB against width 1e6")
    naive, ours = _numpy_nanoseconds(), _nanoseconds(PROMPTS, 2**24)
    measured["numpy_over_ours"] = naive / ours
    print(f"\nobvious NumPy, d = 1024: {naive:.0f} ns a feature, ours {ours:.1f}: {naive / ours:.0f} times as long")
    for prompts in (PROMPTS, SIX):
        error, seconds, saved = _quasi(prompts)
        measured[f"sampling_over_quasi_{len(prompts)}"] = saved
        print(
            f"the limit of {len(prompts)} prompts: error {error:.1e} in {seconds:.2f} s; sampling needs {saved:.0f}"
            " times the evaluations"
        )
    measured["seconds_of_32_blocks"] = _blocks()
    print(f"tangent kernel, 64 prefixes, 32 blocks: {measured['seconds_of_32_blocks']:.3f} s")
    for name, prompts, features in (("4", PROMPTS, 2**24), ("1000", THOUSAND, 2**16)):
        ours, random, product = (
            min(times) for times in zip(*(_against_the_machine(prompts, features) for _ in range(3)), strict=True)
        )
        measured[f"machine_over_ours_{name}"] = max(random, product) / ours
        print(
            f"{name} prompts: ours {ours:.1f} ns a feature, bare random numbers {random:.1f},"
            f" bare products {product:.1f}: {100 * max(random, product) / ours:.0f} % of the machine"
        )
    return measured


def _in_a_process(width: int) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "lora_reuse.theory.benchmark", "child", str(width)],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def _child(width: int) -> None:
    """The four-prompt run; prints its time, error and the peak memory of this process as JSON."""
    from lora_reuse.theory.sweep import use_every_core

    use_every_core()
    from lora_reuse.theory import kernels
    from lora_reuse.theory.experiments.kernel_limit import PROMPTS as prompts
    from lora_reuse.theory.gram import geometry, gram
    from lora_reuse.theory.settings import KernelLimit

    gram(prompts, KernelLimit(width=1000), [0])
    start = time.perf_counter()
    G = gram(prompts, KernelLimit(width=width), [0])[0]
    seconds = time.perf_counter() - start
    S = geometry(prompts, KernelLimit(), [0])[0]
    k, M = kernels.kernel(S), kernels.fourth_moments(S)
    c, limit = float(kernels.coefficient(G, 0, 2)), float(kernels.coefficient(k, 0, 2))
    z = (c - limit) * width**0.5 / kernels.coefficient_stderr(M, k, 0, 2)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts in KiB
    print(json.dumps({"seconds": seconds, "relative_error": c / limit - 1, "z": z, "peak_gb": peak}))


def _numpy_nanoseconds(dim: int = 1024, width: int = 2**14) -> float:
    import numpy as np

    H = np.random.default_rng(0).standard_normal((4, dim))

    def run() -> None:
        U = np.random.default_rng(1).standard_normal((width, dim))
        phi = np.maximum(U @ H.T, 0)
        np.asarray(phi.T @ phi / width)

    return min(_seconds(run) for _ in range(3)) / width * 1e9


def _nanoseconds(prompts: Sequence[tuple[int, ...]], width: int) -> float:
    from lora_reuse.theory.gram import feature_keys, geometry
    from lora_reuse.theory.settings import Model
    from lora_reuse.theory.streaming import streamed

    model = Model(width=width)
    S, keys = geometry(prompts, model, [0]), feature_keys(model, [0])
    streamed(S, 1000, keys)
    return _seconds(lambda: streamed(S, width, keys)) / width * 1e9


def _quasi(prompts: Sequence[tuple[int, ...]], nodes: int = 2**23, seeds: int = 4) -> tuple[float, float, float]:
    """Relative error of the limit (root mean square over seeds), seconds, and how many times the evaluations sampling
    needs for that error: its mean square at one feature is known exactly."""
    import numpy as np

    from lora_reuse.theory import kernels
    from lora_reuse.theory.gram import geometry
    from lora_reuse.theory.quasi import limit_gram
    from lora_reuse.theory.settings import Model

    S = geometry(prompts, Model(), [0])[0]
    k = kernels.kernel(S)
    start = time.perf_counter()
    found = [limit_gram(S, nodes, seed, scramblings=2).k for seed in range(seeds)]
    seconds = (time.perf_counter() - start) / seeds
    error = float(np.sqrt(np.mean([np.sum((G - k) ** 2) for G in found]) / np.sum(k**2)))
    of_one_feature = float(np.sum(kernels.gram_stderr(S) ** 2) / np.sum(k**2))
    return error, seconds, of_one_feature / error**2 / (4 * nodes)


def _blocks() -> float:
    from lora_reuse.theory.depth import tangent_kernel
    from lora_reuse.theory.settings import INF, Model

    prompts = [(i, 100, 101, 102) for i in range(16)]
    return _seconds(lambda: tangent_kernel(prompts, Model(width=INF, depth=32, adapted="all")))


def _against_the_machine(prompts: Sequence[tuple[int, ...]], width: int) -> tuple[float, float, float]:
    """Nanoseconds a feature: ours; drawing as many normals and nothing else; multiplying as much and nothing else, in
    cache-sized parts."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import Mesh, PartitionSpec

    from lora_reuse.theory.gaussian import factor
    from lora_reuse.theory.gram import geometry
    from lora_reuse.theory.settings import Model
    from lora_reuse.theory.streaming import block_size, stream

    L = jnp.asarray(factor(geometry(prompts, Model(), [0])[0]), jnp.float32)
    rank, block, key = L.shape[1], block_size(L.shape[0]), stream(0)
    items = jnp.arange(width // block)
    mesh, spec = Mesh(np.array(jax.devices()), ("blocks",)), PartitionSpec("blocks")

    def normals(item):
        return jax.random.normal(jax.random.fold_in(key, item), (rank, block), jnp.float32).max()

    random = jax.jit(
        jax.shard_map(lambda i: jax.lax.map(normals, i), mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    )
    columns = max(2**14, 2**21 // L.shape[0])
    Z = jax.random.normal(key, (rank, columns), jnp.float32)
    # Half zeros, as in what it is compared with: processors multiply those faster.
    phi = jax.nn.relu(jnp.matmul(L, Z, precision="highest"))
    product = jax.jit(
        lambda Z, phi: (jnp.matmul(L, Z, precision="highest"), jnp.matmul(phi, phi.T, precision="highest"))
    )
    times = [_nanoseconds(prompts, width)]
    for bare, arguments, count in ((random, (items,), width), (product, (Z, phi), columns)):
        runs = [_seconds(lambda f=bare, a=arguments: jax.block_until_ready(f(*a))) for _ in range(4)]
        times.append(min(runs) / count * 1e9)
    return times[0], times[1], times[2]


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _write(folder: Path, width: int, measured: dict[str, float]) -> None:
    import jax

    from lora_reuse.runs.provenance import provenance
    from lora_reuse.runs.rows import Rows

    device = jax.devices()[0]
    settings = {"width": width, "started": datetime.now(UTC).isoformat(timespec="seconds")}
    source = provenance("jax", "jaxlib", "numpy") | {
        "device": f"{device.platform}:{device.device_kind}",
        "devices": jax.device_count(),
    }
    row = {
        "experiment": "benchmark",
        "settings": settings,
        "measured": measured,
        "predicted": {},
        "stderr": {},
        "provenance": source,
    }
    Rows(folder, "benchmark").append(row)


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        _child(int(sys.argv[2]))
    else:
        sys.exit(main(sys.argv[1:]))
