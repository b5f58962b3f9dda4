#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Prepare what the VM harness in tests/ boots, and run it.
#
#   harness.sh demo|vm|kunit [argument ...]   a command of the harness
#   harness.sh trials [filter ...]            its tests on both kernels
#   harness.sh kasan [filter ...]             the same with KASAN and kmemleak
#   harness.sh on KERNEL [filter ...]         its trials of Debian's kernels, on one of them, which
#                                             kernel.sh has the names of
#   harness.sh install [filter ...]           its trials of installed packages: test-install.sh
#
# tests/src/env.rs reads the variables that are set here.

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# Build the module for kernel $1 and tell the harness where both are; kernel $2
# is what the harness takes it for. Our own kernels have KUnit, and get the tests.
kernel() {
	local kdir out=$BUILD/$1 upper=${2:-$1} tests=y
	[[ $1 != stock* ]] || tests=n
	upper=${upper^^}
	"$TOP/scripts/kernel.sh" "$1"
	kdir=$("$TOP/scripts/kernel.sh" "$1" kdir)
	quietly "$BUILD/$1.log" "building the module for the $1 kernel" \
		"$TOP/scripts/build.sh" --output "$out" "$kdir" CONFIG_NETCONSOLE_EXT_KUNIT_TEST=$tests
	export "NCTEST_${upper}_KERNEL=$("$TOP/scripts/kernel.sh" "$1" image)" \
		"NCTEST_${upper}_ARCH=$GUEST_ARCH" "NCTEST_${upper}_KDIR=$kdir" "NCTEST_${upper}_MODULE=$out/netconsole_ext.ko" \
		"NCTEST_${upper}_PRELOAD=$("$TOP/scripts/kernel.sh" "$1" modules | tr '\n' ' ')"
}

# The guest's init, static because the guest has no libraries: the last step alone is another than
# for the harness, which so has all that is below it in common with it.
guest() {
	[ $GUEST_ARCH = amd64 ] || cross_compiled_guest
	quietly "$BUILD/guest.log" "building the guest's init" \
		"$TOP/scripts/cargo.sh" rustc -p nctest-guest --bin nctest-guest \
		${GUEST_TARGET:+--target "$GUEST_TARGET"} -- \
		-C target-feature=+crt-static -C strip=symbols
}

# What compiles it for another architecture.
cross_compiled_guest() {
	local cross
	cross=$(cross_prefix $GUEST_ARCH)
	need "${cross}gcc:gcc-${cross%-}" "/usr/${cross%-}/lib/libc.a:libc6-dev-$GUEST_ARCH-cross"
	"$TOP/scripts/toolchain.sh" $GUEST_ARCH >/dev/null
	export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=${cross}gcc
}

# The receiver, which some trials run as it is: with the checks of a build for development,
# which has most of what it needs in common with the harness.
ncrx() {
	# As the host's tests build it: with other features of its libraries it would be compiled again.
	quietly "$BUILD/ncrx.log" "building ncrx" \
		"$TOP/scripts/cargo.sh" test --workspace --exclude nctest --test program --no-run
	export NCTEST_NCRX=$BUILD/target/debug/ncrx
}

# The harness itself: its command, or with "trials" its tests.
harness() {
	local what=(build -p nctest --bin nctest)
	case $COMMAND in trials | kasan | on | install) what=(test -p nctest --test vm --no-run) ;; esac
	quietly "$BUILD/harness.log" "building the harness" "$TOP/scripts/cargo.sh" "${what[@]}"
}

# A busybox with libraries cannot run in the guest.
busybox() {
	export NCTEST_BUSYBOX=/bin/busybox
	if [ $GUEST_ARCH != amd64 ]; then
		NCTEST_BUSYBOX=$("$TOP/scripts/busybox-$GUEST_ARCH.sh")/usr/bin/busybox
	elif [ ! -e $NCTEST_BUSYBOX ] || ldd $NCTEST_BUSYBOX >/dev/null 2>&1; then
		need "/no/static/busybox:busybox-static"
	fi
}

# Provide the things that these trials need beyond the test kernel, by their names.
for_trials() {
	local names
	names=$("$TOP/scripts/cargo.sh" test -q -p nctest --test vm -- --list "$@")
	# A guest with a firewall gets the host's nft, and so its libraries.
	need nft:nftables
	# And one that runs upstream's selftests gets what those call.
	need bash:bash ip:iproute2 socat:socat jq:jq udevadm:udev pkill:procps \
		depmod:kmod /usr/sbin/kexec:kexec-tools taskset:util-linux find:findutils awk:mawk grep:grep sed:sed
	if [[ $names = *"selftest::"* ]]; then
		NCTEST_KERNEL_SOURCE=$("$TOP/scripts/kernel.sh" test source)
		export NCTEST_KERNEL_SOURCE
	fi
	[[ $names != *stock* && $names != *"systemd::"* ]] || kernel stock
	[[ $names != *"program::"* && $names != *"systemd::"* ]] || ncrx
	if [[ $names = *"systemd::"* ]]; then
		# It runs the receiver as it is installed, but without what is for debuggers.
		need strip:binutils
		NCTEST_SYSTEMD=$("$TOP/scripts/systemd.sh")
		export NCTEST_SYSTEMD
	fi
}

COMMAND=${1:?usage: harness.sh demo|vm|kunit|trials|kasan|on|install [argument ...]}
shift
mkdir -p "$BUILD"
NAME="test" AS="test"
# Of the guests, as Debian names it, and what Rust calls it if it is not the host's.
GUEST_ARCH=amd64 GUEST_TARGET=
case $COMMAND in
demo | install) NAME=stock AS=stock ;;
on)
	NAME=${1:?usage: harness.sh on KERNEL [filter ...]} AS=stock
	export NCTEST_KERNELS=1
	[[ $NAME != *arm64* ]] || GUEST_ARCH=arm64 GUEST_TARGET=aarch64-unknown-linux-gnu
	shift
	;;
vm | kunit | trials) ;;
kasan) NAME=kasan NCTEST_KASAN=1 && export NCTEST_KASAN ;;
*) die "harness.sh knows no command '$COMMAND' (demo, vm, kunit, trials, kasan, on, install)" ;;
esac
case $GUEST_ARCH in
amd64) need qemu-system-x86_64:qemu-system-x86 ;;
arm64) need qemu-system-aarch64:qemu-system-arm ;;
esac
busybox
# Cargo's work beside the kernel's, which changes $! by its progress.
(guest && harness) &
CARGO=$!
kernel "$NAME" $AS
wait $CARGO || exit
export NCTEST_GUEST=$BUILD/target/${GUEST_TARGET:+$GUEST_TARGET/}debug/nctest-guest
case $COMMAND in trials | kasan) for_trials "$@" ;; esac
export NCTEST_OUT=${NCTEST_OUT:-$BUILD/$COMMAND} NCTEST_SNAPSHOTS=$BUILD/snapshots
mkdir -p "$NCTEST_OUT"

case $COMMAND in
trials | kasan | on | install) exec "$TOP/scripts/cargo.sh" test -q -p nctest --test vm -- "$@" ;;
esac
exec "$BUILD/target/debug/nctest" "$COMMAND" "$@"
