#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# shellcheck disable=SC2154
#
# dracut: with EARLY=yes in /etc/default/netconsole-ext the module is loaded
# before the root file system is there.

check() {
	# kdump's own initramfs is for dumps.
	[ -z "${IN_KDUMP:-}" ] && netconsole-ext early >/dev/null 2>&1
}

depends() { return 0; }

installkernel() {
	local device driver
	hostonly='' instmods netconsole_ext
	for device in $(netconsole-ext devices); do
		driver=$(readlink "/sys/class/net/$device/device/driver/module") || continue
		hostonly='' instmods "${driver##*/}"
	done
}

install() {
	mkdir -p "$initdir/etc/modprobe.d"
	echo "options netconsole_ext $(netconsole-ext early)" >"$initdir/etc/modprobe.d/netconsole-ext.conf"
	inst_hook pre-udev 50 "$moddir/load-netconsole-ext.sh"
}
