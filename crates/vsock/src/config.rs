// SPDX-License-Identifier: Apache-2.0
//! What a device is told, and what it may be told.

use crate::error::Error;
use crate::hybrid;

/// `sizeof(sun_path)` without the final NUL.
const MAX_PATH: usize = 107;

/// What a device is told about its guest.
#[derive(Debug, Clone)]
pub struct Config {
    /// The only source CID whose packets are accepted.
    pub guest_cid: u64,
    /// A guest's connection to host port P goes to `<hybrid_path>_<P>`.
    pub hybrid_path: String,
    /// Most streams at a time, and most unfinished handshakes.
    pub max_connections: usize,
}

impl Config {
    /// Refuses values that could never work.
    pub(crate) fn check(&self) -> Result<(), Error> {
        // 0 to 2 and u32::MAX are reserved (virtio 1.3, section 5.10.4).
        if !(3..u64::from(u32::MAX)).contains(&self.guest_cid) {
            return Err(Error::InvalidCid(self.guest_cid));
        }
        if self.hybrid_path.contains('\0') {
            return Err(Error::PathInvalid(self.hybrid_path.clone()));
        }
        if hybrid::service_path(&self.hybrid_path, u32::MAX).len() > MAX_PATH {
            return Err(Error::PathTooLong(self.hybrid_path.clone()));
        }
        Ok(())
    }
}
