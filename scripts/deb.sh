#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Build Debian packages into build/deb, or DIR: the module for the stock kernel,
# its sources for DKMS, and the receiver. KERNEL=stock-7.3-amd64 names another
# one of Debian's kernels, as kernel.sh does.
#
#   deb.sh [DIR]
#
# debian/ is packed from a copy, in which the release of the kernel is filled in.
# SIGN_KEY= and SIGN_CERT= name the key and certificate (PEM; the key may be a
# PKCS#11 URI) that the module is signed with. NCRX= names a receiver that is
# already built.

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

TO=$(realpath -m "${1:-$TOP/build/deb}")
WORK=$BUILD/deb
KERNEL=${KERNEL:-stock}
[[ $KERNEL != *arm64* ]] ||
	die "packages are of amd64 alone; the module: make KDIR=\$(scripts/kernel.sh $KERNEL kdir)"
[[ $KERNEL = stock* ]] || die "KERNEL=$KERNEL is none of Debian's: KERNEL=stock-7.3-amd64, for one"

# Debian's kernel's name for itself, from the path of its image.
stock_release() { basename "$(dirname "$("$TOP/scripts/kernel.sh" "$KERNEL" image)")"; }

build_module() {
	local kdir
	kdir=$("$TOP/scripts/kernel.sh" "$KERNEL" kdir)
	# The harness's own build of it, if there is one.
	quietly "$BUILD/$KERNEL.log" "building the module for Linux $RELEASE" \
		"$TOP/scripts/build.sh" --output "$BUILD/$KERNEL" "$kdir" CONFIG_NETCONSOLE_EXT_KUNIT_TEST=n
	MODULE=$WORK/netconsole_ext.ko
	objcopy --strip-debug "$BUILD/$KERNEL/netconsole_ext.ko" "$MODULE"
	[ -n "${SIGN_KEY:-}" ] || return 0
	"$kdir/scripts/sign-file" sha512 "$SIGN_KEY" "${SIGN_CERT:?SIGN_KEY needs SIGN_CERT}" "$MODULE"
}

# The sources, committed yet or not, with debian/ filled in.
copy_sources() {
	local file
	(cd "$TOP" && git ls-files -co --exclude-standard | { xargs -d '\n' ls -d 2>/dev/null || true; } |
		xargs -d '\n' cp -a --parents -t "$WORK/source")
	cd "$WORK/source/debian"
	sed "s/@RELEASE@/$RELEASE/g" control.in >control
	for file in modules.*.in; do
		file=${file%.in}
		sed "s/@RELEASE@/$RELEASE/g" "$file.in" >"netconsole-ext-modules-$RELEASE.${file#modules.}"
	done
	cd ..
}

need dpkg-buildpackage:dpkg-dev dh:debhelper dh_dkms:dh-dkms objcopy:binutils fakeroot:fakeroot
lock deb
RELEASE=$(stock_release)
rm -rf "$WORK"
mkdir -p "$WORK/source" "$TO"
build_module
if [ -z "${NCRX:-}" ]; then
	make -s -C "$TOP" ncrx
	NCRX=$TOP/build/release/ncrx
fi
export RELEASE MODULE NCRX
copy_sources
quietly "$BUILD/deb.log" "packing" dpkg-buildpackage --build=binary --no-sign --no-check-builddeps
rm -f "$TO"/*.deb
cp "$WORK"/*.deb "$TO"
ls "$TO"/*.deb
