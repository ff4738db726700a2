# SPDX-License-Identifier: Apache-2.0
"""QEMU: `facts` (what is installed), `plan` (argv, pure), `drive` (process and QMP), `probe`."""
