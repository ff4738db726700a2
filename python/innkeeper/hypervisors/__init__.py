# SPDX-License-Identifier: Apache-2.0
"""Hypervisors: each has a plan (pure) and a way to carry it out."""
