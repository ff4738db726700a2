// SPDX-License-Identifier: Apache-2.0
//! The guest agent.

fn main() {}
