// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/pidigree/pidigree/internal/mtls/mtlstest"
	"github.com/pidigree/pidigree/pkg/client"
	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/pkg/workload"
	"github.com/pidigree/pidigree/tests/e2e/harness"
)

// everything gives what an agent has of containers and images, by name, and how it has it.
func everything(ctx context.Context, c *client.Client) (map[string]string, error) {
	has := map[string]string{}
	for e, err := range c.List(ctx, workload.Selector{Kinds: []workload.Kind{workload.KindContainer, workload.KindImage}}) {
		switch {
		case err != nil:
			return nil, err
		case e.Container != nil:
			has["container "+e.Container.Name] = fmt.Sprint(e.Container.State, e.Container.Image.Name, e.Container.Labels, e.Container.Confidence)
		case e.Image != nil:
			has["image "+e.Image.ID] = fmt.Sprint(e.Image.Names)
		}
	}
	return has, nil
}

// equal waits until two agents have the same.
func equal(t *testing.T, a, b *client.Client) {
	t.Helper()
	if err := harness.Within(patience, func() error {
		x, err1 := everything(t.Context(), a)
		y, err2 := everything(t.Context(), b)
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		if fmt.Sprint(x) != fmt.Sprint(y) {
			return fmt.Errorf("one has %v, the other %v", x, y)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// answerOf is what is looked at of an answer.
type answerOf struct {
	Status, Reason string
	Containers     []struct {
		Name    string
		Sources []struct {
			Source string
			Stale  bool
		}
	}
	Process struct {
		Source string
		Stale  bool
	}
}

func asked(t *testing.T, a *harness.Agent, of string) (out answerOf, err error) {
	t.Helper()
	o := a.Command(t.Context(), "who", of, "-o", "json")
	if o.Code > 1 {
		return out, fmt.Errorf("who %s: %+v", of, o)
	}
	return out, json.Unmarshal([]byte(o.Stdout), &out)
}

// An agent that sees no engine has the names from one that does, beside what it knows
// itself; and what it knows itself stays.
func TestAnAgentHasFromAnotherWhatItDoesNotKnowItself(t *testing.T) {
	docker := collectortest.StartDockerd(t, collectortest.EngineOptions{})
	other := collectortest.StartContainerd(t, collectortest.EngineOptions{})
	run := func(name string) string {
		return strconv.Itoa(docker.InitPID(docker.Run("--name", name, "--label", "team=shop", collectortest.BusyboxImage, "/bin/busybox", "sleep", "7333")))
	}
	web := run("web")
	first := harness.StartAgent(t, programs, harness.AgentOptions{Docker: docker})
	second := harness.StartAgent(t, programs, harness.AgentOptions{Containerd: other, Args: []string{"--remote-address", first.Socket}})
	// is waits until a process has the container's name, by the other agent or not, and
	// that is stale or not.
	is := func(pid, name string, far, stale bool) {
		t.Helper()
		if err := harness.Within(patience, func() error {
			a, err := asked(t, second, pid)
			if err != nil {
				return err
			}
			if a.Status != "container" || len(a.Containers) != 1 || a.Containers[0].Name != name {
				return fmt.Errorf("%s is %+v", pid, a)
			}
			byFar, isStale := false, false
			for _, s := range a.Containers[0].Sources {
				byFar, isStale = byFar || s.Source == "remote", isStale || s.Stale
			}
			if byFar != far || isStale != stale {
				return fmt.Errorf("%s is %+v", pid, a)
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
	}
	is(web, "web", true, false)
	shop := run("shop") // made while both run
	is(shop, "shop", true, false)
	other.Run("default", collectortest.BusyboxImage, "own", "/bin/sleep", "7334")
	own := strconv.Itoa(other.InitPID("default", "own"))
	is(own, "own", false, false)
	if a, err := asked(t, second, strconv.Itoa(os.Getpid())); err != nil || a.Status != "host" || a.Process.Source != "" {
		t.Errorf("a process of the host's: %+v, %v", a, err)
	}

	first.Kill()
	is(shop, "shop", true, true)
	is(own, "own", false, false)
	if out := second.Command(t.Context(), "who", web); !strings.Contains(out.Stdout, "stale") {
		t.Errorf("who says nothing of it: %+v", out)
	}
	if out := second.Command(t.Context(), "status"); !strings.Contains(out.Stdout, "is away") || !strings.Contains(out.Stdout, "failing") {
		t.Errorf("status: %+v", out)
	}
	docker.Docker("rm", "--force", "web") // while nobody hears of it
	first.Start()
	is(shop, "shop", true, false)
	if err := harness.Within(patience, func() error {
		c, err := connect(t, second).Get(t.Context(), workload.KindContainer, "web")
		if err == nil && c.Container.State != workload.StateExited {
			err = fmt.Errorf("it is %q", c.Container.State)
		}
		if errors.Is(err, workload.ErrNotFound) {
			return nil
		}
		return err
	}); err != nil {
		t.Errorf("who ended meanwhile: %v", err)
	}
}

// Without privileges, by another user: the same answers.
func TestACopyNeedsNoPrivileges(t *testing.T) {
	const user = 65534
	docker := collectortest.StartDockerd(t, engineOptions(t))
	pids := map[string]string{}
	for _, name := range []string{"web", "shop"} {
		pids[name] = strconv.Itoa(docker.InitPID(docker.Run("--name", name, collectortest.BusyboxImage, "/bin/busybox", "sleep", "7335")))
	}
	first := harness.StartAgent(t, programs, harness.AgentOptions{Docker: docker, Args: []string{"--socket-group", strconv.Itoa(user)}})
	if err := os.Chmod(first.Dir, 0o755); err != nil { // it is the test's; the socket's own is the agent's
		t.Fatal(err)
	}
	copied := harness.StartAgent(t, programs, harness.AgentOptions{User: user, Args: []string{"--remote-address", first.Socket, "--remote-copy", "on"}})
	b, err := client.New(client.Options{Socket: copied.Socket, AnyOwner: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	a := connect(t, first)
	equal(t, a, b)
	for name, pid := range pids {
		for _, args := range [][]string{{"who", pid}, {"who", name}, {"list"}, {"explain", pid}} {
			if out := copied.Command(t.Context(), args...); out.Code != 0 || !strings.Contains(out.Stdout, name) {
				t.Errorf("%s: %+v", args, out)
			}
		}
		x, err1 := asked(t, first, pid)
		y, err2 := asked(t, copied, pid)
		if err := errors.Join(err1, err2); err != nil || x.Status != y.Status || x.Containers[0].Name != y.Containers[0].Name {
			t.Errorf("%s is %+v, and by the copy %+v, %v", pid, x, y, err)
		}
	}
	if out := copied.Command(t.Context(), "who", strconv.Itoa(os.Getpid())); out.Code != 0 || !strings.Contains(out.Stdout, "host") {
		t.Errorf("a process of the host's: %+v", out)
	}
	for _, args := range [][]string{{"who", "self"}, {"who", pids["web"], "--at", "1m"}} {
		if out := copied.Command(t.Context(), args...); out.Code == 0 || !strings.Contains(out.Stdout+out.Stderr, "copy of") {
			t.Errorf("%s: %+v", args, out)
		}
	}
	// What comes and goes there comes and goes here, through restarts of the first.
	for i := range 3 {
		name := fmt.Sprintf("late-%d", i)
		docker.Run("--name", name, collectortest.BusyboxImage, "/bin/busybox", "sleep", "7336")
		if i == 1 {
			first.Kill()
			docker.Docker("rm", "--force", "shop")
			first.Start()
		}
		equal(t, a, b)
	}
	if out := copied.Command(t.Context(), "status"); out.Code != 0 || !strings.Contains(out.Stdout, "copy") {
		t.Errorf("status: %+v", out)
	}
}

// A gateway has another agent's store by TLS.
func TestAGatewayIsACopyOverTLS(t *testing.T) {
	docker := collectortest.StartDockerd(t, collectortest.EngineOptions{})
	pid := strconv.Itoa(docker.InitPID(docker.Run("--name", "far", collectortest.BusyboxImage, "/bin/busybox", "sleep", "7337")))
	l, err := net.Listen("tcp", "127.0.0.1:0") // a port that is free
	if err != nil {
		t.Fatal(err)
	}
	at := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	ca := mtlstest.New(t, "ca")
	cert, key := ca.Issue("node1", nil)
	mine, minesKey := ca.Issue("gateway", nil)
	first := harness.StartAgent(t, programs, harness.AgentOptions{Docker: docker, Args: []string{
		"--tls-listen", at, "--tls-cert", cert, "--tls-key", key, "--tls-ca", ca.CA, "--tls-allow", "gateway",
	}})
	gateway := harness.StartAgent(t, programs, harness.AgentOptions{Args: []string{
		"--remote-address", "tls://" + at, "--remote-copy", "on", "--tls-cert", mine, "--tls-key", minesKey, "--tls-ca", ca.CA,
	}})
	equal(t, connect(t, first), connect(t, gateway))
	if out := gateway.Command(t.Context(), "who", pid); out.Code != 0 || !strings.Contains(out.Stdout, "far") {
		t.Errorf("%+v", out)
	}
	first.Stop()
	if err := harness.Within(patience, func() error {
		a, err := asked(t, gateway, pid)
		if err == nil && (!a.Process.Stale || a.Status != "container") {
			err = fmt.Errorf("it is %+v", a)
		}
		return err
	}); err != nil {
		t.Error(err)
	}
	docker.Run("--name", "later", collectortest.BusyboxImage, "/bin/busybox", "sleep", "7338")
	// With a certificate that is not let in it is refused, and it goes on by itself once it
	// has one that is.
	ca.Issue("gateway", func(c *x509.Certificate) { c.Subject.CommonName, c.DNSNames = "stranger", nil })
	first.Start()
	if err := harness.Within(patience, func() error {
		if out := gateway.Command(t.Context(), "status"); !strings.Contains(out.Stdout, "does not take this certificate") {
			return fmt.Errorf("status: %+v", out)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	ca.Issue("gateway", nil)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c := connect(t, gateway)
	if err := harness.Within(patience, func() error {
		_, err := c.Get(ctx, workload.KindContainer, "later")
		return err
	}); err != nil {
		t.Error(err)
	}
	equal(t, connect(t, first), c)
}

// Cut, hung and flooded, a copy ends at what the other agent has, to the last process.
func TestACopyEndsAtTheTruthThroughCutsAHangAndAFlood(t *testing.T) {
	docker := collectortest.StartDockerd(t, collectortest.EngineOptions{})
	first := harness.StartAgent(t, programs, harness.AgentOptions{Docker: docker})
	line := collectortest.NewContainerdProxy(t, first.Socket)
	copied := harness.StartAgent(t, programs, harness.AgentOptions{Args: []string{"--remote-address", line.Socket, "--remote-copy", "on"}})
	a, b := connect(t, first), connect(t, copied)
	stop := make(chan struct{})
	made := flood(t, stop)
	for i := range 12 {
		name := fmt.Sprintf("churn-%d", i)
		docker.Run("--name", name, collectortest.BusyboxImage, "/bin/busybox", "sleep", "7339")
		if i%3 == 0 {
			docker.Docker("rm", "--force", name)
		}
		line.Cut()
	}
	line.Hang()
	if err := harness.Within(patience, func() error {
		e, err := b.Get(t.Context(), workload.KindContainer, "churn-1")
		if err == nil && !e.Container.Sources[0].Stale {
			err = errors.New("what was said before it hung is not stale")
		}
		return err
	}); err != nil {
		t.Error(err)
	}
	docker.Docker("rm", "--force", "churn-2")
	line.Resume()
	line.Cut()
	close(stop)
	processes, cgroups := made()
	equal(t, a, b)
	living := func(c *client.Client) (map[workload.ProcessKey]string, error) {
		has := map[workload.ProcessKey]string{}
		for e, err := range c.List(t.Context(), workload.Selector{Kinds: []workload.Kind{workload.KindProcess}}) {
			if err != nil {
				return nil, err
			}
			has[e.Process.Key] = fmt.Sprint(e.Process.Status, e.Process.Container)
		}
		return has, nil
	}
	if err := harness.Within(patience, func() error {
		x, err1 := living(a)
		y, err2 := living(b)
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		if !maps.Equal(x, y) {
			return fmt.Errorf("%d processes there, %d here", len(x), len(y))
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	t.Logf("%d processes and %d cgroups beside it", processes, cgroups)
}
