# SPDX-License-Identifier: Apache-2.0
"""The Python API. Its public names are those of `innkeeper`, imported at their first use."""
