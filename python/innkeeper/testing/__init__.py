# SPDX-License-Identifier: Apache-2.0
"""Guests in tests: the pytest plugin is `innkeeper.testing.plugin`."""
