#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# fuzz-tool.sh TOOL ARG...: a -toolexec for `go test -fuzz`, which has only what is
# ours and what decodes for us watched for new coverage. Go watches everything that
# a test links, and looks over all of it after each execution: with the clients of
# the engines linked that takes ten to thirty times as long as the execution.
set -euo pipefail

tool=$1
shift
[[ ${tool##*/} == compile ]] || exec "$tool" "$@"
if [[ ${1-} == -V=full ]]; then
	# The build cache must not take for this compiler's what another one made.
	version=$("$tool" "$@")
	echo "$version fuzz-tool-1"
	exit
fi
before='' package='' args=()
for arg; do
	[[ $before == -p ]] && package=$arg
	before=$arg
	[[ $arg == -d=libfuzzer ]] || args+=("$arg")
done
case $package in
github.com/pidigree/* | encoding/* | go.yaml.in/*) exec "$tool" "$@" ;;
*) exec "$tool" "${args[@]}" ;;
esac
