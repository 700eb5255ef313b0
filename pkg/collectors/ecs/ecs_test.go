// SPDX-License-Identifier: Apache-2.0

package ecs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

func docker(id string) workload.ContainerID { return workload.ContainerID{Runtime: "docker", ID: id} }

// recordedWhole is what introspection v1 and an endpoint of v4 say together.
func recordedWhole() *workload.Task {
	at := func(sec int) time.Time { return time.Date(2023, 11, 14, 22, 13, sec, 0, time.UTC) }
	of := func(name, id string) workload.TaskContainer {
		return workload.TaskContainer{
			Name: name, ID: docker(id), Image: "docker.io/library/busybox:feas", Type: "NORMAL",
			Desired: "RUNNING", Known: "RUNNING", Started: at(24),
		}
	}
	return &workload.Task{
		ARN: recordedARN, Cluster: "default", Family: "curltest", Revision: "26", Service: "websvc", LaunchType: "EC2",
		Zone: "us-west-2a", ZoneID: "usw2-az1", VPC: "vpc-0123",
		Instance: "arn:aws:ecs:us-west-2:111122223333:container-instance/default/1f2d3c4b5a69788796a5b4c3d2e1f001",
		Desired:  "RUNNING", Known: "RUNNING",
		Limits:      workload.TaskLimits{NanoCPUs: 250_000_000, MemoryBytes: 512 << 20},
		PullStarted: at(20), PullStopped: at(22),
		Containers: []workload.TaskContainer{of("curl", recordedIDs[0]), of("sidecar", recordedIDs[1])},
	}
}

// putRecorded adds the very task that was recorded.
func putRecorded(f *fakeAgent) *fakeTask {
	t := f.put(1)
	f.change(func() {
		for i, id := range recordedIDs {
			f.inits[id] = f.inits[t.ids[i]]
		}
		t.ids = recordedIDs
	})
	return t
}

// log keeps what a Watch says of tasks, and lets a test wait.
type log struct {
	mu    sync.Mutex // guards all below
	tasks map[string]*workload.Task
	conts map[string]*workload.Container
	gone  map[string]bool
	errs  []error
	more  chan struct{}
}

// watching runs a Watch until the test ends.
func watching(t *testing.T, c *Collector) *log {
	t.Helper()
	l := &log{tasks: map[string]*workload.Task{}, conts: map[string]*workload.Container{}, gone: map[string]bool{}, more: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for ctx.Err() == nil { // as the supervisor does
			_ = c.Watch(ctx, l.add)
		}
	}()
	t.Cleanup(func() { cancel(); <-ended })
	return l
}

func (l *log) add(h collectors.Hint) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case h.Err != nil:
		l.errs = append(l.errs, h.Err)
	case h.Task != nil && h.Kind == collectors.HintDeleted:
		l.gone[h.Task.ARN] = true
		delete(l.tasks, h.Task.ARN)
	case h.Task != nil:
		l.tasks[h.Task.ARN] = h.Task
	case h.Kind == collectors.HintDeleted:
		delete(l.conts, h.ID.ID)
	case h.Layer != nil:
		l.conts[h.ID.ID] = h.Layer
	}
	signal(l.more)
}

func (l *log) wait(t *testing.T, what string, is func(*log) bool) {
	t.Helper()
	late := time.After(20 * time.Second)
	for {
		l.mu.Lock()
		ok := is(l)
		l.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-l.more:
		case <-late:
			l.mu.Lock()
			defer l.mu.Unlock()
			t.Fatalf("not seen: %s; tasks %v, errors %v", what, l.tasks, l.errs)
		}
	}
}

func (l *log) task(arn string) *workload.Task {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tasks[arn]
}

func whole(arn string) func(*log) bool {
	return func(l *log) bool { return l.tasks[arn] != nil && l.tasks[arn].Service != "" }
}

func TestARecordedTaskIsToldWhole(t *testing.T) {
	f := newAgent(t)
	task := putRecorded(f)
	want := recordedWhole()
	want.ARN = arn(1)
	c := f.collector(Options{})
	l := watching(t, c)
	l.wait(t, "the whole task", whole(want.ARN))
	if d := cmp.Diff(want, l.task(want.ARN)); d != "" {
		t.Errorf("the hint (-want +got):\n%s", d)
	}
	got, err := c.LookupTask(t.Context(), want.ARN)
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Errorf("LookupTask: %v (-want +got):\n%s", err, d)
	}
	layer, err := c.Lookup(t.Context(), docker(task.ids[1]))
	if err != nil {
		t.Fatal(err)
	}
	wantLayer := &workload.Container{ID: docker(task.ids[1]), Task: &workload.TaskRef{ARN: want.ARN, Cluster: "default", Family: "curltest", Revision: "26", Container: "sidecar"}}
	if d := cmp.Diff(wantLayer, layer); d != "" {
		t.Errorf("Lookup (-want +got):\n%s", d)
	}
	r, err := c.Probe(t.Context())
	if want := (collectors.Report{Where: f.url, Version: "1.105.1", Detail: "1 tasks of cluster default"}); r != want || err != nil {
		t.Errorf("Probe: %+v, %v; want %+v", r, err, want)
	}
}

func TestTagsAreAskedForWhenConfigured(t *testing.T) {
	f := newAgent(t)
	f.put(1)
	l := watching(t, f.collector(Options{Tags: true}))
	l.wait(t, "the tags", func(l *log) bool {
		got := l.tasks[arn(1)]
		return got != nil && got.Tags["team"] == "shop" && got.InstanceTags["rack"] == "7"
	})
}

func TestAnEndpointOfV3IsAskedWhereThereIsNoOther(t *testing.T) {
	f := newAgent(t)
	task := f.put(1)
	f.change(func() {
		for _, id := range task.ids {
			f.initLocked(id, f.inits[id], "ECS_CONTAINER_METADATA_URI=http://169.254.170.2/v3/"+endpointToken(1))
		}
	})
	l := watching(t, f.collector(Options{}))
	l.wait(t, "the zone", func(l *log) bool { return l.tasks[arn(1)] != nil && l.tasks[arn(1)].Zone == "us-west-2a" })
	if f.called("v3") == 0 || f.called("v4") != 0 {
		t.Errorf("calls of v3 %d, of v4 %d", f.called("v3"), f.called("v4"))
	}
}

func TestATaskIsKeptAndARestartInItIsNoticed(t *testing.T) {
	f := newAgent(t)
	task := f.put(1)
	c := f.collector(Options{Interval: 50 * time.Millisecond, CacheFor: time.Hour})
	l := watching(t, c)
	l.wait(t, "the whole task", whole(arn(1)))
	lists := f.called("tasks")
	l.wait(t, "ten lists more", func(*log) bool { signal(l.more); return f.called("tasks") >= lists+10 })
	if n := f.called("v4"); n != 1 {
		t.Errorf("the endpoint was asked %d times, want 1", n)
	}
	f.change(func() { task.started = "2024-01-01T00:00:00Z" })
	l.wait(t, "the new start", func(l *log) bool { return l.tasks[arn(1)].Containers[0].Started.Year() == 2024 })
	l.wait(t, "one more call", func(*log) bool { signal(l.more); return f.called("v4") == 2 })
}

func TestWhatIsKeptOfATaskIsAskedForAgain(t *testing.T) {
	f := newAgent(t)
	f.put(1)
	l := watching(t, f.collector(Options{Interval: 20 * time.Millisecond, CacheFor: 60 * time.Millisecond}))
	l.wait(t, "four calls", func(*log) bool { signal(l.more); return f.called("v4") >= 4 })
}

func TestARefusalOfAnEndpointIsKeptToo(t *testing.T) {
	f := newAgent(t)
	f.put(1)
	f.fault = func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasPrefix(r.URL.Path, "/v4/") {
			status(404, `"unable to get task"`)(w, r)
		}
		return strings.HasPrefix(r.URL.Path, "/v4/")
	}
	l := watching(t, f.collector(Options{Interval: 20 * time.Millisecond, CacheFor: time.Hour}))
	l.wait(t, "twenty lists", func(*log) bool { signal(l.more); return f.called("tasks") >= 20 })
	// Two containers name the same endpoint, which is asked for each of them.
	if n := f.called("v4"); n > 2 {
		t.Errorf("an endpoint that refuses was asked %d times", n)
	}
	if got := l.task(arn(1)); got == nil || got.Family != "curltest" || got.Service != "" {
		t.Errorf("the task is not told as introspection has it: %+v", got)
	}
}

func TestATaskThatGoesIsDeleted(t *testing.T) {
	f := newAgent(t)
	f.put(1)
	stopped := f.put(2)
	c := f.collector(Options{Interval: 30 * time.Millisecond})
	l := watching(t, c)
	l.wait(t, "both", func(l *log) bool { return len(l.tasks) == 2 && len(l.conts) == 4 })
	f.change(func() { f.tasks = f.tasks[1:] })
	l.wait(t, "the end of the first", func(l *log) bool { return l.gone[arn(1)] && len(l.conts) == 2 })
	f.change(func() { stopped.known = "STOPPED" })
	l.wait(t, "the end of the second", func(l *log) bool { return l.gone[arn(2)] && len(l.conts) == 0 })
}

func TestManyTasksNeverCostMoreThanTheBucket(t *testing.T) {
	f := newAgent(t)
	for n := range 100 {
		f.put(n + 1)
	}
	began := time.Now()
	l := watching(t, f.collector(Options{}))
	l.wait(t, "100 whole tasks", func(l *log) bool {
		n := 0
		for _, task := range l.tasks {
			if task.Service != "" {
				n++
			}
		}
		return n == 100
	})
	took := time.Since(began)
	// 102 calls: 60 at once, 42 at 35 a second. By the server's clock a call may come a little late, and the next on time.
	over := f.worst(35, 60)
	t.Logf("100 tasks whole after %v, %d calls, %.1f over the bucket", took, len(f.at), over)
	if over > 2 {
		t.Errorf("%.1f calls over the bucket", over)
	}
	if took < time.Second || took > 6*time.Second {
		t.Errorf("the tasks were whole after %v; the bucket allows 1.2 s", took)
	}
}

func TestASlowEndpointHoldsUpNoOther(t *testing.T) {
	f := newAgent(t)
	for n := range 20 {
		f.put(n + 1)
	}
	held := make(chan struct{})
	defer close(held)
	f.fault = func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, endpointToken(1)) {
			select {
			case <-held:
			case <-r.Context().Done():
			}
			return true
		}
		return false
	}
	l := watching(t, f.collector(Options{CallTimeout: 500 * time.Millisecond}))
	began := time.Now()
	l.wait(t, "the 19 others", func(l *log) bool {
		n := 0
		for _, task := range l.tasks {
			if task.Service != "" {
				n++
			}
		}
		return n == 19
	})
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("the others took %v", d)
	}
	if _, known := l.tasks[arn(1)]; !known {
		t.Error("the slow one is not known at all")
	}
}

func TestAnEndpointThatFailsIsAskedAgain(t *testing.T) {
	for what, fault := range map[string]http.HandlerFunc{
		"429": status(429, "", "Retry-After", "1"),
		"500": status(500, `"oops"`),
		"cut": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			f := newAgent(t)
			f.put(1)
			var once sync.Once
			f.fault = func(w http.ResponseWriter, r *http.Request) (hit bool) {
				if strings.HasPrefix(r.URL.Path, "/v4/") {
					once.Do(func() { hit = true; defer func() { f.change(func() { f.fault = nil }) }(); fault(w, r) })
				}
				return hit
			}
			l := watching(t, f.collector(Options{Interval: time.Hour}))
			l.wait(t, "the whole task", whole(arn(1)))
			if len(l.errs) != 1 || !errors.Is(l.errs[0], collectors.ErrUnavailable) || strings.ContainsAny(l.errs[0].Error(), "\n\x1b") {
				t.Errorf("errors told: %q; want one", l.errs)
			}
		})
	}
}

func TestAnAnswerAboutAnotherTaskIsRefused(t *testing.T) {
	for what, body := range map[string]string{
		"another task": strings.ReplaceAll(recorded("v4-task.json"), recordedTask, fmt.Sprintf("%032x", 9)),
		"another account": strings.ReplaceAll(strings.ReplaceAll(recorded("v4-task.json"), recordedTask, fmt.Sprintf("%032x", 1)),
			"111122223333", "444455556666"),
		"other containers": strings.ReplaceAll(recorded("v4-task.json"), recordedTask, fmt.Sprintf("%032x", 1)),
		"nobody":           `{}`,
		"part of a task":   `{"TaskARN":"` + arn(1) + `","ServiceName":"websvc"}`,
		"a page":           "<html>",
		"an empty answer":  "",
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			f := newAgent(t)
			f.put(1)
			f.put(2)
			f.fault = func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.Contains(r.URL.Path, endpointToken(1)) {
					return false
				}
				w.Header().Set("Content-Type", "application/json")
				_, _ = io.WriteString(w, body)
				return true
			}
			l := watching(t, f.collector(Options{}))
			l.wait(t, "the other task", whole(arn(2)))
			l.wait(t, "an error", func(l *log) bool { return len(l.errs) > 0 })
			if got := l.task(arn(1)); got == nil || got.Service != "" {
				t.Errorf("the task is %+v; want what introspection says", got)
			}
			if strings.ContainsAny(l.errs[0].Error(), "\n\x1b") {
				t.Errorf("not one line: %q", l.errs[0])
			}
		})
	}
}

func TestAnAgentThatRefusesOrTalksNonsenseIsUnavailableInOneLine(t *testing.T) {
	for what, tc := range map[string]struct {
		answer http.HandlerFunc
		says   string
	}{
		"429":                {status(429, "", "Retry-After", "7"), "waiting 7s"},
		"429 for a year":     {status(429, "", "Retry-After", "31536000"), "waiting 5m0s"},
		"500":                {status(500, strings.Repeat("x", 1<<20)), "status 500"},
		"a redirect":         {status(302, "", "Location", "http://192.0.2.1/v1/tasks"), "which is not followed"},
		"a page":             {status(200, "<html>\x1b[31m", "Content-Type", "text/html"), `answered with "text/html", not with JSON`},
		"nothing":            {say(""), "EOF"},
		"a page called JSON": {say("<html>"), "malformed JSON"},
		"no list":            {say(`{"Arn":""}`), "no list of tasks"},
		"a bare list":        {say(`[]`), "no list of tasks"},
		"tasks of a kind":    {say(`{"Tasks":{}}`), "no list of tasks"},
		"half a list":        {say(recorded("v1-tasks.json")[:300]), "EOF"},
		"brackets":           {say(strings.Repeat(`{"Tasks":[`, 1<<18)), "nested too deeply"},
		"an endless string":  {endless(`{"a":"`, "x"), "over the budget"},
		"an endless list":    {endless(`{"Tasks":[`, `{"Arn":"x"},`), "over the budget"},
		"a cut reply":        {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "EOF"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			f := newAgent(t)
			f.fault = func(w http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path != "/v1/tasks" {
					return false
				}
				tc.answer(w, r)
				return true
			}
			c := f.collector(Options{})
			c.maxReply = 4 << 20
			_, err := c.Probe(t.Context())
			if !errors.Is(err, collectors.ErrUnavailable) || !strings.Contains(err.Error(), tc.says) || strings.ContainsAny(err.Error(), "\n\x1b") {
				t.Errorf("Probe: %v; want %q in one line", err, tc.says)
			}
			if got, err := c.LookupTask(t.Context(), arn(1)); got != nil || !errors.Is(err, collectors.ErrUnavailable) {
				t.Errorf("LookupTask: %v, %v", got, err)
			}
			if got, err := c.Lookup(t.Context(), docker(recordedIDs[0])); got != nil || !errors.Is(err, collectors.ErrNotMine) {
				t.Errorf("Lookup: %v, %v", got, err)
			}
			if err := c.Watch(t.Context(), func(collectors.Hint) {}); !errors.Is(err, collectors.ErrUnavailable) {
				t.Errorf("Watch: %v", err)
			}
		})
	}
}

func TestARefusalIsNotRepeatedAtOnce(t *testing.T) {
	f := newAgent(t)
	f.fault = func(w http.ResponseWriter, r *http.Request) bool { status(500, "")(w, r); return true }
	c := f.collector(Options{})
	for range 100 {
		if _, err := c.Probe(t.Context()); !errors.Is(err, collectors.ErrUnavailable) {
			t.Fatal(err)
		}
	}
	if n := f.called("v1"); n != 1 {
		t.Errorf("%d calls within a second of a refusal, want 1", n)
	}
}

func TestATaskOfSomebodyElseIsRefusedAndCounted(t *testing.T) {
	good := strings.TrimSpace(recorded("v1-tasks.json"))
	good = strings.TrimSuffix(strings.TrimPrefix(good, `{"Tasks":[`), "]}")
	for what, odd := range map[string]string{
		"of another account":   strings.ReplaceAll(good, "111122223333", "444455556666"),
		"of another region":    strings.ReplaceAll(good, "us-west-2", "eu-west-1"),
		"of another partition": strings.ReplaceAll(good, "arn:aws:", "arn:aws-cn:"),
		"without an ARN":       strings.ReplaceAll(good, recordedARN, ""),
		"with half an ARN":     strings.ReplaceAll(good, "task/default/"+recordedTask, "task/default"),
		"there twice":          good,
		"null":                 "null",
		"a number":             "7",
	} {
		t.Run(what, func(t *testing.T) {
			f := newAgent(t)
			f.fault = func(w http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path != "/v1/tasks" {
					return false
				}
				say(`{"Tasks":[`+good+","+odd+"]}")(w, r)
				return true
			}
			c := f.collector(Options{})
			r, err := c.Probe(t.Context())
			if err != nil || !strings.Contains(r.Detail, "1 tasks of cluster default, 1 refused") {
				t.Errorf("Probe: %+v, %v", r, err)
			}
			var tasks, errs int
			for _, err := range c.ListTasks(t.Context()) {
				if err != nil {
					errs++
				} else {
					tasks++
				}
			}
			if tasks != 1 || errs != 1 {
				t.Errorf("%d tasks and %d errors, want 1 and 1", tasks, errs)
			}
		})
	}
}

func TestTasksOfEveryPartition(t *testing.T) {
	for _, partition := range []string{"aws", "aws-cn", "aws-us-gov", "aws-iso", "aws-iso-b", "aws-iso-e", "aws-iso-f", "aws-eusc"} {
		f := newAgent(t)
		f.fault = func(w http.ResponseWriter, r *http.Request) bool {
			file := map[string]string{"/v1/tasks": "v1-tasks.json", "/v1/metadata": "v1-metadata.json"}[r.URL.Path]
			say(strings.ReplaceAll(recorded(file), "arn:aws:", "arn:"+partition+":"))(w, r)
			return true
		}
		want := strings.Replace(recordedARN, "arn:aws:", "arn:"+partition+":", 1)
		got, err := f.collector(Options{}).LookupTask(t.Context(), want)
		if err != nil || got.ARN != want || len(got.Containers) != 2 {
			t.Errorf("%s: %+v, %v", partition, got, err)
		}
	}
}

func TestWhereNobodyListensThereIsNoAgent(t *testing.T) {
	c, err := New(Options{Getenv: func(string) string { return "" }})
	if err != nil {
		t.Fatal(err)
	}
	c.opts.Address = dead(t)
	if _, err := c.Probe(t.Context()); !errors.Is(err, collectors.ErrNotPresent) {
		t.Errorf("Probe: %v; want ErrNotPresent", err)
	}
	c, err = New(Options{Address: dead(t), Getenv: func(string) string { return "" }})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Probe(t.Context()); !errors.Is(err, collectors.ErrUnavailable) {
		t.Errorf("Probe of a configured address: %v; want ErrUnavailable", err)
	}
}

// dead is an address where nobody listens any more.
func dead(t *testing.T) string {
	srv := httptest.NewServer(http.NotFoundHandler())
	srv.Close()
	return srv.URL
}

func TestWithoutIntrospectionOurOwnEndpointIsAsked(t *testing.T) {
	fargate := strings.NewReplacer(
		recordedIDs[0], recordedTask+"-3593338840", recordedIDs[1], recordedTask+"-527074092",
		`"LaunchType":"EC2"`, `"LaunchType":"FARGATE"`,
		`"Cluster":"default"`, `"Cluster":"arn:aws:ecs:us-west-2:111122223333:cluster/default"`,
	).Replace(recorded("v4-task.json"))
	for what, tc := range map[string]struct {
		tasks, task string
		want        int
	}{
		"Fargate, its own task":         {"", fargate, 1},
		"a daemon that is told of all":  {`{"Tasks":[` + fargate + `]}`, `{}`, 1},
		"a daemon on an empty instance": {`{"Tasks":[]}`, `{}`, 0},
	} {
		t.Run(what, func(t *testing.T) {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch {
				case r.URL.Path == "/v4/our-own/task":
					say(tc.task)(w, r)
				case r.URL.Path == "/v4/our-own/tasks" && tc.tasks != "":
					say(tc.tasks)(w, r)
				default:
					status(404, "")(w, r)
				}
			}))
			defer srv.Close()
			c, err := New(Options{Getenv: func(name string) string {
				return map[string]string{variables[0]: srv.URL + "/v4/our-own"}[name]
			}})
			if err != nil {
				t.Fatal(err)
			}
			c.opts.Address = dead(t)
			var got []*workload.Task
			for task, err := range c.ListTasks(t.Context()) {
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, task)
			}
			if len(got) != tc.want {
				t.Fatalf("%d tasks, want %d", len(got), tc.want)
			}
			if tc.want == 0 {
				return
			}
			if got[0].LaunchType != "FARGATE" || got[0].Cluster != "default" || got[0].ARN != recordedARN {
				t.Errorf("task %+v", got[0])
			}
			layer, err := c.Lookup(t.Context(), workload.ContainerID{ID: recordedTask + "-3593338840"})
			if err != nil {
				t.Fatal(err)
			}
			if layer.Runtime != "ecs" || layer.State != workload.StateRunning || layer.Image.Name != "docker.io/library/busybox:feas" || layer.Task.Container != "curl" || layer.Labels["com.amazonaws.ecs.container-name"] != "curl" {
				t.Errorf("layer %+v", layer)
			}
		})
	}
}

func TestOnlyATokenIsTakenFromAnEnvironment(t *testing.T) {
	for uri, want := range map[string]string{
		"http://169.254.170.2/v4/0a1b-c":          "/v4/0a1b-c",
		"http://192.0.2.1:8080/v3/abc/":           "/v3/abc",
		"http://169.254.170.2/v4/../v1/x":         "",
		"http://169.254.170.2/v4/a%2fb":           "",
		"http://169.254.170.2/v4/a/task?x":        "",
		"http://169.254.170.2/v2/credentials":     "",
		"http://169.254.170.2/v4/":                "",
		"https://169.254.170.2/v4/a":              "",
		"file:///v4/a":                            "",
		"http://h/v4/" + strings.Repeat("a", 100): "",
		"http://h/v4/a\r\nHost: x":                "",
		"":                                        "",
	} {
		if got := endpointPath(uri); got != want {
			t.Errorf("%q gives %q, want %q", uri, got, want)
		}
	}
	env := "A=" + strings.Repeat("x", 100) + "\x00XECS_CONTAINER_METADATA_URI_V4=http://h/v4/no\x00ECS_CONTAINER_METADATA_URI=http://h/v3/three\x00ECS_CONTAINER_METADATA_URI_V4=http://h/v4/four"
	if got := endpointOf([]byte(env)); got != "/v4/four" {
		t.Errorf("of an environment: %q", got)
	}
}

func TestOnlyThisHostIsAsked(t *testing.T) {
	c, err := New(Options{Address: "http://192.0.2.1:51678", Getenv: func(string) string { return "" }})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Probe(t.Context()); err == nil || !strings.Contains(err.Error(), "not an address of this host") {
		t.Errorf("Probe: %v", err)
	}
	for _, bad := range []string{"127.0.0.1:51678", "https://h", "http://", "http://u:p@h", "http://h/v1", "http://h?x", "http://h:0", "http://h:x", "unix:///x"} {
		if _, err := New(Options{Address: bad}); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestLookupsShareCalls(t *testing.T) {
	f := newAgent(t)
	f.put(1)
	c := f.collector(Options{})
	if _, err := c.Probe(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for n := range 200 {
		wg.Go(func() {
			if got, err := c.Lookup(ctx, docker(fmt.Sprintf("%064x", 1<<40+n))); got != nil || !errors.Is(err, collectors.ErrNotFound) {
				t.Errorf("Lookup: %v, %v", got, err)
			}
		})
	}
	wg.Wait()
	if n := f.called("tasks"); n > 4 {
		t.Errorf("200 lookups at once of what is not there cost %d calls", n)
	}
}

func say(body string) http.HandlerFunc { return status(200, body) }

func status(code int, body string, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(code)
		_, _ = io.WriteString(w, body)
	}
}

func endless(head, unit string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		block := strings.Repeat(unit, 64<<10/len(unit))
		_, err := io.WriteString(w, head)
		for err == nil {
			_, err = io.WriteString(w, block)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, file := range []string{"v1-tasks.json", "v1-tasks-dockerid.json", "v1-tasks-notfound.txt", "v3-task.json", "v4-task.json", "v4-container.json"} {
		f.Add(recorded(file))
	}
	f.Fuzz(func(t *testing.T, body string) {
		l := &list{agent: &instance{}, byARN: map[string]*task{}, containers: map[string]*workload.Container{}}
		if err := l.read(strings.NewReader(body)); err == nil {
			for _, task := range l.tasks {
				if _, ok := workload.ParseTaskARN(task.ARN); !ok {
					t.Errorf("a task with the ARN %q", task.ARN)
				}
				_ = complete(task.Task, task.Task)
			}
		}
		in, err := readTask(strings.NewReader(body))
		if err == nil {
			_ = in.task().Clone()
			_ = in.version()
		}
		if p := endpointOf([]byte(body)); p != "" && (!strings.HasPrefix(p, "/v") || len(p) > 4+maxToken) {
			t.Errorf("an endpoint %q", p)
		}
	})
}
