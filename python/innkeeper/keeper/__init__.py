# SPDX-License-Identifier: Apache-2.0
"""The keeper: one host process that owns one running guest and everything it needs."""
