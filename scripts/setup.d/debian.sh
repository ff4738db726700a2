# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# Debian packages, among them Rust where there is none, and the guest kernel.

# Debian 13's, and what Cargo.toml promises.
RUST_MINIMUM=1.85

APT_GET=(apt-get -y -o DPkg::Lock::Timeout=300 --no-install-recommends)

debian_packages() {
    if ! command -v dpkg-query >/dev/null; then
        say "no dpkg here: see scripts/packages.list for what is needed"
        return
    fi
    local wanted installed missing
    mapfile -t wanted < <(sed -e 's/#.*//' -e '/^ *$/d' -e 's/ //g' scripts/packages.list)
    installed=$(dpkg-query -W -f '${db:Status-Abbrev}${Package}\n' "${wanted[@]}" 2>/dev/null |
        sed -n 's/^ii *//p') || true
    mapfile -t missing < <(comm -23 <(printf '%s\n' "${wanted[@]}" | sort) <(sort <<<"$installed"))
    if ! rust_is_usable; then
        # Debian 12's cargo is too old; its cargo-web is the one browsers are built with.
        missing+=("(rust)")
    fi
    if [[ ${#missing[@]} -gt 0 ]]; then
        install_packages "${missing[@]}"
    fi
}

# rust_is_usable: cargo and rustc are in PATH and new enough.
rust_is_usable() {
    local version
    command -v cargo >/dev/null || return 1
    version=$(rustc --version 2>/dev/null) || return 1
    version=${version#rustc }
    dpkg --compare-versions "${version%% *}" ge "$RUST_MINIMUM"
}

# candidate PACKAGE: the version that apt would install, or nothing.
candidate() { apt-cache policy "$1" 2>/dev/null | sed -n 's/^  Candidate: \([0-9].*\)/\1/p'; }

rust_packages() {
    local version
    version=$(candidate cargo)
    if [[ -z $version ]]; then
        # No package lists (container images come without): go by the release.
        # shellcheck source=/dev/null
        version=$(. /etc/os-release && [[ ${VERSION_ID:-99} -ge 13 ]] && echo "$RUST_MINIMUM") || true
    fi
    if [[ -n $version ]] && dpkg --compare-versions "$version" ge "$RUST_MINIMUM"; then
        echo "cargo rustc rustfmt rust-clippy"
    else
        echo "cargo-web rustc-web rustfmt-web rust-web-clippy"
    fi
}

# as_root COMMAND...: run as root, or fail where that needs a password.
as_root() {
    if [[ $EUID -eq 0 ]]; then "$@"; else sudo -n "$@"; fi
}

can_be_root() { [[ $EUID -eq 0 ]] || sudo -n true 2>/dev/null; }

# install_packages PACKAGE...: "(rust)" stands for this release's Rust packages.
install_packages() {
    local names=("$@")
    if ! can_be_root; then
        names=("${names[@]/(rust)/$(rust_packages)}")
        say "Debian packages are missing, and this user may not install any. Run:"
        echo "    sudo apt-get update && sudo apt-get install --no-install-recommends ${names[*]}"
        exit 1
    fi
    if [[ -z $(candidate python3) ]]; then
        phase "package lists" as_root apt-get update
    fi
    read -r -a names <<<"${names[*]/(rust)/$(rust_packages)}"
    phase "Debian packages: ${names[*]}" apt_install "${names[@]}"
    hash -r
}

# Lists that are too old name files that are gone: then once more with fresh ones.
apt_install() {
    local install=(env DEBIAN_FRONTEND=noninteractive "${APT_GET[@]}" install "$@")
    as_root "${install[@]}" && return
    as_root apt-get update
    as_root "${install[@]}"
}

# The newest cloud kernel's package, kept as a file: guests need it, the host does not.
guest_kernel() {
    command -v apt-get >/dev/null || return 0
    local folder have=() key
    folder=$(cache_folder)/packages
    mkdir -p "$folder"
    have=("$folder"/linux-image-*-cloud-amd64_*.deb)
    # Nothing newer can be known before the package lists change.
    key="$folder $(stat -c %Y /var/lib/apt/lists 2>/dev/null || echo none)"
    if [[ -e ${have[0]} ]] && stamped kernel "$key"; then
        return
    fi
    phase "guest kernel" fetch_kernel "$folder"
    stamp kernel "$folder $(stat -c %Y /var/lib/apt/lists)"
}

cache_folder() {
    if [[ -n ${INN_CACHE_DIR:-} ]]; then
        echo "$INN_CACHE_DIR"
    elif [[ $EUID -eq 0 ]]; then
        echo /var/cache/innkeeper
    else
        echo "${XDG_CACHE_HOME:-$HOME/.cache}/innkeeper"
    fi
}

# fetch_kernel FOLDER: apt names files NAME_VERSION_ARCH.deb with ':' as %3a.
fetch_kernel() {
    local folder=$1 name version file
    name=$(kernel_package)
    if [[ -z $name ]]; then
        if compgen -G "$folder/linux-image-*-cloud-amd64_*.deb"; then
            return
        fi
        can_be_root || { echo "no package lists: run sudo apt-get update" && return 1; }
        as_root apt-get update
        name=$(kernel_package)
    fi
    version=$(candidate "$name")
    file="${name}_${version//:/%3a}_amd64.deb"
    [[ -e $folder/$file ]] && return
    rm -rf "$folder/.download" && mkdir "$folder/.download"
    # As root, apt would drop to a user who cannot write here.
    (cd "$folder/.download" && apt-get -o "APT::Sandbox::User=$(id -un)" download "$name=$version")
    mv "$folder/.download"/*.deb "$folder/$file"
    rmdir "$folder/.download"
}

# kernel_package: the package behind Debian's metapackage of cloud kernels.
kernel_package() {
    apt-cache depends linux-image-cloud-amd64 2>/dev/null |
        sed -n 's/^ *Depends: \(linux-image-[0-9].*-cloud-amd64\)$/\1/p' | head -n 1
}
