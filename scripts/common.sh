# Sourced by the other scripts: functions that several of them need.
# shellcheck shell=bash

# The oldest cargo that builds synthdisk, as Cargo.toml says.
rust_minimum() {
  sed -n 's/^rust-version *= *"\(.*\)"/\1/p' Cargo.toml
}

# True if version $1 is at least version $2.
version_at_least() {
  [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]
}

# Put a cargo that rustup installed for this user on PATH, without a new login shell.
find_cargo() {
  if ! command -v cargo >/dev/null && [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ]; then
    export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
  fi
}

# Where kernels and guests are kept between runs.
cache_dir() {
  echo "${SYNTHDISK_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/synthdisk}"
}

# mke2fs, debugfs and losetup are in sbin, which may be missing in a plain user's PATH.
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
