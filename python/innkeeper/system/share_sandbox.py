# SPDX-License-Identifier: Apache-2.0
"""The namespaces in which a share server lives: run as a program of its own.

::

    python share_sandbox.py serve ROOT USERS KEY=MODE=FOLDER... -- SERVER ARGUMENT...
    python share_sandbox.py add PID ROOT KEY=MODE=FOLDER
    python share_sandbox.py remove|detach PID ROOT KEY

`serve` makes a mount namespace (with "user" in USERS a user namespace too, so that no
rights are needed), builds in it what the server may see, and becomes SERVER::

    ROOT          a tmpfs
    ROOT/keys     a folder for each share
    ROOT/view     the same folders again, read-only, with a share mounted on each:
                  the server's whole world

`add` and `remove` enter the namespaces of PID and change what is in `view`. A share
appears there as a whole, read-only with everything mounted below it if it is so. What
is mounted on the host below a shared folder later does not appear. MODE is ro, rw, or
root: read-only, without what a guest has of its own or must not see of the host. After
it may come `;uids=MAP;gids=MAP`, whom the users of its file systems are in the share
(root alone can do that).

USERS says who the server is, and MAP whom others are (`share_users.py`).

The program imports next to nothing: a start waits for it. What fails is one line on
stderr and exit code 1; 2 says that a share is in use. The calls are mount(2),
mount_setattr(2), open_tree(2), setns(2), unshare(2).
"""

import ctypes
import errno
import os
import resource
import signal
import sys
import time

if __package__:
    from innkeeper.system import share_users
else:
    # Run as a program, which with -I finds the standard library alone.
    sys.path.append(os.path.dirname(os.path.abspath(__file__)))
    import share_users  # type: ignore[import-not-found,no-redef]

check, libc = share_users.check, share_users.libc

VIEW = "view"
_KEYS = "keys"

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
_MOUNT_ATTR_RDONLY, _MOUNT_ATTR_IDMAP = 1, 0x100000

_PR_SET_PDEATHSIG = 1

# What the guest let go of reaches the server as messages; they are waited for so long.
_RELEASE_TRIES, _RELEASE_PAUSE_S = 20, 0.05
_BEGIN_TRIES, _BEGIN_PAUSE_S = 500, 0.02
BUSY = 2


class _MountAttr(ctypes.Structure):
    """struct mount_attr"""

    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    raw = [os.fsencode(field) or None for field in (source, target, kind)]
    result = libc.mount(*raw, ctypes.c_ulong(flags), options.encode() or None)
    check(result, f"mount {target}")


def _set_attributes(tree: int, flags: int, attributes: _MountAttr, what: str) -> None:
    result = libc.syscall(
        *(_SYS_MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH | flags),
        *(ctypes.byref(attributes), ctypes.c_size_t(ctypes.sizeof(attributes))),
    )
    check(result, what)


def _open_tree(folder: str, flags: int) -> int:
    flags |= _OPEN_TREE_CLONE | os.O_CLOEXEC
    raw = os.fsencode(folder)
    return check(libc.syscall(_SYS_OPEN_TREE, _AT_FDCWD, raw, flags), f"share {folder}")


def _graft(folder: str, target: str, *, read_only: bool, users: int = -1) -> None:
    """Mount a folder with all mounts below it at another place too, at once as it shall be.

    :param users: a user namespace whose map it has.
    """
    tree = _open_tree(folder, _AT_RECURSIVE)
    try:
        attributes = _MountAttr(_MOUNT_ATTR_RDONLY if read_only else 0, 0, _MS_PRIVATE, 0)
        _set_attributes(tree, _AT_RECURSIVE, attributes, f"set the mode of {folder}")
        if users >= 0:
            _map_users(tree, folder, users)
        place = os.fsencode(target)
        result = libc.syscall(
            _SYS_MOVE_MOUNT, tree, b"", _AT_FDCWD, place, _MOVE_MOUNT_F_EMPTY_PATH
        )
        check(result, f"mount {folder}")
    finally:
        os.close(tree)


def _map_users(tree: int, folder: str, users: int) -> None:
    """Give a tree of mounts the map of a user namespace, or say which of them cannot have it."""
    mapped = _MountAttr(_MOUNT_ATTR_IDMAP, 0, 0, users)
    try:
        _set_attributes(tree, _AT_RECURSIVE, mapped, f"map the users of {folder}")
    except OSError as error:
        # All or none: which one it was is not said.
        for place, kind in _mounts_of(folder):
            try:
                one = _open_tree(place, 0)
            except OSError:
                continue
            try:
                _set_attributes(one, 0, mapped, "")
            except OSError as cause:
                raise OSError(cause.errno, _no_map(place, kind, cause.errno)) from error
            finally:
                os.close(one)
        raise


def _no_map(place: str, kind: str, number: int | None) -> str:
    if number == errno.EINVAL:
        return f"{kind} at {place} lets no mount have a map of users"
    if number == errno.EPERM:
        return f"{kind} at {place} has a map of users already, or is not this root's to map"
    return f"{kind} at {place}: map its users: {os.strerror(number or 0)}"


def _mounts_of(folder: str) -> list[tuple[str, str]]:
    """The folder itself and each place below it where something is mounted, with its type."""
    folder = os.path.realpath(folder)
    top, below = ("/", "?"), []
    with open("/proc/self/mountinfo", "rb") as file:
        for line in file:
            words = line.split(b" ")
            # Of the file system it says the type after a dash (proc_pid_mountinfo(5)).
            kind = os.fsdecode(words[words.index(b"-") + 1])
            place = os.fsdecode(words[4].decode("unicode_escape").encode("latin-1"))
            if place.startswith(f"{folder.rstrip('/')}/"):
                below.append((place, kind))
            elif f"{folder}/".startswith(f"{place.rstrip('/')}/") and len(place) >= len(top[0]):
                top = (place, kind)
    return [(folder, top[1]), *below]


def _put(root: str, share: str) -> None:
    key, _, rest = share.partition("=")
    # A folder's name may hold anything; what is before it begins no folder.
    how, _, folder = rest.partition("=/")
    folder = f"/{folder}"
    mode, _, maps = how.partition(";")
    # Else the server would be asked for a file where a folder is announced.
    if not os.path.isdir(folder):
        raise NotADirectoryError(errno.ENOTDIR, f"{folder} is no folder")
    place = os.path.join(root, _KEYS, key)
    os.mkdir(place, 0o755)
    users = -1
    try:
        if maps:
            words = share_users.words(maps)
            users = share_users.mapping(words["uids"], words["gids"])
        _graft(folder, os.path.join(root, VIEW, key), read_only=mode != "rw", users=users)
        if mode == "root":
            _hide(os.path.join(root, VIEW, key))
    except OSError:
        os.rmdir(place)
        raise
    finally:
        if users >= 0:
            os.close(users)


def _hide(root: str) -> None:
    for name in HIDDEN:
        place = os.path.join(root, name)
        # A link leads somewhere below the guest's own root.
        if os.path.isdir(place) and not os.path.islink(place):
            _mount("tmpfs", place, "tmpfs", _ROOT_FLAGS | _MS_RDONLY, _EMPTY_OPTIONS)


def _serve(root: str, users: dict[str, str], arguments: list[str]) -> None:
    if "user" in users:
        share_users.enter_own(users)
    else:
        check(libc.unshare(share_users.CLONE_NEWNS), "make namespaces")
    # What is unmounted on the host goes here too, and nothing of ours comes out.
    _mount("", "/", "", _MS_REC | _MS_SLAVE)
    _mount("tmpfs", root, "tmpfs", _ROOT_FLAGS, _ROOT_OPTIONS)
    for name in (_KEYS, VIEW):
        os.mkdir(os.path.join(root, name), 0o700)
        # A server that is not root may give up the rights to go where root alone may.
        os.chown(os.path.join(root, name), int(users["uid"]), int(users["gid"]))
    _graft(os.path.join(root, _KEYS), os.path.join(root, VIEW), read_only=True)
    split = arguments.index("--")
    for share in arguments[:split]:
        _put(root, share)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The server holds a descriptor for each file that the guest knows.
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    # A server that drops groups would end where it may not.
    share_users.become(users, keeps_groups="user" in users)
    # A change of user drops it.
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    server = arguments[split + 1 :]
    os.execv(server[0], server)  # noqa: S606 - no shell is wanted


def _enter(pid: str) -> None:
    # One that was just started is still this program, and on its way there.
    ours = os.readlink("/proc/self/exe")
    for _ in range(_BEGIN_TRIES):
        if os.readlink(f"/proc/{pid}/exe") != ours:
            break
        time.sleep(_BEGIN_PAUSE_S)
    own = os.stat("/proc/self/ns/user").st_ino
    for name, kind in (("user", share_users.CLONE_NEWUSER), ("mnt", share_users.CLONE_NEWNS)):
        if name == "user" and os.stat(f"/proc/{pid}/ns/user").st_ino == own:
            continue
        fd = os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)
        check(libc.setns(fd, kind), f"enter the {name} namespace")
        os.close(fd)


def _take(root: str, key: str, *, lazily: bool) -> None:
    """Take a share away.

    :raise OSError: EBUSY where the guest holds something of it, unless `lazily`.
    """
    target = os.fsencode(os.path.join(root, VIEW, key))
    for left in range(_RELEASE_TRIES, -1, -1):
        # A mount below it keeps it busy for ever, so those go along in the end.
        flags = _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazily else 0)
        if libc.umount2(target, flags) == 0:
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
            _serve(rest[0], share_users.words(rest[1]), rest[2:])
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
