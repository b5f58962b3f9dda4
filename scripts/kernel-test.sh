# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034
#
# The test kernel: nothing but tests/kernel.config, and tests/kasan.config if
# it is to be that one. Part of kernel.sh.

FRAGMENTS=("$TOP/tests/kernel.config")
if [ "$WHICH" = kasan ]; then
	FRAGMENTS+=("$TOP/tests/kasan.config")
	# Kconfig has KASAN for Rust with nothing else.
	COMPILER=clang
fi
# Its settings and the compiler, so that a change of either makes another kernel
# beside this one, and a change of a comment makes none.
settings() {
	grep -h '^CONFIG_' "${FRAGMENTS[@]}" | sort
	basename "$SOURCE"
	[ "$COMPILER" = gcc ] || echo "$COMPILER"
	sed -n 's/^TOOLCHAIN=//p' "$TOP/scripts/toolchain.sh"
}
DIR=$CACHE/$WHICH-$(settings | sha256sum | cut -c1-12)
OBJ=$DIR/obj
IMAGE=$OBJ/arch/x86/boot/bzImage
PRELOAD=/dev/null
READY=$DIR/ready

# Kconfig drops without a word what its dependencies do not allow.
check_config() {
	local line bad=()
	while read -r line; do
		case $line in
		*=n) ! grep -q "^${line%n}" "$OBJ/.config" || bad+=("$line") ;;
		*) grep -qxF "$line" "$OBJ/.config" || bad+=("$line") ;;
		esac
	done < <(grep -h '^CONFIG_' "${FRAGMENTS[@]}")
	[ ${#bad[@]} -eq 0 ] ||
		die "the kernel did not take these lines of ${FRAGMENTS[*]}: ${bad[*]} (see $OBJ/.config)"
}

provide_kernel() {
	prepare_build
	# An interrupted build goes on where it stopped.
	cat "${FRAGMENTS[@]}" >"$DIR/fragment"
	quietly "$DIR/config.log" "configuring the $WHICH kernel" \
		kmake KCONFIG_ALLCONFIG="$DIR/fragment" allnoconfig
	check_config
	quietly "$DIR/build.log" "building the $WHICH kernel (about 5 minutes)" kmake bzImage modules
	touch "$READY"
}
