# SPDX-License-Identifier: Apache-2.0
"""The only package that starts processes and touches descriptors, locks, sockets and /proc."""
