#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# lint.sh: formatting, linters, and that what is generated is what its sources
# give. Says everything that is wrong, then fails.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
failed=0

# check NAME COMMAND...: runs it; a non-zero exit or any output is a finding, but
# for what Go says where its cache is empty.
check() {
	local name=$1 begin=$SECONDS out code=0
	shift
	out=$("$@" 2>&1) || code=$?
	out=$(grep -v '^go: downloading ' <<<"$out") || true
	if [[ $code -ne 0 || -n $out ]]; then
		echo "--- $name: FAILED, $((SECONDS - begin)) s"
		printf '%s\n' "$out"
		failed=1
	else
		echo "--- $name: ok, $((SECONDS - begin)) s"
	fi
}

# The pinned tools of tools/go.mod; Go builds them once, about three minutes on two cores.
tool() { go tool -modfile=tools/go.mod "$@"; }
sources() { git ls-files -co --exclude-standard -- "$@"; }

golangci() {
	local out
	out=$(tool golangci-lint run ./... 2>&1) || { printf '%s\n' "$out"; return 1; }
}
formatted_c() { sources 'bpf/*.c' 'bpf/*.h' | xargs -r clang-format-14 --dry-run -Werror; }
buf_lint() { (cd api && go tool -modfile=../tools/go.mod buf lint); }

# generated regenerates into place and compares with what was there.
generated() {
	local before
	if [[ $(clang-14 --version 2>/dev/null) != *"version 14."* ]]; then
		echo "the committed BPF objects are made by clang 14, which is not here"
		return 1
	fi
	before=$(mktemp -d)
	trap 'rm -rf "$before"' RETURN
	copies "$before" && scripts/generate.sh >"$before.log" 2>&1 || { cat "$before.log"; rm -f "$before.log"; return 1; }
	rm -f "$before.log"
	local file
	for file in $(made); do
		cmp -s "$file" "$before/$file" || echo "$file is not what its source gives: run 'make generate' and commit it"
	done
}
made() { sources 'bpf/tracer_*' 'api/*.pb.go' 'docs/cli/*' docs/configuration.md; }
copies() { made | tar -c -T - | tar -x -C "$1"; }

tidy() { go mod tidy -diff; }
tidy_tools() { go -C tools mod tidy -diff && go -C tools/clients mod tidy -diff; }

check gofmt gofmt -l $(sources '*.go')
check golangci-lint golangci
check buf buf_lint
check clang-format formatted_c
check generated generated
check 'go mod tidy' tidy
check 'go mod tidy (tools)' tidy_tools
exit $failed
