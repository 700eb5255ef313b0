#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# sim.sh: the simulator of pkg/correlator for SIM_TIME (default 60s) on all
# CPUs, from a seed taken from the clock, or from SIM_FROM. It prints how many
# schedules it ran and how many answers it checked; a failure prints its seed and
# the command that replays it, and does not end the run before twenty of them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec go test -vet=off -count=1 -timeout 0 -v -run '^TestAnswersAreNeverWrongWhateverTheTransportDoes$' \
	./pkg/correlator -sim.for="${SIM_TIME:-60s}" -sim.from="${SIM_FROM:-0}" -sim.keep
