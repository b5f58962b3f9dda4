#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Write the module as a series of patches for a kernel's source, as git
# format-patch does: the wrappers of sys/ first, each with the reason that its
# own documentation gives, then the module from its pure parts up, and what makes
# the kernel find it at the end, so that it builds after each of them.
#
#   patches.sh [SOURCE [DIR]]      the test kernel's, to build/patches
#
# Author and sign-off are those of git's configuration.

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

SOURCE=$(realpath "${1:-$("$TOP/scripts/kernel.sh" test source)}")
TO=$(realpath -m "${2:-$TOP/build/patches}")
PAGE=$TOP/docs/netconsole_ext.rst
HOOKS=(drivers/net/Kconfig drivers/net/Makefile Documentation/networking/index.rst)
OURS=drivers/net/netconsole_ext
TREE=$(mktemp -d)
trap 'rm -rf "$TREE" "$TREE".*' EXIT

in_repo() { git -C "$TREE" -c core.autocrlf=false -c commit.gpgsign=false "$@"; }

# The first paragraphs of a file's documentation, up to a heading, as the text of a commit.
reason() {
	sed -n '/^\/\/!/!{/^$/!{/^\/\/ SPDX/!q}}; s/^\/\/!\( \|$\)//p' "$1" |
		sed '/^#/,$d; /^```/,$d; /^|/d; /^C headers*:/,/^$/d; s/\[`\([^`]*\)`\]([^)]*)/\1/g; s/\[`\([^`]*\)`\]/\1/g; s/`//g' |
		sed 's/^- \(.*\)/* \1/' | fmt -w 72 | cat -s
}

# Which files of the module need this one, as a sentence.
needed_by() {
	awk -v file="$1" '$2 == file && !seen[$1]++ { names = names (names ? ", " : "") $1 }
		END { if (names) print "The kernel crate has nothing for it. Needed by " names "." }' <<<"$IMPORTS" | fmt -w 72
}

# Commit some files.
#   patch SUBJECT FILE_WITH_THE_REASON PATH...
patch() {
	local subject=$1 text=$2
	shift 2
	in_repo add -- "$@"
	{
		printf '%s\n\n' "$subject"
		reason "$text"
		case $text in
		sys/mod.rs) ;;
		sys/*) printf '\n' && needed_by "$text" ;;
		esac
	} >"$TREE.message"
	in_repo commit -qs -F "$TREE.message"
}

need git:git
mkdir -p "$TO"
rm -f "$TO"/*.patch
in_repo init -q
(cd "$SOURCE" && cp --parents "${HOOKS[@]}" "$TREE/")
in_repo config user.name >/dev/null || in_repo config user.name "the netconsole_ext developers"
in_repo config user.email >/dev/null || in_repo config user.email netconsole-ext@netconsole-ext.invalid
in_repo add -A
in_repo commit -qm "The kernel"
in_repo tag base
"$TOP/scripts/in-tree.sh" "$TREE"

cd "$TREE/$OURS"
IMPORTS=$(find . -name '*.rs' -printf '%P\n' | xargs awk -f "$TOP/scripts/imports.awk")
for file in sys/*.rs; do
	name=$(basename "$file" .rs)
	case $name in mod | bindings) continue ;; esac
	patch "net: netconsole_ext: Add wrappers of ${name//_/ }" "$file" "$OURS/$file"
done
patch "net: netconsole_ext: Bind what the kernel crate lacks" sys/mod.rs "$OURS/sys"
patch "net: netconsole_ext: Add the protocol and its pure parts" proto/mod.rs "$OURS/proto"
patch "net: netconsole_ext: Keep records by number" log.rs "$OURS/log.rs" "$OURS/log"
patch "net: netconsole_ext: Add targets and emergency transmission" target.rs \
	"$OURS/target.rs" "$OURS/target" "$OURS/emg_tx.rs" "$OURS/ack.rs"
patch "net: netconsole_ext: Send what is logged in a crash" crash.rs "$OURS/crash.rs" "$OURS/crash"
patch "net: netconsole_ext: Enable targets, by hand and by events" control.rs "$OURS/control.rs" "$OURS/control"
patch "net: netconsole_ext: Add targets as directories" configfs.rs "$OURS/configfs.rs"
patch "net: netconsole_ext: Add the module" netconsole_ext.rs drivers/net Documentation

in_repo format-patch -q --cover-letter --no-signature -o "$TO" base
{
	sed '1,/^====.*/d; /^Targets$/,$d' "$PAGE" | sed '/^===/d; /^Reliable netconsole/d' | cat -s
	echo "The wrappers of C interfaces come first, one a patch: each could go to rust/kernel"
	echo "by itself. The module follows from its pure parts up; the last patch has Kconfig,"
	echo "Makefile and the documentation, so that the kernel builds after each of them."
} >"$TREE.cover"
sed -i -e "s/\*\*\* SUBJECT HERE \*\*\*/net: netconsole_ext: reliable network console logging/" \
	-e "/\*\*\* BLURB HERE \*\*\*/{r $TREE.cover
	d}" "$TO"/0000-cover-letter.patch
ls "$TO"/*.patch
