#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Put the module into a kernel's source, as drivers/net/netconsole_ext, with what
# makes Kconfig, Kbuild and the documentation find it. What is there already is
# brought up to date.
#
#   in-tree.sh SOURCE

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

SOURCE=$(realpath "${1:?usage: in-tree.sh SOURCE}")
NET=$SOURCE/drivers/net
PAGES=$SOURCE/Documentation/networking
for f in "$NET/Kconfig" "$NET/Makefile" "$PAGES/index.rst"; do
	[ -e "$f" ] || die "$SOURCE is no source of a kernel: there is no $f"
done

# Insert lines into a file, before or after the line that matches, unless it has the first of them.
#   hook FILE LINE SED_ADDRESS i|a TEXT
hook() {
	! grep -qxF "$2" "$1" || return 0
	sed -i "$3$4\\$5" "$1"
	grep -qxF "$2" "$1" || die "there is no place for '$2' in $1"
}

rm -rf "$NET/netconsole_ext"
"$TOP/scripts/module-sources.sh" "$NET/netconsole_ext"
hook "$NET/Kconfig" 'source "drivers/net/netconsole_ext/Kconfig"' '/^config NETCONSOLE$/' i \
	'source "drivers/net/netconsole_ext/Kconfig"\n'
# shellcheck disable=SC2016
hook "$NET/Makefile" 'obj-$(CONFIG_NETCONSOLE_EXT) += netconsole_ext/' '/^obj-$(CONFIG_NETCONSOLE) +=/' a \
	'obj-$(CONFIG_NETCONSOLE_EXT) += netconsole_ext/'
cp "$TOP/docs/netconsole_ext.rst" "$PAGES/"
hook "$PAGES/index.rst" '   netconsole_ext' '/^   netconsole$/' a '   netconsole_ext'
