#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# fuzz.sh: every fuzz target of the repository in turn, FUZZ_TIME in all
# (seconds or 10m, 2h; default 10m), shared evenly. Prints the executions of each
# and their sum. FUZZ_ONLY is a pattern for the targets (package.Name). What is
# watched for coverage: see fuzz-tool.sh.
#
# When its time is up, Go's fuzzing sometimes reports the end of its own context as
# a failure. A true failure always leaves the input that fails, and says so: only
# without one is a target run once more, by a count that no clock ends.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# seconds TIME: 90, 90s, 10m or 2h, as seconds.
seconds() {
	case $1 in
	*h) echo $((${1%h} * 3600)) ;;
	*m) echo $((${1%m} * 60)) ;;
	*) echo "${1%s}" ;;
	esac
}

mapfile -t targets < <(grep -rnE --include='*_test.go' -o '^func Fuzz[A-Za-z0-9_]+' api bpf cmd internal pkg tests 2>/dev/null |
	sed -E 's|^(.*)/[^/]*:[0-9]+:func (.*)|\1.\2|' | grep -E "${FUZZ_ONLY:-.}" | sort -u)
[[ ${#targets[@]} -gt 0 ]] || { echo "fuzz.sh: no target" >&2; exit 1; }
all=$(seconds "${FUZZ_TIME:-10m}")
# Go starts the workers and the coverage build besides; a target has a second at least.
each=$((all / ${#targets[@]}))
((each > 0)) || each=1

# fuzz TARGET TIME: its output is in $out.
fuzz() {
	out=$(go test -vet=off -toolexec "$PWD/scripts/fuzz-tool.sh" -run '^$' -fuzz "^${1##*.}\$" -fuzztime "$2" "./${1%.*}" 2>&1)
}

# executions: how many the output tells of.
executions() {
	local n
	n=$(grep -oE 'execs: [0-9]+' <<<"$out" | tail -1 | cut -d' ' -f2)
	echo "${n:-0}"
}

# out_of_time: nothing but the end of the time was reported.
out_of_time() {
	grep -q 'context deadline exceeded' <<<"$out" && ! grep -qE 'Failing input|panic:|fatal error|terminated unexpectedly|DATA RACE' <<<"$out"
}

sum=0 failed=0
for t in "${targets[@]}"; do
	fuzz "$t" "${each}s" && ok=1 || ok=0
	n=$(executions)
	# On a busy machine the time may go by before the first execution.
	if { ((ok)) && ((n == 0)); } || { ((! ok)) && out_of_time; }; then
		fuzz "$t" 1000x && ok=1 || ok=0
		n=$((n + $(executions)))
	fi
	if ((ok)) && ((n > 0)); then
		sum=$((sum + n))
		printf '%-55s %12d executions\n' "$t" "$n"
	else
		failed=1
		printf '%-55s FAILED\n%s\n' "$t" "$out"
	fi
done
printf '%-55s %12d executions, %d s each\n' "${#targets[@]} targets" "$sum" "$each"
exit $failed
