// SPDX-License-Identifier: Apache-2.0

package systemd

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

// listed is one unit in the answer of ListUnitsByPatterns.
type listed struct {
	Name, Description, Load, Active, Sub, Follows string
	Path                                          dbus.ObjectPath
	Job                                           uint32
	JobType                                       string
	JobPath                                       dbus.ObjectPath
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// manager is a system manager at its own socket: it answers as systemd 257 does,
// or worse. The real one is in the end-to-end tests.
type manager struct {
	socket string
	// answer gives the body of a reply, or an error's name.
	answer func(method string, args []any) ([]any, string)
	mu     sync.Mutex
	calls  []string
}

// start serves until the test ends. spoil, if not nil, has each connection instead.
func (m *manager) start(t *testing.T, spoil func(net.Conn)) {
	t.Helper()
	if m.socket == "" {
		m.socket = filepath.Join(t.TempDir(), privateSocket)
	}
	if err := os.MkdirAll(filepath.Dir(m.socket), 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", m.socket)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var conns []net.Conn
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			m.mu.Lock()
			conns = append(conns, c)
			m.mu.Unlock()
			wg.Go(func() {
				if spoil != nil {
					spoil(c)
					return
				}
				m.serve(c)
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		m.mu.Lock()
		for _, c := range conns {
			_ = c.Close()
		}
		m.mu.Unlock()
		wg.Wait()
	})
}

// serve is the server's side of a private connection, as sd-bus speaks it.
func (m *manager) serve(c net.Conn) {
	in := bufio.NewReader(c)
	for _, reply := range []string{"REJECTED EXTERNAL\r\n", "OK 0123456789abcdef0123456789abcdef\r\n", ""} {
		if _, err := in.ReadString('\n'); err != nil {
			return
		}
		if _, err := io.WriteString(c, reply); err != nil {
			return
		}
	}
	for {
		msg, err := dbus.DecodeMessage(in)
		if err != nil {
			return
		}
		method, _ := msg.Headers[dbus.FieldMember].Value().(string)
		m.mu.Lock()
		m.calls = append(m.calls, method)
		body, problem := m.answer(method, msg.Body)
		m.mu.Unlock()
		re := &dbus.Message{Type: dbus.TypeMethodReply, Headers: map[dbus.HeaderField]dbus.Variant{dbus.FieldReplySerial: dbus.MakeVariant(msg.Serial())}, Body: body}
		if problem != "" {
			re.Type, re.Body = dbus.TypeError, nil
			re.Headers[dbus.FieldErrorName] = dbus.MakeVariant(problem)
		}
		if len(re.Body) > 0 {
			re.Headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(re.Body...))
		}
		if err := re.EncodeTo(c, binary.LittleEndian); err != nil {
			return
		}
	}
}

// ssh is a manager with one service, whose properties the test may change first.
func ssh(props map[string]any) *manager {
	all := map[string]any{
		"Id": "ssh.service", "Description": "OpenBSD Secure Shell server", "ActiveState": "active", "SubState": "running",
		"InvocationID": []byte("0123456789abcdef"), "ControlGroup": "/system.slice/ssh.service", "MainPID": uint32(812), "Version": "257.8-1",
	}
	maps.Copy(all, props)
	return &manager{answer: func(method string, args []any) ([]any, string) {
		switch method {
		case "GetUnit":
			if args[0] != "ssh.service" {
				return nil, noSuchUnit
			}
			return []any{dbus.ObjectPath("/org/freedesktop/systemd1/unit/ssh_2eservice")}, ""
		case "Get":
			return []any{dbus.MakeVariant(all[args[1].(string)])}, ""
		case "GetAll":
			vs := map[string]dbus.Variant{}
			for k, v := range all {
				if v != nil {
					vs[k] = dbus.MakeVariant(v)
				}
			}
			return []any{vs}, ""
		case "ListUnitsByPatterns":
			return []any{[]listed{{Name: "slow.service", Active: "activating", Path: "/a", JobPath: "/"}}}, ""
		}
		return nil, "org.freedesktop.DBus.Error.UnknownMethod"
	}}
}

func at(t *testing.T, m *manager) *Collector {
	t.Helper()
	c := New(Options{Socket: m.socket, CallTimeout: 200 * time.Millisecond, Interval: 20 * time.Millisecond})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func lookup(t *testing.T, c *Collector, unit, cgroup string) (*workload.Service, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	return c.LookupUnit(ctx, unit, cgroup)
}

func TestAUnitIsDescribed(t *testing.T) {
	m := ssh(nil)
	m.start(t, nil)
	c := at(t, m)
	got, err := lookup(t, c, "ssh.service", "/system.slice/ssh.service")
	if err != nil {
		t.Fatal(err)
	}
	want := &workload.Service{
		Unit: "ssh.service", Cgroup: "/system.slice/ssh.service", Confidence: workload.Confirmed, Description: "OpenBSD Secure Shell server",
		Active: "active", Sub: "running", InvocationID: "30313233343536373839616263646566", MainPID: 812,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	r, err := c.Probe(t.Context())
	if err != nil || r.Version != "257.8-1" || r.Where != m.socket {
		t.Errorf("probe: %+v, %v", r, err)
	}
}

func TestWhatIsNotTheUnitOfThatCgroupIsNotFound(t *testing.T) {
	for name, c := range map[string]struct {
		props        map[string]any
		unit, cgroup string
	}{
		"no such unit":                        {nil, "nobody.service", "/system.slice/nobody.service"},
		"another cgroup":                      {nil, "ssh.service", "/villain.slice/ssh.service"},
		"a unit without a cgroup":             {map[string]any{"ControlGroup": ""}, "ssh.service", "/system.slice/ssh.service"},
		"an alias":                            {map[string]any{"Id": "sshd.service"}, "ssh.service", "/system.slice/ssh.service"},
		"a type of unit that has none":        {nil, "ssh.timer", "/system.slice/ssh.timer"},
		"a name that would be another object": {nil, "../ssh.service", "/system.slice/../ssh.service"},
	} {
		t.Run(name, func(t *testing.T) {
			m := ssh(c.props)
			m.start(t, nil)
			if s, err := lookup(t, at(t, m), c.unit, c.cgroup); !errors.Is(err, collectors.ErrNotFound) {
				t.Errorf("%+v, %v; want not found", s, err)
			}
		})
	}
}

// An answer of another form is counted as a failure and never half of one.
func TestNonsenseIsNoAnswer(t *testing.T) {
	long := strings.Repeat("x", 1<<20)
	for name, props := range map[string]map[string]any{
		"a number for a description": {"Description": uint32(4)},
		"no state":                   {"ActiveState": nil},
		"an id of the wrong type":    {"InvocationID": "abc"},
		"a main process of text":     {"MainPID": "812"},
		"a main process too large":   {"MainPID": uint32(1 << 31)},
		"a cgroup that is a list":    {"ControlGroup": []string{"/system.slice/ssh.service"}},
	} {
		t.Run(name, func(t *testing.T) {
			m := ssh(props)
			m.start(t, nil)
			if s, err := lookup(t, at(t, m), "ssh.service", "/system.slice/ssh.service"); !errors.Is(err, collectors.ErrUnavailable) {
				t.Errorf("%+v, %v; want unavailable", s, err)
			}
		})
	}
	t.Run("a description of a megabyte is cut", func(t *testing.T) {
		m := ssh(map[string]any{"Description": long, "InvocationID": []byte("short")})
		m.start(t, nil)
		s, err := lookup(t, at(t, m), "ssh.service", "/system.slice/ssh.service")
		if err != nil || len(s.Description) >= 1<<16 || s.InvocationID != "" {
			t.Errorf("%v: %d bytes, invocation %q", err, len(s.Description), s.InvocationID)
		}
	})
}

// Whatever stands behind the socket, a call ends in time, with an error that says
// unavailable, and the next one is answered once systemd is there.
func TestASocketThatIsNoSystemd(t *testing.T) {
	endless := func(c net.Conn) {
		for err := error(nil); err == nil; {
			_, err = c.Write([]byte(strings.Repeat("REJECTED ", 1000)))
		}
	}
	greeted := func(then string) func(net.Conn) {
		return func(c net.Conn) {
			in := bufio.NewReader(c)
			for _, reply := range []string{"REJECTED EXTERNAL\r\n", "OK 0123456789abcdef0123456789abcdef\r\n", then} {
				if _, err := in.ReadString('\n'); err != nil {
					return
				}
				_, _ = io.WriteString(c, reply)
			}
			_, _ = io.Copy(io.Discard, in)
		}
	}
	for name, spoil := range map[string]func(net.Conn){
		"hangs":                           func(c net.Conn) { _, _ = io.Copy(io.Discard, c) },
		"hangs up":                        func(c net.Conn) { _ = c.Close() },
		"another protocol":                func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n"); _ = c.Close() },
		"a line without an end":           endless,
		"a greeting and no answer":        greeted(""),
		"a greeting and garbage":          greeted("l\x02\x00\x01\xff\xff\xff\xff" + strings.Repeat("\xff", 4096)),
		"a greeting and too long a reply": greeted("l\x02\x00\x01\xff\xff\xff\x07\x01\x00\x00\x00\x00\x00\x00\x00"),
	} {
		t.Run(name, func(t *testing.T) {
			m := ssh(nil)
			bad := &manager{}
			bad.start(t, spoil)
			c := at(t, bad)
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			began := time.Now()
			_, err := c.LookupUnit(ctx, "ssh.service", "/system.slice/ssh.service")
			if !errors.Is(err, collectors.ErrUnavailable) {
				t.Errorf("%v, want unavailable", err)
			}
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("it took %v", took)
			}
			if _, err := c.Probe(ctx); err == nil || errors.Is(err, collectors.ErrNotPresent) {
				t.Errorf("probe: %v", err)
			}
			m.start(t, nil)
			c.sockets = []string{m.socket}
			if _, err := lookup(t, c, "ssh.service", "/system.slice/ssh.service"); err != nil {
				t.Errorf("and now that systemd is there: %v", err)
			}
		})
	}
}

func TestWithoutASocketThereIsNoSystemd(t *testing.T) {
	c := New(Options{RunDir: t.TempDir()})
	if _, err := c.Probe(t.Context()); !errors.Is(err, collectors.ErrNotPresent) {
		t.Errorf("probe: %v, want not present", err)
	}
	if _, err := lookup(t, c, "ssh.service", "/system.slice/ssh.service"); !errors.Is(err, collectors.ErrUnavailable) {
		t.Errorf("look up: %v, want unavailable", err)
	}
}

// The bus is asked where systemd's own socket does not let us in.
func TestTheNextSocketIsAsked(t *testing.T) {
	run := t.TempDir()
	closed := &manager{socket: filepath.Join(run, privateSocket)}
	closed.start(t, func(c net.Conn) { _ = c.Close() })
	bus := ssh(nil)
	answer := bus.answer
	bus.answer = func(method string, args []any) ([]any, string) {
		if method == "Hello" {
			return []any{":1.7"}, ""
		}
		return answer(method, args)
	}
	bus.socket = filepath.Join(run, "dbus/system_bus_socket")
	bus.start(t, nil)
	c := New(Options{RunDir: run})
	t.Cleanup(func() { _ = c.Close() })
	if r, err := c.Probe(t.Context()); err != nil || r.Where != bus.socket {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestItIsNoSourceOfContainers(t *testing.T) {
	c := New(Options{RunDir: t.TempDir()})
	if _, err := c.Locate(t.Context(), workload.Evidence{}); !errors.Is(err, collectors.ErrNotMine) {
		t.Errorf("locate: %v", err)
	}
	if _, err := c.Lookup(t.Context(), workload.ContainerID{ID: "a"}); !errors.Is(err, collectors.ErrNotMine) {
		t.Errorf("look up: %v", err)
	}
}

// Every unit at the beginning; then those between two states, and once more when
// they have come out of it.
func TestWatchFollowsUnitsBetweenTwoStates(t *testing.T) {
	m := ssh(nil)
	answer, between := m.answer, true
	m.answer = func(method string, args []any) ([]any, string) {
		if method == "ListUnitsByPatterns" && !between {
			return []any{[]listed{}}, ""
		}
		return answer(method, args)
	}
	m.start(t, nil)
	c := at(t, m)
	ctx, cancel := context.WithCancel(t.Context())
	hints, done := make(chan string, 1000), make(chan error, 1)
	go func() {
		done <- c.Watch(ctx, func(h collectors.Hint) {
			hints <- cmpOr(h.Unit, string(h.Kind))
		})
	}()
	for _, want := range []string{"", "*", "slow.service", "", "slow.service"} {
		if got := <-hints; got != want {
			t.Fatalf("%q, want %q", got, want)
		}
	}
	m.mu.Lock()
	between = false
	m.mu.Unlock()
	last := 0
	for quiet := 0; quiet < 3; {
		switch <-hints {
		case "":
			quiet++
		default:
			quiet = 0
			if last++; last > 2 {
				t.Fatal("it is told of after it is in its state")
			}
		}
	}
	if last == 0 {
		t.Error("it is not told of when it has come into its state")
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func TestOneConnectionIsEnough(t *testing.T) {
	m := ssh(nil)
	m.start(t, nil)
	c := at(t, m)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if _, err := lookup(t, c, "ssh.service", "/system.slice/ssh.service"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.calls) != 16*4 {
		t.Errorf("%d calls, want four for each unit", len(m.calls))
	}
}
