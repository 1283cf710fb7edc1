"""Confines the process that it runs in, for good, and runs a program there. The standard library only; `llm.sandbox`
starts it.

Four locks, none of which needs root, and all of which hold for root too:

- capabilities are given up, so that root is like anyone;
- Landlock (Linux 6.2 or newer) opens no file but Python's own to be read, and makes no file but plain ones in the
  scratch folder;
- seccomp lets a short list of system calls through. Not on it: sockets, new processes and threads, other programs,
  signals to others, tracing, memory files, changes of owners and modes. One process is therefore all there ever is, and
  killing it ends everything;
- resource limits hold memory (address space), processor time, the size of a file and how many are open.

What a program can still learn is whether a path exists, and the size and time of what is there: Landlock does not hide
`stat`."""

import ctypes
import os
import resource
import signal
import struct
import sys
import sysconfig
import traceback
import types
from pathlib import Path

UNCONFINED, MEMORY, DENIED = 81, 82, 83
"""Exit codes: the locks could not be set and nothing was run; a MemoryError, or a PermissionError, ended the
program."""
OLDEST_LANDLOCK = 3
"""The first ABI that keeps files from being truncated."""

_SYSCALLS = {
    "read": 0,
    "write": 1,
    "open": 2,
    "close": 3,
    "stat": 4,
    "fstat": 5,
    "lstat": 6,
    "poll": 7,
    "lseek": 8,
    "mmap": 9,
    "mprotect": 10,
    "munmap": 11,
    "brk": 12,
    "rt_sigaction": 13,
    "rt_sigprocmask": 14,
    "rt_sigreturn": 15,
    "pread64": 17,
    "pwrite64": 18,
    "readv": 19,
    "writev": 20,
    "access": 21,
    "pipe": 22,
    "select": 23,
    "sched_yield": 24,
    "mremap": 25,
    "madvise": 28,
    "dup": 32,
    "dup2": 33,
    "nanosleep": 35,
    "getitimer": 36,
    "alarm": 37,
    "setitimer": 38,
    "getpid": 39,
    "exit": 60,
    "uname": 63,
    "fsync": 74,
    "fdatasync": 75,
    "truncate": 76,
    "ftruncate": 77,
    "getdents": 78,
    "getcwd": 79,
    "chdir": 80,
    "rename": 82,
    "creat": 85,
    "unlink": 87,
    "readlink": 89,
    "umask": 95,
    "gettimeofday": 96,
    "getrlimit": 97,
    "getrusage": 98,
    "sysinfo": 99,
    "times": 100,
    "getuid": 102,
    "getgid": 104,
    "geteuid": 107,
    "getegid": 108,
    "getppid": 110,
    "sigaltstack": 131,
    "gettid": 186,
    "time": 201,
    "futex": 202,
    "sched_getaffinity": 204,
    "getdents64": 217,
    "set_tid_address": 218,
    "restart_syscall": 219,
    "clock_gettime": 228,
    "clock_getres": 229,
    "clock_nanosleep": 230,
    "exit_group": 231,
    "openat": 257,
    "newfstatat": 262,
    "unlinkat": 263,
    "renameat": 264,
    "readlinkat": 267,
    "faccessat": 269,
    "pselect6": 270,
    "ppoll": 271,
    "set_robust_list": 273,
    "dup3": 292,
    "pipe2": 293,
    "renameat2": 316,
    "getrandom": 318,
    "membarrier": 324,
    "statx": 332,
    "rseq": 334,
    "faccessat2": 439,
}
"""What a program may call, by its number on x86-64. Everything else is answered EPERM."""
_IOCTL, _KILL, _FCNTL, _TGKILL, _PRLIMIT, _CLONE3 = 16, 62, 72, 234, 302, 435
_TCGETS, _FIOCLEX, _FIONBIO = 0x5401, 0x5451, 0x5421
# F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC; F_SETOWN would send signals.
_FCNTLS = (0, 1, 2, 3, 4, 1030)

_libc = ctypes.CDLL(None, use_errno=True)


def landlock_abi() -> int:
    """The version of Landlock that the running kernel offers, 0 for none."""
    return max(0, _libc.syscall(ctypes.c_long(444), None, ctypes.c_size_t(0), ctypes.c_uint(1)))


def confine(scratch: Path, parent: int, memory: int, cpu_seconds: int, file_size: int) -> None:
    """Locks this process, a child of `parent`. Raises OSError where the kernel refuses a lock; the process is then not
    to be used."""
    _prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: it does not outlive its parent
    if os.getppid() != parent:
        raise OSError(0, "its parent has ended")
    limits = {"AS": memory, "CPU": cpu_seconds, "FSIZE": file_size, "NOFILE": 64, "CORE": 0}
    for name, value in limits.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))
    _prctl(38, 1)  # PR_SET_NO_NEW_PRIVS
    _drop_capabilities()
    _landlock(scratch)
    _seccomp()


def _check(result: int, what: str) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def _prctl(option: int, value: int, pointer: object = 0) -> None:
    arguments = [ctypes.c_ulong(value), pointer if pointer else ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)]
    _check(_libc.prctl(ctypes.c_int(option), *arguments), f"prctl {option}")


def _drop_capabilities() -> None:
    header = struct.pack("Ii", 0x20080522, 0)
    _check(_libc.capset(header, bytes(24)), "capset")


def _landlock(scratch: Path) -> None:
    """Reading Python and the shared libraries; reading, writing, making and removing plain files in the scratch folder;
    nothing else."""
    abi = landlock_abi()
    if abi < OLDEST_LANDLOCK:
        raise OSError(0, f"Landlock {abi}: Linux 6.2 with Landlock is needed")
    handled = (1 << (16 if abi >= 5 else 15)) - 1
    write, read, list_folder, remove, make, truncate = 1 << 1, 1 << 2, 1 << 3, 1 << 5, 1 << 8, 1 << 14
    rules = _check(
        _libc.syscall(ctypes.c_long(444), struct.pack("Q", handled), ctypes.c_size_t(8), ctypes.c_uint(0)),
        "landlock_create_ruleset",
    )
    for path in _readable():
        _allow(rules, path, read | (list_folder if path.is_dir() else 0))
    _allow(rules, Path("/dev/null"), read | write)
    _allow(rules, scratch, write | read | list_folder | remove | make | truncate)
    _check(_libc.syscall(ctypes.c_long(446), ctypes.c_int(rules), ctypes.c_uint(0)), "landlock_restrict_self")
    os.close(rules)


def _readable() -> list[Path]:
    python = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    system = [
        "/lib",
        "/lib64",
        "/usr/lib",
        "/usr/lib64",
        "/etc/ld.so.cache",
        "/etc/localtime",
        "/usr/share/zoneinfo",
        "/dev/urandom",
    ]
    return [path for path in map(Path, dict.fromkeys([*python, f"{sys.base_prefix}/lib", *system])) if path.exists()]


def _allow(rules: int, path: Path, access: int) -> None:
    file = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = struct.pack("=Qi", access, file)
        arguments = (ctypes.c_long(445), ctypes.c_int(rules), ctypes.c_int(1), rule, ctypes.c_uint(0))
        _check(_libc.syscall(*arguments), f"landlock_add_rule {path}")
    finally:
        os.close(file)


def _seccomp() -> None:
    """The list of system calls as a program for the kernel: x86-64 only, a number of the list passes, or one with the
    right argument."""
    allow, deny, absent, kill = 0x7FFF0000, 0x00050000 | 1, 0x00050000 | 38, 0x80000000
    load, equal, give = 0x20, 0x15, 0x06
    code = [(load, 0, 0, 4), (equal, 1, 0, 0xC000003E), (give, 0, 0, kill), (load, 0, 0, 0)]
    for number in _SYSCALLS.values():
        code += [(equal, 0, 1, number), (give, 0, 0, allow)]
    me = os.getpid()
    with_argument = [
        (_KILL, 0, (me,)),
        (_TGKILL, 0, (me,)),
        (_PRLIMIT, 0, (0,)),
        (_FCNTL, 1, _FCNTLS),
        (_IOCTL, 1, (_TCGETS, _FIOCLEX, _FIONBIO)),
    ]
    for number, place, values in with_argument:
        code += [(equal, 0, 2 + 2 * len(values), number), (load, 0, 0, 16 + 8 * place)]
        for value in values:
            code += [(equal, 0, 1, value), (give, 0, 0, allow)]
        code += [(give, 0, 0, deny)]
    # Without clone3 libraries fall back on clone, which is denied.
    code += [(equal, 0, 1, _CLONE3), (give, 0, 0, absent), (give, 0, 0, deny)]
    program = b"".join(struct.pack("HBBI", *line) for line in code)
    kept = ctypes.create_string_buffer(program)
    header = struct.pack("HxxxxxxP", len(code), ctypes.addressof(kept))
    _prctl(22, 2, header)  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


def _main(parent: str, memory: str, cpu_seconds: str, file_size: str) -> None:
    """Runs program.py of the working folder, as `python program.py` would."""
    source = Path("program.py").read_text(errors="replace")
    try:
        if sys.platform != "linux" or os.uname().machine != "x86_64":
            raise OSError(0, f"{sys.platform} on {os.uname().machine}: Linux on x86-64 is needed")
        confine(Path.cwd(), int(parent), int(memory), int(cpu_seconds), int(file_size))
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr, flush=True)
        os._exit(UNCONFINED)
    program = types.ModuleType("__main__")
    sys.modules["__main__"] = program
    sys.argv = ["program.py"]
    try:
        exec(compile(source, "program.py", "exec"), program.__dict__)
    except Exception as error:
        traceback.print_exception(type(error), error, error.__traceback__ and error.__traceback__.tb_next)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(MEMORY if isinstance(error, MemoryError) else DENIED if isinstance(error, PermissionError) else 1)


if __name__ == "__main__":
    _main(*sys.argv[1:])
