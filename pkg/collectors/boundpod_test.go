// SPDX-License-Identifier: Apache-2.0

package collectors_test

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

// aPod sets every string and list of a pod, so that one which BoundPod forgets is found.
func aPod(text string, n int) *workload.Pod {
	p := &workload.Pod{}
	v := reflect.ValueOf(p).Elem()
	for f, field := range v.Fields() {
		switch f.Name {
		case "Sources", "Missing", "Truncated": // our own
		default:
			setPod(field, text, n)
		}
	}
	return p
}

func setPod(v reflect.Value, text string, n int) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), n, n))
		for i := range n {
			setPod(v.Index(i), text, n)
		}
	case reflect.Map:
		v.Set(reflect.ValueOf(map[string]string{"key": text}))
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[workload.ContainerID]() {
			return // checked by the collector
		}
		for _, field := range v.Fields() {
			if field.CanSet() {
				setPod(field, text, n)
			}
		}
	}
}

func TestBoundLeavesAnOrdinaryPodAlone(t *testing.T) {
	p := aPod("ordinary", 3)
	collectors.BoundPod(p)
	if d := cmp.Diff(aPod("ordinary", 3), p); d != "" {
		t.Errorf("changed (-before +after):\n%s", d)
	}
}

func TestEveryStringAndListOfAPodIsBounded(t *testing.T) {
	p := aPod(strings.Repeat("x", 8<<10)+"\xff", 1000)
	collectors.BoundPod(p)
	want := []string{
		"annotations", "conditions", "configHash", "containers", "ips", "labels", "name", "namespace", "node", "owners", "phase",
		"qos", "runtime", "runtimeHandler", "sandboxes", "serviceAccount", "uid", "volumes",
	}
	if d := cmp.Diff(want, p.Truncated); d != "" {
		t.Errorf("truncated (-want +got):\n%s", d)
	}
	total := 0
	var walk func(v reflect.Value)
	walk = func(v reflect.Value) {
		switch v.Kind() {
		case reflect.String:
			if total += v.Len(); v.Len() > 4<<10 || !utf8.ValidString(v.String()) {
				t.Errorf("a string of %d bytes", v.Len())
			}
		case reflect.Slice:
			if v.Len() > 256 {
				t.Errorf("a list of %d", v.Len())
			}
			for i := range v.Len() {
				walk(v.Index(i))
			}
		case reflect.Map:
			for k, e := range v.Seq2() {
				walk(k)
				walk(e)
			}
		case reflect.Struct:
			if v.Type() == reflect.TypeFor[workload.Pod]() || v.NumField() < 10 && v.Type().PkgPath() != "time" {
				for _, f := range v.Fields() {
					walk(f)
				}
			}
		}
	}
	walk(reflect.ValueOf(*p))
	if total > 256<<10 {
		t.Errorf("%d KiB are left", total>>10)
	}
}

func TestBadTextInAPodIsRepairedAndNotCalledCut(t *testing.T) {
	p := &workload.Pod{PodRef: workload.PodRef{Name: "a\xffb"}, Volumes: []workload.PodVolume{{Source: "\xff"}}}
	collectors.BoundPod(p)
	if p.Name != "a\uFFFDb" || p.Volumes[0].Source != "\uFFFD" || !slices.Equal(p.Truncated, nil) {
		t.Errorf("%+v", p)
	}
}
