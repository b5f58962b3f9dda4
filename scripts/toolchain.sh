#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Provide the Rust toolchain and print the directory of its programs.
#
#   toolchain.sh           rustc, rustfmt, clippy-driver, rustdoc, bindgen
#   toolchain.sh cargo     the directory of a cargo that is new enough as well:
#                          the host's if it is at least 1.85, else Debian 13's
#   toolchain.sh arm64     the programs, once programs for arm64 can be compiled, too (the kernel
#                          and the module need nothing for that)
#
# The toolchain is Debian 13's, the one that Debian's own 7.3 kernel was built
# with, on whatever host: Rust symbol hashes and metadata match only if the
# compiler does. Its packages are unpacked in the cache and each program runs
# through its own dynamic loader, so that the host's glibc does not matter.

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
. "$TOP/scripts/debian.sh"

# Debian 13's release and its LLVM; both are part of package names below.
RUST=1.85
LLVM=19
TOOLCHAIN=$CACHE/toolchain-$RUST-r1
PACKAGES=(rustc "libstd-rust-$RUST" libstd-rust-dev rust-src rustfmt rust-clippy bindgen
	"libclang1-$LLVM" "libllvm$LLVM" libc6 libgcc-s1 libstdc++6 zlib1g libzstd1 libxml2
	libedit2 libtinfo6 libffi8 libz3-4 libbsd0 libmd0 liblzma5)

# A program of the tree $1 as a wrapper $1/bin/$2, run through $1's own loader.
wrap() {
	local root=$1 program=$2 clang=
	[ "$program" != bindgen ] || clang="export LIBCLANG_PATH=\$R/usr/lib/llvm-$LLVM/lib"
	cat >"$root/bin/$program" <<WRAPPER
#!/bin/sh
R=\${0%/bin/*}
$clang
exec "\$R/usr/lib64/ld-linux-x86-64.so.2" --library-path "\$R/usr/lib/x86_64-linux-gnu" \\
	--argv0 $program "\$R/usr/bin/$program" "\$@"
WRAPPER
	chmod +x "$root/bin/$program"
}

provide_rustc() {
	need gcc:gcc
	say "fetching Debian 13's Rust $RUST and bindgen (about 150 MB)"
	local tmp=$TOOLCHAIN.tmp p
	rm -rf "$tmp"
	# In current Debian /lib is a link to /usr/lib; older packages still ship /lib.
	mkdir -p "$tmp/usr/lib" "$tmp/usr/lib64" "$tmp/bin"
	ln -s usr/lib "$tmp/lib"
	ln -s usr/lib64 "$tmp/lib64"
	unpack "$tmp" "${PACKAGES[@]}"
	for p in rustc rustdoc rustfmt clippy-driver bindgen; do
		wrap "$tmp" "$p"
	done
	"$tmp/bin/rustc" --version >/dev/null || die "the unpacked rustc does not run"
	"$tmp/bin/bindgen" --version >/dev/null || die "the unpacked bindgen does not run"
	mv "$tmp" "$TOOLCHAIN"
}

# Is there a cargo on the host that understands our crates?
host_cargo() {
	local v
	command -v cargo >/dev/null || return 1
	v=$(cargo --version 2>/dev/null | sed -E 's/^cargo ([0-9]+)\.([0-9]+).*/\1 \2/')
	# shellcheck disable=SC2086
	set -- $v
	[ "${1:-0}" -gt 1 ] || [ "${2:-0}" -ge "${RUST#1.}" ]
}

provide_cargo() {
	local tmp libs
	say "the host's cargo is missing or older than $RUST: fetching Debian 13's"
	apt_index
	# Every shared library cargo needs; its C compiler is the host's.
	libs=$(private_apt apt-get -s install --no-install-recommends cargo |
		sed -n 's/^Inst \(lib[^ ]*\|ca-certificates\) .*/\1/p' | grep -vE -- '-dev$|^libgcc-1|rust|llvm')
	tmp=$TOOLCHAIN/cargo.tmp
	rm -rf "$tmp"
	mkdir -p "$tmp/usr/lib" "$tmp/usr/lib64"
	ln -s usr/lib "$tmp/lib"
	ln -s usr/lib64 "$tmp/lib64"
	# shellcheck disable=SC2086
	unpack "$tmp" cargo $libs
	cp -an "$tmp/usr/." "$TOOLCHAIN/usr/"
	rm -rf "$tmp"
	wrap "$TOOLCHAIN" cargo
	"$TOOLCHAIN/bin/cargo" --version >/dev/null || die "the unpacked cargo does not run"
}

# Rust's standard library for arm64, by the very same compiler.
provide_arm64() {
	local name=usr/lib/rustlib/aarch64-unknown-linux-gnu tmp=$TOOLCHAIN/arm64.tmp
	[ ! -d "$TOOLCHAIN/$name" ] || return 0
	lock toolchain
	[ ! -d "$TOOLCHAIN/$name" ] || return 0
	say "fetching Debian 13's Rust library for arm64 (40 MB)"
	rm -rf "$tmp"
	DEBIAN_ARCH=arm64 unpack "$tmp" libstd-rust-dev
	mv "$tmp/$name" "$TOOLCHAIN/$name"
	rm -rf "$tmp"
}

# Look, and only then take the lock and look again: a warm cache never waits.
provide() {
	[ ! -e "$TOOLCHAIN/bin/$1" ] || return 0
	lock toolchain
	[ -e "$TOOLCHAIN/bin/$1" ] || "provide_$1"
}

provide rustc
case ${1:-} in
"") echo "$TOOLCHAIN/bin" ;;
cargo)
	if host_cargo; then
		dirname "$(command -v cargo)"
	else
		provide cargo
		echo "$TOOLCHAIN/bin"
	fi
	;;
arm64) provide_arm64 && echo "$TOOLCHAIN/bin" ;;
*) die "usage: toolchain.sh [cargo|arm64]" ;;
esac
