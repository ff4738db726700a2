# SPDX-License-Identifier: Apache-2.0
"""Why a guest ended, from what was seen. Pure: evidence in, error out."""

from __future__ import annotations

import re

import msgspec

from innkeeper.errors import BootFailed, GuestLost, InnError, OutOfMemory, TimedOut

_MEMORY = re.compile(
    r"cannot (?:set up guest memory|allocate memory)|Cannot allocate memory", re.IGNORECASE
)
_GUEST_MEMORY = re.compile(
    r"Out of memory|System is deadlocked on memory|not enough memory|"
    r"Initramfs unpacking failed: write error|rootfs image is not initramfs \(write error\)",
    re.IGNORECASE,
)
_INITRAMFS = re.compile(
    r"Initramfs unpacking failed|rootfs image is not initramfs|junk (?:with)?in compressed archive|"
    r"invalid magic at start|broken padding|no cpio magic",
    re.IGNORECASE,
)
_NO_ROOT = re.compile(r"Unable to mount root fs|No working init found|No init found")
_WHEN = {"run": "while it ran", "stop": "while it was stopped"}
# The last words of an agent that gives a guest up (`crates/agent/src/init/mod.rs`).
_GIVEN_UP = re.compile(r"inn-agent: (root|disk|share|init): (.{1,300})")
_NO_DRIVER = re.compile(r"the kernel has no driver (\w{1,40})$")
_INIT_DIED = re.compile(r"Attempted to kill init")


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen of a guest that ended or did not get ready.

    :ivar stage: the stage it was in; "run" after it was ready, "stop" after that was asked.
    :ivar code: QEMU's return code (-N after signal N), None while it runs.
    :ivar shutdown: QMP's reason for the guest's end, if it said one.
    :ivar panic: the kernel's panic line, if there was one.
    """

    stage: str
    code: int | None = None
    shutdown: str | None = None
    panic: str | None = None
    stderr: tuple[str, ...] = ()
    console: tuple[str, ...] = ()


def explain_end(seen: Observation) -> InnError:
    """The error for a guest that ended unasked."""
    when = _WHEN.get(seen.stage, "before it was ready")
    kind = GuestLost if seen.stage in _WHEN else BootFailed
    if seen.panic is not None:
        return _explain_panic(seen, kind)
    if _MEMORY.search("\n".join(seen.stderr)):
        return OutOfMemory(
            "the host has not enough memory for the guest",
            stage=seen.stage,
            evidence=seen.stderr,
            fix="give a smaller --memory, or free some",
        )
    if seen.code is not None and seen.code < 0:
        return kind(
            f"QEMU was killed by signal {-seen.code} {when}",
            stage=seen.stage,
            evidence=seen.stderr + seen.console,
            fix="see `dmesg` of the host for the out-of-memory killer, or find who sent the signal",
        )
    if seen.code:
        return kind(
            f"QEMU failed with exit code {seen.code} {when}",
            stage=seen.stage,
            evidence=seen.stderr or seen.console,
            fix="`inn doctor` checks QEMU and what it needs",
        )
    words = [match for line in seen.console if (match := _GIVEN_UP.search(line))]
    if words and seen.shutdown == "guest-reset" and seen.stage == "boot":
        return _explain_given_up(seen, *words[-1].groups())
    did = {"guest-shutdown": "powered off", "guest-reset": "rebooted"}.get(
        seen.shutdown or "", "ended"
    )
    return kind(f"the guest {did} {when}", stage=seen.stage, evidence=seen.console)


def _explain_given_up(seen: Observation, what: str, why: str) -> InnError:
    if (lacking := _NO_DRIVER.search(why)) is not None:
        return BootFailed(
            f"the guest's kernel has no driver {lacking[1]}, which its {what} needs",
            stage=seen.stage,
            evidence=(why,),
            fix="choose another kernel with --flavour, or make the image with another one",
        )
    fix = {
        "disk": "the disk is as it was found, or as far repaired as could be; make a copy of "
        "it before anything else, or start without it",
        "share": "start without the share, or see the whole boot with --console FILE",
    }.get(what, "see the whole boot with --console FILE --append loglevel=7")
    return BootFailed(
        f"the guest cannot use its {what}: {why}", stage=seen.stage, evidence=seen.console, fix=fix
    )


def explain_timeout(seen: Observation, limit_s: float) -> TimedOut:
    """The error for a stage that took too long."""
    what = {
        "qemu": "QEMU did not answer",
        "boot": "the guest did not become ready",
        "network": "the guest's network was not configured",
    }.get(seen.stage, f"stage {seen.stage} did not end")
    return TimedOut(
        f"{what} within {limit_s:g} s",
        stage=seen.stage,
        evidence=seen.stderr + seen.console,
        fix="give more --timeout, or see the whole boot with --console FILE --append loglevel=7",
    )


def explain_agent_loss(seen: Observation) -> GuestLost:
    """The error for an agent that went away in a guest that runs on."""
    return GuestLost(
        "the agent in the guest is gone",
        stage=seen.stage,
        evidence=seen.console,
        fix="something in the guest ended it; see the console with --console FILE",
    )


def _explain_panic(seen: Observation, kind: type[BootFailed | GuestLost]) -> InnError:
    text = "\n".join(seen.console)
    panic = (seen.panic or "").removeprefix("Kernel panic - not syncing: ")
    brief = f"the guest's kernel panicked: {panic}"
    if _GUEST_MEMORY.search(text):
        return OutOfMemory(
            "the guest has not enough memory",
            stage=seen.stage,
            evidence=seen.console,
            fix="give more --memory",
        )
    if _INIT_DIED.search(panic):
        return kind(
            f"the agent (PID 1) died in the guest: {panic}",
            stage=seen.stage,
            evidence=seen.console,
            fix="see the console; something killed it, or the initramfs does not fit the kernel",
        )
    if _INITRAMFS.search(text):
        fix = "the initramfs is damaged; build it again, or check --initrd"
    elif _NO_ROOT.search(panic):
        fix = "the initramfs holds no /init that runs; check --initrd and --kernel"
    else:
        fix = "see the whole boot with --console FILE --append loglevel=7"
    return kind(brief, stage=seen.stage, evidence=seen.console, fix=fix)
