#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Provide Debian 13's systemd with all that it needs, and what the service calls
# beside it, unpacked and not installed, for the guest whose PID 1 it is, and
# print where: the release that whoever has Debian's 7.3 kernel runs. Delete that
# directory for a newer one.

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
. "$TOP/scripts/debian.sh"

ROOT=$CACHE/systemd-13-r1

provide() {
	local plan packages
	apt_index
	# Nothing is installed as far as the private apt knows: that is all packages.
	plan=$(private_apt apt-get -s install --no-install-recommends systemd procps \
		bash iproute2 kmod libc-bin util-linux)
	mapfile -t packages < <(awk '$1 == "Inst" { print $2 }' <<<"$plan")
	[ ${#packages[@]} -gt 0 ] || die "Debian 13 has no systemd"
	say "fetching Debian's systemd (15 MB)"
	rm -rf "$ROOT.tmp"
	unpack "$ROOT.tmp" "${packages[@]}"
	mv "$ROOT.tmp" "$ROOT"
}

if [ ! -d "$ROOT" ]; then
	lock systemd
	[ -d "$ROOT" ] || provide
fi
echo "$ROOT"
