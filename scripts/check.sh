#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# The checks to run before each commit: lint and the host's tests.
exec "$(dirname "${BASH_SOURCE[0]}")/test.sh" lint host
