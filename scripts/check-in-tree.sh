#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Build this folder as drivers/net/netconsole_ext of the test kernel's source, as
# a module and as a part of the kernel, to prove that it can be put there.
#
# The source is a tree of links to the cached one, with three things of its own:
# drivers/net/{Kconfig,Makefile,netconsole_ext}. The new options are known to all
# Rust code, so the first run builds the kernel crate again; later runs do not,
# unless Kconfig has changed.

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
. "$TOP/scripts/checks.sh"

KDIR=$("$TOP/scripts/kernel.sh" test kdir)
SOURCE=$("$TOP/scripts/kernel.sh" test source)
TREE=$(dirname "$KDIR")/in-tree
OBJ=$TREE/obj
NET=$TREE/source/drivers/net
OURS=drivers/net/netconsole_ext
OPTIONS=(CONFIG_NETCONSOLE_EXT=m CONFIG_NETCONSOLE_EXT_KUNIT_TEST=y)
kernel_tools gcc

# A folder of links to all that is in another one.
links() {
	mkdir -p "$2"
	find "$1" -mindepth 1 -maxdepth 1 -exec ln -sfnt "$2" {} +
}

make_tree() {
	! cmp -s "$TOP/Kconfig" "$TREE/ready" || return 0
	rm -rf "$TREE/source" "$TREE/ready"
	links "$SOURCE" "$TREE/source"
	rm "$TREE/source/drivers"
	links "$SOURCE/drivers" "$TREE/source/drivers"
	rm "$NET"
	links "$SOURCE/drivers/net" "$NET"
	rm "$NET/Kconfig" "$NET/Makefile"
	sed '/^config NETCONSOLE$/i source "'$OURS'/Kconfig"\n' "$SOURCE/drivers/net/Kconfig" >"$NET/Kconfig"
	{
		cat "$SOURCE/drivers/net/Makefile"
		# shellcheck disable=SC2016
		echo 'obj-$(CONFIG_NETCONSOLE_EXT) += netconsole_ext/'
	} >"$NET/Makefile"
}

copy_folder() {
	rm -rf "$NET/netconsole_ext"
	"$TOP/scripts/module-sources.sh" "$NET/netconsole_ext"
}

kmake() { make -C "$TREE/source" O="$OBJ" "${TOOLS[@]}" HOSTRUSTFLAGS=-Copt-level=0 -j"$JOBS" "$@"; }

prepare() {
	make_tree
	copy_folder
	mkdir -p "$OBJ"
	[ ! -e "$TREE/ready" ] || return 0
	cp "$KDIR/.config" "$OBJ/.config"
	printf '%s\n' "${OPTIONS[@]}" >>"$OBJ/.config"
	kmake olddefconfig
	for option in "${OPTIONS[@]}"; do
		grep -qx "$option" "$OBJ/.config" || die "Kconfig does not allow $option"
	done
	kmake prepare
	cp "$TOP/Kconfig" "$TREE/ready"
}

# There is no vmlinux here to find the kernel's symbols in; that they are there is
# proved by every build outside the tree.
as_module() {
	kmake KBUILD_MODPOST_WARN=1 "$OURS/netconsole_ext.ko"
	[ -e "$OBJ/$OURS/netconsole_ext.ko" ]
}
built_in() {
	kmake CONFIG_NETCONSOLE_EXT=y "$OURS/"
	[ -e "$OBJ/$OURS/built-in.a" ]
}

lock in-tree
check in-tree-prepare prepare
check in-tree-module as_module
check in-tree-built-in built_in
finish
