# SPDX-License-Identifier: Apache-2.0
"""Folders of the host in a guest: which server, how it is started, who may reach what."""
