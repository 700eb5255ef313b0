// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/events"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/pkg/workload"
)

// engineThat serves a made-up engine on a socket.
func engineThat(t *testing.T, root string, answer http.HandlerFunc) *Collector {
	t.Helper()
	socket := collectortest.ServeHTTP(t, "pdf", func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/_ping") {
			w.Header().Set("Api-Version", "1.41")
			return
		}
		w.Header().Set("Content-Type", "application/json")
		answer(w, r)
	})
	c, err := New(Options{Host: socket, Root: root, Interval: 10 * time.Millisecond, CallTimeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func say(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) }
}

func TestAnEngineThatTalksNonsenseIsUnavailable(t *testing.T) {
	other := strings.Repeat("b", 64)
	for what, answer := range map[string]http.HandlerFunc{
		"nothing":           say(""),
		"no JSON":           say("<html>"),
		"another type":      say(`{"Id":1}`),
		"half a reply":      say(`[{"Id":"` + hexID),
		"brackets":          say(strings.Repeat("[", 1<<20)),
		"an endless string": func(w http.ResponseWriter, _ *http.Request) { endless(w, `[{"Id":"`, "x") },
		"an endless list":   func(w http.ResponseWriter, _ *http.Request) { endless(w, `[`, `{"Id":"`+other+`"},`) },
		"an error":          func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
		"a redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://192.0.2.1/", http.StatusFound)
		},
		"a cut reply": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		t.Run(what, func(t *testing.T) {
			c := engineThat(t, t.TempDir(), answer)
			c.maxReply = 1 << 20
			api, err := newAPI(c.socket, c.transport(), c.maxReply)
			if err != nil {
				t.Fatal(err)
			}
			c.api = api
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			if got, err := c.Lookup(ctx, c.id(hexID)); got != nil || !errors.Is(err, collectors.ErrUnavailable) {
				t.Errorf("Lookup = %v, %v", got, err)
			}
			if _, err := c.Probe(ctx); !errors.Is(err, collectors.ErrUnavailable) {
				t.Errorf("Probe: %v", err)
			}
			n := 0
			for got, err := range c.List(ctx) {
				if n++; got != nil || err == nil {
					t.Errorf("List yields %v, %v", got, err)
				}
			}
			if n != 1 {
				t.Errorf("List yielded %d times", n)
			}
		})
	}
}

func endless(w io.Writer, head, unit string) {
	block := strings.Repeat(unit, 64<<10/len(unit))
	_, err := io.WriteString(w, head)
	for err == nil {
		_, err = io.WriteString(w, block)
	}
}

func TestAnAnswerAboutAnotherContainerIsNotTaken(t *testing.T) {
	root := t.TempDir()
	dir := root + "/containers/" + hexID
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	other := strings.Repeat("b", 64)
	c := engineThat(t, root, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/containers/json") {
			_, _ = fmt.Fprintf(w, `[{"Id":"%s","Names":["/victim"]}]`, other)
			return
		}
		_, _ = fmt.Fprintf(w, `{"Id":"%s","Name":"/victim","State":{"Running":true,"Pid":1}}`, other)
	})
	if got, err := c.Lookup(t.Context(), c.id(hexID)); got != nil || !errors.Is(err, collectors.ErrNotFound) {
		t.Errorf("by list: %v, %v", got, err)
	}
	write(t, dir+"/config.v2.json", fmt.Sprintf(runningConfig, hexID))
	if got, err := c.Lookup(t.Context(), c.id(hexID)); got != nil || !errors.Is(err, collectors.ErrUnavailable) {
		t.Errorf("by inspect: %v, %v", got, err)
	}
}

// The engine of this test gives the same events in each window, as one does
// whose clock is behind, and things that are no events of containers.
func TestAnEventInTwoWindowsIsOneHint(t *testing.T) {
	windows := make(chan string, 100)
	c := engineThat(t, t.TempDir(), func(w http.ResponseWriter, r *http.Request) {
		windows <- r.URL.Query().Get("since") + " " + r.URL.Query().Get("until")
		at := time.Now().Truncate(time.Hour).UnixNano()
		for i, action := range []string{"start", "health_status: healthy", "exec_create: sh", "die"} {
			_, _ = fmt.Fprintf(w, `{"Type":"container","Action":%q,"Actor":{"ID":%q,"Attributes":{"name":"web","image":"bb:1"}},"timeNano":%d}`,
				action, hexID, at+int64(i))
		}
		_, _ = io.WriteString(w, `{"Type":"container","Action":"start","Actor":{"ID":"../../x"},"timeNano":1}{"Type":"image","Action":"tag"}`)
	})
	w := watch(t, c)
	for range 5 {
		<-windows
	}
	var kinds []collectors.HintKind
	for _, h := range w.of(hexID) {
		kinds = append(kinds, h.Kind)
	}
	if fmt.Sprint(kinds) != "[started changed exited]" {
		t.Errorf("hints %v", kinds)
	}
	if n := len(w.of("../../x")); n != 0 {
		t.Errorf("%d hints about a path", n)
	}
	since, until, _ := strings.Cut(<-windows, " ")
	if len(since) < 20 || len(until) < 20 || since >= until {
		t.Errorf("window from %s to %s", since, until)
	}
}

func TestAWindowThatFailsEndsTheWatch(t *testing.T) {
	c := engineThat(t, t.TempDir(), func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	if err := c.Watch(t.Context(), func(collectors.Hint) {}); !errors.Is(err, collectors.ErrUnavailable) {
		t.Errorf("Watch: %v", err)
	}
}

func TestWithoutFilesAnEventGivesOnlyWhatItsLabelsCannotFake(t *testing.T) {
	// Files that cannot be read, which is not the same as none.
	root := t.TempDir()
	if err := os.MkdirAll(root+"/containers/"+hexID, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, root+"/containers/"+hexID+"/config.v2.json", "broken")
	c := engineThat(t, root, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintf(w, `{"Type":"container","Action":"die","Actor":{"ID":%q,"Attributes":{"name":"web","image":"bb:1","exitCode":"0","a":"b"}},"timeNano":%d}`,
			hexID, time.Now().UnixNano())
	})
	w := watch(t, c)
	got := w.until(t, c, hexID, 1)
	if got[0].Layer == nil {
		t.Fatalf("hints %+v", got)
	}
	l := got[0].Layer
	if l.Name != "web" || l.Image.Name != "bb:1" || l.Labels != nil || l.Exit != nil || l.State != workload.StateUnknown {
		t.Errorf("layer %+v", l)
	}
}

func BenchmarkPrefill(b *testing.B) {
	c, dir := fixture(b)
	if err := os.WriteFile(dir+"/config.v2.json", fmt.Appendf(nil, runningConfig, hexID), 0o600); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(dir+"/hostconfig.json", []byte(runningHost), 0o600); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Prefill(b.Context(), c.id(hexID)); err != nil {
			b.Fatal(err)
		}
	}
}

// The engine says that a container ended before it writes so.
func TestAnEndThatTheFilesDoNotHaveYetIsAnEndWithoutACode(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(root+"/containers/"+hexID, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, root+"/containers/"+hexID+"/config.v2.json", fmt.Sprintf(runningConfig, hexID))
	c, err := New(Options{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	started := time.Date(2026, 11, 22, 10, 18, 11, 289321831, time.UTC)
	for what, tc := range map[string]struct {
		at   time.Time
		want workload.State
	}{
		"after its start":                {started.Add(time.Second), workload.StateExited},
		"before the start of a next run": {started.Add(-time.Second), workload.StateRunning},
	} {
		m := events.Message{TimeNano: tc.at.UnixNano(), Actor: events.Actor{ID: hexID, Attributes: map[string]string{"exitCode": "0"}}}
		got := c.layer(t.Context(), collectors.HintExited, m)
		if got.Name != "web" || got.State != tc.want || got.Exit != nil {
			t.Errorf("%s: state %q, exit %+v", what, got.State, got.Exit)
		}
	}
}
