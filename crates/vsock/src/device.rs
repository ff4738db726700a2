// SPDX-License-Identifier: Apache-2.0
//! The vhost-user backend: QEMU's requests applied to the engine.

use std::fs::File;
use std::io;
use std::sync::Arc;

use vhost::VhostUserMemoryRegionBase;
use vhost::vhost_user::message::*;
use vhost::vhost_user::{
    Error as VhostError, GpuBackend, Result as VhostResult, VhostUserBackendReqHandlerMut,
    VhostUserProtocolFeatures, VhostUserVirtioFeatures,
};
use virtio_bindings::bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use vm_memory::{GuestAddress, GuestRegionMmap};

use crate::chain::Memory;
use crate::engine::{Engine, QUEUES, TX};
use crate::poller::Token;

/// Where QEMU's addresses of a region lie in the guest's.
#[derive(Debug, Clone, Copy)]
struct Mapping {
    frontend: u64,
    guest: u64,
    size: u64,
}

/// The device as the vhost-user protocol sees it.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) engine: Engine,
    mappings: Vec<Mapping>,
    acked_features: u64,
    /// Where the TX ring stopped, to tell a resumed guest from a new one.
    tx_stopped_at: u16,
}

impl Device {
    pub(crate) fn new(engine: Engine) -> Self {
        Self {
            engine,
            mappings: Vec::new(),
            acked_features: 0,
            tx_stopped_at: 0,
        }
    }

    /// No indirect descriptors: a ring of 128 holds 64 packets of up to 64 KiB,
    /// which is plenty, and each table costs the guest an allocation.
    fn features() -> u64 {
        1 << VIRTIO_F_VERSION_1
            | 1 << VIRTIO_RING_F_EVENT_IDX
            | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    fn index(index: u32) -> VhostResult<usize> {
        usize::try_from(index)
            .ok()
            .filter(|index| *index < QUEUES)
            .ok_or(VhostError::InvalidParam)
    }

    fn to_guest(&self, frontend: u64) -> VhostResult<u64> {
        self.mappings
            .iter()
            .find_map(|mapping| {
                let offset = frontend.checked_sub(mapping.frontend)?;
                (offset < mapping.size).then(|| mapping.guest.checked_add(offset))?
            })
            .ok_or(VhostError::InvalidParam)
    }

    /// Something about a ring changed: serve it if it can be served. Kicks
    /// that came before must not be lost, so it counts as kicked.
    fn refresh(&mut self, index: usize) {
        if self.engine.rings[index].is_active() {
            self.engine.on_kick(index);
        }
    }
}

fn unsupported<T>() -> VhostResult<T> {
    Err(VhostError::InvalidOperation("not offered by this device"))
}

impl VhostUserBackendReqHandlerMut for Device {
    fn set_owner(&mut self) -> VhostResult<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> VhostResult<()> {
        Ok(())
    }

    fn reset_device(&mut self) -> VhostResult<()> {
        unsupported()
    }

    fn get_features(&mut self) -> VhostResult<u64> {
        Ok(Self::features())
    }

    fn set_features(&mut self, features: u64) -> VhostResult<()> {
        if features & !Self::features() != 0 {
            return Err(VhostError::InvalidParam);
        }
        self.acked_features = features;
        // Without protocol features there is no SET_VRING_ENABLE (vhost-user,
        // "Ring states").
        let always_enabled = features & VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits() == 0;
        for index in 0..QUEUES {
            let ring = &mut self.engine.rings[index];
            ring.set_event_idx(features & (1 << VIRTIO_RING_F_EVENT_IDX) != 0);
            ring.enabled |= always_enabled;
            self.refresh(index);
        }
        Ok(())
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy_listening: Option<bool>,
    ) -> VhostResult<Option<Vec<VhostUserMemoryRegionBase>>> {
        let mut mapped = Vec::with_capacity(regions.len());
        let mut mappings = Vec::with_capacity(regions.len());
        for (region, file) in regions.iter().zip(files) {
            let start = GuestAddress(region.guest_phys_addr);
            let region_map = GuestRegionMmap::new(region.mmap_region(file)?, start)
                .ok_or(VhostError::InvalidParam)?;
            mapped.push(region_map);
            mappings.push(Mapping {
                frontend: region.user_addr,
                guest: region.guest_phys_addr,
                size: region.memory_size,
            });
        }
        let memory = Memory::from_regions(mapped)
            .map_err(|error| VhostError::ReqHandlerError(io::Error::other(error)))?;
        // Rings that lie outside the new memory would fail at every access.
        for ring in self.engine.rings.iter_mut().filter(|ring| ring.started) {
            ring.start(Some(&memory));
        }
        self.engine.memory = Some(Arc::new(memory));
        self.mappings = mappings;
        Ok(None)
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> VhostResult<()> {
        self.engine.rings[Self::index(index)?]
            .set_size(num)
            .map_err(|_| VhostError::InvalidParam)
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        _flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> VhostResult<()> {
        let index = Self::index(index)?;
        let (desc, avail, used) = (
            self.to_guest(descriptor)?,
            self.to_guest(available)?,
            self.to_guest(used)?,
        );
        let memory = self.engine.memory.clone().ok_or(VhostError::InvalidParam)?;
        self.engine.rings[index]
            .set_addresses(&memory, desc, avail, used)
            .map_err(|_| VhostError::InvalidParam)
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> VhostResult<()> {
        let index = Self::index(index)?;
        let base = u16::try_from(base).map_err(|_| VhostError::InvalidParam)?;
        // A guest that was paused goes on where it stopped; one that was
        // rebooted starts anew and knows nothing of the old streams.
        if index == TX && base != self.tx_stopped_at {
            self.engine.muxer.reset_all();
            self.engine.muxer.forget_resets();
            self.tx_stopped_at = base;
        }
        self.engine.rings[index].set_next_avail(base);
        Ok(())
    }

    fn get_vring_base(&mut self, index: u32) -> VhostResult<VhostUserVringState> {
        let at = Self::index(index)?;
        if let Some(kick) = &self.engine.rings[at].kick {
            self.engine.muxer.poller.remove(kick);
        }
        if at == TX {
            self.engine.say_tx();
        }
        let next = self.engine.rings[at].stop();
        if at == TX {
            self.tx_stopped_at = next;
        }
        Ok(VhostUserVringState::new(index, u32::from(next)))
    }

    fn set_vring_kick(&mut self, index: u8, fd: Option<File>) -> VhostResult<()> {
        let at = Self::index(u32::from(index))?;
        if let Some(old) = self.engine.rings[at].kick.take() {
            self.engine.muxer.poller.remove(old);
        }
        // The protocol's "no descriptor, please poll" mode is not for us.
        let kick = fd.ok_or(VhostError::InvalidParam)?;
        rustix::io::ioctl_fionbio(&kick, true)
            .map_err(|error| VhostError::ReqHandlerError(error.into()))?;
        self.engine
            .muxer
            .poller
            .add_level(&kick, Token::Kick(index))
            .map_err(VhostError::ReqHandlerError)?;
        let memory = self.engine.memory.clone();
        let ring = &mut self.engine.rings[at];
        ring.kick = Some(kick);
        if !ring.start(memory.as_deref()) {
            self.engine.muxer.counters.broken_queues.increment();
        }
        self.refresh(at);
        Ok(())
    }

    fn set_vring_call(&mut self, index: u8, fd: Option<File>) -> VhostResult<()> {
        let at = Self::index(u32::from(index))?;
        if let Some(call) = &fd {
            rustix::io::ioctl_fionbio(call, true)
                .map_err(|error| VhostError::ReqHandlerError(error.into()))?;
        }
        self.engine.rings[at].call = fd;
        Ok(())
    }

    fn set_vring_err(&mut self, index: u8, _fd: Option<File>) -> VhostResult<()> {
        Self::index(u32::from(index)).map(|_| ())
    }

    fn get_protocol_features(&mut self) -> VhostResult<VhostUserProtocolFeatures> {
        use VhostUserProtocolFeatures as F;
        Ok(F::MQ | F::CONFIG | F::REPLY_ACK)
    }

    fn set_protocol_features(&mut self, _features: u64) -> VhostResult<()> {
        Ok(())
    }

    fn get_queue_num(&mut self) -> VhostResult<u64> {
        Ok(QUEUES as u64)
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> VhostResult<()> {
        let at = Self::index(index)?;
        self.engine.rings[at].enabled = enable;
        self.refresh(at);
        Ok(())
    }

    /// `struct virtio_vsock_config`: the guest's CID, little-endian.
    fn get_config(
        &mut self,
        offset: u32,
        size: u32,
        _flags: VhostUserConfigFlags,
    ) -> VhostResult<Vec<u8>> {
        let config = self.engine.muxer.config.guest_cid.to_le_bytes();
        let range = usize::try_from(offset).ok().zip(usize::try_from(size).ok());
        range
            .and_then(|(offset, size)| config.get(offset..offset.checked_add(size)?))
            .map(<[u8]>::to_vec)
            .ok_or(VhostError::InvalidParam)
    }

    fn set_config(
        &mut self,
        _offset: u32,
        _buf: &[u8],
        _flags: VhostUserConfigFlags,
    ) -> VhostResult<()> {
        unsupported()
    }

    fn set_gpu_socket(&mut self, _gpu_backend: GpuBackend) -> VhostResult<()> {
        unsupported()
    }

    fn get_shared_object(&mut self, _uuid: VhostUserSharedMsg) -> VhostResult<File> {
        unsupported()
    }

    fn get_inflight_fd(
        &mut self,
        _inflight: &VhostUserInflight,
    ) -> VhostResult<(VhostUserInflight, File)> {
        unsupported()
    }

    fn set_inflight_fd(&mut self, _inflight: &VhostUserInflight, _file: File) -> VhostResult<()> {
        unsupported()
    }

    fn get_max_mem_slots(&mut self) -> VhostResult<u64> {
        unsupported()
    }

    fn add_mem_region(
        &mut self,
        _region: &VhostUserSingleMemoryRegion,
        _fd: File,
        _postcopy_listening: Option<bool>,
    ) -> VhostResult<Option<VhostUserMemoryRegionBase>> {
        unsupported()
    }

    fn remove_mem_region(&mut self, _region: &VhostUserSingleMemoryRegion) -> VhostResult<()> {
        unsupported()
    }

    fn set_device_state_fd(
        &mut self,
        _direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        _fd: File,
    ) -> VhostResult<Option<File>> {
        unsupported()
    }

    fn check_device_state(&mut self) -> VhostResult<()> {
        unsupported()
    }

    fn get_shmem_config(&mut self) -> VhostResult<VhostUserShMemConfig> {
        unsupported()
    }

    fn set_log_base(&mut self, _log: &VhostUserLog, _file: File) -> VhostResult<()> {
        unsupported()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::muxer::Muxer;
    use crate::peers::Decisions;
    use crate::poller::Poller;

    fn device() -> Device {
        let config = Config {
            guest_cid: 0x0102_0304,
            hybrid_path: "/nowhere".into(),
            max_connections: 1,
        };
        let muxer = Muxer::new(
            config,
            Arc::default(),
            Arc::new(Poller::new().unwrap()),
            Arc::new(Decisions::new().unwrap()),
        );
        Device::new(Engine::new(muxer).unwrap())
    }

    #[test]
    fn config_space_is_eight_bytes() {
        let mut device = device();
        let mut read =
            |offset, size| device.get_config(offset, size, VhostUserConfigFlags::empty());
        assert_eq!(read(0, 8).unwrap(), [4, 3, 2, 1, 0, 0, 0, 0]);
        assert_eq!(read(4, 4).unwrap(), [0; 4]);
        for (offset, size) in [(4, 8), (0, 9), (9, 0), (u32::MAX, u32::MAX)] {
            assert!(read(offset, size).is_err(), "{offset} {size}");
        }
    }

    #[test]
    fn requests_out_of_bounds_are_refused() {
        let mut device = device();
        for index in [3, u32::MAX] {
            assert!(device.set_vring_num(index, 128).is_err());
            assert!(device.set_vring_enable(index, true).is_err());
            assert!(device.get_vring_base(index).is_err());
        }
        for size in [0, 3, 2048, 1 << 16, u32::MAX] {
            assert!(device.set_vring_num(0, size).is_err(), "{size}");
        }
        assert!(device.set_vring_base(0, 1 << 16).is_err());
        assert!(device.set_features(1 << 63).is_err());
        let flags = VhostUserVringAddrFlags::empty();
        assert!(
            device.set_vring_addr(0, flags, 0, 0, 0, 0).is_err(),
            "no memory yet"
        );
        assert!(device.set_vring_kick(0, None).is_err());
    }
}
