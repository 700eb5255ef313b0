#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# bench.sh [PACKAGE...]: runs the benchmarks (of the given packages, or all),
# puts their raw output into docs/bench, and makes docs/benchmarks.md from it.
# As root on a quiet machine; about half an hour on two cores for everything.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH=$PATH:/usr/sbin:/sbin
raw=docs/bench

if [[ $EUID -ne 0 ]]; then
	echo "the benchmarks start engines and load BPF programs: run them as root" >&2
	exit 1
fi
scripts/packages.sh bench
make --no-print-directory build
mkdir -p "$raw"

environment() {
	echo "Measured on $(date -u +%Y-%m-%d) at $(git describe --always --dirty 2>/dev/null || echo 'an unknown commit')."
	echo
	echo "| | |"
	echo "|---|---|"
	echo "| kernel | $(uname -srm) |"
	echo "| CPUs | $(nproc), $(awk -F ': *' '/^model name/ {print $2; exit}' /proc/cpuinfo) |"
	echo "| memory | $(awk '/^MemTotal/ {printf "%.0f GiB", $2 / 1048576}' /proc/meminfo) |"
	echo "| cgroups | $(if [[ -e /sys/fs/cgroup/cgroup.controllers ]]; then echo v2; elif [[ -d /sys/fs/cgroup/unified ]]; then echo hybrid; else echo v1; fi) |"
	echo "| Docker | $(dockerd --version | sed 's/,.*//; s/.*version //') |"
	echo "| containerd | $(containerd --version | awk '{print $3}') |"
	echo "| runc | $(runc --version | awk 'NR == 1 {print $3}') |"
	echo "| Go | $(go env GOVERSION) |"
}

packages=("$@")
if [[ ${#packages[@]} -eq 0 ]]; then
	mapfile -t packages < <(grep -rlE --include='*_test.go' '^func Benchmark' bpf pkg internal tests 2>/dev/null | xargs -r -n1 dirname | sort -u)
fi
environment >"$raw/environment.md"
for package in "${packages[@]}"; do
	package=${package#./}
	out=$raw/${package//\//-}.txt
	# The end-to-end figures repeat by themselves, inside one iteration.
	args=(-benchtime=300ms -count=5)
	[[ $package != tests/* ]] || args=(-benchtime=1x -count=1)
	echo "--- $package"
	go test -vet=off -run '^$' -bench . -benchmem "${args[@]}" -timeout 60m "./$package" >"$out.part" 2>&1 || {
		cat "$out.part" >&2
		exit 1
	}
	grep '^Benchmark' "$out.part"
	mv "$out.part" "$out"
done
go run ./internal/benchtable -raw "$raw" -out docs/benchmarks.md
echo "wrote docs/benchmarks.md"
