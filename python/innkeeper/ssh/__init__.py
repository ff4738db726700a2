# SPDX-License-Identifier: Apache-2.0
"""SSH into guests that have neither a network nor sshd: the server is on the host."""
