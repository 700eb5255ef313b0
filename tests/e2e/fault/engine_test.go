// SPDX-License-Identifier: Apache-2.0

package fault

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/tests/e2e/harness"
	"github.com/pidigree/pidigree/tests/e2e/oracle"
)

// fact is what a container is, by an engine's own word or by the agent's.
type fact struct {
	Name, Image, State string
	Labels             map[string]string
	PID                int // of a running one's init
}

// maker is what the tests do with whatever makes containers, a daemon or not. An
// id is what its lists have.
type maker interface {
	String() string
	// run starts a container in the background.
	run(ctx context.Context, p *oracle.Party, work ...string) (id string, err error)
	remove(ctx context.Context, id string) error
	// truth is every container that the engine knows.
	truth(ctx context.Context) (map[string]fact, error)
	agent() harness.AgentOptions
}

// engine is a maker that is a daemon. Calls go to the engine itself and not
// through a proxy.
type engine interface {
	maker
	Start() error
	Stop()
	Kill()
	Signal(syscall.Signal) error
	PID() int

	// giants makes containers without a process whose records are over 16 MiB together.
	giants(ctx context.Context) ([]string, error)
	proxied(testing.TB) (*collectortest.Proxy, harness.AgentOptions)
}

type docker struct{ *collectortest.Dockerd }

func (docker) String() string { return "docker" }

func (d docker) agent() harness.AgentOptions { return harness.AgentOptions{Docker: d.Dockerd} }

func (d docker) proxied(tb testing.TB) (*collectortest.Proxy, harness.AgentOptions) {
	p := collectortest.NewDockerProxy(tb, d.Socket)
	return p, harness.AgentOptions{Docker: d.Dockerd, DockerSocket: p.Socket}
}

func (d docker) run(ctx context.Context, p *oracle.Party, work ...string) (string, error) {
	args := append(append([]string{"run", "--detach", "--network", "none"}, p.DockerArgs()...), collectortest.BusyboxImage, oracle.Work)
	id, err := d.Exec(ctx, append(args, work...)...)
	if err == nil {
		p.SetID(id)
	}
	return id, err
}

func (d docker) remove(ctx context.Context, id string) error {
	_, err := d.Exec(ctx, "rm", "--force", id)
	return err
}

// call asks Docker's API: its command line is slow and cannot say all.
func (d docker) call(ctx context.Context, method, path string, body, reply any) error {
	var data bytes.Buffer
	if body != nil {
		if err := json.NewEncoder(&data).Encode(body); err != nil {
			return err
		}
	}
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", d.Socket)
	}}
	req, err := http.NewRequestWithContext(ctx, method, "http://docker"+path, &data)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %s: %.300s", method, path, resp.Status, text)
	}
	if reply == nil || len(text) == 0 {
		return nil
	}
	return json.Unmarshal(text, reply)
}

func (d docker) truth(ctx context.Context) (map[string]fact, error) {
	var list []struct{ ID string }
	if err := d.call(ctx, "GET", "/containers/json?all=1", nil, &list); err != nil {
		return nil, err
	}
	all := map[string]fact{}
	for _, l := range list {
		var c struct {
			Name   string
			Config struct {
				Image  string
				Labels map[string]string
			}
			State struct {
				Status string
				Pid    int
			}
		}
		if err := d.call(ctx, "GET", "/containers/"+l.ID+"/json", nil, &c); err != nil {
			return nil, err
		}
		all[l.ID] = fact{strings.TrimPrefix(c.Name, "/"), c.Config.Image, c.State.Status, c.Config.Labels, c.State.Pid}
	}
	return all, nil
}

// The records of giants: so many of such a size.
const (
	giantCount = 9
	giantSize  = 2 << 20
)

// giantPrefix begins the names of giants.
const giantPrefix = "giant-"

func (d docker) giants(ctx context.Context) (ids []string, err error) {
	for i := range giantCount {
		var made struct{ ID string }
		err := d.call(ctx, "POST", "/containers/create?name="+giantPrefix+strconv.Itoa(i), map[string]any{
			"Image": collectortest.BusyboxImage, "Labels": map[string]string{"giant": strings.Repeat("x", giantSize)},
			"HostConfig": map[string]any{"NetworkMode": "none"},
		}, &made)
		if err != nil {
			return ids, err
		}
		ids = append(ids, made.ID)
	}
	return ids, nil
}

// namespace is that of containerd's containers here.
const namespace = "default"

type containerd struct{ *collectortest.Containerd }

func (containerd) String() string { return "containerd" }

func (c containerd) agent() harness.AgentOptions {
	return harness.AgentOptions{Containerd: c.Containerd}
}

// proxied puts the proxy where containerd's shims say that it is, and asks
// containerd itself by another name of its socket.
func (c containerd) proxied(tb testing.TB) (*collectortest.Proxy, harness.AgentOptions) {
	tb.Helper()
	address := c.Address
	c.Address += ".itself"
	if err := os.Rename(address, c.Address); err != nil {
		tb.Fatal(err)
	}
	p := collectortest.NewContainerdProxy(tb, c.Address)
	p.Remove()
	p.Socket = address
	if err := p.Listen(); err != nil {
		tb.Fatal(err)
	}
	return p, harness.AgentOptions{Containerd: c.Containerd, ContainerdAddress: address}
}

func (c containerd) run(ctx context.Context, p *oracle.Party, work ...string) (string, error) {
	id := p.Truth().Name
	args := append(p.CtrArgs(), collectortest.BusyboxImage, id, oracle.Work)
	_, err := c.Exec(ctx, c.RunArgs(namespace, append(args, work...)...)...)
	if err == nil {
		p.SetID(id)
	}
	return id, err
}

func (c containerd) ctr(ctx context.Context, args ...string) (string, error) {
	return c.Exec(ctx, append([]string{"--namespace", namespace}, args...)...)
}

func (c containerd) remove(ctx context.Context, id string) error {
	_, _ = c.ctr(ctx, "tasks", "rm", "--force", id) // there may be none
	_, err := c.ctr(ctx, "containers", "rm", id)
	return err
}

func (c containerd) truth(ctx context.Context) (map[string]fact, error) {
	ids, err := c.ctr(ctx, "containers", "ls", "--quiet")
	if err != nil {
		return nil, err
	}
	all := map[string]fact{}
	for id := range strings.FieldsSeq(ids) {
		text, err := c.ctr(ctx, "containers", "info", id)
		if err != nil {
			return nil, err
		}
		var info struct {
			Image  string
			Labels map[string]string
		}
		if err := json.Unmarshal([]byte(text), &info); err != nil {
			return nil, err
		}
		all[id] = fact{id, info.Image, "", info.Labels, 0} // no state without a task
	}
	tasks, err := c.ctr(ctx, "tasks", "ls")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(tasks) {
		f := strings.Fields(line)
		one, ok := all[f[0]]
		if len(f) != 3 || !ok {
			continue
		}
		switch f[2] {
		case "RUNNING":
			one.State = "running"
			if one.PID, err = strconv.Atoi(f[1]); err != nil {
				return nil, err
			}
		case "STOPPED":
			one.State = "exited"
		default:
			return nil, fmt.Errorf("task %s is %s", f[0], f[2])
		}
		all[f[0]] = one
	}
	return all, nil
}

func (c containerd) giants(ctx context.Context) (ids []string, err error) {
	spec, err := json.Marshal(map[string]any{"ociVersion": "1.0.2", "annotations": map[string]string{"giant": strings.Repeat("x", giantSize)}})
	file := filepath.Join(c.Dir, "giant.json")
	if err := errors.Join(err, os.WriteFile(file, spec, 0o600)); err != nil {
		return nil, err
	}
	for i := range giantCount {
		id := giantPrefix + strconv.Itoa(i)
		if _, err := c.ctr(ctx, "containers", "create", "--config", file, id); err != nil {
			return ids, err
		}
		ids = append(ids, id)
	}
	return ids, nil
}
