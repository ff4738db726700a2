# SPDX-License-Identifier: Apache-2.0
"""The keys that leave a session: written by people, looked for in what is typed."""

from __future__ import annotations

from innkeeper.errors import UsageError

# As in tmux a prefix and "d"; the prefix is that of telnet and virsh, which no
# shell or editor uses much.
DEFAULT_KEYS = "ctrl-],d"

_CONTROL = {chr(code + 64).lower(): code for code in range(32)}
_LONGEST = 16


def parse_keys(text: str) -> bytes:
    """The bytes of keys such as "ctrl-],d"; none for "".

    :raise UsageError: it names no keys.
    """
    keys = bytearray()
    for name in text.split(",") if text else ():
        kind, _, key = name.lower().rpartition("ctrl-")
        if not kind and key != name.lower() and key in _CONTROL:
            keys.append(_CONTROL[key])
        elif len(name) == 1 and " " < name < "\x7f":
            keys += name.encode()
        else:
            raise UsageError(
                f"{name!r} is not a key", fix="give such as ctrl-p,ctrl-q: characters and ctrl-X"
            )
    if len(keys) > _LONGEST:
        raise UsageError(f"{len(keys)} keys are too many", fix=f"give at most {_LONGEST}")
    return bytes(keys)


class KeyFilter:
    """Looks for the keys in a stream of input.

    What may be their beginning is held back until the next key says.

    :ivar complete: they were typed; what came after them is dropped.
    """

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._held = b""
        self.complete = False

    def feed(self, data: bytes) -> bytes:
        """The part of the input that is meant for the session."""
        data, self._held = self._held + data, b""
        before, found, _ = data.partition(self._keys)
        if found:
            self.complete = True
            return before
        for length in range(min(len(self._keys) - 1, len(data)), 0, -1):
            if data.endswith(self._keys[:length]):
                self._held = data[-length:]
                return data[:-length]
        return data
