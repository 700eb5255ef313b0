// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/pidigree/pidigree/pkg/collectors"
)

// A list that is over what other clients take: pods as long as the API server lets
// them be, and one that is longer.
func TestALongListIsReadPodByPod(t *testing.T) {
	var b strings.Builder
	b.WriteString(`{"kind":"PodList","items":[{"metadata":{"name":"monster","uid":"monster","annotations":{"a":"` + strings.Repeat("x", 8<<20) + `"`)
	for i := range 100_000 {
		fmt.Fprintf(&b, `,"k%06d":"v"`, i)
	}
	b.WriteString(`,"kubernetes.io/config.source":"file"}},"status":{"phase":"Running"}}`)
	env := `{"name":"c","env":[` + strings.Repeat(`{"name":"A","value":"`+strings.Repeat("v", 1000)+`"},`, 100) + `{}]}`
	for i := range 100 {
		b.WriteString("," + strings.Replace(pod(i), `{"name":"c"}`, env, 1))
	}
	b.WriteString("]}")
	body := b.String()
	if len(body) < 16<<20 {
		t.Fatalf("%d bytes", len(body))
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	l, err := decode(strings.NewReader(body), collectors.MaxKubeletList)
	runtime.ReadMemStats(&after)
	if err != nil || len(l.pods) != 101 {
		t.Fatalf("%d pods, %v", len(l.pods), err)
	}
	m := l.pod("monster")
	if len(m.Annotations) > 256 || !m.Static || m.Phase != "Running" || len(m.Truncated) == 0 {
		t.Errorf("the monster: %d annotations, static %v, phase %q, truncated %v", len(m.Annotations), m.Static, m.Phase, m.Truncated)
	}
	if c := l.pod("uid-99").Containers; len(c) != 1 || !c[0].Ready {
		t.Errorf("the last: %+v", c)
	}
	if n := (after.TotalAlloc - before.TotalAlloc) >> 20; n > 64 {
		t.Errorf("allocated %d MiB in all for a list of %d MiB", n, len(body)>>20)
	}
}

func TestAHostileUIDIsRefusedWithoutACall(t *testing.T) {
	c := answering(t, func(http.ResponseWriter, *http.Request) { t.Error("the kubelet was asked") })
	for _, uid := range []string{"", "/", "../x", "a b", "\x1b[31m", "a\x00", "\xff", hexA, strings.Repeat("a", 129), strings.Repeat("a", 1<<20), "ä"} {
		if p, err := c.LookupPod(t.Context(), uid); p != nil || !errors.Is(err, collectors.ErrNotFound) || len(err.Error()) > 200 {
			t.Errorf("%.20q: %v, %v", uid, p, err)
		}
	}
}

func TestAKubeletThatHangsCostsTheDeadline(t *testing.T) {
	release := make(chan struct{})
	c := answering(t, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	defer close(release)
	began := time.Now()
	// The first to ask gives up early, which says nothing to the one that waits with it.
	impatient, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	patient, cancel2 := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel2()
	ended := make(chan error, 1)
	go func() { _, err := c.LookupPod(impatient, "u"); ended <- err }()
	_, err := c.LookupPod(patient, "u")
	if d := time.Since(began); !errors.Is(err, collectors.ErrUnavailable) || d < 290*time.Millisecond || d > 5*time.Second {
		t.Errorf("%v after %v", err, d)
	}
	if err := <-ended; !errors.Is(err, collectors.ErrUnavailable) {
		t.Error(err)
	}
}

func FuzzDecode(f *testing.F) {
	for _, file := range []string{"pods-containerd.json", "pods-crio.json"} {
		data, err := os.ReadFile("testdata/" + file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(`{"kind":"PodList","items":[` + everything + `]}`))
	f.Add([]byte(`{"kind":"PodList","items":null}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		l, err := decode(bytes.NewReader(in), collectors.MaxKubeletList)
		if err != nil {
			return
		}
		for _, p := range l.pods {
			if !isPodUID(p.UID) || !utf8.ValidString(p.Name) || len(p.Name) > 256 || l.pod(p.UID) != p {
				t.Errorf("pod %+v", p)
			}
			if p.ConfigHash != "" && p.Annotations[configSource] == "api" {
				t.Errorf("a pod of the API's has the hash %q", p.ConfigHash)
			}
		}
		for hex, c := range l.containers {
			if !isContainerID(hex) || c.layer.ID.ID != hex || c.layer.Pod == nil {
				t.Errorf("container %q: %+v", hex, c.layer)
			}
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	data, err := os.ReadFile("testdata/pods-containerd.json")
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := decode(bytes.NewReader(data), collectors.MaxKubeletList); err != nil {
			b.Fatal(err)
		}
	}
}
