#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# test.sh [STAGE,STAGE...]: all the tests, in stages, each with its seconds and
# a summary at the end. A failed stage does not keep the next ones from running.
#
# Every package's own tests run in exactly one of unit, race and integration, so
# that nothing is compiled or run twice without a reason:
#
#   integration  packages that talk to a real kernel or a real engine, with the race detector
#   race         the other packages that start goroutines: those that check for leaks
#   unit         the rest
#
# Those that meet the kernel run a second time in vm, on kernels that this
# machine does not have.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH=$PATH:/usr/sbin:/sbin

stages=${1:-lint,unit,race,sim,bugs,fuzz,integration,vm,e2e}
engines='^(bpf|pkg/kernel|pkg/collectors/(docker|containerd|cri|kubelet|oci|collectortest)|pkg/agent)$'
# The linters vet; vetting again in each stage would only cost time.
flags=(-vet=off -count=1)

# packages PATTERN... prints the packages that have tests, as directories.
packages() {
	find . \( -path './bin' -o -path './.git' -o -path './tools' -o -path './tests/e2e' \) -prune -o -name '*_test.go' -print |
		sed 's|^\./||; s|/[^/]*$||' | sort -u
}

real() { packages | grep -E "$engines"; }
racy() {
	local dir
	for dir in $(packages | grep -Ev "$engines"); do
		! grep -qs 'go.uber.org/goleak' "$dir"/*_test.go || echo "$dir"
	done
}
plain() { comm -23 <(packages | grep -Ev "$engines") <(racy); }

# run FLAG... -- DIR...: go test, and no success without a package to test.
run() {
	local args=()
	while [[ $1 != -- ]]; do args+=("$1"); shift; done
	shift
	[[ $# -gt 0 ]] || { echo "no package to test" >&2; return 1; }
	go test "${flags[@]}" "${args[@]}" "${@/#/./}"
}

stage_lint() { make --no-print-directory lint; }
stage_unit() { run -skip '^Fuzz' -- $(plain); }
stage_race() { run -race -skip '^Fuzz' -- $(racy); }
# About a minute of the simulator's schedules on two cores: so many from the first
# seed on, so that what fails here fails again; `make sim` takes new ones from the clock.
stage_sim() {
	go test "${flags[@]}" -timeout 30m -v -run '^TestAnswersAreNeverWrongWhateverTheTransportDoes$' \
		./pkg/correlator -sim.runs="${SIM_RUNS:-50000}"
}
# The simulator catches each deliberate bug, which only this build can make.
stage_bugs() { run -tags pidigree_bugs -timeout 30m -v -run '^TestTheSimulatorCatchesEachDeliberateBug$' -- pkg/correlator; }
# The seeds and the committed findings of every fuzz target, then a minute of all.
stage_fuzz() { seeds && FUZZ_TIME=${FUZZ_TIME:-60s} scripts/fuzz.sh; }
seeds() { run -run '^Fuzz' -- $(grep -rlE --include='*_test.go' '^func Fuzz' pkg internal bpf 2>/dev/null | xargs -r -n1 dirname | sort -u); }
# One package at a time: engines beside engines on two cores would measure each other.
stage_integration() { run -race -p 1 -timeout 10m -skip '^Fuzz' -- $(real); }
stage_vm() {
	if [[ $(uname -m) != x86_64 ]]; then
		echo "not run: the virtual machines are amd64"
		return 0
	fi
	scripts/vm.sh test
}
stage_e2e() { make --no-print-directory build && go test "${flags[@]}" -p 1 -timeout 25m -v ./tests/e2e/...; }

# What only root can do would be skipped, and all look well.
if [[ $EUID -ne 0 && $stages != lint ]]; then
	echo "test.sh: the tests start engines, load BPF programs and become other users: run them as root" >&2
	exit 1
fi

# A failed test's reason may stand ten thousand lines before the end: what the
# failed tests said is said again there, each message by its first lines.
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
reasons() {
	awk -v stage="$1" '
		# With -v a test has spoken before its verdict, without it speaks after it.
		/^=== RUN/ && $3 !~ /\// { n = after = 0 }
		/^===/ { next }
		/^--- FAIL:/ {
			print stage ": " $0
			for (i = 1; i <= n; i++) print said[i]
			n = 0; after = 60
			next
		}
		/^(FAIL|panic:|fatal error:)|DATA RACE/ { print stage ": " $0 }
		/^[^ ]/ { n = after = 0; next }
		/^ *[a-z0-9_]+\.go:[0-9]+: |--- FAIL:/ { lines = 0 }
		lines++ >= 12 { next }
		after > 0 { after--; print substr($0, 1, 400); next }
		n < 60 { said[++n] = substr($0, 1, 400) }
	' "$logs/$1"
}

summary=() failed=0 why=()
timed() {
	local name=$1 begin=$SECONDS verdict=ok out tee
	shift
	echo "=== $name"
	exec {out}> >(exec tee "$logs/$name")
	tee=$!
	"$@" >&"$out" 2>&1 || { verdict=FAILED; failed=1; why+=("$name"); }
	exec {out}>&-
	# What a stage has left running may keep the pipe open for ever.
	for ((i = 0; i < 50; i++)); do kill -0 "$tee" 2>/dev/null && sleep 0.1 || break; done
	summary+=("$(printf '%-12s %-7s %5d s' "$name" "$verdict" $((SECONDS - begin)))")
	echo "=== $name: $verdict, $((SECONDS - begin)) s"
}

for stage in ${stages//,/ }; do
	declare -F "stage_$stage" >/dev/null || {
		echo "test.sh: no stage '$stage'; there are lint, unit, race, sim, bugs, fuzz, integration, vm, e2e" >&2
		exit 2
	}
done
timed packages scripts/packages.sh test
if ((failed)); then exit 1; fi
# The kubelet takes minutes to build where no test has done so yet: it begins now,
# with what the stages before leave of the CPUs, and who needs it waits for it.
building=''
if [[ ,$stages, == *,integration,* || ,$stages, == *,e2e,* ]]; then
	scripts/kubelet.sh >/dev/null 2>&1 &
	building=$!
fi
for stage in ${stages//,/ }; do timed "$stage" "stage_$stage"; done
echo
for name in "${why[@]}"; do reasons "$name"; done
printf '%s\n' "${summary[@]}" "$(printf '%-12s %-7s %5d s' all "$( ((failed)) && echo FAILED || echo ok)" $SECONDS)"
if [[ $building ]]; then wait "$building" || true; fi # a test that needed it has said why
exit $failed
