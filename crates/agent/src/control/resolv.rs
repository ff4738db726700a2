// SPDX-License-Identifier: Apache-2.0
//! SetResolvConfig: name servers.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use tonic::Status;

use super::proto::ResolvConfig;

/// glibc reads the first three; more are somebody's mistake.
const MAX_NAMESERVERS: usize = 16;

/// Bytes of one domain name, at most.
const MAX_DOMAIN: usize = 253;

/// Writes resolv.conf.
pub fn set(config: &ResolvConfig) -> Result<(), Status> {
    let text = render(config).map_err(Status::invalid_argument)?;
    let path = target(Path::new("/etc/resolv.conf"), Path::new("/run/resolv.conf"));
    replace(&path, &text).map_err(|error| Status::internal(format!("{}: {error}", path.display())))
}

/// The file to write: where /etc is read-only or its file points elsewhere,
/// images link it to /run.
fn target(etc: &Path, run: &Path) -> PathBuf {
    if etc.is_symlink() {
        run.to_owned()
    } else {
        etc.to_owned()
    }
}

fn render(config: &ResolvConfig) -> Result<String, String> {
    if config.nameservers.len() > MAX_NAMESERVERS {
        return Err(format!("more than {MAX_NAMESERVERS} name servers"));
    }
    let mut text = String::new();
    for server in &config.nameservers {
        // Also what keeps a newline, and with it other directives, out.
        let address: IpAddr = server
            .parse()
            .map_err(|_| format!("\"{server}\" is no IP address"))?;
        text.push_str(&format!("nameserver {address}\n"));
    }
    if !config.search_domains.is_empty() {
        if let Some(bad) = config
            .search_domains
            .iter()
            .find(|domain| !is_domain(domain))
        {
            return Err(format!("\"{bad}\" is no domain name"));
        }
        text.push_str(&format!("search {}\n", config.search_domains.join(" ")));
    }
    Ok(text)
}

fn is_domain(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    !name.is_empty() && name.len() <= MAX_DOMAIN && name.bytes().all(allowed)
}

/// Readers see the old file or the new one, never half of one.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_extension("conf.new");
    std::fs::write(&new, text)?;
    std::fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(servers: &[&str], domains: &[&str]) -> ResolvConfig {
        ResolvConfig {
            nameservers: servers.iter().map(|text| (*text).to_owned()).collect(),
            search_domains: domains.iter().map(|text| (*text).to_owned()).collect(),
        }
    }

    #[test]
    fn text() {
        let text = render(&config(&["10.0.2.3", "fe80::1"], &["a.example", "b"])).unwrap();
        assert_eq!(
            text,
            "nameserver 10.0.2.3\nnameserver fe80::1\nsearch a.example b\n"
        );
        assert_eq!(render(&config(&[], &[])).unwrap(), "");
    }

    #[test]
    fn nothing_else_gets_in() {
        assert!(render(&config(&["10.0.0.1\noptions x"], &[])).is_err());
        assert!(render(&config(&["dns.example"], &[])).is_err());
        assert!(render(&config(&[], &["a\nnameserver 1.1.1.1"])).is_err());
        assert!(render(&config(&[], &[""])).is_err());
        assert!(render(&config(&["10.0.0.1"; 17], &[])).is_err());
    }

    #[test]
    fn links_lead_to_run() {
        let dir = std::env::temp_dir().join(format!("inn-resolv-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let (etc, run) = (dir.join("resolv.conf"), dir.join("run.conf"));
        assert_eq!(target(&etc, &run), etc);
        std::os::unix::fs::symlink("run.conf", &etc).unwrap();
        assert_eq!(target(&etc, &run), run);
        replace(&run, "x").unwrap();
        assert_eq!(std::fs::read_to_string(&etc).unwrap(), "x");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
