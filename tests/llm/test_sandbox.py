"""Attacks: whatever a program tries is contained and reported, and the next program runs as if nothing had been."""

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lora_reuse.llm import sandbox
from lora_reuse.llm.sandbox import Limits, Result, confinement, require, run, run_all
from lora_reuse.runs.settings import SettingError


def offered() -> str:
    """Why this machine cannot confine, or nothing. A machine that can, and does not, is a failure below."""
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        return "not Linux on x86-64"
    return "" if confinement.landlock_abi() >= confinement.OLDEST_LANDLOCK else "a kernel without Landlock 3"


confined = pytest.mark.skipif(bool(offered()), reason=offered())
SMALL = Limits(seconds=120.0, cpu_seconds=1, memory=2**27, output=2**12, file_bytes=2**16, files=10)


def forbidden(attempt: str) -> str:
    """A program that says what came of an attempt, for outcomes that a program could hide."""
    failed = "except OSError as error:\n    print(type(error).__name__)"
    return f"import os, signal\ntry:\n    {attempt}\n    print('open')\n{failed}"


@confined
def test_this_machine_confines():
    require()


@confined
def test_a_program_runs_as_python_runs_it():
    program = "import sys, typing\nfrom dataclasses import dataclass\n@dataclass\nclass A:\n    x: 'int'"
    result = run(
        f"{program}\nassert __name__ == '__main__'\n"
        "print(typing.get_type_hints(A), sys.argv)\nprint('to stderr', file=sys.stderr)"
    )
    assert result[:3] == ("done", "{'x': <class 'int'>} ['program.py']\n", "to stderr\n")


@confined
def test_libraries_and_the_scratch_folder_are_there():
    program = "import numpy, tempfile\nopen('a', 'w').write('b')\nwith tempfile.NamedTemporaryFile():\n"
    assert run(f"{program}    print(numpy.eye(2).sum(), open('a').read())")[:3] == ("done", "2.0 b\n", "")


@confined
@pytest.mark.parametrize(
    ("program", "outcome", "said"),
    [
        ("while True:\n    __import__('os').fork()", "denied", "PermissionError"),
        (
            "import threading\nwhile True:\n    threading.Thread(target=input).start()",
            "error",
            "can't start new thread",
        ),
        (
            "import _thread\nwhile True:\n    try:\n        _thread.start_new_thread(input, ())\n"
            "    except RuntimeError:\n        print('none')",
            "output",
            "",
        ),
        ("import subprocess\nsubprocess.run(['true'])", "denied", "PermissionError"),
        ("import os\nos.execv('/bin/true', ['true'])", "denied", "PermissionError"),
        ("import multiprocessing\nmultiprocessing.Pool(2)", "denied", "PermissionError"),
        ("bytearray(10**10)", "memory", "MemoryError"),
        ("kept = []\nwhile True:\n    kept.append(bytearray(10**7))", "memory", "MemoryError"),
        (
            "import mmap\nkept = []\nwhile True:\n    kept.append(mmap.mmap(-1, 10**7))",
            "error",
            "Cannot allocate memory",
        ),
        ("while True:\n    print('x' * 1000)", "output", ""),
        ("import os\nwhile True:\n    os.write(2, b'x' * 1000)", "output", "xxx"),
        ("while True:\n    pass", "time", ""),
        ("import sys\nsys.setrecursionlimit(10**9)\ndef f(): f()\nf()", "error memory crash time", ""),
        ("open('large', 'wb').write(bytes(10**6))", "error files", ""),
        ("for i in range(10**6):\n    open(str(i), 'w').close()", "files", ""),
        ("import os\nfor i in range(10**6):\n    os.mkdir('d')\n    os.chdir('d')", "denied", "PermissionError"),
        ("import ctypes\nctypes.string_at(0)", "crash", ""),
        ("import os\nos.abort()", "crash", ""),
        ("import os\nos._exit(81)", "error", ""),
        ("raise SystemExit('enough')", "error", "enough"),
        ("def f(:", "error", "SyntaxError"),
        ("x = input()", "error", "EOFError"),
        ("x = '\0'", "error", ""),
        (
            "print('\\udc80'.encode(errors='surrogateescape'))\nimport sys\nsys.stdout.buffer.write(b'\\xff')",
            "done",
            "",
        ),
    ],
)
def test_an_attack_is_contained_and_reported(program: str, outcome: str, said: str):
    result = run(program, SMALL)
    assert result.outcome in outcome.split(), result
    assert said in result.errors
    assert len(result.output) <= SMALL.output


@confined
@pytest.mark.parametrize(
    "attempt", ["socket.socket()", "socket.socketpair()", "socket.create_connection(('127.0.0.1', {port}), 1)"]
)
def test_there_is_no_network(attempt: str):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        result = run("import socket\n" + forbidden(attempt.format(port=server.getsockname()[1])))
        assert result[:2] == ("done", "PermissionError\n")
        with pytest.raises(TimeoutError):
            server.accept()


@confined
@pytest.mark.parametrize(
    "attempt",
    [
        "open({secret!r}).read()",
        "os.listdir({folder!r})",
        "os.listdir(os.path.expanduser('~') + '/..')",
        "os.listdir('/root')",
        "open('/etc/passwd').read()",
        "open('/proc/{parent}/environ').read()",
        "open('/proc/{parent}/mem', 'r+b')",
        "open('/proc/self/environ').read()",
        "open({secret!r}, 'w')",
        "open({secret!r}, 'a')",
        "os.truncate({secret!r}, 0)",
        "os.open({secret!r}, os.O_RDONLY | os.O_TRUNC)",
        "open({folder!r} + '/new', 'w')",
        "os.unlink({secret!r})",
        "os.rename({secret!r}, 'mine')",
        "os.rename('program.py', {folder!r} + '/new')",
        "os.link({secret!r}, 'mine')",
        "os.symlink({secret!r}, 'mine')",
        "os.chmod({secret!r}, 0o777)",
        "os.chown({secret!r}, 1, 1)",
        "os.utime({secret!r}, (0, 0))",
        "os.setxattr({secret!r}, 'user.a', b'b')",
        "os.mkfifo('pipe')",
        "os.memfd_create('hidden')",
        "os.chroot('.')",
        "os.unshare(0x10000000) if hasattr(os, 'unshare') else os.setuid(0)",
    ],
)
def test_nothing_outside_the_scratch_folder_is_read_or_changed(attempt: str, tmp_path: Path):
    secret = tmp_path / "secret"
    secret.write_text("the secret")
    before = secret.stat()
    result = run(forbidden(attempt.format(secret=str(secret), folder=str(tmp_path), parent=os.getpid())))
    assert result[:2] in (("done", "PermissionError\n"), ("done", "OSError\n"))
    assert secret.read_text() == "the secret"
    assert list(tmp_path.iterdir()) == [secret]
    assert (secret.stat().st_mode, secret.stat().st_uid, secret.stat().st_mtime_ns) == (
        before.st_mode,
        before.st_uid,
        before.st_mtime_ns,
    )


@confined
def test_the_environment_holds_no_secrets(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SECRET_KEY", "the secret")
    result = run("import os\nprint(dict(os.environ))")
    assert result.outcome == "done"
    assert "the secret" not in result.output
    assert "SECRET_KEY" not in result.output


@confined
@pytest.mark.parametrize(
    "attempt",
    [
        "os.kill(os.getppid(), signal.SIGKILL)",
        "os.kill(0, signal.SIGKILL)",
        "os.kill(-1, signal.SIGKILL)",
        "os.killpg(0, signal.SIGKILL)",
        "signal.pidfd_send_signal(os.pidfd_open(os.getppid()), signal.SIGKILL)",
        "__import__('fcntl').fcntl(0, 8, os.getppid())",
        "__import__('resource').prlimit(os.getppid(), 0, (1, 1))",
        "os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)",
        "os.setsid()",
        "os.setpgid(0, 0)",
    ],
)
def test_no_other_process_is_reached(attempt: str):
    bystander = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    try:
        result = run(forbidden(attempt))
        assert result[:2] == ("done", "PermissionError\n")
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.communicate()


@confined
def test_a_program_may_signal_itself():
    program = "import os, signal\nsignal.signal(signal.SIGUSR1, lambda *_: print('heard'))"
    assert run(f"{program}\nos.kill(os.getpid(), signal.SIGUSR1)\nsignal.raise_signal(signal.SIGUSR1)")[:2] == (
        "done",
        "heard\nheard\n",
    )


@confined
@pytest.mark.parametrize(
    "program",
    [
        "import signal, time\nfor s in {*signal.valid_signals()} - {9, 19}:\n"
        "    signal.signal(s, signal.SIG_IGN)\ntime.sleep(60)",
        "import os, time\nos.close(1)\nos.close(2)\ntime.sleep(60)",
        "import atexit, time\natexit.register(time.sleep, 60)",
        "while True:\n    try:\n        __import__('time').sleep(60)\n    except BaseException:\n        pass",
    ],
)
def test_a_program_that_stays_is_ended_on_time(program: str):
    start = time.monotonic()
    result = run(program, Limits(seconds=1.0))
    assert result.outcome == "time"
    assert time.monotonic() - start < 50  # the sleeps are of sixty seconds


@confined
def test_a_limit_cannot_be_raised():
    program = "import resource\ntry:\n    resource.setrlimit(resource.RLIMIT_AS, (-1, -1))\n"
    program += "except (ValueError, OSError) as error:\n    print(error)"
    assert run(program).output == "not allowed to raise maximum limit\n"


@confined
def test_a_program_does_not_outlive_who_started_it():
    """A parent killed while it waits: its program, which nobody watches any more, ends too."""
    program = 'import os, time\nopen("pid", "w").write(str(os.getpid()))\nprint(1)\ntime.sleep(60)'
    code = f"from lora_reuse.llm.sandbox import run\nrun({program!r})"
    parent = subprocess.Popen(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], env=os.environ | {"PYTHONPATH": "."}
    )
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    end = time.monotonic() + 120
    child = 0
    while not child and time.monotonic() < end:
        found = [int(pid) for pid in children.read_text().split()]
        child = next((pid for pid in found if b"confinement" in Path(f"/proc/{pid}/cmdline").read_bytes()), 0)
        time.sleep(0.02)
    parent.kill()
    parent.wait()
    while Path(f"/proc/{child}").exists() and time.monotonic() < end:
        time.sleep(0.02)
    assert child
    assert not Path(f"/proc/{child}").exists()


@confined
def test_the_run_goes_on_and_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    programs = [
        "print(1)",
        "import os\nos.fork()",
        "while True: print('x' * 1000)",
        "print(1)",
        "open('a', 'w')\nimport os\nos.kill(os.getpid(), 9)",
        "print(2)",
    ]
    threads = threading.active_count()
    results = run_all(programs, SMALL)
    assert [result.outcome for result in results] == ["done", "denied", "output", "done", "time", "done"]
    assert [results[i].output for i in (0, 3, 5)] == ["1\n", "1\n", "2\n"]
    assert not list(tmp_path.iterdir())
    deadline = time.monotonic() + 10  # a reader ends when the last holder of its pipe has been reaped
    while threading.active_count() > threads and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= threads


@confined
def test_the_same_program_says_the_same():
    program = "print({'a', 'b', 'c', 'd', 'e'})"
    assert run(program).output == run(program).output


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("    _landlock(scratch)\n", "", "a file can be read"),
        ("    _seccomp()\n", "", "a socket opened"),
        ("OLDEST_LANDLOCK = 3", "OLDEST_LANDLOCK = 999", "Landlock"),
        ('"x86_64"', '"another"', "x86-64"),
    ],
)
def test_a_machine_without_a_lock_is_refused(
    old: str, new: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Planted mistakes: each lock left out, and each machine that lacks one, is seen before anything is run."""
    source = Path(confinement.__file__).read_text()
    assert source.count(old) == 1
    weaker = tmp_path / "confinement.py"
    weaker.write_text(source.replace(old, new))
    monkeypatch.setattr(sandbox.confinement, "__file__", str(weaker))
    require.cache_clear()
    with pytest.raises(
        SettingError, match=r"allow_code_execution: got true where code cannot be confined \(.*\); allowed: Linux 6.2"
    ) as error:
        require()
    assert offered() or said in str(error.value)


def test_results_are_read_by_name():
    assert Result("done", "1\n", "", 0.1).outcome in sandbox.OUTCOMES
