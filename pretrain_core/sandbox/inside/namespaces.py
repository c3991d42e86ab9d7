"""Linux namespaces by the C library: a root of its own, no network, no other process in sight."""

import contextlib
import ctypes
import os
from collections.abc import Iterable
from pathlib import Path

WORK = Path("/tmp")
"""The only folder that a program can write to: a tmpfs of limited size, gone at its end."""

DEVICES = ("null", "zero", "full", "random", "urandom")

_PROGRAM_ID = 1000
_NOBODY = 65534

_NEW_MOUNTS, _NEW_HOST_NAME, _NEW_IPC = 0x0002_0000, 0x0400_0000, 0x0800_0000
_NEW_USER, _NEW_PIDS, _NEW_NETWORK = 0x1000_0000, 0x2000_0000, 0x4000_0000

_READ_ONLY, _NO_SUID, _NO_DEVICES = 1, 2, 4
_REMOUNT, _BIND, _RECURSIVE, _PRIVATE = 32, 4096, 16384, 1 << 18
_DETACH = 2

_SYS_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE = 442, -100, 0x8000

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 36, 38

_libc = ctypes.CDLL(None, use_errno=True)


def enter() -> int | None:
    """Move into new user, mount, process, network, IPC and host-name namespaces.

    Returns the user id to give the program, None to keep its own. Raises OSError where the kernel
    refuses. The process namespace begins with the next fork.
    """
    kinds = _NEW_USER | _NEW_MOUNTS | _NEW_PIDS | _NEW_NETWORK | _NEW_IPC | _NEW_HOST_NAME
    if os.geteuid() != 0:
        user, group = os.geteuid(), os.getegid()
        _check(_libc.unshare(kinds), "unshare")
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{_PROGRAM_ID} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{_PROGRAM_ID} {group} 1")
        return None
    # The kernel counts no processes of the real root, and root's files would be the program's own:
    # so the program becomes nobody. Only a process that stayed outside may map two users.
    me, (ready, go) = os.getpid(), os.pipe()
    mapper = os.fork()
    if mapper == 0:
        os.close(go)
        failed = 1
        with contextlib.suppress(OSError):
            if os.read(ready, 1):
                for kind in ("uid_map", "gid_map"):
                    Path(f"/proc/{me}/{kind}").write_text(f"0 0 1\n{_PROGRAM_ID} {_NOBODY} 1\n")
                failed = 0
        os._exit(failed)
    os.close(ready)
    try:
        _check(_libc.unshare(kinds), "unshare")
        os.write(go, b"1")
    finally:
        os.close(go)
        _, status = os.waitpid(mapper, 0)
    if status:
        raise OSError("cannot map users into a new namespace")
    return _PROGRAM_ID


def build_root(stage: Path, readable: Iterable[str], work_bytes: int) -> list[str]:
    """Make `stage` the root: `readable` paths read-only, an empty work folder, nothing else.

    Returns what could not be had (`proc`). Raises OSError where a mount is refused.
    """
    _mount("none", "/", None, _RECURSIVE | _PRIVATE)
    _mount("tmpfs", stage, "tmpfs", _NO_SUID | _NO_DEVICES, "mode=755,size=1m")
    work = _inside(stage, WORK)
    work.mkdir()
    _mount("tmpfs", work, "tmpfs", _NO_SUID | _NO_DEVICES, f"mode=1777,size={work_bytes}")
    for path in readable:
        target = _mount_point(stage, Path(path))
        _mount(os.path.realpath(path), target, None, _BIND | _RECURSIVE)
        _read_only(target)
    for name in DEVICES:
        _mount(f"/dev/{name}", _mount_point(stage, Path("/dev") / name), None, _BIND)
    missing = []
    proc = _inside(stage, Path("/proc"))
    proc.mkdir()
    try:
        _mount("proc", proc, "proc", _NO_SUID | _NO_DEVICES)
    except PermissionError:
        missing.append("proc")
    with contextlib.suppress(OSError):
        # No namespaces within namespaces: they are the door to most holes of this kind.
        (proc / "sys/user/max_user_namespaces").write_text("0")
    os.chdir(stage)
    _check(_libc.pivot_root(b".", b"."), "pivot_root")
    _check(_libc.umount2(b".", _DETACH), "umount")
    flags = _REMOUNT | _BIND | _READ_ONLY | _NO_SUID | _NO_DEVICES
    _mount("none", "/", None, flags)
    os.chdir(WORK)
    return missing


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, 9, 0, 0, 0), "prctl")


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends, so that none escapes."""
    _check(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl")


def forbid_new_privileges() -> None:
    """Make set-user-id programs and file capabilities ineffective from here on."""
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")


def _inside(stage: Path, path: Path) -> Path:
    return stage / path.relative_to("/")


def _mount_point(stage: Path, path: Path) -> Path:
    target = _inside(stage, path)
    if os.path.isdir(path):
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    return target


def _mount(
    source: str, target: str | Path, kind: str | None, flags: int, options: str | None = None
) -> None:
    encoded = [None if text is None else os.fsencode(text) for text in (source, target, kind)]
    data = None if options is None else options.encode()
    result = _libc.mount(*encoded, ctypes.c_ulong(flags), data)
    _check(result, f"mount {target}")


def _read_only(target: Path) -> None:
    """Make a mount and all below it read-only (Linux 5.12)."""
    attributes = (ctypes.c_uint64 * 4)(_READ_ONLY | _NO_SUID | _NO_DEVICES, 0, 0, 0)
    result = _libc.syscall(
        ctypes.c_long(_SYS_MOUNT_SETATTR),
        ctypes.c_int(_AT_FDCWD),
        os.fsencode(target),
        ctypes.c_uint(_AT_RECURSIVE),
        ctypes.byref(attributes),
        ctypes.c_size_t(ctypes.sizeof(attributes)),
    )
    _check(result, f"mount_setattr {target}")


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
