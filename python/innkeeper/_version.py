# SPDX-License-Identifier: Apache-2.0
"""The version, kept apart so that `inn --version` imports nothing else."""

__version__ = "0.1.0"
