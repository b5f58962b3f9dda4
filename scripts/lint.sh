#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Formatting, clippy and the house rules; each is a check with a name.
#
#   lint.sh [NAME ...]    all of them, or those named
#   lint.sh --list        their names

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
. "$TOP/scripts/checks.sh"
cd "$TOP"
need git:git

# Our files that match the patterns, committed yet or not.
files() {
	git ls-files -co --exclude-standard -- "$@" | while read -r f; do [ ! -e "$f" ] || echo "$f"; done
}
# Succeed if grep finds nothing; what it finds is shown.
none() { ! grep -n "$@"; }

# Kernel and userspace alike are formatted by the kernel's settings.
rustfmt() {
	local bin source
	bin=$(scripts/toolchain.sh)
	source=$(scripts/kernel.sh test source)
	files '*.rs' | xargs "$bin/rustfmt" --check --color never --edition 2021 --config-path "$source/.rustfmt.toml"
}

clippy-module() {
	local kdir
	kdir=$(scripts/kernel.sh test kdir)
	scripts/build.sh --output "$BUILD/clippy" "$kdir" CLIPPY=1 KRUSTFLAGS=-Dwarnings \
		CONFIG_NETCONSOLE_EXT_KUNIT_TEST=y
}

clippy-userspace() {
	# As cargo-clippy does it, which the host may lack or have in another version.
	local -x RUSTC_WORKSPACE_WRAPPER CLIPPY_ARGS=-Dwarnings__CLIPPY_HACKERY__
	RUSTC_WORKSPACE_WRAPPER=$(scripts/toolchain.sh)/clippy-driver
	scripts/cargo.sh check --workspace --all-targets
	scripts/cargo.sh check --manifest-path tests/fuzz/Cargo.toml --no-default-features
}

# The links in the documentation of items work, of private items as well. For the module, Kbuild's
# command for clippy becomes one for rustdoc.
doc-links() {
	local kdir command
	kdir=$(scripts/kernel.sh test kdir)
	[ -e "$BUILD/clippy/.netconsole_ext.o.cmd" ] || clippy-module
	# But for lints, and for options of code generation, which rustdoc does not know.
	command=$(sed -nE '1{s/^[^=]*:= //; s/ --out-dir .*//; s/ --crate-type rlib//
		s/ -([WAD][^ ]+|C[^ ]+|Z(function|tune|llvm|binary)[^ ]*)//g; p}' \
		"$BUILD/clippy/.netconsole_ext.o.cmd")
	# The variables before it stay.
	command=${command/clippy-driver /rustdoc }
	(
		export NETCONSOLE_EXT_BINDINGS=$BUILD/clippy/bindings_generated.rs RUSTC_BOOTSTRAP=1
		cd "$kdir"
		eval "$command --crate-name netconsole_ext --document-private-items \
			-Drustdoc::broken_intra_doc_links -Zunstable-options --check '$TOP/netconsole_ext.rs'"
	)
	RUSTDOCFLAGS='-Dwarnings --check' scripts/cargo.sh doc --workspace --no-deps --document-private-items
}

# The module does not grow: the functions of the build for clippy that are none of its tests, in
# bytes, have grown to no more than this; without the checks of the test kernel they are a seventh
# less. It is what has been reached, not what is wanted, which is half of it. Where a change needs
# more, say so, and change the number. What a target takes is asserted in target.rs.
MAX_TEXT=213000
text-size() {
	local bytes
	need nm:binutils
	[ -e "$BUILD/clippy/netconsole_ext.ko" ] || clippy-module
	# A path in a symbol has the length of each name before it.
	bytes=$(nm -S -t d "$BUILD/clippy/netconsole_ext.ko" |
		awk '$3 ~ /^[tT]$/ && $4 !~ /5tests|kunit/ { sum += $2 } END { print sum }')
	[ "$bytes" -le "$MAX_TEXT" ] || {
		echo "the module's functions have $bytes bytes, more than $MAX_TEXT: see MAX_TEXT in scripts/lint.sh"
		return 1
	}
}

shellcheck() {
	need shellcheck:shellcheck
	command shellcheck -x -P scripts .ci/run scripts/*.sh debian/*.{prerm,post*} \
		dist/{dkms-probe,netconsole-ext,initramfs-hook,dracut/*.sh} tests/service/fake/*
}

spdx() {
	local rc=0
	for f in $(files '*.rs' '*.[chS]' '*.sh' '*.toml' '*.config' '*Makefile' '*Kbuild' '*Kconfig' \
		.gitignore .ci/run); do
		head -n 3 "$f" | grep -q 'SPDX-License-Identifier: ' && continue
		echo "$f: no SPDX-License-Identifier in its first three lines"
		rc=1
	done
	return $rc
}

# The module's source files, in whatever folder.
module_sources() { files '*.rs' ':!ncrx' ':!tests'; }

# No file of the module imports another in a circle, and none outside of it in sys/ and proto/, which
# could be of use elsewhere. A circle is named.
import-circles() {
	local imports rc=0
	imports=$(module_sources | xargs awk -f scripts/imports.awk | sort -u)
	awk '$1 ~ /^(sys|proto)\// && index($2, substr($1, 1, index($1, "/"))) != 1 {
		print $1 " imports " $2; rc = 1 } END { exit rc }' <<<"$imports" || rc=1
	tsort <<<"$imports" >/dev/null || rc=1
	return $rc
}

# All unsafe code of the module is in sys/.
unsafe() {
	module_sources | grep -v '^sys/' |
		{ xargs grep -nHP '^((?!//).)*\bunsafe\b' || true; } | none .
}

# rustfmt leaves comments and long strings alone. A string may be longer, so that it can be searched
# for, and so may a row of a table.
columns() { files '*.rs' | { xargs grep -nHE '^.{101,}' || true; } | none -vE '"|: *//[/!] \|'; }

# The files that pages and comments name exist: in backticks, by the end of their path, and in links
# with their headings.
documents() {
	local rc=0 all page name heading named
	all=$(files)
	# shellcheck disable=SC2016
	named='`[A-Za-z0-9_./-]+\.(rs|md|sh)`'
	while IFS=: read -r page name; do
		name=${name//\`/}
		grep -qE "(^|/)${name//./\\.}$" <<<"$all" && continue
		echo "$page: there is no $name"
		rc=1
	done < <(files '*.md' '*.rs' | xargs grep -oHE "$named" | sort -u)
	while IFS=: read -r page name; do
		name=${name#*(} name=${name%)}
		heading=
		[[ $name != *'#'* ]] || heading=${name#*#}
		name=${name%%#*}
		name=${name:+$(dirname "$page")/}${name:-$page}
		[ -e "$name" ] && { [ -z "$heading" ] || headings "$name" | grep -qxF "$heading"; } && continue
		echo "$page: there is no $name${heading:+#$heading}"
		rc=1
	done < <(files '*.md' | xargs grep -oHE '\]\([^):]+\)' | sort -u)
	ncrx-page || rc=1
	return $rc
}

# The page of ncrx has all of its options and metrics, and no page has any that ncrx has not.
ncrx-page() {
	local options metrics told rc=0
	# The fields of the parser, but for those that the help hides.
	options=$(awk '/^pub struct Cli/ { on = 1 } /^}/ { on = 0 } /hide = true/ { hidden = 1 }
		on && /^    pub / { if (!hidden) { sub(":", "", $2); gsub("_", "-", $2); print $2 } hidden = 0 }' \
		ncrx/program/cli.rs)
	# shellcheck disable=SC2016
	told=$(section Options docs/ncrx.md | sed -nE 's/^\| (`-[a-z]`, )?`--([a-z-]+).*/\2/p')
	lacks "docs/ncrx.md lacks the option" "$told" "$options" || rc=1
	lacks "docs/ncrx.md: ncrx has no option" "$options" "$told" || rc=1
	# The names before a text of help.
	metrics=$(cat ncrx/program/metrics/*.rs | tr -s ' \n' ' ' |
		grep -oE '"[a-z_]+", "[A-Z]|encode_descriptor\("[a-z_]+"|let name = "[a-z_]+"' |
		grep -oE '"[a-z_]+' | metric-names)
	# shellcheck disable=SC2016
	told=$(section Metrics docs/ncrx.md | grep -oE '`[a-z_]+' | metric-names)
	lacks "docs/ncrx.md lacks the metric" "$told" "$metrics" || rc=1
	# shellcheck disable=SC2016
	told=$({
		section Metrics docs/ncrx.md | sed -nE 's/^\| (`[^|]*)\|.*/\1/p'
		files '*.md' | xargs grep -ohE '\bncrx_[a-z_]+' | sed 's/^/`/'
	} | grep -oE '`[a-z_]+' | metric-names)
	lacks "ncrx has no metric" "$metrics" "$told" || rc=1
	return $rc
}
section() { sed -n "/^## $1\$/,/^## /p" "$2"; }
metric-names() { tr -d '`"' | sed -E 's/^ncrx_//; s/_(total|info)$//'; }
# Succeed if the first list has all lines of the second; what it lacks is shown.
lacks() {
	local what rc=0
	for what in $(comm -13 <(sort -u <<<"$2") <(sort -u <<<"$3")); do
		echo "$1 $what"
		rc=1
	done
	return $rc
}

# The headings of a page, as links name them.
headings() { sed -n 's/^##* //p' "$1" | tr 'A-Z ' 'a-z-' | tr -cd 'a-z0-9_\n-'; }

# No file knows what one machine looks like.
machine-paths() {
	files | grep -vx Cargo.lock |
		{ xargs -d '\n' grep -IHnE '/(root|home|work|Users)/[a-z.]' || true; } | none .
}

CHECKS=(rustfmt clippy-userspace shellcheck spdx import-circles unsafe columns documents machine-paths)
# The module's, beside all of these, since they take as long.
MODULE_CHECKS=(clippy-module text-size doc-links)
if [ "${1-}" = --list ]; then
	printf '%s\n' "${CHECKS[@]}" "${MODULE_CHECKS[@]}"
	exit
elif [ $# -eq 0 ]; then
	mkdir -p "$BUILD"
	"$TOP/scripts/lint.sh" "${MODULE_CHECKS[@]}" >"$BUILD/lint-module.log" 2>&1 &
else
	CHECKS=("$@")
fi
for c in "${CHECKS[@]}"; do
	check "$c" "$c"
done
if [ $# -eq 0 ]; then
	wait $! || true
	PASSED=$((PASSED + $(grep -c '^PASS ' "$BUILD/lint-module.log" || true)))
	FAILED=$((FAILED + $(grep -c '^FAIL ' "$BUILD/lint-module.log" || true)))
	sed '$d' "$BUILD/lint-module.log"
fi
finish
