# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# .venv, the native module, the guest agent and the file server. The key of each phase is a hash
# of its inputs' content, so that switching branches back and forth is cheap.

# Never compile for the machine at hand by accident of someone's environment.
unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS CARGO_BUILD_TARGET CARGO_TARGET_DIR

# hash_of PATH...: one hash over the names and contents of source files.
hash_of() {
    find "$@" -type d \( -name target -o -name fuzz -o -name tests \) -prune -o -type f -print0 |
        LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -c1-64
}

rust_version() { rustc --version; }

python_environment() {
    local key
    key=$(python3 --version)-$(hash_of requirements/dev.txt)
    if [[ -x .venv/bin/python ]] && .venv/bin/python -c '' 2>/dev/null && stamped venv "$PWD $key"; then
        return
    fi
    python3 -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || {
        say "python3 is $(python3 --version); innkeeper needs 3.11, 3.12 or 3.13 first in PATH"
        exit 1
    }
    phase "Python environment" make_environment
    stamp venv "$PWD $key"
    rm -f .state/native.stamp
}

make_environment() {
    # A new one when the interpreter went away or changed its minor version.
    if [[ $(.venv/bin/python -c 'import sys; print(*sys.version_info[:2])' 2>/dev/null) != \
        $(python3 -c 'import sys; print(*sys.version_info[:2])') ]] || ! .venv/bin/pip --version; then
        rm -rf .venv
        python3 -m venv .venv
    fi
    .venv/bin/python -m pip install --disable-pip-version-check --require-hashes \
        -r requirements/dev.txt
}

# innkeeper._core, and innkeeper itself as an editable installation.
native_module() {
    local key
    key=$(rust_version)-$(hash_of Cargo.toml Cargo.lock pyproject.toml crates/core crates/reactor crates/rings crates/ringboard crates/ringwire crates/vsock \
        crates/wire)
    if stamped native "$key" && compgen -G 'python/innkeeper/_core*.so' >/dev/null &&
        [[ -x .venv/bin/inn ]]; then
        return
    fi
    phase "native module" build_native_module
    stamp native "$key"
}

build_native_module() {
    # Not `maturin develop`: it asks pip for dependency groups, which Debian 12's
    # pip does not know. Everything is installed already, so pip needs no network.
    PATH=$PWD/.venv/bin:$PATH CARGO_TARGET_DIR=target/host \
        .venv/bin/python -m pip install --disable-pip-version-check --no-index --no-deps \
        --no-build-isolation --editable .
}

# Shared objects for any program of a guest; the agent brings them there.
guest_libraries() {
    local key
    key=$(rust_version)-$(hash_of Cargo.toml Cargo.lock crates/inet crates/librings crates/preload \
        crates/ringwire)
    if stamped libraries "$key" && [[ -f python/innkeeper/_guest/libinn_preload.so &&
        -f python/innkeeper/_guest/libinn_rings.so ]]; then
        return
    fi
    phase "guest libraries" build_libraries
    stamp libraries "$key"
}

build_libraries() {
    build_shared inn-preload libinn_preload.so
    build_shared inn-librings libinn_rings.so --features freestanding
}

# build_shared PACKAGE LIBRARY [OPTION]...: it needs no other library, and of the C library only what
# every one has, unversioned.
build_shared() {
    local target=x86_64-unknown-linux-gnu package=${1//-/_}
    cargo rustc --locked --profile library -p "$1" "${@:3}" --lib --crate-type cdylib \
        --target "$target" --target-dir target/shared -- \
        -C link-arg=-nostdlib -C link-arg=-nostartfiles -C link-arg="-Wl,-soname,$2"
    take_over "target/shared/$target/library/lib$package.so" "python/innkeeper/_guest/$2"
}

# The static guest binary, shipped inside the Python package.
guest_agent() {
    local key
    key=$(rust_version)-$(hash_of Cargo.toml Cargo.lock proto crates/agent crates/inet \
        crates/librings crates/preload crates/ringwire crates/sftp crates/wire \
        python/innkeeper/rings.py)
    if stamped agent "$key" && [[ -x python/innkeeper/_guest/inn-agent ]]; then
        return
    fi
    phase "guest agent" build_static inn-agent inn-agent _guest
    stamp agent "$key"
}

# The 9P server runs on the host, in a root of its own where no library is.
file_server() {
    local key
    key=$(rust_version)-$(hash_of Cargo.toml Cargo.lock crates/ninep)
    if stamped ninep "$key" && [[ -x python/innkeeper/_host/inn-9p ]]; then
        return
    fi
    phase "file server" build_static inn-ninep inn-9p _host
    stamp ninep "$key"
}

# build_static PACKAGE PROGRAM FOLDER
build_static() {
    local target=x86_64-unknown-linux-gnu program=$2 folder=python/innkeeper/$3
    RUSTFLAGS="-C target-feature=+crt-static -C relocation-model=static" \
        cargo build --locked --profile guest -p "$1" --target "$target" \
        --target-dir target/guest
    take_over "target/guest/$target/guest/$program" "$folder/$program"
}

# take_over BUILT PLACE
take_over() {
    local folder
    folder=$(dirname "$2")
    mkdir -p "$folder"
    # Same content, same file: the image cache hashes it. A rename is atomic.
    if ! cmp -s "$1" "$2"; then
        cp "$1" "$folder/.new-${2##*/}"
        mv "$folder/.new-${2##*/}" "$2"
    fi
}

# Compiled Python, also where PYTHONDONTWRITEBYTECODE is set: without it every
# start of `inn` compiles all over again.
bytecode() {
    # pip leaves this out where PYTHONDONTWRITEBYTECODE is set, and a start of inn
    # would compile these anew each time.
    .venv/bin/python -m compileall -q python/innkeeper \
        .venv/lib/python3.*/site-packages/{click,msgspec,qemu,google,grpc} 9>&-
}
