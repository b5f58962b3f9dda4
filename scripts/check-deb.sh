#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Build the packages, have lintian look at them, and see that they have what they
# should. The receiver in them is the one of the trials, for the sake of time.

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
. "$TOP/scripts/checks.sh"

DEBS=$BUILD/debs
NCRX=$BUILD/target/debug/ncrx
export NCRX

need lintian:lintian
RELEASE=$(basename "$(dirname "$("$TOP/scripts/kernel.sh" stock image)")")

packed() {
	"$TOP/scripts/cargo.sh" build -p ncrx
	"$TOP/scripts/deb.sh" "$DEBS"
}

# Without errors; of what is below that only what is known.
no-complaints() { lintian --allow-root --fail-on error,warning --suppress-tags "$KNOWN" "$DEBS"/*.deb; }
# There is no bug in Debian that asks for it.
KNOWN=initial-upload-closes-no-bugs

# Succeed if a package has this file.
has() { dpkg-deb -c "$DEBS/$1"_*.deb | awk '{ print $6 }' | grep -xF "./$2" >/dev/null || die "$1 has no /$2"; }

contents() {
	has "netconsole-ext-modules-$RELEASE" "usr/lib/modules/$RELEASE/updates/netconsole_ext.ko"
	has netconsole-ext-dkms usr/src/netconsole_ext-0.1.0/dkms.conf
	has netconsole-ext-dkms usr/src/netconsole_ext-0.1.0/Kbuild
	has netconsole-ext-dkms usr/src/netconsole_ext-0.1.0/proto/wire.rs
	has netconsole-ext usr/sbin/netconsole-ext
	has netconsole-ext etc/default/netconsole-ext
	has netconsole-ext usr/share/initramfs-tools/hooks/netconsole-ext
	has netconsole-ext usr/lib/dracut/modules.d/90netconsole-ext/module-setup.sh
	has ncrx usr/bin/ncrx
	has ncrx usr/share/man/man1/ncrx.1.gz
	has ncrx usr/share/bash-completion/completions/ncrx
}

# The module fits that kernel.
module-fits() {
	local dir=$DEBS/module
	rm -rf "$dir"
	dpkg-deb -x "$DEBS/netconsole-ext-modules-$RELEASE"_*.deb "$dir"
	modinfo -F vermagic "$dir/usr/lib/modules/$RELEASE/updates/netconsole_ext.ko" | grep -F "$RELEASE "
}

# "make uninstall" removes all files of "make install", but for the configuration.
installs() {
	local root=$BUILD/installed left
	rm -rf "$root"
	make -s -C "$TOP" install-service install-dkms install-ncrx DESTDIR="$root" NCRX="$NCRX"
	grep -F "ExecStart=/usr/local/sbin/netconsole-ext start" "$root/usr/local/lib/systemd/system/netconsole-ext.service"
	make -s -C "$TOP" uninstall DESTDIR="$root"
	left=$(cd "$root" && find . -type f)
	[ "$left" = ./etc/default/netconsole-ext ] || die "left: $left"
}

# The probe of DKMS says what a folder of headers lacks, and how to get it.
probe-says() {
	local kdir=$BUILD/headers stock said
	stock=$("$TOP/scripts/kernel.sh" stock kdir)
	rm -rf "$kdir"
	says "$kdir" "apt install linux-headers-1.2"
	mkdir -p "$kdir/rust"
	touch "$kdir/Makefile"
	says "$kdir" "has no Rust"
	grep RUST "$stock/.config" >"$kdir/.config"
	says "$kdir" "apt install netconsole-ext-modules-1.2"
	touch "$kdir/rust/libkernel.rmeta"
	RUSTC=/no/rustc says "$kdir" "rustc is missing"
	RUSTC="echo rustc 1.2.3" says "$kdir" "rustc is another (rustc 1.2.3 --version)"
	said=$("$TOP/scripts/toolchain.sh")/rustc
	RUSTC=$said BINDGEN=/no/bindgen says "$kdir" "apt install bindgen"
	RUSTC=$said BINDGEN=true "$TOP/dist/dkms-probe" "$kdir" 1.2
	# For DKMS it is no error, which would stop apt, and yet it says so.
	[ "$(RUSTC=$said BINDGEN=true excluded 2>&1)" = "" ]
	excluded 2>/dev/null | grep -x none
	excluded 2>&1 | grep -F "rustc is missing"
}
# What dkms.conf says of such a kernel.
excluded() {
	RUSTC=${RUSTC:-/no/rustc} kernelver=1.2 kernel_source_dir=$BUILD/headers dkms_tree=/var/lib/dkms bash -c \
		". '$TOP/dist/dkms.conf'; echo \$BUILD_EXCLUSIVE_KERNEL"
}
says() {
	local said
	! said=$("$TOP/dist/dkms-probe" "$1" 1.2 2>&1) || die "it finds nothing that is missing"
	grep -F "$2" <<<"$said" || die "it says: $said"
}

lock check-deb
check deb-packed packed
check deb-lintian no-complaints
check deb-contents contents
check deb-module-fits module-fits
check make-install installs
check dkms-probe probe-says
finish
