#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Measure, and write sections of docs/measurements.md: those with a commit. The
# others were put together by hand from the output of the same commands.
#
#   bench.sh           everything: hours
#   bench.sh NAME ...  these sections; the others stay as they are
#   bench.sh --list    their names, and the command of each
#
# A section has what its command has printed, with the date, the commit and the
# machine: figures of a busy or an emulated machine say little, so they are
# stated.

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$TOP"
need git:git
PAGE=docs/measurements.md

# NAME|title|command|the lines of its output that are wanted
# shellcheck disable=SC2016 # What a command expands is expanded when it runs.
SECTIONS='
receive|The receiver: time a record|scripts/cargo.sh bench -p ncrx --bench receive -- --quick|time: |^[a-z].*/
load|The receiver: the program under load|scripts/cargo.sh bench -p ncrx --bench load|.
index|The receiver: how long people wait|scripts/cargo.sh bench -p ncrx --bench index|.
beside|The receiver: the program beside netconsd|NCRX_NETCONSD=$(scripts/netconsd.sh) scripts/cargo.sh bench -p ncrx --bench load|.
memory|The receiver: memory a sender|scripts/cargo.sh bench -p ncrx --bench memory|.
cost|The module: instructions a record, beside the netconsole of the kernel|NCTEST_BENCH=1 scripts/harness.sh trials cost::|instructions a record
lossy|The module: loss, and what it costs|scripts/harness.sh trials lossy::nca lossy::ncrx lossy::session lossy::corrupted lossy::ipv6 lossy::link_local|^ *lossy
outage|The module: an outage|scripts/harness.sh trials outage_|^ *outage
panic|The module: panics|NCTEST_FULL=1 scripts/harness.sh trials panic_|^ *panic
panic-upstream|The same with the netconsole of the kernel|NCTEST_UPSTREAM=1 NCTEST_FULL=1 scripts/harness.sh trials panic_|^ *panic
hostile|The module: a hostile network|scripts/harness.sh trials hostile_network|^ *hostile
fuzz|Fuzzing|FUZZ_SECONDS=60 scripts/fuzz.sh 2>&1|^Done
'
SECTIONS=$(grep . <<<"$SECTIONS")

# The value of a field of section $1: 2 the title, 3 the command, 4 the lines.
field() { grep "^$1|" <<<"$SECTIONS" | cut -d'|' -f"$2" || true; }

machine() {
	echo "$(nproc) CPUs ($(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)), Linux $(uname -r | cut -d. -f1,2)," \
		"load $(cut -d' ' -f1 /proc/loadavg) at the start"
}

# Print section $1 as it was just measured.
measure() {
	local command lines log=$BUILD/bench-$1.log when what
	command=$(field "$1" 3)
	lines=$(grep "^$1|" <<<"$SECTIONS" | cut -d'|' -f4-)
	when=$(date +%F) what=$(git describe --always --dirty)
	printf '## %s\n\n%s, %s, commit %s. %s.\n\n' "$(field "$1" 2)" "\`$command\`" "$when" "$what" "$(machine)"
	# Cargo's messages go to the log alone.
	quietly "$log" "$command" bash -c "{ $command; } >'$log.out'"
	printf '```text\n'
	grep -aE "$lines" "$log.out" || die "$log.out has nothing that matches '$lines'"
	printf '```\n'
}

# Put the text of standard input in the place of section $1 of the page, or at its end.
replace() {
	local new
	new=$(cat)
	NAME="<!-- $1 -->" NEW=$new awk '
		/^<!-- .* -->$/ { skip = ($0 == ENVIRON["NAME"]); if (skip) { print; print ENVIRON["NEW"] "\n"; done = 1 } }
		!skip
		END { if (!done) print ENVIRON["NAME"] "\n" ENVIRON["NEW"] "\n" }
	' "$PAGE" >"$PAGE.new"
	mv "$PAGE.new" "$PAGE"
}

if [ "${1:-}" = --list ]; then
	cut -d'|' -f1,3 <<<"$SECTIONS" | tr '|' '\t'
	exit
fi
mapfile -t ALL < <(cut -d'|' -f1 <<<"$SECTIONS")
[ $# -gt 0 ] || set -- "${ALL[@]}"
for name; do
	[ -n "$(field "$name" 2)" ] || die "there is no section '$name' (${ALL[*]})"
done
mkdir -p "$BUILD"
for name; do
	text=$(measure "$name")
	replace "$name" <<<"$text"
	say "$PAGE: $name"
done
