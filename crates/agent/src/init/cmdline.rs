// SPDX-License-Identifier: Apache-2.0
//! The kernel command line's `inn.` parameters.

/// Longest host name the kernel takes.
const MAX_HOSTNAME: usize = 64;

/// What the command line configures.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Cmdline {
    /// `inn.hostname=`
    pub hostname: Option<String>,
    /// `inn.modules=`, in order.
    pub modules: Vec<String>,
    /// `inn.console=shell`
    pub console_shell: bool,
}

/// Reads /proc/cmdline.
pub fn read() -> Cmdline {
    parse(&std::fs::read_to_string("/proc/cmdline").unwrap_or_default())
}

fn parse(text: &str) -> Cmdline {
    let mut cmdline = Cmdline::default();
    for word in words(text) {
        if let Some(name) = word.strip_prefix("inn.hostname=") {
            cmdline.hostname =
                Some(name.to_owned()).filter(|name| !name.is_empty() && name.len() <= MAX_HOSTNAME);
        } else if let Some(names) = word.strip_prefix("inn.modules=") {
            let names = names.split(',').filter(|name| !name.is_empty());
            cmdline.modules = names.map(str::to_owned).collect();
        } else if let Some(what) = word.strip_prefix("inn.console=") {
            cmdline.console_shell = what == "shell";
        } else if word == "--" {
            // What follows is init's argv, by the kernel's own rule.
            break;
        }
    }
    cmdline
}

/// Words separated by spaces; double quotes keep spaces, as in the kernel.
fn words(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for character in text.chars() {
        match character {
            '"' => quoted = !quoted,
            space if space.is_ascii_whitespace() && !quoted => words.push(String::new()),
            other => words.iter_mut().last().map_or((), |word| word.push(other)),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters() {
        let cmdline = parse(
            "quiet x=\"a inn.hostname=no\" inn.hostname=t inn.modules=virtio_mmio,,vsock \
             console=ttyS0 -- inn.hostname=argv\n",
        );
        assert_eq!(cmdline.hostname.as_deref(), Some("t"));
        assert_eq!(cmdline.modules, ["virtio_mmio", "vsock"]);
    }

    #[test]
    fn a_shell_on_the_console_is_asked_for_by_its_name() {
        assert!(parse("quiet inn.console=shell").console_shell);
        assert!(!parse("inn.console=nothing -- inn.console=shell").console_shell);
    }

    #[test]
    fn nothing_and_nonsense() {
        assert_eq!(parse(""), Cmdline::default());
        assert_eq!(
            parse("inn.hostname= inn.modules= \"").modules,
            Vec::<String>::new()
        );
        assert_eq!(
            parse(&format!("inn.hostname={}", "x".repeat(65))).hostname,
            None
        );
    }

    #[test]
    fn the_last_one_wins() {
        assert_eq!(
            parse("inn.hostname=a inn.hostname=b").hostname.as_deref(),
            Some("b")
        );
    }
}
