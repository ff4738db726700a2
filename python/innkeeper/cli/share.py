# SPDX-License-Identifier: Apache-2.0
"""`inn share`: folders of the host in a guest, also while it runs."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from innkeeper.cli.groups import LazyGroup
from innkeeper.cli.output import FORMAT, columns, print_json
from innkeeper.keeper.sharing import (
    KnownShare,
    add_share,
    list_shares,
    remount_shares,
    remove_share,
    share_report,
)
from innkeeper.model.idmap import parse_range
from innkeeper.model.share import anchor_share, parse_share
from innkeeper.registry.layout import host_layout

_HERE = "innkeeper.cli.share"
VERBS = {
    "add": (f"{_HERE}:add", "Show a folder of the host in a guest."),
    "ls": (f"{_HERE}:ls", "List the shares of a machine and its guest."),
    "rm": (f"{_HERE}:rm", "Take a share away."),
    "remount": (f"{_HERE}:remount", "Mount all shares of a guest anew."),
}


@click.group(cls=LazyGroup, verbs=VERBS)
def share() -> None:
    """Show folders of the host in a guest, also while it runs.

    \b
    inn share add web ~/site:/var/www:ro    the guest sees it, and cannot change it
    inn share ls web
    inn share rm web /var/www

    `inn run -v` and `inn create -v` take shares from the start.
    """


@click.command()
@click.argument("name")
@click.argument("what", metavar="HOST:GUEST[:OPTIONS]")
@click.option(
    "--uid-map",
    "uid_map",
    multiple=True,
    metavar="GUEST[:HOST[:COUNT]]",
    help="The guest's user GUEST is the host's user HOST, or you; can be repeated.",
)
@click.option(
    "--gid-map",
    "gid_map",
    multiple=True,
    metavar="GUEST[:HOST[:COUNT]]",
    help="The same of groups.",
)
@click.option(
    "--squash", is_flag=True, help="All of the guest's users are that one host user, or you."
)
def add(
    name: str, what: str, uid_map: tuple[str, ...], gid_map: tuple[str, ...], squash: bool
) -> None:
    """Show the host's folder HOST at GUEST in the machine NAME.

    A guest that runs has it at once, and a machine at its next start too. HOST may
    be relative to this folder; GUEST is made where it is missing. With :ro the guest
    cannot change the folder, whatever it does: the host keeps it from that.

    OPTIONS have commas between them: ro, uid=GUEST-HOST-COUNT, gid=..., id=... for both,
    squash. So --uid-map 1000:1234 is the same as :uid=1000-1234.
    """
    share = parse_share(anchor_share(what, str(Path.cwd())))
    if uid_map or gid_map or squash:
        share = msgspec.structs.replace(
            share,
            uid_map=(*share.uid_map, *map(parse_range, uid_map)),
            gid_map=(*share.gid_map, *map(parse_range, gid_map)),
            squash=share.squash or squash,
        )
    add_share(host_layout(), name, share)


@click.command()
@click.argument("name")
@FORMAT
def ls(name: str, output_format: str) -> None:
    """List the shares of the machine NAME, and how its guest's are served."""
    layout = host_layout()
    known = list_shares(layout, name)
    report = share_report(layout, name)
    if output_format == "json":
        shares = [msgspec.to_builtins(each) for each in known]
        print_json({"shares": shares, "served": msgspec.to_builtins(report)})
        return
    head = ("HOST", "GUEST", "MODE", "USERS", "STATE")
    click.echo("\n".join(columns([head, *(_row(each) for each in known)])))
    if report is not None:
        fault = f"; {report.fault}" if report.fault else ""
        users = f"; {report.users}" if report.users else ""
        click.echo(f"{report.reason}, cache {report.cache}{users}{fault}", err=True)


def _row(share: KnownShare) -> tuple[str, ...]:
    states = {
        (True, True): "mounted",
        (True, False): "mounted until the guest ends",
        (False, True): "at the next start",
    }
    mode = "ro" if share.read_only else "rw"
    state = states[share.mounted, share.stays]
    return (share.host, share.guest, mode, share.users or "-", state)


@click.command()
@click.argument("name")
@click.argument("guest")
@click.option("-f", "--force", is_flag=True, help="Also from programs that use it.")
@click.option(
    "--revoke",
    is_flag=True,
    help="Leave the guest no way to it: kills the programs that use it.",
)
def rm(name: str, guest: str, force: bool, revoke: bool) -> None:
    """Take the share at GUEST from the machine NAME.

    Refused where programs of the guest use it; they are named. With --force they go on
    with what they have open until they close it, and as long they have a way to the
    whole folder. With --revoke they are killed; and where the guest still holds on to
    something then, its share server is replaced, which other shares feel: what is open
    there is lost.
    """
    if remove_share(host_layout(), name, guest, force=force, revoke=revoke):
        click.echo(
            f"inn: warning: the guest still holds files of {guest}, and may read and write "
            "there until it lets go of them; `--revoke` would end that",
            err=True,
        )


@click.command()
@click.argument("name")
def remount(name: str) -> None:
    """Mount all shares of the machine NAME anew.

    For a guest whose share server ended while its programs held files open: that is
    healed by itself as soon as nobody holds on to what was lost. What is open in shares
    now is lost.
    """
    remount_shares(host_layout(), name)
