# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034
#
# The parts that all scripts here share: the place of the cache, messages, the
# output of long commands on the terminal, the programs that the host must have.
#
# Only paths go to standard output; all messages go to standard error.

set -euo pipefail

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=${NETCONSOLE_EXT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/netconsole_ext}
JOBS=$(nproc)
# The kernel series the module is written for.
SERIES=7.3
mkdir -p "$CACHE"
CACHE=$(cd "$CACHE" && pwd)
# The build results of this checkout; another checkout has its own.
BUILD=$CACHE/build/$(cksum <<<"$TOP" | cut -d' ' -f1)
# kmod and friends are not in an ordinary user's PATH on Debian.
PATH=$PATH:/usr/sbin:/sbin
export LC_ALL=C.UTF-8
# An outer make's options are not meant for the kernel's.
unset MAKEFLAGS MFLAGS MAKELEVEL KBUILD_OUTPUT KBUILD_EXTMOD ARCH CROSS_COMPILE LLVM

START=$SECONDS
say() { printf '[%3ds] %s\n' $((SECONDS - START)) "$*" >&2; }
die() {
	printf 'error: %s\n' "$*" >&2
	exit 1
}

# Run a command with its output in a log file, and a line of progress on a
# terminal (every 5 s) or in a CI log (every 30 s). The command runs in the
# foreground so that Ctrl-C reaches it; the ticker ends when its pipe closes,
# whatever happens to us.
#   quietly LOG WHAT COMMAND...
quietly() {
	local log=$1 what=$2 every=30 began=$SECONDS ticker rc=0
	shift 2
	[ ! -t 2 ] || every=5
	say "$what ..."
	: >"$log"
	exec {ticker}> >(
		while read -rt "$every" || [ $? -gt 128 ]; do
			say "$what: $((SECONDS - began)) s, $(wc -l <"$log") lines in $log"
		done
	)
	"$@" >"$log" 2>&1 </dev/null {ticker}>&- || rc=$?
	exec {ticker}>&-
	[ "$rc" -ne 0 ] || return 0
	tail -n 30 "$log" >&2
	die "$what failed (exit $rc); the whole log is $log"
}

# Make sure that each of "command:package" (or "/a/file:package") is there. On
# Debian as root the missing packages are installed, and named; elsewhere they
# are only named.
need() {
	local pair missing=() log=$CACHE/host-packages.log
	for pair in "$@"; do
		case $pair in
		/*) [ -e "${pair%%:*}" ] || missing+=("${pair#*:}") ;;
		*) type -P "${pair%%:*}" >/dev/null || missing+=("${pair#*:}") ;;
		esac
	done
	[ ${#missing[@]} -gt 0 ] || return 0
	if [ "$(id -u)" != 0 ] || [ ! -e /etc/debian_version ]; then
		die "missing packages: ${missing[*]} (Debian: apt-get install ${missing[*]})"
	fi
	say "installing Debian packages: ${missing[*]}"
	local install=(apt-get install -y --no-install-recommends "${missing[@]}")
	export DEBIAN_FRONTEND=noninteractive
	"${install[@]}" >"$log" 2>&1 </dev/null ||
		{ apt-get update && "${install[@]}"; } >>"$log" 2>&1 </dev/null ||
		die "could not install ${missing[*]}; see $log"
}

# Hold a lock for the rest of this script, so that two makes do not race.
lock() {
	local fd
	exec {fd}>"$CACHE/.lock-$1"
	flock -n "$fd" && return
	say "waiting for another run that prepares the $1"
	flock "$fd"
}

# What the names of the C compiler and its like begin with, for an architecture as Kbuild names it.
cross_prefix() {
	[ "$1" != arm64 ] || echo aarch64-linux-gnu-
}

# Set TOOLS to the variables that tell Kbuild which compilers to use, and for what: gcc or clang,
# and our Rust, which compiles for all.
#   kernel_tools COMPILER [ARCHITECTURE]    by default x86
kernel_tools() {
	local bin cross c=(HOSTCC=gcc)
	cross=$(cross_prefix "${2:-x86}")
	if [ "$1" = clang ]; then
		need clang-19:clang-19 ld.lld-19:lld-19 llvm-ar-19:llvm-19
		c=(LLVM=-19)
	elif [ -n "$cross" ]; then
		need "${cross}gcc:gcc-${cross%-}"
		c+=(CROSS_COMPILE="$cross")
	else
		c+=(CC=gcc)
	fi
	[ -z "$cross" ] || c+=(ARCH="$2")
	bin=$("$TOP/scripts/toolchain.sh")
	TOOLS=("${c[@]}" RUSTC="$bin/rustc" HOSTRUSTC="$bin/rustc"
		RUSTDOC="$bin/rustdoc" RUSTFMT="$bin/rustfmt"
		CLIPPY_DRIVER="$bin/clippy-driver" BINDGEN="$bin/bindgen")
}
