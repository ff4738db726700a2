# SPDX-License-Identifier: Apache-2.0
"""The namespaces in which a share server lives: run as a program of its own.

::

    python share_sandbox.py serve ROOT host|user KEY=MODE=FOLDER... -- SERVER ARGUMENT...
    python share_sandbox.py add PID ROOT KEY=MODE=FOLDER
    python share_sandbox.py remove|detach PID ROOT KEY

`serve` makes a mount namespace (with "user" a user namespace too, so that no rights
are needed), builds in it what the server may see, and becomes SERVER::

    ROOT          a tmpfs
    ROOT/keys     a folder for each share
    ROOT/view     the same folders again, read-only, with a share mounted on each:
                  the server's whole world

`add` and `remove` enter the namespaces of PID and change what is in `view`. A share
appears there as a whole, read-only with everything mounted below it if it is so. What
is mounted on the host below a shared folder later does not appear. MODE is ro, rw, or
root: read-only, without what a guest has of its own or must not see of the host.

The program imports next to nothing: a start waits for it. What fails is one line on
stderr and exit code 1; 2 says that a share is in use. The calls are mount(2),
mount_setattr(2), open_tree(2), setns(2), unshare(2), user_namespaces(7).
"""

import ctypes
import errno
import os
import resource
import signal
import sys
import time

VIEW = "view"
_KEYS = "keys"

_CLONE_NEWNS = 0x00020000
_CLONE_NEWUSER = 0x10000000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 1, 2, 4, 8
_MS_REC, _MS_PRIVATE, _MS_SLAVE = 16384, 1 << 18, 1 << 19
_MNT_DETACH = 2
_UMOUNT_NOFOLLOW = 8
# A folder's entry takes less than 1 KiB.
_ROOT_OPTIONS = "size=1m,mode=0700"
_ROOT_FLAGS = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC

# Of a root, these are empty: devices, processes, sockets, what is thrown away anyway.
HIDDEN = ("dev", "proc", "run", "sys", "tmp")
_EMPTY_OPTIONS = "size=4k,nr_inodes=1,mode=0755"

# linux/mount.h, linux/fcntl.h; these numbers are the same on all of Linux's machines.
_SYS_OPEN_TREE, _SYS_MOVE_MOUNT, _SYS_MOUNT_SETATTR = 428, 429, 442
_AT_FDCWD, _AT_RECURSIVE, _AT_EMPTY_PATH = -100, 0x8000, 0x1000
_OPEN_TREE_CLONE, _MOVE_MOUNT_F_EMPTY_PATH = 1, 4
_MOUNT_ATTR_RDONLY = 1

_PR_SET_PDEATHSIG = 1

# What the guest let go of reaches the server as messages; they are waited for so long.
_RELEASE_TRIES, _RELEASE_PAUSE_S = 20, 0.05
BUSY = 2

_libc = ctypes.CDLL(None, use_errno=True)


class _MountAttr(ctypes.Structure):
    """struct mount_attr"""

    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    raw = [os.fsencode(field) or None for field in (source, target, kind)]
    result = _libc.mount(*raw, ctypes.c_ulong(flags), options.encode() or None)
    _check(result, f"mount {target}")


def _graft(folder: str, target: str, *, read_only: bool) -> None:
    """Mount a folder with all mounts below it at another place too, at once as it shall be."""
    flags = _OPEN_TREE_CLONE | _AT_RECURSIVE | os.O_CLOEXEC
    tree = _check(
        _libc.syscall(_SYS_OPEN_TREE, _AT_FDCWD, os.fsencode(folder), flags), f"share {folder}"
    )
    try:
        attributes = _MountAttr(_MOUNT_ATTR_RDONLY if read_only else 0, 0, _MS_PRIVATE, 0)
        result = _libc.syscall(
            *(_SYS_MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH | _AT_RECURSIVE),
            *(ctypes.byref(attributes), ctypes.c_size_t(ctypes.sizeof(attributes))),
        )
        _check(result, f"set the mode of {folder}")
        place = os.fsencode(target)
        result = _libc.syscall(
            _SYS_MOVE_MOUNT, tree, b"", _AT_FDCWD, place, _MOVE_MOUNT_F_EMPTY_PATH
        )
        _check(result, f"mount {folder}")
    finally:
        os.close(tree)


def _put(root: str, share: str) -> None:
    key, mode, folder = share.split("=", 2)
    # Else the server would be asked for a file where a folder is announced.
    if not os.path.isdir(folder):
        raise NotADirectoryError(errno.ENOTDIR, f"{folder} is no folder")
    place = os.path.join(root, _KEYS, key)
    os.mkdir(place, 0o755)
    try:
        _graft(folder, os.path.join(root, VIEW, key), read_only=mode != "rw")
        if mode == "root":
            _hide(os.path.join(root, VIEW, key))
    except OSError:
        os.rmdir(place)
        raise


def _hide(root: str) -> None:
    for name in HIDDEN:
        place = os.path.join(root, name)
        # A link leads somewhere below the guest's own root.
        if os.path.isdir(place) and not os.path.islink(place):
            _mount("tmpfs", place, "tmpfs", _ROOT_FLAGS | _MS_RDONLY, _EMPTY_OPTIONS)


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def _serve(root: str, mapping: str, arguments: list[str]) -> None:
    user, group = os.geteuid(), os.getegid()
    namespaces = _CLONE_NEWNS | (_CLONE_NEWUSER if mapping == "user" else 0)
    _check(_libc.unshare(namespaces), "make namespaces")
    if mapping == "user":
        # Without the right to change groups, or a group could be dropped that denies.
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"0 {user} 1\n")
        _write("/proc/self/gid_map", f"0 {group} 1\n")
    # What is unmounted on the host goes here too, and nothing of ours comes out.
    _mount("", "/", "", _MS_REC | _MS_SLAVE)
    _mount("tmpfs", root, "tmpfs", _ROOT_FLAGS, _ROOT_OPTIONS)
    for name in (_KEYS, VIEW):
        os.mkdir(os.path.join(root, name), 0o700)
    _graft(os.path.join(root, _KEYS), os.path.join(root, VIEW), read_only=True)
    split = arguments.index("--")
    for share in arguments[:split]:
        _put(root, share)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The server holds a descriptor for each file that the guest knows.
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    # A change of user drops it.
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    server = arguments[split + 1 :]
    os.execv(server[0], server)  # noqa: S606 - no shell is wanted


def _enter(pid: str) -> None:
    own = os.stat("/proc/self/ns/user").st_ino
    for name, kind in (("user", _CLONE_NEWUSER), ("mnt", _CLONE_NEWNS)):
        if name == "user" and os.stat(f"/proc/{pid}/ns/user").st_ino == own:
            continue
        fd = os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)
        _check(_libc.setns(fd, kind), f"enter the {name} namespace")
        os.close(fd)


def _take(root: str, key: str, *, lazily: bool) -> None:
    """Take a share away.

    :raise OSError: EBUSY where the guest holds something of it, unless `lazily`.
    """
    target = os.fsencode(os.path.join(root, VIEW, key))
    for left in range(_RELEASE_TRIES, -1, -1):
        # A mount below it keeps it busy for ever, so those go along in the end.
        flags = _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazily else 0)
        if _libc.umount2(target, flags) == 0:
            break
        number = ctypes.get_errno()
        if number != errno.EBUSY or not left:
            raise OSError(number, f"unmount {key}: {os.strerror(number)}")
        time.sleep(_RELEASE_PAUSE_S)
    os.rmdir(os.path.join(root, _KEYS, key))


def main(arguments: list[str]) -> int:
    """Do what the arguments say; returns only where that is over or failed."""
    try:
        verb, *rest = arguments
        if verb == "serve":
            _serve(rest[0], rest[1], rest[2:])
        pid, root, what = rest
        _enter(pid)
        if verb == "add":
            _put(root, what)
        else:
            _take(root, what, lazily=verb == "detach")
    except OSError as error:
        sys.stderr.write(f"{error.strerror or error}\n")
        return BUSY if error.errno == errno.EBUSY else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
