#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Try the packages on an installed Debian 13 with systemd, in a VM: apt install,
# one line of configuration, a record that is acked, reboots, a panic, a bridge,
# NetworkManager, an upgrade, a purge.
#
#   test-install.sh [filter ...]
#
# The first run installs that system, minutes and as root. It is no part of
# `make test`.

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

case ${1:-} in
-h | --help)
	sed -n '4,11s/^# \?//p' "$0"
	exit
	;;
esac

# The same packages with a higher version.
newer() {
	local deb dir=$BUILD/install/unpacked
	mkdir "$NCTEST_DEBS/newer"
	for deb in "$NCTEST_DEBS"/*.deb; do
		rm -rf "$dir"
		dpkg-deb -R "$deb" "$dir"
		sed -i 's/^Version: .*/&+newer/' "$dir/DEBIAN/control"
		dpkg-deb --root-owner-group -b "$dir" "$NCTEST_DEBS/newer/${deb##*/}" >/dev/null
	done
}

need qemu-system-x86_64:qemu-system-x86 debugfs:e2fsprogs
NCTEST_DISK=$("$TOP/scripts/debian-disk.sh")
NCTEST_DEBS=$BUILD/install/debs
export NCTEST_DISK NCTEST_DEBS NCTEST_OUT=$BUILD/install/trials
rm -rf "$BUILD/install/debs"
mkdir -p "$NCTEST_DEBS"
# The receiver is packed, too: that of the host's tests will do.
quietly "$BUILD/ncrx.log" "building ncrx" "$TOP/scripts/cargo.sh" build -p ncrx
NCRX=$BUILD/target/debug/ncrx "$TOP/scripts/deb.sh" "$NCTEST_DEBS" >/dev/null
newer
say "not tried: Linux 7.2.12, which the module does not support (docs/kernels.md says why)"
rc=0
"$TOP/scripts/harness.sh" install --test-threads=1 "${@:-installed::}" | tee "$BUILD/install/log" || rc=$?
sed -nE 's/.*\b([0-9]+ passed); ([0-9]+ failed).*/\1, \2/p' "$BUILD/install/log"
[ "$rc" -ne 0 ] || rm -f "$NCTEST_OUT"/installed/*/disk
exit $rc
