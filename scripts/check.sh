#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# The checks to run before each commit: lint and the host's tests.

# Most tests of ncrx wait for something.
RUST_TEST_THREADS=${RUST_TEST_THREADS:-8} exec "$(dirname "${BASH_SOURCE[0]}")/test.sh" lint host
