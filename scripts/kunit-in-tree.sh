#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Put the module into a kernel's source, and run its KUnit suites there by the
# kernel's own runner, which builds a kernel with the module built in (minutes)
# and boots it in QEMU. The compiler is the pinned one.
#
#   [ARCH=arm64] kunit-in-tree.sh SOURCE [argument of kunit.py run ...]

# As kunit.py calls it.
MACHINE=${ARCH:-x86_64}
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

SOURCE=$(realpath "${1:?usage: kunit-in-tree.sh SOURCE [argument of kunit.py run ...]}")
shift
need gcc:gcc make:make bc:bc bison:bison flex:flex perl:perl-base python3:python3 \
	/usr/include/libelf.h:libelf-dev
case $MACHINE in
x86_64) need qemu-system-x86_64:qemu-system-x86 ;;
arm64) need qemu-system-aarch64:qemu-system-arm ;;
*) die "the module is for x86_64 and arm64, not for ARCH=$MACHINE" ;;
esac
"$TOP/scripts/in-tree.sh" "$SOURCE"
kernel_tools gcc "$MACHINE"
cd "$SOURCE"
exec python3 tools/testing/kunit/kunit.py run --arch="$MACHINE" --jobs="$JOBS" \
	--kunitconfig=drivers/net/netconsole_ext --build_dir="$BUILD/kunit-in-tree-$MACHINE" \
	"${TOOLS[@]/#/--make_options=}" "$@"
