// SPDX-License-Identifier: Apache-2.0

package server_test

import (
	"context"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"

	"github.com/pidigree/pidigree/pkg/server"
)

const (
	serving    = healthpb.HealthCheckResponse_SERVING
	notServing = healthpb.HealthCheckResponse_NOT_SERVING
)

// degradable serves a ready backend whose line of what is missing a test sets,
// and counts how often it was asked for.
type degradable struct {
	line  atomic.Pointer[string]
	asked atomic.Int64
	ready func(bool)
	cc    *grpc.ClientConn
	at    string // the socket
}

func startDegradable(t *testing.T) *degradable {
	t.Helper()
	d := &degradable{}
	d.say("")
	s, err := server.New(server.Options{Backend: &backend{}, Degraded: func() string { d.asked.Add(1); return *d.line.Load() }})
	if err != nil {
		t.Fatal(err)
	}
	s.SetReady(true)
	d.ready = s.SetReady
	r := serve(t, s, "")
	d.cc, d.at = raw(t, r), r.socket
	return d
}

func (d *degradable) say(line string) { d.line.Store(&line) }

// check gives a service's status and the header with the line.
func (d *degradable) check(t *testing.T, service string) (healthpb.HealthCheckResponse_ServingStatus, string) {
	t.Helper()
	var header metadata.MD
	resp, err := healthpb.NewHealthClient(d.cc).Check(t.Context(), &healthpb.HealthCheckRequest{Service: service}, grpc.Header(&header))
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetStatus(), strings.Join(header.Get(server.DegradedHeader), "|")
}

// What is missing makes only FullService stop serving, and is said in a header,
// as printable ASCII of 1 KiB at most.
func TestFullServesOnlyWhileNothingIsMissing(t *testing.T) {
	d := startDegradable(t)
	all := []string{"", "pidigree.v1.PidigreeService", server.FullService}
	for _, service := range all {
		if got, header := d.check(t, service); got != serving || header != "" {
			t.Errorf("nothing is missing: %q is %v, header %q", service, got, header)
		}
	}
	for line, want := range map[string]string{
		"degraded: no exec events: by configuration": "degraded: no exec events: by configuration",
		"degraded: a\r\nb\x1b[31m\x00é":              "degraded: a??b?[31m??",
		"degraded: " + strings.Repeat("x", 5000):     "degraded: " + strings.Repeat("x", 1014),
	} {
		d.say(line)
		d.ready(true) // else the line before is good for half a second
		for _, service := range all {
			status := serving
			if service == server.FullService {
				status = notServing
			}
			if got, header := d.check(t, service); got != status || header != want {
				t.Errorf("%q is missing: %q is %v, header %q, want %v, %q", line, service, got, header, status, want)
			}
		}
	}
	d.say("")
	d.ready(false)
	for _, service := range all {
		if got, _ := d.check(t, service); got != notServing {
			t.Errorf("not ready: %q is %v", service, got)
		}
	}
}

// Whoever may not ask everything hears that something is missing, and not what:
// the line may name sockets and paths.
func TestWhatIsMissingIsToldToThoseWhoMayAskEverything(t *testing.T) {
	d := startDegradable(t)
	if err := os.Chmod(d.at, 0o666); err != nil { // as where a container has the socket mounted
		t.Fatal(err)
	}
	d.say("degraded: secret")
	for want, cred := range map[string]*syscall.Credential{
		"NOT_SERVING [\"degraded: secret\"]\n": {},
		"NOT_SERVING []\n":                     {Uid: nobody, Gid: nobody},
	} {
		if got := spawn(t, d.at, "health", cred).text(t); got != want {
			t.Errorf("user %d is told %q, want %q", cred.Uid, got, want)
		}
	}
}

// A flood of checks is no flood of questions about what is missing.
func TestHealthIsLookedAtTwiceASecondAtMost(t *testing.T) {
	d := startDegradable(t)
	began := time.Now()
	for range 200 {
		d.check(t, server.FullService)
	}
	if n, most := d.asked.Load(), 1+int64(time.Since(began)/(500*time.Millisecond)); n < 1 || n > most {
		t.Errorf("asked %d times in %v, want %d at most", n, time.Since(began), most)
	}
}

// A watcher of the health service is told of each change, though nobody checks,
// and costs nothing once it is gone.
func TestAHealthWatcherIsToldWhatIsMissing(t *testing.T) {
	d := startDegradable(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	watch := func(service string) grpc.ServerStreamingClient[healthpb.HealthCheckResponse] {
		t.Helper()
		w, err := healthpb.NewHealthClient(d.cc).Watch(ctx, &healthpb.HealthCheckRequest{Service: service})
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	next := func(what string, w grpc.ServerStreamingClient[healthpb.HealthCheckResponse], want healthpb.HealthCheckResponse_ServingStatus) {
		t.Helper()
		got, err := w.Recv()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if got.GetStatus() != want {
			t.Errorf("%s: %v, want %v", what, got.GetStatus(), want)
		}
	}
	full, plain := watch(server.FullService), watch("")
	next("at first", full, serving)
	next("at first", plain, serving)
	for range 2 {
		d.say("degraded: no kernel events")
		next("missing", full, notServing)
		d.say("")
		next("back", full, serving)
	}
	d.ready(false) // the first that a watcher of "" hears: it heard nothing of the above
	next("not ready", full, notServing)
	next("not ready", plain, notServing)
}
