# SPDX-License-Identifier: Apache-2.0
"""The guest's vsock device and the host sockets behind it."""
