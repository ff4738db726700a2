// SPDX-License-Identifier: Apache-2.0
//! What the environment asks for.

use crate::swap::Settings;

/// Set by `inn-guest wrap`.
const WRAPPED: &[u8] = b"INN_WRAP";
const IS_ARGO: &[u8] = b"INET_IS_ARGO";
const HOST_ONLY: &[u8] = b"ARGO_ACCEPT_DOM0_ONLY";
const ADDEND: &[u8] = b"ARGO_CLIENT_PORT_ADDEND";

/// Reads `NAME=VALUE` entries; `None` where nobody asked for anything.
pub fn settings<'a>(entries: impl Iterator<Item = &'a [u8]>) -> Option<Settings> {
    let mut settings = Settings::default();
    let mut wrapped = false;
    for entry in entries {
        let Some(end) = entry.iter().position(|byte| *byte == b'=') else {
            continue;
        };
        let (name, value) = entry.split_at(end);
        let value = value.get(1..).unwrap_or_default();
        match name {
            WRAPPED => wrapped = true,
            IS_ARGO => settings.argo = true,
            HOST_ONLY => settings.host_only = true,
            ADDEND => settings.addend = number(value),
            _ => {}
        }
    }
    (wrapped || settings.argo).then_some(settings)
}

/// What is no number below 65536 is none.
fn number(text: &[u8]) -> Option<u16> {
    core::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(entries: &[&str]) -> Option<Settings> {
        settings(entries.iter().map(|entry| entry.as_bytes()))
    }

    #[test]
    fn nobody_asked() {
        for entries in [
            &[][..],
            &["PATH=/bin"],
            &["ARGO_ACCEPT_DOM0_ONLY=1"],
            &["INN_WRAPPED=1", "INET_IS_ARGO"],
        ] {
            assert_eq!(read(entries), None, "{entries:?}");
        }
    }

    #[test]
    fn what_is_asked() {
        assert_eq!(read(&["INN_WRAP=preload"]), Some(Settings::default()));
        let all = [
            "INET_IS_ARGO=",
            "ARGO_ACCEPT_DOM0_ONLY=1",
            "ARGO_CLIENT_PORT_ADDEND=1000",
        ];
        let wanted = Settings {
            argo: true,
            host_only: true,
            addend: Some(1000),
        };
        assert_eq!(read(&all), Some(wanted));
        let odd = read(&["INET_IS_ARGO=1", "ARGO_CLIENT_PORT_ADDEND=70000"]);
        assert_eq!(odd.unwrap().addend, None);
        let entries = [&b"INN_WRAP="[..], b"ARGO_CLIENT_PORT_ADDEND=\xff"];
        assert_eq!(settings(entries.into_iter()), Some(Settings::default()));
    }
}
