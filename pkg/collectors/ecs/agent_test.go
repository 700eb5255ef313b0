// SPDX-License-Identifier: Apache-2.0

package ecs

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pidigree/pidigree/pkg/workload"
)

// What the recorded answers have, to be put in place of.
const (
	recordedTask = "158d1c8083dd49d6b527399fd6414f5c"
	recordedARN  = "arn:aws:ecs:us-west-2:111122223333:task/default/" + recordedTask
)

var recordedIDs = []string{strings.Repeat("a", 64), strings.Repeat("b", 64)}

func recorded(file string) string {
	data, err := os.ReadFile("testdata/" + file)
	if err != nil {
		panic(err) // it is committed beside this
	}
	return string(data)
}

// fakeAgent is a fake ECS agent. It serves what the real one's handlers gave, with
// other ids filled in, at both of its addresses.
type fakeAgent struct {
	tb  testing.TB
	url string
	// proc has the environments of the containers' first processes.
	proc string

	mu    sync.Mutex // guards all below
	tasks []*fakeTask
	calls map[string]int
	at    []time.Time
	// fault answers in place of the fake where it returns true.
	fault func(http.ResponseWriter, *http.Request) bool
	inits map[string]workload.PID
}

// fakeTask is a task of two containers, as in the recorded answers.
type fakeTask struct {
	id      string
	ids     []string
	started string
	known   string
}

func newAgent(tb testing.TB) *fakeAgent {
	tb.Helper()
	f := &fakeAgent{tb: tb, proc: tb.TempDir(), calls: map[string]int{}, inits: map[string]workload.PID{}}
	srv := httptest.NewServer(f)
	tb.Cleanup(srv.Close)
	f.url = srv.URL
	return f
}

// put adds the nth task, with containers that name their endpoint.
func (f *fakeAgent) put(n int) *fakeTask {
	f.tb.Helper()
	t := &fakeTask{id: fmt.Sprintf("%032x", n), ids: []string{fmt.Sprintf("%063xa", n), fmt.Sprintf("%063xb", n)}, started: "2023-11-14T22:13:24Z", known: "RUNNING"}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tasks = append(f.tasks, t)
	for i, id := range t.ids {
		f.initLocked(id, workload.PID(1000+2*n+i), "PATH=/bin\x00ECS_CONTAINER_METADATA_URI=http://169.254.170.2/v3/"+endpointToken(n)+"\x00ECS_CONTAINER_METADATA_URI_V4=http://169.254.170.2/v4/"+endpointToken(n)+"\x00")
	}
	return t
}

func endpointToken(n int) string { return fmt.Sprintf("%08x-aaaa-bbbb-cccc-%012x", n, n) }

func arn(n int) string {
	return strings.ReplaceAll(recordedARN, recordedTask, fmt.Sprintf("%032x", n))
}

// initLocked makes a container's first process, with an environment.
func (f *fakeAgent) initLocked(id string, pid workload.PID, environ string) {
	f.inits[id] = pid
	dir := filepath.Join(f.proc, strconv.Itoa(int(pid)))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		f.tb.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "environ"), []byte(environ), 0o600); err != nil {
		f.tb.Fatal(err)
	}
}

func (f *fakeAgent) change(fn func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fn()
}

func (f *fakeAgent) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	kind := strings.Split(r.URL.Path, "/")[1]
	f.calls[kind]++
	if r.URL.Path == "/v1/tasks" {
		f.calls["tasks"]++
	}
	f.at = append(f.at, time.Now())
	fault := f.fault
	f.mu.Unlock()
	if fault != nil && fault(w, r) {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	code, body := f.answerLocked(r.URL.Path)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Server", "fake ECS agent of a test")
	w.WriteHeader(code)
	_, _ = io.WriteString(w, body)
}

func (f *fakeAgent) answerLocked(path string) (int, string) {
	switch {
	case path == "/v1/metadata":
		return 200, recorded("v1-metadata.json")
	case path == "/v1/tasks":
		one := strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(recorded("v1-tasks.json")), `{"Tasks":[`), "]}")
		var all []string
		for _, t := range f.tasks {
			all = append(all, t.fill(one))
		}
		return 200, `{"Tasks":[` + strings.Join(all, ",") + `]}`
	}
	parts := strings.Split(path, "/") // "", v4, token, task
	for _, t := range f.tasks {
		n, _ := strconv.ParseUint(t.id, 16, 64)
		if len(parts) != 4 || parts[2] != endpointToken(int(n)) {
			continue
		}
		body := t.fill(recorded(parts[1] + "-task.json"))
		switch parts[3] {
		case "task":
			return 200, body
		case "taskWithTags":
			return 200, strings.Replace(body, `"Family"`, `"TaskTags":{"team":"shop"},"ContainerInstanceTags":{"rack":"7"},"Family"`, 1)
		}
	}
	return 404, `"V4 task metadata handler: unable to get task arn"`
}

func (t *fakeTask) fill(body string) string {
	body = strings.ReplaceAll(body, recordedTask, t.id)
	for i, id := range recordedIDs {
		body = strings.ReplaceAll(body, id, t.ids[i])
	}
	body = strings.ReplaceAll(body, `"KnownStatus":"RUNNING"`, `"KnownStatus":"`+t.known+`"`)
	return strings.ReplaceAll(body, `"StartedAt":"2023-11-14T22:13:24Z"`, `"StartedAt":"`+t.started+`"`)
}

func (f *fakeAgent) called(kind string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[kind]
}

// worst gives by how much the calls went over a bucket, by the server's count: 0
// or less where they never did.
func (f *fakeAgent) worst(rate float64, burst int) float64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	slices.SortFunc(f.at, time.Time.Compare)
	worst := -float64(burst)
	for i := range f.at {
		for j := i; j < len(f.at); j++ {
			allowed := float64(burst) + rate*f.at[j].Sub(f.at[i]).Seconds()
			worst = max(worst, float64(j-i+1)-allowed)
		}
	}
	return worst
}

func (f *fakeAgent) collector(o Options) *Collector {
	f.tb.Helper()
	o.Address, o.Metadata, o.Procfs = f.url, f.url, f.proc
	o.Getenv = func(string) string { return "" }
	o.Init = func(id workload.ContainerID) (workload.PID, bool) {
		f.mu.Lock()
		defer f.mu.Unlock()
		pid, ok := f.inits[id.ID]
		return pid, ok
	}
	c, err := New(o)
	if err != nil {
		f.tb.Fatal(err)
	}
	return c
}
