// SPDX-License-Identifier: Apache-2.0

package bpf

//go:generate go tool -modfile=../tools/go.mod bpf2go -go-package bpf -cc clang-14 -strip llvm-strip-14 -target amd64,arm64 -cflags "-O2 -Wall -Wextra -Werror" -type record_type -type twin -type record_header -type record_process -type record_pid_namespace -type record_cgroup_id -type record_cgroup -type record_counts Tracer tracer.bpf.c
