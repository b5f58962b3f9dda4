#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Try the module on several of Debian's kernels, and print a table.
#
#   test-kernels.sh [KERNEL ...]    all of them, or some, by kernel.sh's names for them
#
# A kernel that is not tried is in the table, too, with the reason. The first run fetches the
# kernels and makes their Rust metadata, minutes for each: it is no part of `make test`.

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

LOGS=$BUILD/kernels
KERNELS=(stock-7.3-{cloud-,,rt-}amd64 stock-7.3-{cloud-arm64,arm64,arm64-16k,rt-arm64})
# Kernels that people may look for here, and what stands in the way (docs/kernels.md).
OTHERS=(
	"7.2 of Debian 13|the module needs 7.3: the kernel crate of 7.2 has no kernel::interrupt"
	"7.2 of sid|the same; and rustc 1.97 built it, where scripts/toolchain.sh provides 1.85"
)
PASSED=0
FAILED=0
UNTRIED=0
mkdir -p "$LOGS"

# The last error in a log, as a cell of the table.
reason() {
	local line
	line=$(sed -n 's/^error: //p' "$1" | tail -n 1)
	echo "${line:-see $1}"
}

# A cell of the table: what became of a trial.
#   cell LOG TRIAL
cell() {
	if grep -qE "^test kernels::$2 +\.\.\. ok$" "$1"; then
		PASSED=$((PASSED + 1))
		ROW+=" ok |"
	else
		FAILED=$((FAILED + 1))
		ROW+=" FAILED: $1 |"
	fi
}

# The row of a kernel that is not tried.
#   untried KERNEL REASON
untried() {
	UNTRIED=$((UNTRIED + 1))
	ROW="| $1 | not tried: $2 | | |"
}

# A row of the table. The module has to refuse the real-time kernels.
#   row KERNEL
row() {
	local log=$LOGS/$1.log trial trials=(works_smoke works_lossy works_panic)
	say "$1 ..."
	if ! "$TOP/scripts/kernel.sh" "$1" >"$log" 2>&1 </dev/null; then
		untried "$1" "$(reason "$log")"
		return
	fi
	ROW="| $(basename "$(dirname "$("$TOP/scripts/kernel.sh" "$1" image)")") |"
	[[ $1 != *-rt-* ]] || ROW+=" refused, as it should be:" trials=(refused)
	"$TOP/scripts/harness.sh" on "$1" "${trials[@]/#/kernels::}" >"$log" 2>&1 </dev/null || true
	for trial in "${trials[@]}"; do
		cell "$log" "$trial"
	done
	[[ $1 != *-rt-* ]] || ROW+=" | |"
}

[ $# -eq 0 ] || KERNELS=("$@") OTHERS=()
ROWS=()
for k in "${KERNELS[@]}"; do
	row "$k"
	ROWS+=("$ROW")
done
for k in "${OTHERS[@]}"; do
	untried "${k%|*}" "${k#*|}"
	ROWS+=("$ROW")
done
printf '%s\n' '| kernel | smoke | half of all frames lost | panic |' '|---|---|---|---|' "${ROWS[@]}"
echo "$PASSED passed, $FAILED failed, $UNTRIED kernels not tried"
[ "$FAILED" -eq 0 ] && [ "$PASSED" -gt 0 ]
