// SPDX-License-Identifier: Apache-2.0
//! Frames and messages of the guest channel.
#![forbid(unsafe_code)]
