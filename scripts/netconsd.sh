#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Provide Debian 13's netconsd with all that it needs, unpacked and not
# installed, to be measured beside ncrx, and print where. Delete that directory
# for a newer one.

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
. "$TOP/scripts/debian.sh"

ROOT=$CACHE/netconsd-13

provide() {
	local plan packages
	apt_index
	# Nothing is installed as far as the private apt knows: that is all packages.
	plan=$(private_apt apt-get -s install --no-install-recommends netconsd)
	mapfile -t packages < <(awk '$1 == "Inst" { print $2 }' <<<"$plan")
	[ ${#packages[@]} -gt 0 ] || die "Debian 13 has no netconsd"
	say "fetching Debian's netconsd"
	rm -rf "$ROOT.tmp"
	unpack "$ROOT.tmp" "${packages[@]}"
	mv "$ROOT.tmp" "$ROOT"
}

if [ ! -d "$ROOT" ]; then
	lock netconsd
	[ -d "$ROOT" ] || provide
fi
echo "$ROOT"
