#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Provide the disk of a machine with Debian 13 and its backports' kernel, as they
# are installed: systemd, networkd, NetworkManager, initramfs-tools. Print where.
#
# It is an ext4 file system without a table of partitions or a boot loader: who
# boots it takes kernel and initramfs out of it by debugfs, as a boot loader would.
# Packages are installed in a chroot, so it needs root.

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
. "$TOP/scripts/debian.sh"

RELEASE=$(basename "$(dirname "$("$TOP/scripts/kernel.sh" stock image)")")
DISK=$CACHE/disk-13-r1-$RELEASE.ext4
PACKAGES=(systemd-sysv dbus udev initramfs-tools busybox kmod zstd iproute2 procps
	network-manager)

# Run a program of that system, which must start no service.
inside() {
	unshare --mount sh -c "mount -t proc proc '$ROOT/proc' && exec chroot '$ROOT' \"\$@\"" sh \
		env PATH=/usr/sbin:/usr/bin DEBIAN_FRONTEND=noninteractive "$@"
}

# All in one, since "quietly" hides the failure of a single command.
install_debian() {
	local url apt=$ROOT/etc/apt
	url=$(mirror)
	debootstrap --variant=minbase --include="$(IFS=, && echo "${PACKAGES[*]}")" trixie "$ROOT" "$url" &&
		echo "deb $url trixie-backports main" >"$apt/sources.list.d/backports.list" &&
		printf '#!/bin/sh\nexit 101\n' >"$ROOT/usr/sbin/policy-rc.d" &&
		chmod +x "$ROOT/usr/sbin/policy-rc.d" &&
		printf '/dev/vda / ext4 defaults 0 1\n' >"$ROOT/etc/fstab" &&
		echo machine >"$ROOT/etc/hostname" &&
		inside apt-get update &&
		inside apt-get install -y --no-install-recommends -t trixie-backports "linux-image-$RELEASE" &&
		inside systemctl enable systemd-networkd &&
		inside systemctl disable NetworkManager NetworkManager-wait-online systemd-networkd-wait-online &&
		inside apt-get clean &&
		rm "$ROOT/usr/sbin/policy-rc.d" "$apt/sources.list.d/backports.list" "$ROOT"/var/lib/apt/lists/*_*
}

provide_disk() {
	need debootstrap:debootstrap mke2fs:e2fsprogs /usr/share/debootstrap/scripts/trixie:debootstrap
	[ "$(id -u)" = 0 ] || die "Debian is installed in a chroot: only root can make $DISK"
	apt_index
	ROOT=$CACHE/disk.tmp
	rm -rf --one-file-system "$ROOT"
	quietly "$CACHE/disk.log" "installing Debian 13 with Linux $RELEASE (minutes)" install_debian
	rm -f "$DISK.tmp"
	quietly "$CACHE/disk-mke2fs.log" "making its disk" \
		mke2fs -q -t ext4 -d "$ROOT" -E root_owner=0:0 "$DISK.tmp" 3G
	mv "$DISK.tmp" "$DISK"
	rm -rf --one-file-system "$ROOT"
}

if [ ! -e "$DISK" ]; then
	lock disk
	[ -e "$DISK" ] || provide_disk
fi
echo "$DISK"
