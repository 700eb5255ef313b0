// SPDX-License-Identifier: Apache-2.0

package incus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/pkg/workload"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func at(l *collectortest.LXD, socket string) *Collector {
	return New(Options{Socket: socket, Dir: l.Dir})
}

// TestConformance runs on real containers of the machine's LXD.
func TestConformance(t *testing.T) {
	l := collectortest.StartLXD(t)
	collectortest.Run(t, collectortest.Harness{
		New: func(testing.TB) collectors.Collector { return at(l, l.Socket) },
		Start: func(tb testing.TB) *collectortest.Started {
			name := l.Name()
			pid := workload.PID(l.Launch(tb, name, "--config", "user.team=blue"))
			return &collectortest.Started{
				Want: &workload.Container{
					ID: workload.ContainerID{Runtime: "lxd", Instance: l.Socket, ID: name}, Name: name, Runtime: "lxd", Hostname: name,
					State: workload.StateRunning, Labels: map[string]string{"user.team": "blue"}, Run: &workload.Run{Init: workload.ProcessKey{PID: pid}},
				},
				Evidence: workload.Evidence{Claims: []workload.ContainerID{{Runtime: "lxc", ID: name}}, Cgroups: collectortest.CgroupsOf(tb, pid)},
				Stop: func() {
					if _, err := l.Exec(context.Background(), "stop", "--force", name); err != nil {
						tb.Error(err)
					}
				},
				Remove: func() { l.Delete(name) },
			}
		},
		Unknown: workload.ContainerID{Runtime: "lxd", ID: "nobody"},
		NewAt:   func(_ testing.TB, socket string) collectors.Collector { return at(l, socket) },
		Proxy:   func(tb testing.TB) *collectortest.Proxy { return collectortest.NewDockerProxy(tb, l.Socket) },
	})
}

func TestAContainerIsWhatTheServerSaysAndItsInitWhatIsSeen(t *testing.T) {
	l := collectortest.StartLXD(t)
	c := at(l, l.Socket)
	for _, args := range [][]string{{"create", "web", "-c", "features.images=false", "-c", "features.profiles=false"}} {
		if out, err := l.Exec(t.Context(), append([]string{"project"}, args...)...); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	name := l.Name()
	plain := l.Launch(t, name, "--config", "user.team=blue", "--config", "user.user-data=#secret", "--config", "security.privileged=true", "--ephemeral")
	inProject := l.Launch(t, name, "--project", "web")
	t.Run("in the default project", func(t *testing.T) {
		got, err := c.Lookup(t.Context(), workload.ContainerID{Runtime: "lxd", ID: name})
		if err != nil {
			t.Fatal(err)
		}
		if len(got.Labels) != 1 || got.Labels["user.team"] != "blue" {
			t.Errorf("labels %v: what configures a machine is no label", got.Labels)
		}
		for k, want := range map[string]string{"image.os": "Box", "image.description": "A busybox that sleeps", "security.privileged": "true", "ephemeral": "true", "profiles": "default", "project": "default"} {
			if got.Annotations[k] != want {
				t.Errorf("annotation %s is %q, want %q", k, got.Annotations[k], want)
			}
		}
		images, err := l.Exec(t.Context(), "image", "list", "--format", "csv", "--columns", "F")
		if err != nil || got.Image.ID == "" || got.Image.ID != strings.TrimSpace(images) {
			t.Errorf("image %q, LXD has %q, %v", got.Image.ID, images, err)
		}
		if got.Created.IsZero() || time.Since(got.Created) > time.Hour {
			t.Errorf("created %v", got.Created)
		}
		is(t, got, plain, "/lxc.payload."+name)
	})
	t.Run("in another project", func(t *testing.T) {
		for _, id := range []workload.ContainerID{{Runtime: "lxd", Namespace: "web", ID: name}, {Runtime: "lxc", ID: "web_" + name}, {ID: "web_" + name}} {
			got, err := c.Lookup(t.Context(), id)
			if err != nil {
				t.Fatalf("%s: %v", id, err)
			}
			if want := (workload.ContainerID{Runtime: "lxd", Instance: l.Socket, Namespace: "web", ID: name}); got.ID != want {
				t.Errorf("id %+v, want %+v", got.ID, want)
			}
			is(t, got, inProject, "/lxc.payload.web_"+name)
		}
	})
	t.Run("frozen, stopped and made alone", func(t *testing.T) {
		for _, step := range []struct {
			command string
			want    workload.State
		}{{"pause", workload.StatePaused}, {"start", workload.StateRunning}, {"stop", workload.StateExited}} {
			args := []string{step.command, name, "--project", "web"}
			if step.command == "stop" {
				args = append(args, "--force")
			}
			if _, err := l.Exec(t.Context(), args...); err != nil {
				t.Fatal(err)
			}
			got, err := c.Lookup(t.Context(), workload.ContainerID{Runtime: "lxd", Namespace: "web", ID: name})
			if err != nil || got.State != step.want || (got.Run != nil) != (step.command != "stop") {
				t.Errorf("after %s: %+v, %v; want it %s", step.command, got, err, step.want)
			}
		}
		made := l.Name()
		t.Cleanup(func() { l.Delete(made) })
		if _, err := l.Exec(t.Context(), "init", "box", made, "--quiet"); err != nil {
			t.Fatal(err)
		}
		if got, err := c.Lookup(t.Context(), workload.ContainerID{Runtime: "lxd", ID: made}); err != nil || got.State != workload.StateCreated || got.Run != nil {
			t.Errorf("one that never ran: %+v, %v", got, err)
		}
	})
}

func is(t *testing.T, got *workload.Container, init int, payload string) {
	t.Helper()
	if r := got.Run; r == nil || !r.Registers || int(r.Init.PID) != init || r.Init.Start == 0 || !slices.Equal(r.ClaimedPaths, []string{payload}) {
		t.Errorf("run %+v, want the init %d in %s", r, init, payload)
	}
}

// What nobody starts or ends is heard of by asking: a label, a name.
func TestAChangedSettingIsToldOf(t *testing.T) {
	l := collectortest.StartLXD(t)
	c := at(l, l.Socket)
	name := l.Name()
	l.Launch(t, name)
	var hints []collectors.Hint
	w := &watch{c: c, fn: func(h collectors.Hint) { hints = append(hints, h) }, seen: map[key]*known{}, first: true}
	again := func() {
		t.Helper()
		w.asked, hints = time.Time{}, nil
		if err := errors.Join(w.look(t.Context()), w.ask(t.Context())); err != nil {
			t.Fatal(err)
		}
	}
	want := func(what string, kinds ...collectors.HintKind) {
		t.Helper()
		var got []collectors.HintKind
		for _, h := range hints {
			got = append(got, h.Kind)
		}
		if !slices.Equal(got, kinds) {
			t.Errorf("%s: hints %q, want %q", what, got, kinds)
		}
	}
	run := func(args ...string) {
		t.Helper()
		if _, err := l.Exec(t.Context(), args...); err != nil {
			t.Fatal(err)
		}
		again()
	}
	again()
	want("at the beginning", collectors.HintStarted)
	again()
	want("where nothing changes")
	run("config", "set", name, "user.team=red")
	want("a label", collectors.HintChanged)
	run("config", "set", name, "user.user-data=#x")
	want("what is not kept")
	run("pause", name)
	want("frozen", collectors.HintChanged)
	run("restart", "--force", name)
	want("restarted", collectors.HintExited, collectors.HintStarted)
	run("stop", "--force", name)
	want("stopped", collectors.HintExited)
	renamed := l.Name()
	t.Cleanup(func() { l.Delete(renamed) })
	run("rename", name, renamed)
	if len(hints) != 2 || !slices.ContainsFunc(hints, func(h collectors.Hint) bool { return h.Kind == collectors.HintDeleted && h.ID.ID == name }) ||
		!slices.ContainsFunc(hints, func(h collectors.Hint) bool { return h.Kind == collectors.HintCreated && h.ID.ID == renamed }) {
		t.Errorf("renamed: hints %+v", hints)
	}
}

// serverThat serves a made-up server at a path that names Incus.
func serverThat(t *testing.T, answer http.HandlerFunc) *Collector {
	t.Helper()
	return New(Options{Socket: collectortest.ServeHTTP(t, "incus", answer)})
}

func TestAServerThatTalksNonsenseIsUnavailable(t *testing.T) {
	say := func(code int, kind, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", kind)
			w.WriteHeader(code)
			_, _ = io.WriteString(w, body)
		}
	}
	for name, answer := range map[string]http.HandlerFunc{
		"HTML":                            say(200, "text/html", "<html>503</html>"),
		"a redirection":                   say(302, "text/html", ""),
		"an error without its envelope":   say(404, "application/json", `{"message":"no route"}`),
		"HTML that says not found":        say(404, "text/html", "not found"),
		"too many requests":               say(429, "application/json", `{}`),
		"another instance":                say(200, "application/json", `{"type":"sync","metadata":{"name":"c2","type":"container"}}`),
		"the name in another project":     say(200, "application/json", `{"type":"sync","metadata":{"name":"c1","project":"web","type":"container"}}`),
		"no instance":                     say(200, "application/json", `{"type":"sync","metadata":null}`),
		"a list":                          say(200, "application/json", `{"type":"sync","metadata":[]}`),
		"half an answer":                  say(200, "application/json", `{"type":"sync","metadata":{"name":"c1","ty`),
		"nothing":                         say(200, "application/json", ``),
		"a status that is none":           say(500, "application/json", `{"type":"error","error_code":404}`),
		"what is nested a thousand times": say(200, "application/json", strings.Repeat(`{"metadata":`, 1000)),
	} {
		t.Run(name, func(t *testing.T) {
			c := serverThat(t, answer)
			got, err := c.Lookup(t.Context(), workload.ContainerID{Runtime: "incus", ID: "c1"})
			if got != nil || !errors.Is(err, collectors.ErrUnavailable) || errors.Is(err, collectors.ErrNotFound) {
				t.Errorf("%+v, %v; want ErrUnavailable", got, err)
			}
		})
	}
	t.Run("a virtual machine", func(t *testing.T) {
		c := serverThat(t, say(200, "application/json", `{"type":"sync","metadata":{"name":"c1","type":"virtual-machine"}}`))
		if got, err := c.Lookup(t.Context(), workload.ContainerID{Runtime: "incus", ID: "c1"}); got != nil || !errors.Is(err, collectors.ErrNotFound) {
			t.Errorf("%+v, %v; want ErrNotFound", got, err)
		}
	})
	t.Run("the other server", func(t *testing.T) {
		c := serverThat(t, say(200, "application/json", `{"type":"sync","metadata":{"environment":{"server":"lxd","server_version":"5.0.2"}}}`))
		if _, err := c.Probe(t.Context()); !errors.Is(err, collectors.ErrUnavailable) || !strings.Contains(err.Error(), `"lxd"`) {
			t.Errorf("Probe: %v", err)
		}
	})
}

// A container whose settings are over every budget costs little, and is described.
func TestAHugeSettingHidesNothing(t *testing.T) {
	c := serverThat(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"type":"sync","metadata":[{"type":"container","expanded_config":{"a":%q`, strings.Repeat("x", 16<<20))
		for i := range 100_000 {
			fmt.Fprintf(w, `,"k%d":"v"`, i)
		}
		_, _ = io.WriteString(w, `,"user.team":"blue","volatile.base_image":"f00d"},"name":"c1","status":"Stopped"},{"type":"container","name":"c2","project":"web","status":"Running"}]}`)
	})
	var got []*workload.Container
	for l, err := range c.List(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, l)
	}
	if len(got) != 2 || got[0].ID.ID != "c1" || got[0].Labels["user.team"] != "blue" || got[0].Image.ID != "f00d" || got[1].ID.Namespace != "web" {
		t.Errorf("%+v", got)
	}
}

func TestOfWhomAnIDIs(t *testing.T) {
	c := New(Options{Socket: "/var/lib/incus/unix.socket"})
	for id, want := range map[workload.ContainerID]string{
		{Runtime: "incus", ID: "c1"}:                   "default c1",
		{Runtime: "incus", Namespace: "web", ID: "c1"}: "web c1",
		{Runtime: "lxc", ID: "c1"}:                     "default c1",
		{Runtime: "lxc", ID: "web_c1"}:                 "web c1",
		{ID: "web_c1"}:                                 "web c1",
		{Runtime: "incus", ID: "web_c1"}:               "",
		{Runtime: "incus", Namespace: "a_b", ID: "c1"}: "",
		{Runtime: "lxc", ID: "web_c_1"}:                "",
		{Runtime: "lxd", ID: "c1"}:                     "",
		{Runtime: "docker", ID: "c1"}:                  "",
		{Runtime: "lxc", Instance: "/srv", ID: "c1"}:   "",
		{ID: strings.Repeat("a", 64)}:                  "",
		{Runtime: "lxc", ID: "../c1"}:                  "",
		{Runtime: "lxc", ID: "c1?project=web"}:         "",
		{Runtime: "lxc", ID: "a/b_c1"}:                 "",
		{Runtime: "lxc", ID: "-h"}:                     "",
		{Runtime: "lxc", ID: "_c1"}:                    "",
	} {
		k, err := c.mine(id)
		if got := strings.TrimSpace(k.project + " " + k.name); got != want || (err == nil) != (want != "") {
			t.Errorf("%+v is %q, %v; want %q", id, got, err, want)
		}
		if err == nil && k.lxcName() != id.ID && id.Runtime != "incus" {
			t.Errorf("%+v is %q for liblxc", id, k.lxcName())
		}
	}
}
