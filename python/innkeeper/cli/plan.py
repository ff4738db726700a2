# SPDX-License-Identifier: Apache-2.0
"""`inn plan`: what a command would do, exactly, as text or JSON."""

from __future__ import annotations

import shlex
from typing import Any

import click

from innkeeper.cli.options import build_request, run_options
from innkeeper.cli.output import FORMAT, Progress, print_json
from innkeeper.keeper.plan import RunPlan
from innkeeper.keeper.prepare import prepare_run
from innkeeper.model.machine import Command
from innkeeper.model.sizes import format_size
from innkeeper.registry.layout import host_layout
from innkeeper.system.interrupt import interruptible


class _PlanGroup(click.Group):
    """`inn plan FILE` is short for `inn plan topology FILE`."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click, but a file is a topology."""
        if args and args[0] not in self.commands and args[0].endswith(".toml"):
            args = ["topology", *args]
        return super().resolve_command(ctx, args)


@click.group(cls=_PlanGroup)
def plan() -> None:
    """Print exactly what a command would do; start nothing.

    `inn plan FILE.toml` is short for `inn plan topology FILE.toml`.
    """


@plan.command(name="topology")
@click.argument("file")
def plan_topology(file: str) -> None:
    """Print what `inn up FILE` would start, in which order, and who may reach whom.

    What `inn up` would refuse, as a machine or a CID that is somebody else's, is
    refused here.
    """
    from innkeeper.cli.policy import reach_lines
    from innkeeper.cli.topology import read_topology, service_line
    from innkeeper.model.inet import DOMAIN, inet_addresses
    from innkeeper.registry.topologies import claim

    topology = read_topology(file).parsed()
    cids = claim(host_layout(), topology)
    lines = [f"topology     {topology.name}", "order"]
    lines += [f"  {number}. {', '.join(group)}" for number, group in enumerate(topology.order(), 1)]
    lines.append("machines")
    for name, member in topology.members.items():
        machine = member.machine
        doors = [*map(str, machine.shares), *map(str, machine.ports), *map(str, machine.disks)]
        told = f", {', '.join(doors)}" if doors else ""
        lines.append(f"  {name:<12} {machine.image}, network {machine.network}{told}")
        lines.append(
            f"  {'':<12} CID {cids[name]}, {name}.{DOMAIN} {' '.join(inet_addresses(cids[name]))}"
        )
    lines += ["services"] * bool(topology.services)
    lines += [f"  {service_line(one)}" for one in topology.services.values()]
    lines += ["who may reach whom", *(f"  {line}" for line in reach_lines(topology))]
    click.echo("\n".join(lines))


@plan.command(name="run", context_settings={"allow_interspersed_args": False})
@run_options
@FORMAT
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[--] [COMMAND [ARG]...]")
def plan_run(**values: Any) -> None:
    """Print the plan of `inn run` with the same options.

    QEMU's arguments show inherited descriptors as <fd:NAME>; each gets its
    number at the start. An image that is missing is built, since the plan names
    its files; the accelerator is not tried.
    """
    request, command = build_request(values)
    as_json = values["output_format"] == "json"
    with interruptible():
        made = prepare_run(
            request, host_layout(), report=Progress(quiet=as_json).line, may_boot=False
        )
    if as_json:
        import msgspec

        print_json({"plan": msgspec.to_builtins(made), "command": msgspec.to_builtins(command)})
    else:
        click.echo("\n".join(render_plan(made, command)))


def render_plan(made: RunPlan, command: Command) -> list[str]:
    """The plan as lines for people."""
    machine, image, host = made.machine, made.image, made.host
    initrd_size, memory = format_size(image.initrd_bytes), format_size(machine.memory_bytes)
    shown = shlex.join(command.argv) if command.argv else "the guest's login shell"
    lines = [
        f"guest        {machine.name}",
        f"image        {image.name} ({image.kernel_release}, initramfs {initrd_size})",
        f"accelerator  {host.accelerator.accel}: {host.accelerator.reason}",
        f"machine      {made.qemu.machine_type}, {machine.cpus} CPU, {memory} memory (memfd): {made.qemu.machine_reason}",
        f"command      {shown}",
        "devices",
        *(f"  {device.purpose:<10} {device.option}" for device in made.qemu.devices),
        "doors",
        f"  host to guest   {made.sockets['vsock']}  (CONNECT <port>)",
        f"  control calls   {made.sockets['agent']}  (guest port 8888)",
        f"  guest to host   {made.sockets['announce']}  (host port 7777)",
    ]
    if made.console_file:
        lines.append(f"  console         {made.console_file}")
    lines += [
        "stages",
        *([f"  whole run  at most {made.timeout_s:g} s"] if made.timeout_s else ()),
        *(f"  {stage.name:<10} at most {stage.limit_s:g} s" for stage in made.stages),
        "kernel command line",
        f"  {made.qemu.cmdline}",
        "qemu",
        *(f"  {line}" for line in _wrap_argv(made.qemu.argv)),
    ]
    return lines


def _wrap_argv(argv: tuple[str, ...]) -> list[str]:
    """One option with its value a line, quoted for a shell."""
    lines = [argv[0]]
    for arg in argv[1:]:
        if arg.startswith("-"):
            lines.append(arg)
        else:
            lines[-1] += " " + shlex.quote(arg)
    return lines
