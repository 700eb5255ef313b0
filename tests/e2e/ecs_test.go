// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/tests/e2e/harness"
)

// fakeECS is a fake ECS agent: it serves what the real one's handlers gave, with the
// ids of real containers in the place of those that were recorded. The task has two
// containers.
type fakeECS struct {
	url string

	mu      sync.Mutex // guards all below
	ids     []string
	started string
	down    bool
	whole   int // how often the task's endpoint was asked
}

const (
	ecsTask  = "arn:aws:ecs:us-west-2:111122223333:task/default/158d1c8083dd49d6b527399fd6414f5c"
	ecsToken = "5d0b0d5a-6d3b-4d4b-9d52-0c5f0d3f8a11"
)

func startECS(t *testing.T, ids ...string) *fakeECS {
	t.Helper()
	f := &fakeECS{ids: ids, started: "2023-11-14T22:13:24Z"}
	answers := map[string]string{}
	for path, file := range map[string]string{"/v1/metadata": "v1-metadata", "/v1/tasks": "v1-tasks", "/v4/" + ecsToken + "/task": "v4-task"} {
		data, err := os.ReadFile("testdata/ecs-" + file + ".json")
		if err != nil {
			t.Fatal(err)
		}
		answers[path] = string(data)
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		defer f.mu.Unlock()
		w.Header().Set("Server", "fake ECS agent of a test")
		body, ok := answers[r.URL.Path]
		switch {
		case f.down:
			http.Error(w, "<html>down</html>", http.StatusInternalServerError)
			return
		case !ok:
			http.NotFound(w, r)
			return
		case strings.HasPrefix(r.URL.Path, "/v4/"):
			f.whole++
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, strings.NewReplacer(strings.Repeat("a", 64), f.ids[0], strings.Repeat("b", 64), f.ids[1], "2023-11-14T22:13:24Z", f.started).Replace(body))
	}))
	t.Cleanup(srv.Close)
	f.url = srv.URL
	return f
}

func (f *fakeECS) change(fn func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fn()
}

// runInTask starts a container as the ECS agent does.
func runInTask(docker *collectortest.Dockerd, name string) (id string) {
	label := func(key, value string) string { return "--label=com.amazonaws.ecs." + key + "=" + value }
	return docker.Run("--name", "ecs-curltest-26-"+name, label("task-arn", ecsTask), label("cluster", "default"),
		label("task-definition-family", "curltest"), label("task-definition-version", "26"), label("container-name", name),
		"--env=ECS_CONTAINER_METADATA_URI_V4=http://169.254.170.2/v4/"+ecsToken, collectortest.BusyboxImage, "/bin/sleep", "3600")
}

func inTask(service string, missing ...string) func(harness.Answer) error {
	return func(a harness.Answer) error {
		task := a.Task
		if a.Status != "container" || task == nil || task.ARN != ecsTask || task.Family != "curltest" || task.Cluster != "default" || task.Revision != "26" {
			return fmt.Errorf("it is %s, in the task %+v", a.Status, task)
		}
		if task.Service != service || len(task.Missing) != len(missing) {
			return fmt.Errorf("its service is %q, missing %v", task.Service, task.Missing)
		}
		return nil
	}
}

func TestTasksAreNamed(t *testing.T) {
	docker := collectortest.StartDockerd(t, engineOptions(t))
	ids := []string{runInTask(docker, "curl"), runInTask(docker, "sidecar")}
	other := docker.Run("--name", "other", collectortest.BusyboxImage, "/bin/sleep", "3600")
	ecs := startECS(t, ids...)
	ecs.change(func() { ecs.down = true })
	agent := harness.StartAgent(t, programs, harness.AgentOptions{Docker: docker, Args: []string{"--ecs-address", ecs.url, "--ecs-metadata", ecs.url}})
	pid := func(id string) string { return strconv.Itoa(docker.InitPID(id)) }

	// Its labels name the task, whatever ECS does.
	agent.Await(patience, pid(ids[0]), inTask("", "ecs"))
	ecs.change(func() { ecs.down = false })
	for _, id := range ids {
		a := agent.Await(patience, pid(id), inTask("websvc"))
		if a.Task.LaunchType != "EC2" || a.Task.Zone != "us-west-2a" {
			t.Errorf("its task is %+v", a.Task)
		}
	}
	if a := agent.Who(pid(other))[0]; a.Task != nil {
		t.Errorf("a container of nobody's is in the task %+v", a.Task)
	}
	var listed struct {
		ARN        string `json:"arn"`
		Containers []struct{ Name, ID string }
	}
	out := agent.Command(t.Context(), "list", "tasks", "-o", "json")
	if err := json.Unmarshal([]byte(out.Stdout), &listed); err != nil || listed.ARN != ecsTask || len(listed.Containers) != 2 {
		t.Errorf("list tasks: %v, %+v\n%s%s", err, listed, out.Stdout, out.Stderr)
	}

	// A container is started again within the task that is kept.
	var whole int
	ecs.change(func() { ecs.started, whole = "2024-01-01T00:00:00Z", ecs.whole })
	docker.Docker("restart", "--time", "0", ids[1])
	late := time.Now().Add(patience)
	for again := false; !again; {
		ecs.change(func() { again = ecs.whole > whole })
		if !again && time.Now().After(late) {
			t.Fatal("the task's endpoint is not asked again after a container was restarted")
		}
		agent.Await(patience, pid(ids[1]), inTask("websvc"))
	}
}
