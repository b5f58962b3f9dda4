#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Run every test there is, stage by stage, and count.
#
#   test.sh           all of them
#   test.sh STAGE ... those named: lint host kunit vm in-tree deb
#
# The output of a stage goes to a log; the terminal shows its result, and after a
# failure the names and the end of the log. The last line is "N passed, N failed".

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

LOGS=$BUILD/test
PASSED=0
FAILED=0
mkdir -p "$LOGS"

# Add up the closing lines of a stage's runners: "N passed, N failed", and
# libtest's "N passed; N failed".
count() {
	sed -nE 's/.*\b([0-9]+) passed[;,] ([0-9]+) failed.*/\1 \2/p' "$1" |
		awk '{ p += $1; f += $2 } END { print p + 0, f + 0 }'
}

#   stage NAME COMMAND...
stage() {
	local name=$1 log=$LOGS/$1.log began=$SECONDS rc=0 passed failed
	shift
	say "$name ..."
	"$@" >"$log" 2>&1 </dev/null || rc=$?
	read -r passed failed < <(count "$log")
	# A stage that broke, or that tested nothing, has failed even so.
	if [ "$failed" -eq 0 ] && { [ "$rc" -ne 0 ] || [ "$passed" -eq 0 ]; }; then
		failed=1
		echo "FAIL $name: exit $rc after $passed tests" >>"$log"
	fi
	PASSED=$((PASSED + passed))
	FAILED=$((FAILED + failed))
	echo "$name: $passed good, $failed bad, $((SECONDS - began)) s ($log)"
	[ "$failed" -eq 0 ] || {
		tail -n 100 "$log" | sed 's/^/  | /'
		echo "$name: what failed:"
		grep -E '^(FAIL |test .+ \.\.\. FAILED$|not ok )' "$log" | sed 's/^/  /' || :
		# And what each of them says first.
		grep -E -A3 '^---- .* ----$' "$log" | sed 's/^/  /' || :
	}
}

host() {
	# Tests read ncrx's output for the journal and for syslog with their own programs, watch its calls
	# of fdatasync with strace, and look at its page in a browser.
	need strace:strace journalctl:systemd chromium:chromium /usr/sbin/rsyslogd:rsyslog \
		/lib/systemd/systemd-journal-remote:systemd-journal-remote
	"$TOP/scripts/cargo.sh" test -p nctest --lib --bins --test service &&
		"$TOP/scripts/cargo.sh" test --workspace --exclude nctest
}

lint() { "$TOP/scripts/lint.sh"; }
kunit() { "$TOP/scripts/harness.sh" kunit; }
vm() { "$TOP/scripts/harness.sh" trials; }
in-tree() { "$TOP/scripts/check-in-tree.sh"; }
deb() { "$TOP/scripts/check-deb.sh"; }

[ $# -gt 0 ] || set -- lint host kunit vm in-tree deb
# The kernels first, as their own step: their progress belongs on the terminal.
"$TOP/scripts/kernel.sh" test
[[ " $* " != *" vm "* && " $* " != *" deb "* ]] || "$TOP/scripts/kernel.sh" stock

for s; do
	stage "$s" "$s"
done
[ ! -e "$LOGS/vm.log" ] || sed -n '/; the slowest:$/,$p' "$LOGS/vm.log"
echo "$PASSED passed, $FAILED failed"
[ "$FAILED" -eq 0 ]
