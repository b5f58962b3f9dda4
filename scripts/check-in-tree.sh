#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Build this folder as drivers/net/netconsole_ext of the test kernel's source, as
# a module and as a part of the kernel, to prove that it can be put there.
#
# The source is a tree of links to the cached one, with folders of its own where
# in-tree.sh writes. The new options are known to all Rust code, so the first run
# builds the kernel crate again; later runs do not, unless Kconfig has changed.
#
# The series of patches is made as well: it must be the same folder, and
# checkpatch must have no complaint.

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
. "$TOP/scripts/checks.sh"

KDIR=$("$TOP/scripts/kernel.sh" test kdir)
SOURCE=$("$TOP/scripts/kernel.sh" test source)
TREE=$(dirname "$KDIR")/in-tree
OBJ=$TREE/obj
OURS=drivers/net/netconsole_ext
OPTIONS=(CONFIG_NETCONSOLE_EXT=m CONFIG_NETCONSOLE_EXT_KUNIT_TEST=y)
kernel_tools gcc

# A folder of links to all that is in another one.
links() {
	mkdir -p "$2"
	find "$1" -mindepth 1 -maxdepth 1 -exec ln -sfnt "$2" {} +
}

# Have this folder of the tree, and those it is in, be folders and no links.
own() {
	local parent
	parent=$(dirname "$1")
	[ "$parent" = . ] || own "$parent"
	[ -L "$TREE/source/$1" ] || return 0
	rm "$TREE/source/$1"
	links "$SOURCE/$1" "$TREE/source/$1"
}

make_tree() {
	[ -d "$TREE/source" ] || links "$SOURCE" "$TREE/source"
	own drivers/net
	own Documentation/networking
	cmp -s "$TOP/Kconfig" "$TREE/ready" || rm -f "$TREE/ready"
	"$TOP/scripts/in-tree.sh" "$TREE/source"
}

kmake() { make W=1 -C "$TREE/source" O="$OBJ" "${TOOLS[@]}" HOSTRUSTFLAGS=-Copt-level=0 -j"$JOBS" "$@"; }

prepare() {
	make_tree
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

# Kbuild does not fail for what the compiler or objtool warns of: that is done here. (modpost's
# WARNINGs are in capitals.)
build() {
	local log=$BUILD/in-tree-build.log
	kmake "$@" 2>&1 | tee "$log"
	! grep -q 'warning:' "$log"
}

# There is no vmlinux here to find the kernel's symbols in; that they are there is
# proved by every build outside the tree.
as_module() {
	build KBUILD_MODPOST_WARN=1 "$OURS/netconsole_ext.ko"
	[ -e "$OBJ/$OURS/netconsole_ext.ko" ]
}
built_in() {
	build CONFIG_NETCONSOLE_EXT=y "$OURS/"
	[ -e "$OBJ/$OURS/built-in.a" ]
}

# After the last patch the source has what in-tree.sh puts there.
patches() {
	local dir=$BUILD/series f
	rm -rf "$dir"
	mkdir -p "$dir"/{patched,wanted}
	"$TOP/scripts/patches.sh" "$SOURCE" "$dir"
	for f in patched wanted; do
		(cd "$SOURCE" && cp --parents drivers/net/{Kconfig,Makefile} Documentation/networking/index.rst "$dir/$f/")
	done
	for f in "$dir"/*-net-*.patch; do
		patch -sp1 -d "$dir/patched" <"$f"
	done
	"$TOP/scripts/in-tree.sh" "$dir/wanted"
	diff -r "$dir/patched" "$dir/wanted"
}

# Lines over 100 columns are rows of tables; MAINTAINERS is for who sends it.
checkpatch() {
	need perl:perl-base
	(cd "$SOURCE" && perl scripts/checkpatch.pl --no-tree --quiet --no-summary \
		--ignore FILE_PATH_CHANGES,LONG_LINE,LONG_LINE_COMMENT,LONG_LINE_STRING "$BUILD/series"/*-net-*.patch)
}

lock in-tree
check in-tree-prepare prepare
check in-tree-module as_module
check in-tree-built-in built_in
need git:git patch:patch
check in-tree-patches patches
check in-tree-checkpatch checkpatch
finish
