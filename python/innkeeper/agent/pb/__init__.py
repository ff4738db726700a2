# SPDX-License-Identifier: Apache-2.0
"""Generated from proto/ by `make proto`: messages and gRPC stubs. Do not edit."""
