# SPDX-License-Identifier: Apache-2.0
"""Frozen values: no input, no output, no knowledge of who carries them out."""
