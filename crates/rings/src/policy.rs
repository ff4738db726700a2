// SPDX-License-Identifier: Apache-2.0
//! The seam to whoever decides who may do what. The engine knows no rules, no
//! labels and no file; it asks at each operation and obeys.

use crate::{Domain, Errno};

/// What somebody is about to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// The actor registers a ring that the peer alone may send to.
    RegisterSingle,
    /// The actor registers a ring that everybody may send to; no peer.
    RegisterAny,
    /// The actor sends to the peer's ring.
    Send,
    /// The actor asks about the peer's ring, and may wait in its line.
    Query,
    /// The actor's ring has room and the peer is to be told: the one thing
    /// that flows from a receiver to a sender.
    Notify,
}

/// One question to the policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Question {
    /// What is about to be done.
    pub operation: Operation,
    /// By whom.
    pub actor: Domain,
    /// Towards whom, if it is one.
    pub peer: Option<Domain>,
    /// The ring's port.
    pub port: u32,
}

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Go on.
    Allow,
    /// Do nothing, and let it look like this.
    Refuse(Appearance),
}

/// What a refusal looks like to the one who is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Appearance {
    /// As if the peer did not exist: `ESRCH`, or an entry without flags.
    NoDomain,
    /// As if the peer had no ring there: `ECONNREFUSED`, or the same entry.
    NoRing,
    /// `EACCES`, as Xen's FLASK does: the refusal shows.
    Denied,
}

impl Appearance {
    /// The errno of a refused operation towards a peer.
    #[must_use]
    pub const fn errno(self) -> Errno {
        match self {
            Self::NoDomain => Errno::Esrch,
            Self::NoRing => Errno::Econnrefused,
            Self::Denied => Errno::Eacces,
        }
    }
}

/// Decides. Calls must be quick and must not depend on the engine's state.
pub trait Policy {
    /// Whether this may be done.
    fn may(&self, question: &Question) -> Verdict;

    /// How much of a wildcard ring one sender's unread messages may take, 1 to
    /// 100 percent; `None` leaves it to
    /// [`Settings::wildcard_quota_percent`](crate::Settings).
    fn wildcard_quota(&self, _sender: Domain, _owner: Domain, _port: u32) -> Option<u8> {
        None
    }
}

impl<P: Policy + ?Sized> Policy for Box<P> {
    fn may(&self, question: &Question) -> Verdict {
        (**self).may(question)
    }

    fn wildcard_quota(&self, sender: Domain, owner: Domain, port: u32) -> Option<u8> {
        (**self).wildcard_quota(sender, owner, port)
    }
}

impl<P: Policy + ?Sized> Policy for std::sync::Arc<P> {
    fn may(&self, question: &Question) -> Verdict {
        (**self).may(question)
    }

    fn wildcard_quota(&self, sender: Domain, owner: Domain, port: u32) -> Option<u8> {
        (**self).wildcard_quota(sender, owner, port)
    }
}

/// Allows everything, as Xen without XSM does.
#[derive(Debug, Clone, Copy, Default)]
pub struct AllowAll;

impl Policy for AllowAll {
    fn may(&self, _question: &Question) -> Verdict {
        Verdict::Allow
    }
}
