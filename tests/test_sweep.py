"""The command as a person uses it: in another process, in an empty folder."""

import contextlib
import json
import os
import pty
import shlex
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

import lora_reuse as lr
from lora_reuse.runs.rows import load_rows
from lora_reuse.theory.experiments import REMAINDER, trained
from lora_reuse.theory.settings import EXPERIMENTS
from lora_reuse.theory.sweep import main

SMALL = ["width=256,4096,inf", "dim=inf,64", "seeds=3"]


def sweep(*words, **options):
    return subprocess.run([sys.executable, "-m", "theory.sweep", *words], capture_output=True, text=True, **options)


def measured(folder):
    return {row["hash"]: row["measured"] for row in load_rows(folder)}


def test_a_sweep_prints_a_table_and_leaves_one_row_a_setting_and_seed(tmp_path):
    done = sweep(*SMALL, f"out={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no bar where there is no terminal
    for part in (
        "c_first\n",
        "c_second_other_entity\n",
        "measured ± se",
        "predicted",
        " z\n",
        "no verdict: a line needs 8 seeds",
        "falls as width^s",
        "18 rows",
    ):
        assert part in done.stdout
    rows = load_rows(tmp_path)
    assert len(rows) == 18
    for row in rows:
        assert row["experiment"] == "kernel_limit"
        assert set(row["measured"]) == set(row["predicted"]) == {name.removesuffix(REMAINDER) for name in row["stderr"]}
        assert {"kernel_relative_rms", "c_first", "c_second", "c_first_other_entity", "c_second_other_entity"} <= set(
            row["measured"]
        )
        assert {"width", "dim", "seed"} <= set(row["settings"])
        assert {"command", "commit", "dirty", "versions", "device", "prng", "dtype", "wall_seconds"} <= set(
            row["provenance"]
        )
    table = lr.rows(tmp_path)
    assert len(table) == 18
    assert {"settings.width", "measured.c_first", "predicted.c_first", "stderr.c_first"} <= set(table.columns)


def test_a_second_run_measures_nothing_again(tmp_path, capsys):
    assert main([*SMALL, f"out={tmp_path}"]) == 0
    first = (tmp_path / "kernel_limit.jsonl").read_bytes()
    table = capsys.readouterr().out
    assert main([*SMALL, f"out={tmp_path}"]) == 0
    again = capsys.readouterr().out
    assert "0 new, 18 from before" in again
    assert again.splitlines()[:-1] == table.splitlines()[:-1]
    assert (tmp_path / "kernel_limit.jsonl").read_bytes() == first


def test_shards_together_are_the_one_process(tmp_path, capsys):
    assert main([*SMALL, f"out={tmp_path / 'one'}"]) == 0
    for i in (3, 1, 2):
        assert main([*SMALL, f"out={tmp_path / 'many'}", f"shard={i}/3"]) == 0
    assert measured(tmp_path / "many") == measured(tmp_path / "one")
    assert sorted(p.name for p in (tmp_path / "many").iterdir()) == [f"kernel_limit.{i}-of-3.jsonl" for i in (1, 2, 3)]
    capsys.readouterr()
    assert main([*SMALL, f"out={tmp_path / 'many'}"]) == 0
    assert "0 new, 18 from before" in capsys.readouterr().out


def test_the_local_launcher_runs_the_same_grid(tmp_path):
    done = sweep(*SMALL, f"out={tmp_path / 'jobs'}", "launcher=local", "jobs=2", "shard=1/1")
    assert done.returncode == 0, done.stderr
    assert "18 rows" in done.stdout
    assert "0 new" in done.stdout
    assert main([*SMALL, f"out={tmp_path / 'one'}"]) == 0
    assert measured(tmp_path / "jobs") == measured(tmp_path / "one")
    typed = shlex.join(["python", "-m", "theory.sweep", *SMALL, f"out={tmp_path / 'jobs'}"])
    made = {row["provenance"]["command"] for row in load_rows(tmp_path / "jobs")}
    assert made == {f"{typed} shard={i}/2" for i in (1, 2)}


def running(tmp_path, *words):
    # A job in the background inherits a SIGINT that is ignored; Python then does not turn it into KeyboardInterrupt.
    heard = (
        "import signal, runpy; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "runpy.run_module('theory.sweep', run_name='__main__')"
    )
    command = [sys.executable, "-c", heard, *words, f"out={tmp_path}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    file = tmp_path / "kernel_limit.jsonl"
    deadline = time.time() + 120
    while (not file.exists() or file.stat().st_size == 0) and time.time() < deadline:
        time.sleep(0.02)
    return process


LONG = ["width=256,2**30", "seeds=2"]


def test_control_c_keeps_what_was_done(tmp_path):
    process = running(tmp_path, *LONG)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert errors.count("\n") == 1
    assert "interrupted" in errors
    assert 1 <= len(load_rows(tmp_path)) <= 2


def test_a_killed_sweep_goes_on_where_it_stopped(tmp_path, capsys):
    process = running(tmp_path, "width=256,4096,2**22", "seeds=8")
    process.kill()
    process.communicate()
    before = measured(tmp_path)
    assert before
    assert main(["width=256,4096,2**22", "seeds=8", f"out={tmp_path}"]) == 0
    assert f"{24 - len(before)} new, {len(before)} from before" in capsys.readouterr().out
    assert before.items() <= measured(tmp_path).items()


SMALLEST = {
    "proposition_1": "width=256",
    "capacity": "width=64,inf entities=8",
    "attention": "dim=64",
    "theorem_2": "width=256,inf coincide=none,x=y",
    "theorem_3": "width=256,inf",
    "many_facts": "width=256,inf facts=1,3 composition=sum,best",
    "scale": "width=256,inf scale=0.5,1 facts=2",
    "specificity": "width=256,inf composition=sum",
    "storage": "width=256,inf entities=8",
    "large_library": "width=256,inf facts=2 composition=sum,arrow",
    "bridge": "width=256,inf facts=2 locality=0.5 composition=sum",
    "depth": "width=32,inf depth=1,2 norm=rms",
    "layers": "width=256,inf facts=2 scale=1",
    "trained": "depth=2 alpha=1 width=16 entities=12 relations=3 facts=2 pairs=2 rank=8 steps=10 placement=first_below",
}
PROMISED = {
    "theorem_2": "c_first c_second c_first_other_entity c_second_other_entity margin_old_over_new span_residual",
    "theorem_3": "c_first c_second c_first_other_entity c_second_other_entity margin_old_over_new span_residual",
    "many_facts": "coefficient_second accuracy",
    "scale": "one_hop_accuracy two_hop_accuracy",
    "bridge": "hop_1 hop_2 two_hop_step_by_step two_hop_direct",
    "layers": "accuracy accuracy_among_new output_new output_old output_bridge key_cosine first_kept second_kept",
    "trained": "held_out own_first own_second accuracy accuracy_among_new passed_on c_first c_second linear_error",
}


@pytest.mark.parametrize("experiment", SMALLEST)
def test_every_experiment_runs_from_the_command(tmp_path, capsys, monkeypatch, experiment):
    monkeypatch.setattr(trained, "EXPERT_STEPS", 20)
    assert main([f"experiment={experiment}", *SMALLEST[experiment].split(), "seeds=2", f"out={tmp_path}"]) == 0
    assert "measured ± se" in capsys.readouterr().out
    rows = load_rows(tmp_path, experiment)
    assert rows
    for row in rows:
        assert {name.removesuffix(REMAINDER) for name in row["stderr"]} <= set(row["predicted"]) <= set(row["measured"])
        assert set(PROMISED.get(experiment, "").split()) <= set(row["measured"])
        assert all(
            isinstance(value, float) for part in ("measured", "predicted", "stderr") for value in row[part].values()
        )


@pytest.mark.parametrize(
    "experiment", [name for name in EXPERIMENTS if name not in ("attention", "bridge", "depth", "layers", "trained")]
)
@pytest.mark.parametrize("scale", ["std", "variance"])
def test_softmax_attention_runs_everywhere_and_predicts_a_limit_only_where_there_is_one(
    tmp_path, capsys, experiment, scale
):
    small = {
        "many_facts": ["facts=2", "composition=sum"],
        "scale": ["facts=2", "scale=1"],
        "large_library": ["facts=2", "composition=sum"],
    }
    small |= {
        "theorem_3": ["composition=sum,arrow"],
        "proposition_1": ["train=false"],
        "storage": ["entities=8"],
        "capacity": ["entities=8"],
    }
    words = [
        f"experiment={experiment}",
        "width=256,inf",
        "dim=64",
        "attention=softmax",
        f"init_scale={scale}",
        "seeds=1",
        f"out={tmp_path}",
    ]
    refused = experiment == "proposition_1" and scale == "variance"
    assert main([*words, *small.get(experiment, [])]) == (2 if refused else 0), capsys.readouterr().err
    for row in load_rows(tmp_path):
        if scale == "variance" and row["settings"]["width"] == "inf" and experiment in ("kernel_limit", "theorem_3"):
            assert not {"c_first", "c_second"} & set(row["predicted"])


def test_every_experiment_is_in_that_test():
    assert {"kernel_limit", *SMALLEST} == set(EXPERIMENTS)


BAD = [
    (["width=0"], "width: got '0'; allowed: a whole number"),
    (["width=-5"], "width: got '-5'"),
    (["width=1.5"], "width: got '1.5'"),
    (["width=wide"], "width: got 'wide'"),
    (["width=64,"], "width: got ''"),
    (["wdith=64"], "did you mean 'width'?"),
    (["experiment=kernel_limits"], "did you mean 'kernel_limit'?"),
    (["experiment=capacity", "dim=0"], "dim: got '0'"),
    (["width=1"], "width: got 1; allowed: at least 16, so that no expert's keys vanish"),
    (["width=32,4"], "width: got 4; allowed: at least 16"),
    (["dim=3"], "dim: got 3; allowed: at least 4, the rank of the prompts"),
    (["dim=64,3"], "dim: got 3"),
    (["attention=softmax"], "dim: got inf with attention=softmax"),
    (["seeds=0"], "seeds: got '0'"),
    (["seeds=1,2"], "seeds: got '1,2'"),
    (["first_seed=2147483647", "seeds=2"], "first_seed: got 2147483647"),
    (["shard=4/3"], "shard: got 4/3"),
    (["shard=0/3"], "shard: got '0/3'"),
    (["launcher=slurm"], "launcher: got slurm"),
    (["launcher=local", "shard=1/2"], "shard: got 1/2"),
    (["experiment=proposition_1", "width=10"], "width: got 10; allowed: at least 96"),
    (["experiment=proposition_1", "width=2**20"], "train: got true at width=1048576"),
    (["experiment=proposition_1", "entities=5"], "entities: got '5'; allowed: a whole number from 6"),
    (["experiment=proposition_1", "activation=linear"], "activation: got linear"),
    (["experiment=capacity", "defined=2"], "defined: got '2'"),
    (["experiment=theorem_3", "composition=summ"], "did you mean 'sum'?"),
    (["experiment=theorem_3", "width=4"], "width: got 4; allowed: at least 32"),
    (["experiment=theorem_3", "width=2**15", "composition=ties"], "width: got 32768 with composition=ties"),
    (["experiment=theorem_2", "coincide=x=q"], "coincide: got 'x=q'"),
    (["experiment=theorem_2", "coincide=x=y+y=z"], "coincide: got x = y = z"),
    (["experiment=many_facts", "facts=0"], "facts: got '0'"),
    (["experiment=scale", "dim=1"], "dim: got 1; allowed: at least 2"),
    (["experiment=scale", "facts=5", "dim=4", "activation=linear"], "facts: got 5; allowed: at most 4"),
    (["experiment=scale", "facts=7", "dim=3", "activation=quadratic"], "facts: got 7; allowed: at most 6"),
    (["experiment=layers", "dim=1"], "dim: got 1; allowed: at least 2"),
    (["experiment=bridge", "setup=1"], "setup: got 1; allowed: 0 or 2 to 8"),
    (["experiment=bridge", "locality=1.5"], "locality: got '1.5'"),
    (["experiment=capacity", "entities=128", "relations=8"], "entities: got 128 with 8 relations"),
]


@pytest.mark.parametrize(("words", "line"), BAD, ids=lambda v: " ".join(v) if isinstance(v, list) else "")
def test_a_mistake_is_one_line_exit_code_2_and_nothing_written(tmp_path, capsys, words, line):
    out = tmp_path / "rows"
    assert main([*words, f"out={out}"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert line in captured.err
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        ("experiment=layers facts=4 scale=1 placement=first_below width=inf dim=4 activation=linear", 16),
        ("experiment=large_library facts=2 composition=sum dim=256 attention=softmax init_scale=variance", 2),
    ],
)
def test_keys_that_turn_out_to_be_dependent_are_one_line_too(tmp_path, capsys, words, keys):
    assert main([*words.split(), "seeds=8", f"out={tmp_path}"]) == 2
    said = "allowed: linearly independent ones; drop repeated prompts, or raise the width or the dim"
    assert capsys.readouterr().err == f"theory.sweep: keys: got {keys} that are linearly dependent; {said}\n"


@pytest.mark.parametrize("words", ["defined=0", "defined=0.01 entities=2"])
def test_a_world_without_a_fact_is_one_line(tmp_path, capsys, words):
    assert main(["experiment=capacity", "width=24", *words.split(), "seeds=1", f"out={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("theory.sweep: defined: got 0")
    assert error.endswith("left seed 0 without a fact; allowed: worlds with a fact; raise defined= or entities=\n")


def test_a_folder_of_another_schema_is_refused_before_anything_runs(tmp_path, capsys):
    (tmp_path / "kernel_limit.jsonl").write_text(json.dumps({"schema": 0}) + "\n")
    assert main(["width=64", "seeds=1", f"out={tmp_path}"]) == 2
    assert "kernel_limit.jsonl:1: got schema 0; allowed: schema 1" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["kernel_limit.jsonl"]


def test_an_unwritable_folder_is_refused_before_anything_runs(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["width=64", "seeds=1", f"out={tmp_path / 'file'}"]) == 2
    assert "out: got" in capsys.readouterr().err


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_has_a_grid_by_itself(experiment, tmp_path, capsys):
    assert main([f"experiment={experiment}", "dry_run=true", f"out={tmp_path}"]) == 0, capsys.readouterr().err


def test_dry_run_prints_grid_cost_and_time_and_writes_nothing(tmp_path):
    code = "import sys; from theory.sweep import main; main(sys.argv[1:]); assert 'jax' not in sys.modules"
    words = ["width=2**10,1e9", "seeds=4", "dry_run=true", f"out={tmp_path / 'rows'}"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for part in ("2 settings x seeds 0..3", "8 rows", "width=2**10,1000000000", "4e+09 features", "time: about"):
        assert part in done.stdout
    assert not (tmp_path / "rows").exists()


def test_dry_run_prices_every_cell_of_the_grid(tmp_path, capsys):
    words = ["experiment=many_facts", "composition=sum", "width=1000", "seeds=1", "dry_run=true", f"out={tmp_path}"]
    assert main([*words, "facts=1,32"]) == 0  # of rank 6 and 136
    assert "cost: 2e+03 features of 6 to 161 prompts, 1.42e+05 normals, " in capsys.readouterr().out
    assert main([*words, "facts=1,32", "shard=3/3"]) == 0
    assert "cost: 0 features of 0 prompts, 0 normals, 0 FLOP" in capsys.readouterr().out


def test_help_is_quick_and_lists_the_settings_of_the_experiment(tmp_path):
    start = time.perf_counter()
    done = sweep("--help", "experiment=capacity", cwd=Path(__file__).parents[1])
    assert done.returncode == 0
    assert "entities" in done.stdout
    assert "threshold is the number of prompts" in " ".join(done.stdout.split())
    assert time.perf_counter() - start < 5  # a hung import, not a benchmark


def test_the_same_seeds_give_the_same_bits_on_one_device(tmp_path):
    """As here on two, which have those of eight (`tests/test_gram.py`)."""
    assert main([*SMALL, f"out={tmp_path / '2'}"]) == 0
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=1"}
    assert sweep(*SMALL, f"out={tmp_path / '1'}", env=environment).returncode == 0
    for devices in (1, 2):
        assert {row["provenance"]["devices"] for row in load_rows(tmp_path / str(devices))} == {devices}
    assert measured(tmp_path / "1") == measured(tmp_path / "2")


def test_on_a_terminal_there_is_a_bar_with_an_eta(tmp_path):
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 120))
    done = subprocess.Popen(
        [sys.executable, "-m", "theory.sweep", "width=2**24", "seeds=2", f"out={tmp_path}"],
        stdout=subprocess.PIPE,
        stderr=slave,
    )
    os.close(slave)
    shown = b""
    with contextlib.suppress(OSError):  # the terminal closes with the process
        while part := os.read(master, 4096):
            shown += part
    done.communicate()
    assert b"kernel_limit" in shown
    assert b"features/s" in shown
    assert b"width=2**24" in shown


def test_slurm_gets_one_array_with_its_parameters(tmp_path, monkeypatch, capsys):
    """The submission as sbatch receives it, from stand-ins for Slurm's programs."""
    (tmp_path / "bin").mkdir()
    for name, text in (("srun", ""), ("sbatch", f'cp "$1" {tmp_path}/script; echo "Submitted batch job 4242"')):
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    assert (
        main(
            [*SMALL, f"out={tmp_path / 'rows'}", "launcher=slurm", "jobs=3", "slurm=slurm_partition:gpu+timeout_min:7"]
        )
        == 0
    )
    assert "submitted 3 jobs: 4242_0, 4242_1, 4242_2" in capsys.readouterr().out
    script = (tmp_path / "script").read_text()
    assert "--array=0-2" in script
    assert "--partition=gpu" in script
    assert "--time=7" in script
    assert main([*SMALL, f"out={tmp_path / 'rows'}", "launcher=slurm", "slurm=colour:red"]) == 2
    assert "launcher: got slurm, refused by submitit" in capsys.readouterr().err
    (tmp_path / "bin" / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: invalid partition' >&2\nexit 1\n")
    assert main([*SMALL, f"out={tmp_path / 'rows'}", "launcher=slurm"]) == 2
    assert "launcher: got slurm, refused by submitit (sbatch: error: invalid partition)" in capsys.readouterr().err


def test_a_launcher_refuses_rows_that_cannot_be_read(tmp_path, capsys):
    (tmp_path / "kernel_limit.jsonl").mkdir()
    assert main([*SMALL, f"out={tmp_path}", "launcher=local"]) == 2
    assert f"out: got {tmp_path} (Is a directory)" in capsys.readouterr().err
