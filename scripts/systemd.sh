#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Provide Debian 13's systemd with all that it needs, and what the service calls
# beside it, unpacked and not installed, for the guest whose PID 1 it is, and
# print where: the release of those that have Debian's 7.3 kernel.

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
. "$TOP/scripts/debian.sh"

provide systemd-13-r1 systemd procps bash iproute2 kmod libc-bin util-linux
