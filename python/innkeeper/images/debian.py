# SPDX-License-Identifier: Apache-2.0
"""From a recipe to exactly what mmdebstrap will be asked, and what is changed afterwards. Pure."""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass
from pathlib import Path

import msgspec

from innkeeper.model.recipe import Recipe

# Counts up with every change of what comes of the same recipe.
BUILDER_VERSION = 1

# Names that do not change when the recipe does not: RFC 4122, version 5.
_NAMESPACE = uuid.UUID("8a1b4e0e-51a7-4f0d-9d0e-6c1f6b0c7a55")

_META_PACKAGES = {"cloud": "linux-image-cloud-amd64", "amd64": "linux-image-amd64"}

# kmod: depmod and modprobe. iproute2: what users look at a network with.
_PACKAGES = ("kmod", "iproute2")
_SYSTEMD_PACKAGES = ("systemd-sysv", "dbus", "udev", "libnss-systemd")

# Units that wait for or complain about what a guest does not have, or that would work
# on a root that is thrown away: package lists, file system checks, boot loaders.
_MASKED = (
    *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer"),
    *("e2scrub_all.timer", "e2scrub_reap.service", "fstrim.timer", "systemd-pstore.service"),
    *("systemd-networkd-wait-online.service", "systemd-hibernate-clear.service"),
)

# What a build leaves of the host or of the moment, as globs below the root.
_DROPPED = (
    *("boot/*", "dev/*", "proc/*", "run/*", "sys/*", "tmp/*", "var/tmp/*"),
    *("etc/hostname", "etc/machine-id", "etc/resolv.conf", "etc/.pwd.lock", "etc/*-"),
    "etc/dpkg/dpkg.cfg.d/99mmdebstrap",
    *("etc/ssh/ssh_host_*", "root/.bash_history", "var/lib/dbus/machine-id"),
    *("var/cache/apt/*.bin", "var/cache/apt/archives/*.deb", "var/cache/ldconfig/aux-cache"),
    *("var/cache/debconf/*-old", "var/cache/man/*", "var/lib/apt/lists/*_*"),
    *("var/lib/dpkg/*-old", "var/lib/systemd/random-seed", "var/lib/systemd/credential.secret"),
    *("var/log/*.log", "var/log/apt/*", "var/log/journal/*"),
)

# Runs in mmdebstrap, with the root as its argument. The kernel is laid into the root
# without being installed: its package would want an initramfs made, which a guest does
# not use. tar keeps /lib a link where dpkg-deb -x would make it a folder.
_HOOK = """\
#!/bin/sh
set -eu
root=$1
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
mkdir "$root/var/cache/inn-kernels"
cd "$root/var/cache/inn-kernels"
for meta in {metas}; do
    package=$(apt-cache depends "$meta" | sed -n 's/^ *Depends: \\(linux-image-[0-9].*\\)$/\\1/p' \
| head -n 1)
    if [ -z "$package" ]; then
        echo "E: Unable to locate package $meta" >&2
        exit 1
    fi
    echo "I: kernel $package" >&2
    apt-get -q -o APT::Sandbox::User=root download "$package" >&2
    for file in *.deb; do
        dpkg-deb --fsys-tarfile "$file" | tar -x -C "$root" --keep-directory-symlink \
--exclude='./usr/share' --exclude='./boot/System.map*' --exclude='./boot/config*'
        rm "$file"
    done
    chroot "$root" depmod "${{package#linux-image-}}"
done
cd /
rmdir "$root/var/cache/inn-kernels"
"""


@dataclass(frozen=True)
class DebianPlan:
    """What a build does.

    :ivar packages: all that mmdebstrap is asked to include.
    :ivar hook: a shell script that mmdebstrap runs; it brings the kernels.
    :ivar env: of mmdebstrap and of what makes the file system.
    :ivar dropped: globs below the root, removed when mmdebstrap is done.
    :ivar files: content by path below the root, written after that.
    :ivar links: targets of symbolic links by path below the root.
    :ivar fs_uuid: of the root file system.
    :ivar init: for the bundle.
    """

    packages: tuple[str, ...]
    hook: str
    env: dict[str, str]
    dropped: tuple[str, ...]
    files: dict[str, str]
    links: dict[str, str]
    fs_uuid: str
    init: str


def plan_debian(recipe: Recipe) -> DebianPlan:
    """What is to be done for a recipe."""
    systemd = recipe.init == "systemd"
    packages = (*_PACKAGES, *(_SYSTEMD_PACKAGES if systemd else ()), *recipe.packages)
    epoch = recipe.source_epoch
    files = {
        # Empty, not missing: a new one for each guest, without the questions of a first boot.
        "etc/machine-id": "",
        "etc/resolv.conf": "",
        "etc/fstab": "",
        "etc/hosts": "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n",
    }
    links = {}
    if systemd:
        # As systemd-update-done(8) writes them: nothing is to be brought up to date.
        stamp = f"TIMESTAMP_NSEC={epoch}000000000\n"
        files |= {"etc/.updated": stamp, "var/.updated": stamp}
        masked = (*_MASKED, *recipe.mask)
        links = {f"etc/systemd/system/{unit}": "/dev/null" for unit in masked}
    files |= {path.removeprefix("/"): text for path, text in recipe.files.items()}
    metas = " ".join(_META_PACKAGES[flavour] for flavour in recipe.kernels)
    return DebianPlan(
        packages=tuple(dict.fromkeys(packages)),
        hook=_HOOK.format(metas=metas),
        env={
            "SOURCE_DATE_EPOCH": str(epoch),
            "LC_ALL": "C.UTF-8",
            "DEBIAN_FRONTEND": "noninteractive",
        },
        dropped=_DROPPED,
        files=files,
        links=links,
        fs_uuid=str(uuid.uuid5(_NAMESPACE, recipe_digest(recipe))),
        init="/sbin/init" if systemd else "agent",
    )


def mmdebstrap_argv(recipe: Recipe, plan: DebianPlan, *, hook: Path, tree: Path) -> list[str]:
    """The command that fills a folder with the packages of a recipe, run as root."""
    return [
        "mmdebstrap",
        "--mode=root",
        "--format=directory",
        "--variant=apt",
        "--architectures=amd64",
        # The tree is thrown away; dpkg need not wait for the disk at each file of it.
        "--dpkgopt=force-unsafe-io",
        f"--components={','.join(recipe.components)}",
        f"--include={','.join(plan.packages)}",
        f"--customize-hook={hook}",
        recipe.suite,
        str(tree),
        *([recipe.mirror] if recipe.mirror else []),
    ]


def recipe_digest(recipe: Recipe) -> str:
    """SHA-256 of what an image is made from, in hex; packages are what the mirror has."""
    text = msgspec.json.encode(recipe, order="deterministic")
    return hashlib.sha256(b"%d\n%s" % (BUILDER_VERSION, text)).hexdigest()
