# SPDX-License-Identifier: Apache-2.0
"""Topology files: what a TOML text says of several machines. Pure.

::

    name = "shop"

    [machines.db]
    memory = "1G"

    [machines.web]
    after = ["db"]            # started when db is ready
    ports = ["8080:80"]
    network = "user"
    shares = ["site:/srv/site"]   # relative to the file

    [services.postgres]       # a port of a guest, under a name
    machine = "db"
    port = 5432

    [services.printer]        # a port of the host, and what it leads to
    host = "tcp:127.0.0.1:631"
    port = 631

    [[policy]]                # the first rule that matches decides; else: no
    from = "web"
    to = "postgres"

A machine's keys are those of a machine file, and `after` and `wait`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any, get_args

from innkeeper.errors import InnError, UnknownName, UsageError
from innkeeper.model.hostservice import check_port, check_target
from innkeeper.model.machine import Wait
from innkeeper.model.names import check_name
from innkeeper.model.policy import (
    ALL_PORTS,
    ANYBODY,
    HOST,
    OPERATIONS,
    PORT_MAXIMUM,
    QUOTA_DEFAULT,
    RING_QUOTA_DEFAULT,
    STREAM,
    Action,
    Operation,
    Policy,
    Rule,
)
from innkeeper.model.positions import Positions
from innkeeper.model.share import anchor_share
from innkeeper.model.toml import machine_from_table, read_table
from innkeeper.model.topology import Expectation, Member, Service, Topology, start_groups

_STAGE = "topology file"
_KEYS = ("name", "machines", "services", "rings", "policy", "test")
_RINGS_KEYS = ("mac_permissive",)
_SERVICE_KEYS = ("machine", "host", "port")
_TEST_KEYS = ("from", "to", "port", "operation", "expect")
_RULE_KEYS = ("from", "to", "port", "operations", "action", "quota", "ring_quota", "log")
QUOTA_MAXIMUM = 1024
# Machines and services together: each is a name that its guests are told.
NAMES_MAXIMUM = 500


def parse_topology(text: str, *, source: str, folder: str = "/") -> Topology:
    """The topology that a TOML text describes.

    :param source: the file, for errors.
    :param folder: what paths in it are relative to; absolute.
    :raise UsageError: it is not TOML, or says something impossible; the place is named.
    """
    table = read_table(text, source=source, stage=_STAGE)
    return _Reader(Positions(text), source, folder).topology(table)


class _Reader:
    """Reads one file's table; every error names its place."""

    def __init__(self, positions: Positions, source: str, folder: str) -> None:
        self._positions = positions
        self._source = source
        self._folder = folder

    def topology(self, table: dict[str, Any]) -> Topology:
        self._check_keys("", table, _KEYS)
        name = table.get("name")
        if not isinstance(name, str):
            raise self._error("", "name", "a topology needs a name", fix='add name = "..."')
        self._named("", "name", name)
        members = {
            str(key): self._member(str(key), value)
            for key, value in self._tables("machines", table).items()
        }
        if not members:
            raise self._error("", "machines", "there are no machines", fix="add [machines.NAME]")
        self._check_after(members)
        services = {
            str(key): self._service(str(key), value, members)
            for key, value in self._tables("services", table).items()
        }
        self._check_services(members, services)
        rules = tuple(
            self._rule(place, rule, members, services)
            for place, rule in enumerate(self._list("policy", table))
        )
        return Topology(
            name=name,
            members=members,
            services=services,
            policy=Policy(rules, self._source),
            expectations=tuple(
                self._expectation(place, test, members, services)
                for place, test in enumerate(self._list("test", table))
            ),
            mac_permissive=self._mac_permissive(table),
        )

    def _mac_permissive(self, table: dict[str, Any]) -> bool:
        rings = table.get("rings", {})
        if not isinstance(rings, dict):
            raise self._error("", "rings", "rings are no table", fix="[rings]")
        self._check_keys("rings", rings, _RINGS_KEYS)
        return self._flag("rings", "mac_permissive", rings)

    def _flag(self, path: str, key: str, table: dict[str, Any]) -> bool:
        found = table.get(key, False)
        if not isinstance(found, bool):
            raise self._error(path, key, f"{key} {found!r} is neither true nor false")
        return found

    def _list(self, key: str, table: dict[str, Any]) -> list[dict[str, Any]]:
        found = table.get(key, [])
        if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
            raise self._error("", key, f"{key} is no list of tables", fix=f"[[{key}]]")
        return found

    def _tables(self, key: str, table: dict[str, Any]) -> dict[str, dict[str, Any]]:
        found = table.get(key, {})
        if not isinstance(found, dict) or not all(isinstance(one, dict) for one in found.values()):
            raise self._error("", key, f"{key} are no tables", fix=f"[{key}.NAME]")
        return found

    def _member(self, name: str, table: dict[str, Any]) -> Member:
        path = f"machines.{name}"
        self._named(path, "", name)
        own = {key: value for key, value in table.items() if key not in ("after", "wait")}
        if "name" in own:
            raise self._error(path, "name", "a machine is named by its table")
        if name == HOST:
            raise self._error(path, "", f"{HOST!r} is the host's own name")
        shares = own.get("shares", [])
        if isinstance(shares, list):
            own |= {"shares": [anchor_share(str(one), self._folder) for one in shares]}
        try:
            machine = machine_from_table(own, source=path, name=name)
        except InnError as error:
            raise self._error(path, _wrong_key(own, name), error.brief, fix=error.fix) from error
        wait = table.get("wait")
        if wait is not None and wait not in get_args(Wait):
            raise self._error(path, "wait", f"{wait!r} is nothing to wait for")
        return Member(machine=machine, after=self._names(path, "after", table), wait=wait)

    def _check_after(self, members: dict[str, Member]) -> None:
        for name, member in members.items():
            for other in member.after:
                self._known(f"machines.{name}", "after", "machine", other, members)
        _, circle = start_groups({name: one.after for name, one in members.items()})
        if circle:
            names = ", ".join(circle)
            raise self._error(
                f"machines.{circle[0]}", "after", f"these machines wait for each other: {names}"
            )

    def _service(self, name: str, table: dict[str, Any], members: dict[str, Member]) -> Service:
        path = f"services.{name}"
        self._check_keys(path, table, _SERVICE_KEYS)
        self._named(path, "", name)
        if name in members or name == HOST:
            raise self._error(path, "", f"{name!r} is a machine's name")
        port = table.get("port")
        if "host" in table:
            return self._host_service(path, name, table)
        self._known(path, "machine", "machine", table.get("machine"), members)
        if type(port) is not int or not 0 <= port <= PORT_MAXIMUM:
            raise self._error(path, "port", f"{port!r} is no port")
        return Service(name=name, machine=str(table["machine"]), port=port)

    def _host_service(self, path: str, name: str, table: dict[str, Any]) -> Service:
        if "machine" in table:
            raise self._error(path, "machine", "a service is of a machine or of the host")
        with self._placed(path, "port"):
            port = check_port(table.get("port"))
        with self._placed(path, "host"):
            target = check_target(table["host"], folder=self._folder)
        return Service(name=name, machine=HOST, port=port, target=target)

    def _check_services(self, members: dict[str, Member], services: dict[str, Service]) -> None:
        """Refuse two services on one port of the host, and more names than guests take."""
        taken = dict[int, str]()
        for service in services.values():
            if service.target and service.port in taken:
                raise self._error(
                    f"services.{service.name}",
                    "port",
                    f"port {service.port} of the host is {taken[service.port]!r} already",
                )
            if service.target:
                taken[service.port] = service.name
        if len(members) + len(services) > NAMES_MAXIMUM:
            raise self._error(
                "", "services", f"more than {NAMES_MAXIMUM} machines and services", fix="make two"
            )

    def _rule(
        self,
        place: int,
        table: dict[str, Any],
        members: dict[str, Member],
        services: dict[str, Service],
    ) -> Rule:
        path = f"policy.{place}"
        self._check_keys(path, table, _RULE_KEYS)
        self._known(path, "from", "machine", table.get("from"), (*members, HOST, ANYBODY))
        destination, ports = self._destination(path, table, (*members, HOST, ANYBODY), services)
        action, quota = table.get("action", "allow"), table.get("quota", QUOTA_DEFAULT)
        if action not in ("allow", "deny"):
            raise self._error(path, "action", f"{action!r} is no action", fix="allow or deny")
        if type(quota) is not int or not 1 <= quota <= QUOTA_MAXIMUM:
            raise self._error(
                path, "quota", f"{quota!r} is no quota", fix=f"1 to {QUOTA_MAXIMUM} streams"
            )
        ring_quota = table.get("ring_quota", RING_QUOTA_DEFAULT)
        if type(ring_quota) is not int or not 1 <= ring_quota <= 100:
            raise self._error(
                path, "ring_quota", f"{ring_quota!r} is no quota", fix="1 to 100 percent"
            )
        return Rule(
            number=place + 1,
            line=self._positions.table(path),
            source=str(table["from"]),
            destination=destination,
            ports=ports,
            operations=self._operations(path, table),
            action=action,
            quota=quota,
            log=self._flag(path, "log", table),
            ring_quota=ring_quota,
        )

    def _expectation(
        self,
        place: int,
        table: dict[str, Any],
        members: dict[str, Member],
        services: dict[str, Service],
    ) -> Expectation:
        path = f"test.{place}"
        self._check_keys(path, table, _TEST_KEYS)
        known = (*members, HOST)
        self._known(path, "from", "machine", table.get("from"), known)
        destination, ports = self._destination(path, table, known, services)
        operation = table.get("operation", "connect")
        self._known(path, "operation", "operation", operation, OPERATIONS)
        self._known(path, "expect", "expectation", table.get("expect"), get_args(Action))
        if len(ports) != 1 or ports[0][0] != ports[0][1]:
            raise self._error(path, "port", "a test is of one port", fix="port = 22")
        return Expectation(
            line=self._positions.table(path),
            source=str(table["from"]),
            destination=destination,
            port=ports[0][0],
            operation=operation,
            expect=table["expect"],
        )

    def _destination(
        self,
        path: str,
        table: dict[str, Any],
        machines: tuple[str, ...],
        services: dict[str, Service],
    ) -> tuple[str, tuple[tuple[int, int], ...]]:
        """The machine and the ports that `to` and `port` mean."""
        named = table.get("to")
        self._known(path, "to", "machine or service", named, (*machines, *services))
        service = services.get(str(named))
        if service is None:
            return str(named), self._ports(path, table)
        if "port" in table:
            raise self._error(path, "port", f"the service {service.name!r} has its own port")
        return service.machine, ((service.port, service.port),)

    def _operations(self, path: str, table: dict[str, Any]) -> tuple[Operation, ...]:
        names = self._names(path, "operations", table)
        for name in names:
            self._known(path, "operations", "operation", name, OPERATIONS)
        return tuple(one for one in OPERATIONS if one in names) or STREAM

    def _ports(self, path: str, table: dict[str, Any]) -> tuple[tuple[int, int], ...]:
        given = table.get("port", "*")
        found = list[tuple[int, int]]()
        for part in str(given).split(",") if isinstance(given, str | int) else []:
            first, dash, last = part.strip().partition("-")
            if part.strip() == "*":
                return ALL_PORTS
            last = last if dash else first
            if not first.isdecimal() or not last.isdecimal():
                found.clear()
                break
            found.append((int(first), int(last)))
        if not found or not all(0 <= a <= b <= PORT_MAXIMUM for a, b in found):
            raise self._error(
                path, "port", f"{given!r} are no ports", fix='write 22, "22,80" or "8000-8080"'
            )
        return tuple(sorted(found))

    def _names(self, path: str, key: str, table: dict[str, Any]) -> tuple[str, ...]:
        found = table.get(key, [])
        if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
            raise self._error(path, key, f"{key} is no list of names", fix=f'{key} = ["..."]')
        return tuple(found)

    def _named(self, path: str, key: str, name: str) -> None:
        with self._placed(path, key):
            check_name(name)

    @contextlib.contextmanager
    def _placed(self, path: str, key: str) -> Iterator[None]:
        """Give an error the place of what it is about."""
        try:
            yield
        except UsageError as error:
            raise self._error(path, key, error.brief, fix=error.fix) from error

    def _check_keys(self, path: str, table: dict[str, Any], keys: tuple[str, ...]) -> None:
        for key in table:
            self._known(path, key, "key", key, keys)

    def _known(self, path: str, key: str, what: str, name: object, names: Iterable[str]) -> None:
        names = tuple(names)
        where = f"{self._source}, {self._positions.place(path, key)}"
        if name is None:
            raise self._error(path, key, f"a value for {key!r} is missing")
        if not isinstance(name, str) or name not in names:
            raise UnknownName(f"{what} in {where}:", str(name), names, stage=_STAGE)

    def _error(self, path: str, key: str, brief: str, *, fix: str = "") -> UsageError:
        place = self._positions.place(path, key)
        return UsageError(f"{self._source}, {place}: {brief}", stage=_STAGE, fix=fix)


def _wrong_key(table: dict[str, Any], name: str) -> str:
    """The key of a machine's table that is wrong by itself; "" where they are wrong together."""
    for key, value in table.items():
        try:
            machine_from_table({key: value}, source="", name=name)
        except InnError:
            return key
    return ""
