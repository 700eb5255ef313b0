// SPDX-License-Identifier: Apache-2.0

package attack

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/pkg/client"
	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/pkg/workload"
	"github.com/pidigree/pidigree/tests/e2e/harness"
)

// framesPreface begins a connection without gRPC, as docs/api.md says.
const framesPreface = "pidigree frames v1\r\n\r\n\r\n"

// peers: whoever may connect may not find out what it is not to know, nor keep
// others from their answers.
func peers(t *testing.T, s *stage) {
	t.Run("another user", s.anotherUser)
	t.Run("a container with the socket", s.containerWithSocket)
	quiet := s.median(t)
	slower := func(t *testing.T) {
		t.Helper()
		busy := s.median(t)
		t.Logf("p50 of another client: %s, %s before: ratio %.2f", busy, quiet, float64(busy)/float64(quiet))
		if busy > 10*quiet+5*time.Millisecond {
			t.Errorf("another client waits %s, %s before", busy, quiet)
		}
		s.everybodyIsKnown(t)
	}
	t.Run("10,000 connections", func(t *testing.T) {
		s.manyConnections(t)
		slower(t)
	})
	t.Run("requests of a gibibyte", func(t *testing.T) {
		before := rss(t, s.agent.PID())
		for range 20 {
			s.hugeGRPC(t)
			s.hugeFrame(t)
		}
		slower(t)
		if after := rss(t, s.agent.PID()); after > before+64<<10 {
			t.Errorf("the agent has %d KiB, %d before", after, before)
		}
	})
	t.Run("halves of requests", func(t *testing.T) {
		for range 100 {
			for _, half := range halves() {
				if _, err := s.connect(t).Write(half); err != nil {
					t.Fatal(err)
				}
			}
		}
		slower(t)
	})
}

// connect opens a connection that stays until the test ends.
func (s *stage) connect(t *testing.T) *net.UnixConn {
	t.Helper()
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: s.agent.Socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// median asks 500 times about the victim, with a client of its own.
func (s *stage) median(t *testing.T) time.Duration {
	t.Helper()
	c, err := client.New(client.Options{Socket: s.agent.Socket})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var took []time.Duration
	for range 500 {
		begin := time.Now()
		results, err := c.Resolve(t.Context(), workload.Query{PID: workload.PID(s.victim.pid)})
		if err == nil {
			err = results[0].Err
		}
		if err != nil {
			t.Fatal(err)
		}
		took = append(took, time.Since(begin))
		if got := idOf(results[0].Answer); got != s.victim.id {
			t.Fatalf("the victim is %q", got)
		}
	}
	slices.Sort(took)
	return took[len(took)/2]
}

// anotherUser is told about itself, and about nobody else, even where the
// socket's mode lets it connect.
func (s *stage) anotherUser(t *testing.T) {
	dir := filepath.Dir(s.agent.Socket)
	var modes []unix.Stat_t
	for _, path := range []string{s.agent.Dir, dir, s.agent.Socket} {
		var st unix.Stat_t
		if err := errors.Join(unix.Stat(path, &st), os.Chmod(path, 0o777)); err != nil {
			t.Fatal(err)
		}
		modes = append(modes, st)
	}
	defer func() {
		for i, path := range []string{s.agent.Dir, dir, s.agent.Socket} {
			if err := os.Chmod(path, os.FileMode(modes[i].Mode&0o777)); err != nil {
				t.Error(err)
			}
		}
	}()
	copied := shortDir(t) + "/pidigree"
	if err := errors.Join(harness.CopyFile(programs.Pidigree, copied), os.Chmod(filepath.Dir(copied), 0o755)); err != nil {
		t.Fatal(err)
	}
	as := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), copied, append([]string{"--socket", s.agent.Socket}, args...)...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		cmd.Dir = "/"
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	for _, args := range [][]string{{"who", strconv.Itoa(s.victim.pid)}, {"list"}, {"who", s.victim.name}, {"explain", strconv.Itoa(s.victim.pid)}} {
		if out, err := as(args...); err == nil || strings.Contains(out, s.victim.id[:12]) {
			t.Errorf("%q: %v, %q", args, err, out)
		}
	}
	if out, err := as("who", "self", "-o", "json"); err != nil || !strings.Contains(out, `"status":"host"`) {
		t.Errorf("about itself: %v, %q", err, out)
	}
}

// containerWithSocket: a peer in a container is who the kernel says it is. As
// another user than root it learns its own name and nobody else's.
func (s *stage) containerWithSocket(t *testing.T) {
	dir := filepath.Dir(s.agent.Socket)
	for _, path := range []string{dir, s.agent.Socket} {
		var st unix.Stat_t
		if err := errors.Join(unix.Stat(path, &st), os.Chmod(path, 0o777)); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := os.Chmod(path, os.FileMode(st.Mode&0o777)); err != nil {
				t.Error(err)
			}
		}()
	}
	run := func(user string, args ...string) (string, error) {
		name := s.name("peer")
		out, err := s.docker.Exec(t.Context(), append([]string{"run", "--rm", "--name", name, "--network", "none", "--user", user, "--volume", dir + ":" + dir,
			"--volume", programs.Pidigree + ":/pidigree:ro", collectortest.BusyboxImage, "/pidigree", "--socket", s.agent.Socket}, args...)...)
		if args[0] == "who" && args[1] == "self" && strings.TrimSpace(out) != name {
			t.Errorf("user %s, asked who it is, was told %q, not %q (%v)", user, out, name, err)
		}
		return out, err
	}
	for _, user := range []string{"0:0", "1234:1234"} {
		_, _ = run(user, "who", "self", "-o", "name", "--wait", "5s")
	}
	if out, err := run("1234:1234", "who", strconv.Itoa(s.victim.pid)); err == nil || strings.Contains(out+err.Error(), s.victim.name) {
		t.Errorf("another user in a container was told %q, %v", out, err)
	}
}

// manyConnections: a container with the socket has ten processes open a thousand
// connections each.
func (s *stage) manyConnections(t *testing.T) {
	dir := filepath.Dir(s.agent.Socket)
	m := s.start(t, "caller", "--volume", dir+":"+dir, "--ulimit", "nofile=2000:2000")
	m.party.Group("attacker")
	said := m.must(t, "connect", s.agent.Socket, framesPreface, "10", "1000")
	held := openFiles(t, s.agent.PID())
	t.Logf("%s connections; the agent has %d files open", said, held)
	if said != "made 10000" || held > 5000 {
		t.Errorf("%s; the agent has %d files open", said, held)
	}
}

func openFiles(t *testing.T, pid int) int {
	t.Helper()
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}

// rss is what a process has of anonymous memory, in KiB.
func rss(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "RssAnon:")
	n, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// grpcCall is the beginning of a call of Resolve.
func grpcCall() []byte {
	var out, block bytes.Buffer
	out.WriteString(http2.ClientPreface)
	f := http2.NewFramer(&out, nil)
	_ = f.WriteSettings() // into memory
	enc := hpack.NewEncoder(&block)
	for _, h := range [][2]string{
		{":method", "POST"}, {":scheme", "http"}, {":path", "/pidigree.v1.PidigreeService/Resolve"}, {":authority", "x"},
		{"content-type", "application/grpc"}, {"te", "trailers"},
	} {
		_ = enc.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]})
	}
	_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true})
	return out.Bytes()
}

// grpcData is a part of a message that says it has so many bytes.
func grpcData(length uint32, part string) []byte {
	var out bytes.Buffer
	prefix := binary.BigEndian.AppendUint32([]byte{0}, length)
	_ = http2.NewFramer(&out, nil).WriteData(1, false, append(prefix, part...))
	return out.Bytes()
}

// hugeGRPC announces a gibibyte, and awaits the refusal of its first bytes.
func (s *stage) hugeGRPC(t *testing.T) {
	t.Helper()
	conn := s.connect(t)
	if _, err := conn.Write(slices.Concat(grpcCall(), grpcData(1<<30, "some of it"))); err != nil {
		t.Fatal(err)
	}
	f := http2.NewFramer(nil, conn)
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			t.Fatalf("no refusal: %v", err)
		}
		if h, ok := frame.(*http2.MetaHeadersFrame); ok {
			for _, field := range h.Fields {
				if field.Name == "grpc-status" && field.Value == "8" {
					return
				}
			}
		}
	}
}

// hugeFrame does the same without gRPC.
func (s *stage) hugeFrame(t *testing.T) {
	t.Helper()
	conn := s.connect(t)
	if _, err := conn.Write(binary.BigEndian.AppendUint32([]byte(framesPreface), 1<<30)); err != nil {
		t.Fatal(err)
	}
	reply, err := io.ReadAll(conn) // to the end: it is disconnected
	if err != nil || !bytes.Contains(reply, []byte("larger than max")) {
		t.Errorf("%q, %v", reply, err)
	}
}

// halves are what peers may stop in the middle of.
func halves() [][]byte {
	call := grpcCall()
	return [][]byte{
		[]byte(framesPreface[:10]), []byte(framesPreface + "\x00\x00"), []byte(framesPreface + "\x00\x00\x10\x00half"),
		[]byte(http2.ClientPreface[:10]), call, call[:len(call)-7], slices.Concat(call, grpcData(1<<20, "half")),
	}
}
