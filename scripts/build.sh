#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Build the module against a kernel, with the compilers that kernel was built
# with.
#
#   build.sh [--output DIR] KDIR [make's arguments ...]
#
# Kbuild's files go to DIR, one directory for each kernel, and never among the
# sources: it refuses to build elsewhere what was once built there. Without
# --output the module itself is put there, beside its source, as people expect.

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

OUTPUT=
if [ "${1:-}" = --output ]; then
	OUTPUT=$2
	shift 2
fi
KDIR=${1:?usage: build.sh [--output DIR] KDIR [make\'s arguments ...]}
shift
CONFIG=$KDIR/.config
[ -e "$CONFIG" ] || CONFIG=$KDIR/include/config/auto.conf
[ -e "$CONFIG" ] || die "$KDIR is not the build directory of a configured kernel (no .config in it)"
grep -q '^CONFIG_RUST=y' "$CONFIG" || die "the kernel of $KDIR was built without CONFIG_RUST=y"
RELEASE=$(cat "$KDIR/include/config/kernel.release" 2>/dev/null || true)
printf '%s\n' "$SERIES" "${RELEASE:-$SERIES}" | sort -VC ||
	die "the kernel of $KDIR is Linux $RELEASE, and the module needs $SERIES or newer (docs/kernels.md says why)"

# Rust's metadata is read only by the very compiler that wrote it: ours for our
# kernels, for another KDIR the host's if it is the one, or else ours.
WANTED=$(sed -n 's/^CONFIG_RUSTC_VERSION_TEXT="\(.*\)"$/\1/p' "$CONFIG")
TOOLS=()
if [[ $KDIR = "$CACHE"/* ]] || [ "$(rustc --version 2>/dev/null)" != "$WANTED" ]; then
	need gcc:gcc make:make
	kernel_tools "$(grep -q '^CONFIG_CC_IS_CLANG=y' "$CONFIG" && echo clang || echo gcc)" \
		"$(grep -q '^CONFIG_ARM64=y' "$CONFIG" && echo arm64 || echo x86)"
	OURS=$("$(dirname "$("$TOP/scripts/toolchain.sh")")/bin/rustc" --version)
	[ "$OURS" = "$WANTED" ] ||
		die "$KDIR was built by '$WANTED', which is neither the host's rustc nor ours ($OURS); put it in PATH"
fi

DIR=${OUTPUT:-$BUILD/kdir-$(cksum <<<"$KDIR" | cut -d' ' -f1)}
mkdir -p "$DIR"
# Two builds at once in one directory would mix their files.
exec {FD}<"$DIR"
flock "$FD"
make --no-print-directory -j"$JOBS" -C "$KDIR" M="$TOP" MO="$DIR" "${TOOLS[@]}" "$@"
[ -z "$OUTPUT" ] || exit 0
RESULT=netconsole_ext.ko
[[ " $* " != *" rust-analyzer "* ]] || RESULT=rust-project.json
[ ! -e "$DIR/$RESULT" ] || cmp -s "$DIR/$RESULT" "$TOP/$RESULT" || cp "$DIR/$RESULT" "$TOP/"
