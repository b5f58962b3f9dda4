#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Provide Debian 13's static busybox for guests of arm64, unpacked and not
# installed, and print where its root is.

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
. "$TOP/scripts/debian.sh"

DEBIAN_ARCH=arm64
provide busybox-arm64-13 busybox-static
