# SPDX-License-Identifier: Apache-2.0
"""Names of machines and of disks: one form, since both are parts of paths and of command lines."""

from __future__ import annotations

import re

from innkeeper.errors import UsageError

# A DNS label, so that the name can be the guest's host name (RFC 1123), but
# shorter, since it is part of a socket path.
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?")


def check_name(name: str, *, what: str = "machine") -> str:
    """The name itself, if something may be called so.

    :param what: is to be called so, for the message.
    :raise UsageError: it may not.
    """
    if _NAME.fullmatch(name) is None:
        raise UsageError(
            f"{name!r} is not a {what} name",
            fix="use 1 to 40 of a-z, 0-9 and -, not at either end",
        )
    return name
