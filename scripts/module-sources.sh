#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Copy what the module consists of to a folder, committed yet or not; a package's
# copy of the checkout has nothing else in it.
#
#   module-sources.sh DIR

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

TO=$(realpath -m "${1:?usage: module-sources.sh DIR}")
mkdir -p "$TO"
cd "$TOP"
if [ -e .git ]; then
	git ls-files -co --exclude-standard
else
	find . -type f -printf '%P\n'
fi | grep -E '\.rs$|^(sys|proto)/|^(Kbuild|Kconfig|\.kunitconfig)$' | grep -vE '^(ncrx|tests)/' |
	xargs -d '\n' cp -a --parents -t "$TO"
