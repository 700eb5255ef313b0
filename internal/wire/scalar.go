// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// text makes a hostile string fit for a proto string field, whose marshalling
// fails on invalid UTF-8: one bad label must not take a whole reply down.
func text(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

func texts(in []string) []string {
	for i, s := range in {
		if !utf8.ValidString(s) {
			return cleanTexts(in, i)
		}
	}
	return in
}

func cleanTexts(in []string, from int) []string {
	out := append(make([]string, 0, len(in)), in[:from]...)
	for _, s := range in[from:] {
		out = append(out, text(s))
	}
	return out
}

// textMap shares a map that is clean already, which nearly all are.
func textMap(in map[string]string) map[string]string {
	for k, v := range in {
		if !utf8.ValidString(k) || !utf8.ValidString(v) {
			return cleanTextMap(in)
		}
	}
	return in
}

func cleanTextMap(in map[string]string) map[string]string {
	out := make(map[string]string, len(in))
	for k, v := range in {
		out[text(k)] = text(v)
	}
	return out
}

func countMap(in map[string]uint64) map[string]uint64 {
	for k := range in {
		if !utf8.ValidString(k) {
			return cleanCountMap(in)
		}
	}
	return in
}

func cleanCountMap(in map[string]uint64) map[string]uint64 {
	out := make(map[string]uint64, len(in))
	for k, v := range in {
		out[text(k)] += v
	}
	return out
}

// timestamp gives nil for the zero time: nobody said.
func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func wallClock(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}

func duration(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}

// each translates a slice, keeping nil for empty.
func each[A, B any](in []A, f func(A) B) []B {
	if len(in) == 0 {
		return nil
	}
	out := make([]B, len(in))
	for i, a := range in {
		out[i] = f(a)
	}
	return out
}
