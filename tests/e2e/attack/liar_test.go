// SPDX-License-Identifier: Apache-2.0

package attack

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/pkg/workload"
	"github.com/pidigree/pidigree/tests/e2e/harness"
)

// state is a state.json of runc's, of which only what matters is looked at.
type state map[string]any

// stateOf is what runc wrote about a container of Docker's.
func (s *stage) stateOf(t *testing.T, m *member) state {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(s.docker.RuncRoot, m.id, "state.json"))
	var st state
	if err := errors.Join(err, json.Unmarshal(text, &st)); err != nil {
		t.Fatal(err)
	}
	return st
}

// tell writes a state where the agent looks for them, as a runtime would.
func (s *stage) tell(t *testing.T, id string, st state) {
	t.Helper()
	text, err := json.Marshal(st)
	dir := filepath.Join(s.lies, id)
	if err := errors.Join(err, os.Mkdir(dir, 0o711), os.WriteFile(dir+"/new", text, 0o600), os.Rename(dir+"/new", dir+"/state.json")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
}

// A tool that believes the runtime's state file: of whose PID it says what.
func (s *stage) believed(t *testing.T, id string) (pid int, name string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(s.lies, id, "state.json"))
	var st struct {
		ID  string `json:"id"`
		PID int    `json:"init_process_pid"`
	}
	if err := errors.Join(err, json.Unmarshal(text, &st)); err != nil {
		t.Fatal(err)
	}
	return st.PID, st.ID
}

// lyingRuntimes: a state directory that the agent watches tells of containers
// that are not, or are others'. Only root can write there; a runtime may be
// wrong, though, or taken over. What it says stands against what Docker says.
func lyingRuntimes(t *testing.T, s *stage) {
	for _, lie := range []struct {
		name string
		make func(t *testing.T, target, liar *member) (id string, st state)
		// about is whose processes the lie is about.
		about func(target, liar *member) *member
	}{
		{"an init that is someone else's", func(t *testing.T, target, _ *member) (string, state) {
			st := s.stateOf(t, target)
			st["id"], st["cgroup_paths"] = "liar", nowhere(st["cgroup_paths"])
			return "liar", st
		}, func(target, _ *member) *member { return target }},
		{"a cgroup that is someone else's", func(t *testing.T, target, liar *member) (string, state) {
			st := s.stateOf(t, liar)
			st["id"], st["cgroup_paths"] = "liar", s.stateOf(t, target)["cgroup_paths"]
			return "liar", st
		}, func(_, liar *member) *member { return liar }},
		{"all that is someone else's, by another name", func(t *testing.T, target, _ *member) (string, state) {
			st := s.stateOf(t, target)
			st["id"] = strings.Repeat("11aa", 16)
			return strings.Repeat("11aa", 16), st
		}, func(target, _ *member) *member { return target }},
		{"someone else's id", func(t *testing.T, target, liar *member) (string, state) {
			st := s.stateOf(t, liar)
			st["id"] = target.id
			return target.id, st
		}, func(_, liar *member) *member { return liar }},
	} {
		t.Run(lie.name, func(t *testing.T) {
			target, liar := s.start(t, "target"), s.start(t, "liar")
			target.party.OwnOrConflict()
			liar.party.OwnOrConflict()
			s.is(t, target.pid, target)
			s.is(t, liar.pid, liar)
			id, st := lie.make(t, target, liar)
			about := lie.about(target, liar)
			s.tell(t, id, st)
			if pid, name := s.believed(t, id); pid != about.pid || name == about.id {
				t.Fatalf("the lie is about PID %d and %q", pid, name)
			}
			s.bothAreNobodyElse(t, target, liar)
			s.is(t, s.victim.pid, s.victim)
			// An agent that comes now hears the lie and the truth in one breath.
			late := *s
			late.agent = harness.StartAgent(t, programs, harness.AgentOptions{Docker: s.docker, OCIRoots: []string{s.lies}})
			late.client = s.dial(t, late.agent.Socket)
			late.bothAreNobodyElse(t, target, liar)
			late.is(t, s.victim.pid, s.victim)
		})
	}
	t.Run("an answer of Docker's with another's PID", s.lyingDocker)
}

// nowhere is the same cgroups, elsewhere.
func nowhere(paths any) map[string]any {
	out := map[string]any{}
	for k, v := range paths.(map[string]any) {
		out[k] = fmt.Sprint(v) + "-nowhere"
	}
	return out
}

// bothAreNobodyElse asks about both for long enough that a lie has come in by
// every way there is, the periodic ones too, with processes that are made meanwhile.
func (s *stage) bothAreNobodyElse(t *testing.T, members ...*member) {
	t.Helper()
	statuses := map[string]int{}
	for end := time.Now().Add(1200 * time.Millisecond); time.Now().Before(end); {
		for _, m := range members {
			p := m.sitter(t, "sit")
			for _, pid := range []int{m.pid, p.pid} {
				for _, a := range s.askAll(t, pid) {
					m.isNoVictim(t, a)
					statuses[fmt.Sprintf("%s: %s %s", m.name, a.Status, a.Reason)]++
				}
			}
			p.end(t)
		}
	}
	for what, n := range statuses {
		t.Logf("%5d times %s", n, what)
	}
}

// lyingDocker has a proxy put the victim's PID into what Docker says of another
// container, for an agent that has nothing but Docker and its files to ask.
func (s *stage) lyingDocker(t *testing.T) {
	liar := s.start(t, "liar")
	var told atomic.Int64
	socket := s.mendacious(t, func(answer map[string]any) {
		st, ok := answer["State"].(map[string]any)
		if id, _ := answer["Id"].(string); ok && id == liar.id {
			st["Pid"] = s.victim.pid
			told.Add(1)
		}
	})
	docker := &collectortest.Dockerd{Root: s.docker.Root, RuncRoot: s.docker.RuncRoot, Containerd: "/nonexistent/containerd.sock"}
	agent := harness.StartAgent(t, programs, harness.AgentOptions{Docker: docker, DockerSocket: socket, NoOCI: true})
	client := s.dial(t, agent.Socket)
	ask := func(pid int) workload.Answer {
		results, err := client.Resolve(t.Context(), workload.Query{PID: workload.PID(pid)})
		if err := errors.Join(err, results[0].Err); err != nil {
			t.Fatal(err)
		}
		return results[0].Answer
	}
	bystander := s.bystanders[0]
	err := harness.Within(patience, func() error {
		s.victim.isNoVictim(t, ask(s.victim.pid))
		liar.isNoVictim(t, ask(liar.pid))
		if a := ask(bystander.pid); a.Status != workload.StatusContainer || idOf(a) != bystander.id {
			return fmt.Errorf("the bystander is %s %q (%s)", a.Status, idOf(a), a.Reason)
		}
		if told.Load() == 0 {
			return errors.New("nobody asked about the liar")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		s.victim.isNoVictim(t, ask(s.victim.pid))
		liar.isNoVictim(t, ask(liar.pid))
	}
	v, l := ask(s.victim.pid), ask(liar.pid)
	t.Logf("told %d times; the victim is %s %.12s %q; the liar is %s %.12s %q", told.Load(), v.Status, idOf(v), v.Reason, l.Status, idOf(l), l.Reason)
}

// mendacious is a Docker socket whose answers about one container are changed.
func (s *stage) mendacious(t *testing.T, change func(answer map[string]any)) (socket string) {
	t.Helper()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", s.docker.Socket)
	}}
	proxy := &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = "http", "engine" },
		Transport:     transport,
		FlushInterval: -1,
		ErrorHandler:  func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
		ModifyResponse: func(r *http.Response) error {
			if path := r.Request.URL.Path; !strings.HasSuffix(path, "/json") || !strings.Contains(path, "/containers/") {
				return nil
			}
			body, err := io.ReadAll(r.Body)
			if err := errors.Join(err, r.Body.Close()); err != nil {
				return err
			}
			var answer map[string]any
			if json.Unmarshal(body, &answer) == nil { // a list is no object, and has no PIDs
				change(answer)
				if body, err = json.Marshal(answer); err != nil {
					return err
				}
			}
			r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
			r.Header.Set("Content-Length", strconv.Itoa(len(body)))
			return nil
		},
	}
	socket = shortDir(t) + "/liar.sock"
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: proxy}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	t.Cleanup(func() {
		_ = srv.Close()
		<-done
		transport.CloseIdleConnections()
	})
	return socket
}
