# SPDX-License-Identifier: Apache-2.0
"""The vsock ports that innkeeper itself uses (ARCHITECTURE.md, "The guest channel")."""

from __future__ import annotations

ANNOUNCE_PORT = 7777
AGENT_PORT = 8888
SHELL_PORT = 9001
