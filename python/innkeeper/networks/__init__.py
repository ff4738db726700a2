# SPDX-License-Identifier: Apache-2.0
"""A guest's place on the networks of its host: interfaces, addresses, NAT, DHCP and DNS."""
