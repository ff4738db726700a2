// SPDX-License-Identifier: Apache-2.0
//! Processes the agent starts: who they run as, how they start, how they end.

pub mod environment;
pub mod limit;
pub mod output;
pub mod pipe;
pub mod pty;
pub mod reaper;
pub mod spawn;
pub mod users;
