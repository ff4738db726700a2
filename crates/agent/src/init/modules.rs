// SPDX-License-Identifier: Apache-2.0
//! Kernel modules: there is no modprobe in a tiny guest.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};

use super::Problems;
use crate::announce::kernel_release;
use crate::console;

/// `MODULE_INIT_COMPRESSED_FILE`: the kernel (5.17 and later) unpacks.
const COMPRESSED: ModuleInitFlags = ModuleInitFlags::from_bits_retain(4);

/// Loads the modules in this order, each after what it depends on.
pub fn load_all(names: &[String], problems: &mut Problems) {
    if names.is_empty() {
        return;
    }
    let dir = Path::new("/lib/modules").join(kernel_release());
    let index = match Index::read(&dir) {
        Ok(index) => index,
        Err(error) => {
            return problems.add("modules", format_args!("{}: {error}", dir.display()));
        }
    };
    let mut done = HashSet::new();
    for name in names {
        match index.plan(name) {
            Some(files) => load_files(&dir, &files, &mut done, problems),
            None => explain_missing(name, &index, problems),
        }
    }
}

/// Loads a module where there is a file of it: who wants it finds out whether it is there.
pub fn load_if_there(name: &str) {
    let dir = Path::new("/lib/modules").join(kernel_release());
    if let Ok(index) = Index::read(&dir) {
        for file in index.plan(name).unwrap_or_default() {
            let _ = load(&dir.join(file));
        }
    }
}

fn load_files<'a>(
    dir: &Path,
    files: &[&'a str],
    done: &mut HashSet<&'a str>,
    problems: &mut Problems,
) {
    for file in files {
        // One that failed fails again for the next module; said once.
        if done.insert(file) {
            if let Err(error) = load(&dir.join(file)) {
                problems.add("module", format_args!("{}: {error}", module_name(file)));
            }
        }
    }
}

fn load(path: &Path) -> io::Result<()> {
    let is_plain = path.extension().is_some_and(|extension| extension == "ko");
    let flags = if is_plain {
        ModuleInitFlags::empty()
    } else {
        COMPRESSED
    };
    match finit_module(File::open(path)?, c"", flags) {
        // Already loaded, or built in.
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// A module without a file may be built in, which only modules.builtin knows
/// for sure: /sys/module has just those with parameters or a version.
fn explain_missing(name: &str, index: &Index, problems: &mut Problems) {
    let is_present = Path::new("/sys/module").join(normalized(name)).exists();
    match index.is_builtin(name) {
        Some(true) => {}
        _ if is_present => {}
        Some(false) => problems.add("module", format_args!("{name}: not in this image")),
        None => {
            console::say(format_args!(
                "module: {name}: no file; taken as built into the kernel"
            ));
        }
    }
}

/// What depmod wrote.
struct Index {
    /// File by module name.
    files: HashMap<String, String>,
    /// Files a file depends on.
    needs: HashMap<String, Vec<String>>,
    /// Names of built-in modules, where the image says so.
    builtin: Option<HashSet<String>>,
}

impl Index {
    fn read(dir: &Path) -> io::Result<Self> {
        let file = |name: &str| -> PathBuf { dir.join(name) };
        let depends = std::fs::read_to_string(file("modules.dep"))?;
        let builtin = std::fs::read_to_string(file("modules.builtin")).ok();
        Ok(Self::parse(&depends, builtin.as_deref()))
    }

    fn parse(depends: &str, builtin: Option<&str>) -> Self {
        let mut index = Self {
            files: HashMap::new(),
            needs: HashMap::new(),
            builtin: builtin.map(|text| text.lines().map(module_name).collect()),
        };
        for (file, needs) in depends.lines().filter_map(|line| line.split_once(':')) {
            index.files.insert(module_name(file), file.to_owned());
            let needs = needs.split_ascii_whitespace().map(str::to_owned).collect();
            index.needs.insert(file.to_owned(), needs);
        }
        index
    }

    /// Files to load for a module, dependencies first; `None` if it has none.
    fn plan(&self, name: &str) -> Option<Vec<&str>> {
        let mut order = Vec::new();
        self.visit(
            self.files.get(&normalized(name))?,
            &mut HashSet::new(),
            &mut order,
        );
        Some(order)
    }

    fn visit<'a>(&'a self, file: &'a str, seen: &mut HashSet<&'a str>, order: &mut Vec<&'a str>) {
        // Also ends a circle, which depmod does not write.
        if !seen.insert(file) {
            return;
        }
        for needed in self.needs.get(file).into_iter().flatten() {
            self.visit(needed, seen, order);
        }
        order.push(file);
    }

    fn is_builtin(&self, name: &str) -> Option<bool> {
        self.builtin
            .as_ref()
            .map(|names| names.contains(&normalized(name)))
    }
}

/// `kernel/net/a-b.ko.xz` is the module `a_b`.
fn module_name(path: &str) -> String {
    let file = path.trim().rsplit('/').next().unwrap_or_default();
    normalized(file.split(".ko").next().unwrap_or_default())
}

/// The kernel takes `-` and `_` for the same.
fn normalized(name: &str) -> String {
    name.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEPENDS: &str = "\
kernel/drivers/virtio/virtio_mmio.ko: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko
kernel/drivers/virtio/virtio_ring.ko:
kernel/drivers/virtio/virtio.ko: kernel/drivers/virtio/virtio_ring.ko
kernel/net/a-b.ko.xz: kernel/net/a-b.ko.xz kernel/no/line.ko

nonsense
";

    #[test]
    fn dependencies_first_and_once() {
        let index = Index::parse(DEPENDS, None);
        let names: Vec<_> = index
            .plan("virtio-mmio")
            .unwrap()
            .into_iter()
            .map(module_name)
            .collect();
        assert_eq!(names, ["virtio_ring", "virtio", "virtio_mmio"]);
    }

    #[test]
    fn dashes_circles_and_strangers() {
        let index = Index::parse(DEPENDS, Some("kernel/fs/fuse-x.ko\n"));
        assert_eq!(
            index.plan("a_b").unwrap(),
            ["kernel/no/line.ko", "kernel/net/a-b.ko.xz"]
        );
        assert!(index.plan("fuse_x").is_none());
        assert_eq!(index.is_builtin("fuse_x"), Some(true));
        assert_eq!(index.is_builtin("other"), Some(false));
        assert_eq!(Index::parse("", None).is_builtin("other"), None);
    }
}
