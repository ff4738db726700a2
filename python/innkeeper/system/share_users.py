# SPDX-License-Identifier: Apache-2.0
"""Who a share server is: the part of `share_sandbox.py` that is about users.

::

    host|user;uid=UID;gid=GID[;uids=MAP;gids=MAP][;tools=FOLDER][;must][;squash]

`user`: in a user namespace with these maps, which FOLDER has newuidmap and newgidmap for
where they are more than one id. Where those fail and `must` is not there, our own id
alone is mapped. UID and GID are the server's own in there, with all rights of the
namespace; with `squash` it stays that, whatever it does. A MAP is lines of
/proc/PID/uid_map, as INSIDE-OUTSIDE-COUNT+INSIDE-...

As that program, it imports next to nothing. The calls are capabilities(7), seccomp(2),
user_namespaces(7).
"""

import ctypes
import errno
import os
import struct

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000

_PR_SET_SECCOMP = 22
_PR_SET_SECUREBITS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 28, 47, 2
# Rights stay when the user changes (linux/securebits.h).
_SECBIT_KEEP_CAPS = 1 << 4
_CAPABILITY_VERSION_3, _CAPABILITIES = 0x20080522, 64

# System calls of x86-64 by which a server would become one of the guest's users: of
# its user and group, and of the groups beside.
_AUDIT_ARCH_X86_64 = 0xC000003E
_SYS_CAPGET, _SYS_CAPSET = 125, 126
_SETGROUPS = 116
_SETRESUID, _SETRESGID = 117, 119
# The virtiofsd in Rust wants to be root; what it needs of that are the rights, which it has.
_GETEUID = 107
_SECCOMP_MODE_FILTER, _RET_DONE, _RET_ALLOW = 2, 0x00050000, 0x7FFF0000

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> int:
    """The result of a call of the C library.

    :raise OSError: it is a failure; the text begins with `what`.
    """
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def _lines(text: str) -> str:
    """A map as the kernel takes it."""
    return "".join(line.replace("-", " ") + "\n" for line in text.split("+"))


def words(text: str) -> dict[str, str]:
    """Words with `;` between, by what is before their `=`."""
    return {name: value for name, _, value in (word.partition("=") for word in text.split(";"))}


def mapping(uids: str, gids: str) -> int:
    """A descriptor of a user namespace with these maps; nobody lives in it."""
    ready, told = os.pipe()
    kept, over = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(over)
        status = 0 if libc.unshare(CLONE_NEWUSER) == 0 else ctypes.get_errno()
        os.write(told, bytes([status]))
        # Until its maker has what it needs, or died.
        os.read(kept, 1)
        os._exit(0)
    os.close(kept)
    try:
        status = os.read(ready, 1)[0]
        if status:
            raise OSError(status, f"make a map of users: {os.strerror(status)}")
        _write(f"/proc/{child}/uid_map", _lines(uids))
        _write(f"/proc/{child}/gid_map", _lines(gids))
        return os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        for end in (ready, told, over):
            os.close(end)
        os.waitpid(child, 0)


def enter_own(users: dict[str, str]) -> None:
    """Enter a user namespace with these maps, together with a mount namespace."""
    own = {"uid": os.geteuid(), "gid": os.getegid()}
    tools = users.get("tools")
    maker = _Outside(tools, users) if tools else None
    check(libc.unshare(CLONE_NEWNS | CLONE_NEWUSER), "make namespaces")
    # Without the right to change groups, or a group could be dropped that denies.
    _write("/proc/self/setgroups", "deny")
    done = () if maker is None else maker.finish(must="must" in users)
    for kind, number in own.items():
        if kind not in done:
            line = f"0 {number} 1\n" if tools else _lines(users[f"{kind}s"])
            _write(f"/proc/self/{kind}_map", line)


class _Outside:
    """A process that stays outside, from where newuidmap and newgidmap map us."""

    def __init__(self, tools: str, users: dict[str, str]) -> None:
        pid = os.getpid()
        self._ready, ready = os.pipe()[::-1]
        answer, self._answer = os.pipe()[::-1]
        self._child = os.fork()
        if self._child:
            os.close(ready)
            os.close(answer)
            return
        os.close(self._ready)
        os.read(ready, 1)
        for kind in ("uid", "gid"):
            numbers = users[f"{kind}s"].replace("+", "-").split("-")
            path = os.path.join(tools, f"new{kind}map")
            if os.spawnv(os.P_WAIT, path, [path, str(pid), *numbers]) == 0:  # noqa: S606 - no shell
                os.write(answer, kind[:1].encode())
        os._exit(0)

    def finish(self, *, must: bool) -> tuple[str, ...]:
        """Have it done; which of "uid" and "gid" were."""
        os.close(self._ready)
        said = b""
        while part := os.read(self._answer, 2):
            said += part
        os.close(self._answer)
        os.waitpid(self._child, 0)
        done = tuple(kind for kind in ("uid", "gid") if kind[:1].encode() in said)
        if must and len(done) < 2:
            raise OSError(errno.EPERM, "newuidmap or newgidmap could not map the guest's users")
        return done


def become(users: dict[str, str], *, keeps_groups: bool) -> None:
    """Be who the server is, with all rights that we have, and stay that if told so."""
    uid, gid = int(users["uid"]), int(users["gid"])
    if (os.geteuid(), os.getegid()) != (uid, gid):
        check(libc.prctl(_PR_SET_SECUREBITS, _SECBIT_KEEP_CAPS, 0, 0, 0), "keep rights")
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    if uid != 0:
        _pass_rights_on()
    stays = (_SETRESUID, _SETRESGID, _SETGROUPS, _GETEUID) if "squash" in users else ()
    if calls := stays or ((_SETGROUPS,) if keeps_groups else ()):
        _pretend(calls)


def _pass_rights_on() -> None:
    """Let a program have our rights though it is not root's (capabilities(7))."""
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    sets = ctypes.create_string_buffer(24)
    check(libc.syscall(_SYS_CAPGET, header, sets), "read rights")
    _, low, _, _, high, _ = struct.unpack("6I", sets.raw)
    both = struct.pack("6I", low, low, low, high, high, high)
    check(libc.syscall(_SYS_CAPSET, header, both), "keep rights")
    for number in range(_CAPABILITIES):
        if (high << 32 | low) >> number & 1:
            libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, number, 0, 0)


def _pretend(calls: tuple[int, ...]) -> None:
    """Have the kernel answer these system calls with success, and not do them (seccomp(2))."""
    # Load the architecture, go on if it is ours; load the call; one test for each.
    code = [(0x20, 0, 0, 4), (0x15, 0, len(calls) + 1, _AUDIT_ARCH_X86_64), (0x20, 0, 0, 0)]
    code += [(0x15, len(calls) - at, 0, call) for at, call in enumerate(calls)]
    code += [(0x06, 0, 0, _RET_ALLOW), (0x06, 0, 0, _RET_DONE)]
    filters = b"".join(struct.pack("HBBI", *instruction) for instruction in code)
    buffer = ctypes.create_string_buffer(filters)
    program = struct.pack("HxxxxxxP", len(code), ctypes.addressof(buffer))
    result = libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, program, 0, 0)
    check(result, "filter system calls")
