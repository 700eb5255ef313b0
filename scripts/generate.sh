#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# generate.sh: everything that is generated and committed, from its sources: the
# BPF objects and their Go (bpf2go with clang 14), the protobuf code (buf) and the
# reference pages. The generators are the pinned tools of tools/go.mod.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
go generate ./...
