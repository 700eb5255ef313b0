#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# torture.sh [PART...]: the long forms of what `make test` runs in short: the
# oracle with attackers and faults beside it, the attacks, the faults, kills of the
# agent, floods, the simulator, its deliberate bugs and the fuzz targets. Hours on
# two cores; as root, on a machine that does nothing else. Parts are oracle, attack,
# fault, restart, flood, sim, bugs and fuzz; all by default, one after the other.
# TORTURE_SCALE=10 makes a tenth of it, but no less than the short form. Each part's
# output goes to TORTURE_OUT (default bin/torture); its end, and what failed in it,
# to the screen. A part that fails keeps no other one from running.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH=$PATH:/usr/sbin:/sbin

out=${TORTURE_OUT:-bin/torture} scale=${TORTURE_SCALE:-1}
[[ $scale =~ ^[1-9][0-9]*$ ]] || { echo "torture.sh: TORTURE_SCALE is '$scale', not a whole number from 1" >&2; exit 2; }
[[ $EUID -eq 0 ]] || { echo "torture.sh: engines and BPF need root" >&2; exit 1; }

# part N [LEAST]: a count or seconds at this scale, never below LEAST (1).
part() {
	local n=$(($1 / scale))
	echo $((n > ${2:-1} ? n : ${2:-1}))
}
e2e() { go test -vet=off -count=1 -v -timeout 12h "$@"; }

run_oracle() {
	e2e ./tests/e2e -run '^TestTheOracleHearsNoWrongAnswer$/^everything_on$' -oracle.lookups="$(part 10000000)" \
		-oracle.processes="$(part 200000)" -oracle.duration="$(part 7200 900)s"
}
run_attack() { e2e ./tests/e2e/attack -attack.rounds="$(part 5)"; }
run_fault() {
	e2e ./tests/e2e/fault -fault.rounds="$(part 5)" -fault.stop="$(part 120 20)s" -fault.runs="$(part 5)" \
		-fault.watchers="$(part 1000 100)" -fault.short="$(part 1000 100)"
}
run_restart() {
	e2e ./tests/e2e -run '^(TestAKilledAgentIsRebuiltExactly|TestReadySoonBesideManyContainers|TestFourEnginesAtOnce)$' \
		-restart.kills="$(part 100 5)" -restart.sleepers="$(part 1000 20)" -four.each="$(part 125 5)"
}
run_flood() {
	e2e ./pkg/kernel -run '^TestEveryEventOfAFloodIsAccountedFor$' -flood="$(part 120 10)s" &&
		e2e ./tests/e2e -run '^TestNoStartIsHiddenByAFlood$' -flood="$(part 120 10)s"
}
run_sim() { SIM_TIME=$(part 14400 60)s scripts/sim.sh; }
run_bugs() { scripts/test.sh bugs; }
run_fuzz() { FUZZ_TIME=$(part 7200 60)s scripts/fuzz.sh; }

parts=("$@")
[[ $# -gt 0 ]] || parts=(oracle attack fault restart flood sim bugs fuzz)
for p in "${parts[@]}"; do
	declare -F "run_$p" >/dev/null || {
		echo "torture.sh: no part '$p'; there are oracle, attack, fault, restart, flood, sim, bugs, fuzz" >&2
		exit 2
	}
done
scripts/packages.sh test || exit 1
mkdir -p "$out" || exit 1
echo "$(git describe --always --dirty 2>/dev/null), $(nproc) CPUs, Linux $(uname -r), TORTURE_SCALE=$scale"
summary=() failed=0
for p in "${parts[@]}"; do
	begin=$SECONDS verdict=ok
	echo "=== $p"
	"run_$p" >"$out/$p.txt" 2>&1 || { verdict=FAILED; failed=1; }
	[[ $verdict == ok ]] || grep -nE '^ *--- FAIL|WRONG: |panic: |-sim\.seed=|^FAIL|FAILED$' "$out/$p.txt" | head -n 25
	tail -n 25 "$out/$p.txt"
	summary+=("$(printf '%-8s %-6s %6d s  %s' "$p" "$verdict" $((SECONDS - begin)) "$out/$p.txt")")
	echo "=== $p: $verdict"
done
printf '%s\n' "${summary[@]}"
exit $failed
