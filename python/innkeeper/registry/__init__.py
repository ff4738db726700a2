# SPDX-License-Identifier: Apache-2.0
"""What exists on this host: folders, names and their locks, state files."""
