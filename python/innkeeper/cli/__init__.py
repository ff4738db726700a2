# SPDX-License-Identifier: Apache-2.0
"""The command line: one file per noun or verb. It renders; decisions are made below."""
