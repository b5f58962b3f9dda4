# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034,SC2153
#
# The stock kernel: one of Debian's own, unchanged, by default that for cloud
# machines, and a directory to build modules for it. Part of kernel.sh.

[ "$RELEASE" != none ] ||
	die "Debian's backports have no Linux $SERIES in binary and source: there is no stock kernel" \
		"(KDIR=<dir> names one of yours; to look again: rm $REMEMBERED)"
# The version's index was read by amd64's names; from here on it is the flavour's own.
[[ $FLAVOUR != *arm64* ]] || ARCHITECTURE=arm64 DEBIAN_ARCH=arm64
UNAME=$RELEASE-$FLAVOUR
DIR=$CACHE/stock-$UNAME
OBJ=$DIR/obj
IMAGE=$DIR/debian/usr/lib/modules/$UNAME/vmlinuz
PRELOAD=$DIR/preload
READY=$DIR/ready
# The modules that a guest needs; those that are built in or do not exist are left
# out. QEMU's other network card, e1000, is not in the cloud kernel.
WANTED=(virtio_pci virtio_net virtio_console configfs)

provide_packages() {
	[ ! -d "$DIR/debian" ] || return 0
	local p packages=() tmp=$DIR/debian.tmp binary=linux-binary
	say "fetching Debian's kernel $UNAME (40 MB, or 150 MB with all drivers)"
	apt_index
	[ -n "$(private_apt apt-cache madison "linux-headers-$UNAME")" ] ||
		die "Debian has no flavour '$FLAVOUR' of Linux $RELEASE; it has $(flavours)"
	# Debian's signed image, or what it was made from while that is not out yet.
	[ -n "$(private_apt apt-cache madison "$binary-$UNAME")" ] || binary=linux-binary-unsigned
	for p in "$binary" linux-modules linux-headers; do
		private_apt apt-cache madison "$p-$UNAME" | grep -qF " $VERSION " ||
			die "Debian has moved on from Linux $VERSION; to take its newest: rm $REMEMBERED"
		packages+=("$p-$UNAME=$VERSION")
	done
	rm -rf "$tmp"
	unpack "$tmp" "${packages[@]}"
	mv "$tmp" "$DIR/debian"
}

# The flavours that Debian has of this release.
flavours() {
	private_apt apt-cache pkgnames "linux-headers-$RELEASE-" | sed "s/^linux-headers-$RELEASE-//; /^common/d" |
		sort | paste -sd' '
}

# The path of a module of the package, unpacked; nothing if there is none.
module_file() {
	local packed file
	packed=$(find "$DIR/debian" \( -name "$1.ko*" -o -name "${1//_/-}.ko*" \) -print -quit)
	[ -n "$packed" ] || return 0
	file=$DIR/modules/$1.ko
	case $packed in
	*.xz) xz -dc "$packed" ;;
	*.zst) zstd -qdc "$packed" ;;
	*) cat "$packed" ;;
	esac >"$file"
	echo "$file"
}

# Print a module's file after those it depends on.
load_order() {
	local name file dependencies
	for name in "$@"; do
		file=$(module_file "${name//-/_}")
		[ -n "$file" ] || continue
		dependencies=$(modinfo -F depends "$file")
		# shellcheck disable=SC2086
		load_order ${dependencies//,/ }
		echo "$file"
	done
}

# Kconfig asks the host's tools for their versions, and what depends on them can
# change structures that modules share with the kernel: without pahole, for one,
# task_struct and struct module come out otherwise. pahole is not run for modules,
# so it is enough that something gives the version that Debian's was.
pretend_pahole() {
	local version
	version=$(sed -n 's/^CONFIG_PAHOLE_VERSION=//p' "$1")
	printf '#!/bin/sh\necho v%s.%s\n' "${version%??}" "${version#?}" >"$DIR/pahole"
	chmod +x "$DIR/pahole"
	echo "PAHOLE=$DIR/pahole" >>"$OBJ/.kernelvariables"
}

# The kernel's own Rust is in Debian's image; here are needed only the metadata that modules are
# compiled against, and the procedural macros. So nothing but the macros is translated (the metadata
# are the same to the byte), and for what Kbuild wants to see as objects there are empty ones. Nor
# does it pay to optimize what the macros are made of.
metadata_only() {
	"$(cross_prefix "$ARCHITECTURE")gcc" -c -x c /dev/null -o "$DIR/empty.o"
	cat >"$DIR/rustc" <<-EOF
		#!/bin/bash
		for arg; do
			case \$arg in
			--emit=obj=*) object=\${arg#*obj=} ;;
			-O) continue ;;
			esac
			args+=("\$arg")
		done
		[ -n "\${object:-}" ] || exec $1 "\${args[@]}"
		$1 -Zno-codegen "\${args[@]}" && cp $DIR/empty.o "\$object"
	EOF
	chmod +x "$DIR/rustc"
}

# Show the settings that differ from Debian's, but for those that name the tools.
compare_config() {
	local different
	different=$(diff <(grep '^CONFIG_' "$1") <(grep '^CONFIG_' "$OBJ/.config") |
		sed -n 's/^[<>] //p' |
		grep -vE '^CONFIG_((CC|GCC|AS|LD|OPENSSL)_|MODULE_SIG_KEY_TYPE|DEBUG_INFO_COMPRESSED)' || true)
	[ -z "$different" ] || say "settings other than Debian's, harmless unless they change a structure: ${different//$'\n'/ }"
}

provide_kernel() {
	local headers=$DIR/debian/usr/src/linux-headers-$UNAME
	need xz:xz-utils zstd:zstd
	prepare_build
	provide_packages
	rm -rf "$DIR/modules"
	mkdir -p "$DIR/modules"
	load_order "${WANTED[@]}" | awk '!seen[$0]++' >"$PRELOAD"
	cp "$headers/.config" "$headers/Module.symvers" "$OBJ/"
	pretend_pahole "$OBJ/.config"
	quietly "$DIR/config.log" "configuring as Debian did" kmake KERNELRELEASE="$UNAME" olddefconfig
	compare_config "$headers/.config"
	# Tools for BTF are of no use without a vmlinux: the empty setting leaves them out.
	metadata_only "$("$TOP/scripts/toolchain.sh")/rustc"
	quietly "$DIR/build.log" "making Rust's metadata for Debian's kernel (about 80 s)" \
		kmake RUSTC="$DIR/rustc" KERNELRELEASE="$UNAME" CONFIG_DEBUG_INFO_BTF= modules_prepare
	touch "$READY"
}
