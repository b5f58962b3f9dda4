# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Checks that are counted like tests. To be sourced after common.sh.

PASSED=0
FAILED=0

# Run a command as the check NAME, and show what it said only if it failed.
#   check NAME COMMAND...
check() {
	local name=$1 log=$BUILD/check-$1.log rc=0
	shift
	mkdir -p "$BUILD"
	# Not as a condition: that would switch off set -e inside the command.
	set +e
	(
		set -e
		"$@"
	) >"$log" 2>&1 </dev/null
	rc=$?
	set -e
	if [ "$rc" -eq 0 ]; then
		PASSED=$((PASSED + 1))
		echo "PASS $name"
	else
		FAILED=$((FAILED + 1))
		sed 's/^/     /' "$log"
		echo "FAIL $name"
	fi
}

# The closing line, and the exit status.
finish() {
	echo "$PASSED passed, $FAILED failed"
	[ "$FAILED" -eq 0 ]
}
