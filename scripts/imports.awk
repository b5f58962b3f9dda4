# SPDX-License-Identifier: GPL-2.0
#
# Print which of the given files of the module imports which, one pair a line. A file is what a path
# that begins with crate:: or super:: leads to; that a file declares another one does not count.
#
# It goes by how rustfmt lays out what it reads.

BEGIN {
	for (i = 1; i < ARGC; i++)
		file[module_of(ARGV[i])] = ARGV[i]
}

# target/list.rs is crate::target::list, sys/mod.rs is crate::sys.
function module_of(path) {
	sub(/\.rs$/, "", path)
	sub(/\/mod$/, "", path)
	sub(/^netconsole_ext$/, "", path)
	return path
}

function parent(module) { return module ~ /\// ? substr(module, 1, match(module, /\/[^\/]*$/) - 1) : "" }

# The file that has what the path names: that of the longest part of it that is a module.
function import(path, at) {
	at = module
	if (path ~ /^crate::/)
		at = ""
	else
		path = "crate::" path
	sub(/^crate::/, "", path)
	while (path ~ /^super::/) {
		# In a module that is no file of its own it is this file.
		if (inside && !up++) {
			sub(/^super::/, "", path)
			continue
		}
		at = parent(at)
		sub(/^super::/, "", path)
	}
	up = 0
	gsub(/::/, "/", path)
	sub(/\/?(self|\*| as .*)$/, "", path)
	path = at (at == "" ? "" : "/") path
	# It is made by module!, and imports nothing.
	if (path ~ /^module_parameters/)
		return
	while (!(path in file))
		path = parent(path)
	if (file[path] != FILENAME)
		print FILENAME, file[path]
}

# Each path of a tree, like a::{b, c::{d, e}}.
function expand(prefix, tree, i, c, depth, item) {
	for (i = 1; i <= length(tree) + 1; i++) {
		c = substr(tree, i, 1)
		if ((c == "," || c == "") && !depth) {
			if (item ~ /\{/)
				expand(prefix substr(item, 1, index(item, "{") - 1),
					substr(item, index(item, "{") + 1, length(item) - index(item, "{") - 1))
			else if (item != "" && (prefix item) ~ /^(crate|super)::/)
				import(prefix item)
			item = ""
			continue
		}
		depth += (c == "{") - (c == "}")
		item = item c
	}
}

FNR == 1 { module = module_of(FILENAME); inside = 0; use = "" }
{ sub(/(^|[ \t])\/\/.*/, "") }
inside && $0 == indent "}" { inside = 0 }
!inside && /^[ \t]*(pub(\([a-z]*\))? )?mod [a-z_]+ \{$/ {
	inside = 1
	indent = $0
	sub(/[^ \t].*/, "", indent)
}
use != "" || /^[ \t]*(pub(\([a-z]*\))? )?use / {
	line = $0
	sub(/^[ \t]*(pub(\([a-z]*\))? )?use /, "", line)
	gsub(/[ \t]+/, " ", line)
	gsub(/^ | $/, "", line)
	use = use line
	if (line ~ /;$/) {
		sub(/;$/, "", use)
		gsub(/, /, ",", use)
		expand("", use)
		use = ""
	}
	next
}
{
	line = $0
	while (match(line, /(crate|super)::[A-Za-z_:]+/)) {
		import(substr(line, RSTART, RLENGTH))
		line = substr(line, RSTART + RLENGTH)
	}
}
