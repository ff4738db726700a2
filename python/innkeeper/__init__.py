# SPDX-License-Identifier: Apache-2.0
"""innkeeper: Linux guests from one command, with declared doors to their host."""

from innkeeper._version import __version__

__all__ = ["__version__"]
