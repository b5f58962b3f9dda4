#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Fuzz a target of tests/fuzz.
#
#   fuzz.sh TARGET [OPTION ...]    libFuzzer's options: -max_total_time=60, or a
#                                  file that it has found
#   fuzz.sh                        all targets, FUZZ_SECONDS (60) each
#
# Inputs that reach new code are kept in the cache, and so is an input that fails;
# RUST_LIBFUZZER_DEBUG_PATH=/dev/stderr shows the decoded input of such a file.

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# The newest one that builds with our compiler.
CARGO_FUZZ=0.13.1

if [ $# -eq 0 ]; then
	for f in "$TOP"/tests/fuzz/src/bin/*; do
		"$0" "$(basename "$f" .rs)" "-max_total_time=${FUZZ_SECONDS:-60}"
	done
	exit
fi
target=$1
shift

# libFuzzer is C++.
need g++:g++
BIN=$("$TOP/scripts/toolchain.sh")
triple=$("$BIN/rustc" -vV | sed -n 's/^host: //p')
(
	lock fuzz
	[ "$("$CACHE/cargo/bin/cargo-fuzz" --version 2>/dev/null)" = "cargo-fuzz $CARGO_FUZZ" ] ||
		quietly "$CACHE/cargo-fuzz.log" "building cargo-fuzz $CARGO_FUZZ" \
			"$TOP/scripts/cargo.sh" install --locked --force --version "$CARGO_FUZZ" cargo-fuzz
	# It calls cargo by its name.
	PATH=$("$TOP/scripts/toolchain.sh" cargo):$PATH
	# Without a sanitizer, for there is no unsafe code; so no nightly compiler is needed.
	quietly "$BUILD/fuzz-$target.log" "building the target $target" \
		"$TOP/scripts/cargo.sh" fuzz build --fuzz-dir tests/fuzz --sanitizer none --no-trace-compares --target "$triple" "$target"
)

kept=$CACHE/fuzz/$target
mkdir -p "$kept/corpus" "$kept/found"
# Long inputs from the start: what is short says little.
options=(-len_control=0 -artifact_prefix="$kept/found/" -dict="$TOP/tests/fuzz/words.dict" "$@")
# A file that is given is run alone.
for arg; do [ ! -f "$arg" ] || kept=; done
exec "$BUILD/target/$triple/release/$target" "${options[@]}" ${kept:+"$kept/corpus"}
