#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# generate.sh: everything that is generated and committed, from its sources: the
# BPF objects and their Go (bpf2go, clang 14), the protobuf code (buf with the
# pinned plugins), the reference pages.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH=$PWD/bin/tools:$PATH
go generate ./...
