#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Run cargo on the userspace workspace, as "cargo ..." would, but with the
# pinned compiler and with everything that it writes in our cache.
#
# The compiler is the module's: one language level, and lints that do not change
# under us. The downloads go to our cache too, by the user's own cargo settings.

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

need gcc:gcc
CARGO=$("$TOP/scripts/toolchain.sh" cargo)/cargo
BIN=$("$TOP/scripts/toolchain.sh")
USERS=${CARGO_HOME:-$HOME/.cargo}
mkdir -p "$CACHE/cargo"
for f in config.toml config credentials.toml; do
	[ ! -e "$USERS/$f" ] || ln -sf "$USERS/$f" "$CACHE/cargo/$f"
done
export CARGO_HOME=$CACHE/cargo CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$BUILD/target}
# To run examples rustdoc looks for the compiler beside itself, and finds the bare one, which does
# not start. The option that names another is unstable, so this is for rustdoc alone.
mkdir -p "$BUILD"
cat >"$BUILD/rustdoc.$$" <<-EOF
	#!/bin/sh
	RUSTC_BOOTSTRAP=1 exec "$BIN/rustdoc" -Zunstable-options --test-builder "$BIN/rustc" "\$@"
EOF
chmod +x "$BUILD/rustdoc.$$"
mv "$BUILD/rustdoc.$$" "$BUILD/rustdoc"
export RUSTC=$BIN/rustc RUSTDOC=$BUILD/rustdoc RUSTFMT=$BIN/rustfmt
[ -t 2 ] || export CARGO_TERM_PROGRESS_WHEN=never
cd "$TOP"
exec "$CARGO" "$@"
