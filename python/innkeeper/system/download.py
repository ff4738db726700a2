# SPDX-License-Identifier: Apache-2.0
"""Fetching a file over HTTP into a file that grows, so that the next try goes on where one ended.

The standard library's client is enough for GET with Range (RFC 9110, 14.2), and adds
nothing to what a start imports.
"""

from __future__ import annotations

import http.client
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import BinaryIO

from innkeeper.errors import HostError, InnError
from innkeeper.system.files import naming_errors

_TIMEOUT_S = 30.0
_CHUNK_BYTES = 1 << 18
# A connection that brought something may be tried again at once.
_TRIES = 5
_RANGE = re.compile(r"bytes (\d+)-")
_GOES_ON = "try again; what is there already is not fetched twice"


def is_address(text: str) -> bool:
    """True for an http or https address."""
    return text.startswith(("http://", "https://"))


def fetch_small(address: str, *, limit_bytes: int) -> bytes:
    """The content behind an address.

    :raise HostError: it cannot be reached or is larger than the limit.
    """
    try:
        with _open(address, 0) as answer:
            data: bytes = answer.read(limit_bytes + 1)
    except (OSError, http.client.HTTPException) as exc:
        raise _unreachable(address, exc) from exc
    if len(data) > limit_bytes:
        raise HostError(f"{address} has more than {limit_bytes} bytes", stage="download")
    return data


def fetch_into(
    address: str, file: BinaryIO, *, size_bytes: int, progress: Callable[[int], None]
) -> None:
    """Append to a file until it has the size that is expected.

    :param file: open for reading and writing, unbuffered; what is in it is kept.
    :param progress: called with the bytes that are there.
    :raise HostError: the address cannot be reached, or there is less than that behind it.
    :raise OutOfSpace: the disk is full.
    """
    for attempt in range(_TRIES):
        have = file.seek(0, os.SEEK_END)
        if have > size_bytes:
            have = file.truncate(0)
        if have == size_bytes:
            return
        last: Exception | None = None
        try:
            _append(address, file, have, size_bytes, progress)
        except (OSError, http.client.HTTPException) as exc:
            last = exc
        now = file.seek(0, os.SEEK_END)
        if now >= size_bytes:
            continue
        if now <= have or attempt == _TRIES - 1:
            if last is not None:
                raise _unreachable(address, last) from last
            raise HostError(
                f"the transfer of {address} ended early",
                stage="download",
                evidence=(f"{now} of {size_bytes} bytes are there",),
                fix=_GOES_ON,
            )


def _append(
    address: str, file: BinaryIO, have: int, size_bytes: int, progress: Callable[[int], None]
) -> None:
    with _open(address, have) as answer:
        match = _RANGE.match(answer.headers.get("Content-Range") or "")
        if answer.status != http.HTTPStatus.PARTIAL_CONTENT or match is None:
            # A server that knows no ranges begins from the start.
            have = 0
        elif int(match[1]) != have:
            raise HostError(f"{address}: the server sent another range", stage="download")
        file.truncate(have)
        file.seek(have)
        while have <= size_bytes and (data := answer.read(_CHUNK_BYTES)):
            with naming_errors(file.name, doing="write", stage="download"):
                file.write(data)
            have += len(data)
            progress(min(have, size_bytes))
    if have > size_bytes:
        file.truncate(0)
        raise HostError(
            f"{address} has more than the {size_bytes} bytes that its manifest says",
            stage="download",
            fix="the manifest is of another file; the source has to be mended",
        )


def _open(address: str, offset: int) -> http.client.HTTPResponse:
    if not is_address(address):
        raise HostError(f"{address} is neither http nor https", stage="download")
    headers = {"Range": f"bytes={offset}-"} if offset else {}
    request = urllib.request.Request(address, headers=headers)  # noqa: S310 - checked above
    answer: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=_TIMEOUT_S)  # noqa: S310
    return answer


def _unreachable(address: str, exc: Exception) -> InnError:
    if isinstance(exc, urllib.error.HTTPError):
        exc.close()
        return HostError(
            f"{address}: the server answers {exc.code} {exc.reason}",
            stage="download",
            fix="look at the address",
        )
    reason = getattr(exc, "reason", None) or exc
    return HostError(
        f"cannot fetch {address}", stage="download", evidence=(str(reason),), fix=_GOES_ON
    )
