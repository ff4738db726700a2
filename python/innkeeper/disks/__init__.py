# SPDX-License-Identifier: Apache-2.0
"""Disks that stay: made, adopted, held by their users, checked and removed."""
