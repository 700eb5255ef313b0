#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# kubelet.sh: builds the kubelet that the tests run, of the version that
# tests/kubelet/go.mod pins, and prints where it is.
#
# It is built once for each version and kept below the cache (PIDIGREE_CACHE;
# /var/cache/pidigree for root, ~/.cache/pidigree else): some minutes on two
# cores the first time, nothing after. test.sh begins it in the background, so
# that the stage that needs it seldom waits. The build is in a module of its own
# because half of Kubernetes' modules in ours would be everybody's to download.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../tests/kubelet"

if [[ $EUID -eq 0 ]]; then cache=/var/cache/pidigree; else cache=${XDG_CACHE_HOME:-$HOME/.cache}/pidigree; fi
version=$(sed -n 's/^[[:space:]]*k8s.io\/kubernetes \(v[^ ]*\).*/\1/p' go.mod)
dir=${PIDIGREE_CACHE:-$cache}/kubelet
kubelet=$dir/$version/kubelet
mkdir -p "$dir/$version"
# One builder at a time; the one that waited finds it built.
exec 9>"$dir/.lock"
flock 9
if [[ ! -x $kubelet ]]; then
	# The version is stamped as Kubernetes' own build does it; without, the kubelet calls itself v0.0.0.
	stamp=k8s.io/component-base/version minor=${version#v*.}
	nice -n 19 env CGO_ENABLED=0 go build -trimpath -buildvcs=false \
		-ldflags "-s -w -X $stamp.gitVersion=$version -X $stamp.gitMajor=1 -X $stamp.gitMinor=${minor%%.*}" \
		-o "$kubelet.part" k8s.io/kubernetes/cmd/kubelet >&2
	mv "$kubelet.part" "$kubelet"
fi
echo "$kubelet"
