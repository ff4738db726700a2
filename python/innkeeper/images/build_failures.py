# SPDX-License-Identifier: Apache-2.0
"""What the last words of mmdebstrap, which are apt's and dpkg's, mean. Pure."""

from __future__ import annotations

import re

from innkeeper.errors import HostError, ImageError, InnError, OutOfSpace, UsageError
from innkeeper.model.recipe import Recipe

STAGE = "packages"

_NO_PACKAGE = re.compile(
    r"E: (?:Unable to locate package (\S+)|Package '([^']+)' has no installation candidate)"
)

# What apt says of how it was called, which nobody can do anything about.
_NOISE = re.compile(r"mmdebstrap failed to run|performed unsandboxed|-o[ ]?(?:APT|Debug|Dir)::")
_EVIDENCE_LINES = 6

# The first that fits counts: a failed download is told of in several ways at once.
_MEANINGS: tuple[tuple[re.Pattern[str], type[InnError], str, str], ...] = (
    (
        re.compile(r"No space left on device|You don't have enough free space"),
        OutOfSpace,
        "no space left to unpack the packages",
        "free some space, or name a folder on another disk by INN_STATE_DIR",
    ),
    (
        re.compile(r"does not have a Release file|404 +Not Found.*Release|/InRelease +4\d\d "),
        ImageError,
        "the mirror does not have the suite {suite}",
        "give another one with --mirror",
    ),
    (
        re.compile(r"Clearsigned file isn't valid"),
        HostError,
        "what answers at the mirror's address is no Debian mirror",
        "look whether the network wants a login or a proxy, or give another one with --mirror",
    ),
    (
        re.compile(r"NO_PUBKEY|is not signed|public key is not available"),
        HostError,
        "the keys of Debian {suite} are not on this host",
        "apt-get install debian-archive-keyring (a newer one, for a newer suite)",
    ),
    (
        re.compile(r"Hash Sum mismatch|File has unexpected size|Size mismatch"),
        HostError,
        "the Debian mirror sends other files than its lists say",
        "try again in a while: a mirror may be changing; or give another one with --mirror",
    ),
    (
        re.compile(
            r"Could not (?:resolve|connect)|Temporary failure resolving|No route to host"
            r"|Connection (?:refused|timed out)|Unable to connect|Network is unreachable"
        ),
        HostError,
        "the Debian mirror cannot be reached",
        "look at the network and at apt's proxy, or give another mirror with --mirror",
    ),
    (
        re.compile(r"Undetermined Error|Error reading from server|Connection (?:closed|reset)"),
        HostError,
        "the Debian mirror broke off a download",
        "try again, or give another mirror with --mirror",
    ),
    (
        re.compile(r"Failed to fetch"),
        HostError,
        "the Debian mirror does not give what it should have",
        "try again in a while, or give another mirror with --mirror",
    ),
)


def explain_failure(lines: tuple[str, ...], recipe: Recipe) -> InnError:
    """The error behind mmdebstrap's last lines."""
    text = "\n".join(lines)
    told = tuple(line for line in lines if line[:3] in ("E: ", "W: ", "Err"))
    evidence = tuple(line for line in told if _NOISE.search(line) is None)[-_EVIDENCE_LINES:]
    evidence = evidence or told[-_EVIDENCE_LINES:] or lines[-_EVIDENCE_LINES:]
    missing = sorted({one or other for one, other in _NO_PACKAGE.findall(text)})
    if missing:
        return UsageError(
            f"Debian {recipe.suite} has no package {', '.join(missing)}",
            stage=STAGE,
            evidence=evidence,
            fix="look at the spelling, or at `components` in the recipe",
        )
    for pattern, kind, brief, fix in _MEANINGS:
        # What nobody said as an error may still be said: dpkg marks no lines.
        if pattern.search(text):
            said = brief.format(suite=recipe.suite)
            return kind(said, stage=STAGE, evidence=_with(evidence, pattern, lines), fix=fix)
    return ImageError("mmdebstrap failed", stage=STAGE, evidence=evidence)


def _with(
    evidence: tuple[str, ...], pattern: re.Pattern[str], lines: tuple[str, ...]
) -> tuple[str, ...]:
    """The evidence, with the line that the meaning was found in."""
    if any(pattern.search(line) for line in evidence):
        return evidence
    found = [line for line in lines if pattern.search(line)][-1:]
    return (*found, *evidence[: _EVIDENCE_LINES - 1])
