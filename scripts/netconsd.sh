#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Provide Debian 13's netconsd with all that it needs, unpacked and not
# installed, to be measured beside ncrx, and print where.

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
. "$TOP/scripts/debian.sh"

provide netconsd-13 netconsd
