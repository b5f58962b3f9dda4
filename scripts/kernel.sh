#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Provide one of the kernels, and print where its parts are.
#
#   kernel.sh WHICH            provide it (nothing to do if it is there)
#   kernel.sh WHICH kdir       the directory to build modules against
#   kernel.sh WHICH image      what QEMU boots
#   kernel.sh WHICH modules    the .ko files a guest must load first, in order
#   kernel.sh WHICH source     the kernel's source
#
# test:  built here from tests/kernel.config, full of checks.
# kasan: the same with tests/kasan.config on top: every access to memory is
#        checked as well.
# stock: Debian's own cloud kernel, unchanged. Debian's headers carry no Rust
#        metadata, so that part of the build directory is made here, from the
#        same source and configuration with the same compiler.
# stock-SERIES-FLAVOUR: another one of Debian's: stock-7.3-amd64,
#        stock-7.3-rt-amd64, stock-7.3-cloud-arm64; "stock" is
#        stock-7.3-cloud-amd64.
#
# Which 7.3.y it is gets settled once, when the cache is empty, and is then
# remembered in $CACHE/kernel-7.3: a warm cache asks no one. To move to the
# newest one, delete that file.

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
. "$TOP/scripts/debian.sh"

WHICH=${1:-}
PART=${2:-}
COMPILER=gcc
# As Kbuild names it.
ARCHITECTURE=x86
[ "$WHICH" != stock ] || WHICH=stock-$SERIES-cloud-amd64
# shellcheck disable=SC2034
case $WHICH in
test | kasan) KIND="test" ;;
# A flavour may have dashes of its own.
stock-?*.?*-?*) KIND=stock && IFS=- read -r _ SERIES FLAVOUR <<<"$WHICH" ;;
*) die "usage: kernel.sh test|kasan|stock|stock-<series>-<flavour> [kdir|image|modules|source]" \
	"(stock-7.3-amd64, for one), not '$WHICH'" ;;
esac
REMEMBERED=$CACHE/kernel-$SERIES
TARBALL=${NETCONSOLE_EXT_KERNEL_TARBALL:-}

# The newest kernel of the series of which Debian has image and source in the same version,
# as "<release> <package version>"; "none <series>" if it has none. The flavours have it in common.
newest() {
	local version package
	version=$(private_apt apt-cache madison "linux-source-$SERIES" 2>/dev/null |
		awk '{ print $3; exit }')
	for package in $(private_apt apt-cache pkgnames "linux-headers-$SERIES."); do
		[[ $package = *-cloud-amd64 ]] || continue
		private_apt apt-cache madison "$package" | grep -qF " $version " || continue
		package=${package#linux-headers-}
		echo "${package%-cloud-amd64} $version"
		return
	done
	echo "none $SERIES"
}

# Set RELEASE and VERSION, and SOURCE, where that version's source belongs.
settle_version() {
	if [ -n "$TARBALL" ]; then
		VERSION=$(basename "$TARBALL")
		RELEASE=none VERSION=${VERSION%.tar.*}
	else
		if [ ! -s "$REMEMBERED" ]; then
			apt_index
			newest >"$REMEMBERED.tmp"
			mv "$REMEMBERED.tmp" "$REMEMBERED"
		fi
		read -r RELEASE VERSION <"$REMEMBERED"
	fi
	SOURCE=$CACHE/source-${VERSION//[^a-zA-Z0-9.-]/-}
}

# A tarball of the source, in the directory $1: the one that was named, or
# Debian's, or, when Debian has moved on to another series, kernel.org's. (The
# download from kernel.org is untried: the machines it was written on reach
# only package registries. Unpacking and building such a tarball is tried.)
get_tarball() {
	if [ -n "$TARBALL" ]; then
		ln -s "$(realpath "$TARBALL")" "$1/linux.tar"
	elif [ "$RELEASE" != none ]; then
		say "fetching Debian's source of Linux $VERSION (about 160 MB)"
		unpack "$1" "linux-source-$SERIES=$VERSION"
		mv "$1/usr/src/linux-source-$SERIES.tar.xz" "$1/linux.tar"
	else
		say "Debian has no Linux $SERIES any more: fetching kernel.org's (about 150 MB)"
		need curl:curl
		curl -fLsS --retry 3 -o "$1/linux.tar" \
			"https://cdn.kernel.org/pub/linux/kernel/v${SERIES%%.*}.x/linux-$SERIES.tar.xz" ||
			die "no Linux $SERIES from kernel.org; name one that is here: NETCONSOLE_EXT_KERNEL_TARBALL=<file>"
	fi
}

provide_source() {
	[ ! -d "$SOURCE" ] || return 0
	need xz:xz-utils
	lock source
	[ ! -d "$SOURCE" ] || return 0
	local tmp=$SOURCE.tmp
	rm -rf "$tmp"
	mkdir -p "$tmp/tree"
	get_tarball "$tmp"
	say "unpacking the kernel's source"
	tar -xf "$tmp/linux.tar" -C "$tmp/tree" --strip-components=1
	[ -e "$tmp/tree/rust/kernel/lib.rs" ] || die "no Linux source with Rust in ${TARBALL:-the package of Debian}"
	mv "$tmp/tree" "$SOURCE"
	rm -rf "$tmp"
}

# Kbuild on the source, into $OBJ. The procedural macros run so briefly that it
# does not pay to optimize them: everything else in Rust waits for them.
kmake() {
	make -C "$SOURCE" O="$OBJ" "${TOOLS[@]}" HOSTRUSTFLAGS=-Copt-level=0 -j"$((JOBS + 1))" "$@"
}

# The host's programs that every build needs.
prepare_build() {
	need gcc:gcc make:make bc:bc bison:bison flex:flex perl:perl-base openssl:openssl kmod:kmod \
		/usr/include/libelf.h:libelf-dev /usr/include/openssl/ssl.h:libssl-dev
	kernel_tools "$COMPILER" "$ARCHITECTURE"
	provide_source
	mkdir -p "$OBJ"
	# Debian's Makefile reads this, for who calls make in that directory by hand.
	printf '%s\n' "${TOOLS[@]}" >"$OBJ/.kernelvariables"
}

settle_version
# shellcheck source=/dev/null
. "$TOP/scripts/kernel-$KIND.sh"
if [ ! -e "$READY" ]; then
	lock "$WHICH-kernel"
	[ -e "$READY" ] || provide_kernel
fi
case $PART in
"") say "the $WHICH kernel is ready: $OBJ" ;;
kdir) echo "$OBJ" ;;
image) echo "$IMAGE" ;;
source) echo "$SOURCE" ;;
modules) cat "$PRELOAD" ;;
*) die "kernel.sh knows no part '$PART' (kdir, image, modules, source)" ;;
esac
