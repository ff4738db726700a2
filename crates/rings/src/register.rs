// SPDX-License-Identifier: Apache-2.0
//! `register_ring` and `unregister_ring`.

use crate::abi::{DOMID_ANY, FAIL_EXIST, RegisterRing, UnregisterRing};
use crate::ring::Ring;
use crate::{Endpoint, Errno, Mediator, Policy, RingName};

impl<P: Policy> Mediator<P> {
    /// Registers a ring, which `caller` will read, and makes its port the
    /// caller's. Registering the same once more keeps what is in it.
    ///
    /// # Errors
    /// In this order: `Enosys`, `Eopnotsupp`; `Einval`: flags, geometry,
    /// padding; `Eperm`: wildcard without `mac_permissive`; `Esrch`: no such
    /// partner; the policy's; `Enodev`; `Econnrefused`: the partner takes no
    /// part; `Eaddrinuse`: another endpoint's port; `Eexist`: `FAIL_EXIST`, or
    /// another size; `Enospc`: too many rings or ports; `Enomem`: too large in
    /// sum.
    pub fn register_ring(&mut self, caller: Endpoint, call: &RegisterRing) -> Result<(), Errno> {
        self.caller(caller)?;
        if !call.well_formed() {
            return Err(Errno::Einval);
        }
        let partner = match call.partner {
            DOMID_ANY => None,
            id => Some(self.domains.get(&id).ok_or(Errno::Esrch)?),
        };
        let name = RingName {
            owner: caller.domain(),
            port: call.port,
            partner: partner.map(|state| state.name),
        };
        self.may_register(name)?;
        if !self.caller(caller)?.enabled {
            return Err(Errno::Enodev);
        }
        if partner.is_some_and(|state| !state.enabled) {
            return Err(Errno::Econnrefused);
        }
        if self.is_registered(caller, call)? {
            return Ok(());
        }
        self.have_room_for(caller, call)?;
        let state = self.caller_mut(caller)?;
        state.claim(caller, call.port, true);
        let ring = Ring::new(name, caller, call.len);
        state.rings.insert((call.port, call.partner), ring);
        Ok(())
    }

    /// Takes a ring of `caller` away, with what is in it.
    ///
    /// # Errors
    /// `Einval`: padding. `Enodev`. `Enoent`: the caller has no such ring.
    pub fn unregister_ring(
        &mut self,
        caller: Endpoint,
        call: &UnregisterRing,
    ) -> Result<(), Errno> {
        let enabled = self.caller(caller)?.enabled;
        if call.pad != 0 {
            return Err(Errno::Einval);
        }
        if !enabled {
            return Err(Errno::Enodev);
        }
        let key = (call.port, call.partner);
        self.own_ring(caller, key)?;
        if let Some(ring) = self.caller_mut(caller)?.remove_ring(key) {
            self.tell_closed(ring, None);
        }
        Ok(())
    }

    /// Whether this very ring is there already and may be registered again.
    fn is_registered(&self, caller: Endpoint, call: &RegisterRing) -> Result<bool, Errno> {
        let state = self.caller(caller)?;
        state.may_claim(caller, call.port, usize::MAX)?;
        match state.rings.get(&(call.port, call.partner)) {
            None => Ok(false),
            Some(_) if call.flags & FAIL_EXIST != 0 => Err(Errno::Eexist),
            Some(ring) if ring.len != call.len => Err(Errno::Eexist),
            Some(_) => Ok(true),
        }
    }

    fn have_room_for(&self, caller: Endpoint, call: &RegisterRing) -> Result<(), Errno> {
        let state = self.caller(caller)?;
        state.may_claim(caller, call.port, self.settings.max_ports)?;
        if state.rings.len() >= self.settings.max_rings {
            return Err(Errno::Enospc);
        }
        if state.ring_bytes() + u64::from(call.len) > self.settings.max_ring_bytes {
            return Err(Errno::Enomem);
        }
        Ok(())
    }

    /// A ring that `caller` reads; another endpoint's looks absent.
    pub(crate) fn own_ring(&self, caller: Endpoint, key: (u32, u16)) -> Result<&Ring, Errno> {
        let ring = self.caller(caller)?.rings.get(&key);
        ring.filter(|ring| ring.reader == caller)
            .ok_or(Errno::Enoent)
    }

    pub(crate) fn own_ring_mut(
        &mut self,
        caller: Endpoint,
        key: (u32, u16),
    ) -> Result<&mut Ring, Errno> {
        let ring = self.caller_mut(caller)?.rings.get_mut(&key);
        ring.filter(|ring| ring.reader == caller)
            .ok_or(Errno::Enoent)
    }
}
