// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	pb "github.com/pidigree/pidigree/api/pidigree/v1"
	"github.com/pidigree/pidigree/pkg/client"
	"github.com/pidigree/pidigree/pkg/server"
	"github.com/pidigree/pidigree/pkg/workload"
)

func connect(t *testing.T, socket string) *client.Client {
	t.Helper()
	c, err := client.New(client.Options{Socket: socket, Timeout: 30 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestASocketThatCannotBeUsedIsSaidInOneLineThatSaysWhatToDo(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(t *testing.T, socket string)
		want error
		says string
	}{
		{"no socket", func(*testing.T, string) {}, client.ErrNoAgent, "pidigree agent"},
		{"no directory", func(t *testing.T, s string) { must(t, os.Remove(s[:strings.LastIndexByte(s, '/')])) }, client.ErrNoAgent, "pidigree agent"},
		{"a file", func(t *testing.T, s string) { must(t, os.WriteFile(s, nil, 0o600)) }, nil, "it is no socket"},
		{"a directory", func(t *testing.T, s string) { must(t, os.Mkdir(s, 0o755)) }, nil, "it is no socket"},
		{"a socket that was left behind", leaveBehind, client.ErrDead, "start `pidigree agent` again"},
		{"somebody else's socket", func(t *testing.T, s string) {
			leaveBehind(t, s)
			must(t, os.Chown(s, 12345, 12345))
		}, client.ErrUntrusted, "uid 12345"},
		{"a socket whose agent is out of connections", func(t *testing.T, s string) { fillBacklog(t, s) }, client.ErrDead, "it hangs"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if os.Geteuid() != 0 && errors.Is(c.want, client.ErrUntrusted) {
				t.Skip("only root can give files away")
			}
			socket := tempSocket(t)
			c.make(t, socket)
			_, err := client.New(client.Options{Socket: socket, Timeout: 50 * time.Millisecond})
			if c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			oneLine(t, err, socket, c.says)
		})
	}
}

// oneLine checks what a user reads.
func oneLine(t *testing.T, err error, says ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("%q does not say %q", err, s)
		}
	}
	if strings.ContainsAny(err.Error(), "\n") || strings.Contains(err.Error(), "rpc error") {
		t.Errorf("%q is not one line for a person", err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func leaveBehind(t *testing.T, socket string) {
	t.Helper()
	l, err := net.Listen("unix", socket)
	must(t, err)
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	must(t, l.Close())
}

// fillBacklog makes a socket on which nobody accepts and no more fit.
func fillBacklog(t *testing.T, socket string) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() { _ = unix.Close(fd) })
	must(t, unix.Bind(fd, &unix.SockaddrUnix{Name: socket}))
	must(t, unix.Listen(fd, 0))
	for {
		c, err := net.DialTimeout("unix", socket, 10*time.Millisecond)
		if err != nil {
			return
		}
		t.Cleanup(func() { _ = c.Close() })
	}
}

func TestAnAgentThatAcceptsAndThenSaysNothingIsDead(t *testing.T) {
	socket := tempSocket(t)
	l, err := net.Listen("unix", socket)
	must(t, err)
	defer l.Close()
	c, err := client.New(client.Options{Socket: socket, Timeout: 50 * time.Millisecond})
	must(t, err)
	defer c.Close()
	_, err = c.Self(t.Context())
	if !errors.Is(err, client.ErrDead) {
		t.Errorf("self: %v", err)
	}
	oneLine(t, err, socket)
	for _, err := range c.List(t.Context(), workload.Selector{}) {
		if !errors.Is(err, client.ErrDead) {
			t.Errorf("list: %v", err)
		}
		oneLine(t, err, socket)
	}
}

func TestTheCallersOwnDeadlineIsNotTheAgentsFault(t *testing.T) {
	socket, _ := start(t, agent{resolve: func(ctx context.Context, _ server.Peer, _ workload.Query) workload.Result {
		<-ctx.Done()
		return workload.Result{Err: ctx.Err()}
	}})
	c := connect(t, socket)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Self(ctx); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, client.ErrDead) {
		t.Errorf("deadline: %v", err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	if _, err := c.Self(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestAClientOutlivesItsAgent(t *testing.T) {
	socket, stop := start(t, agent{})
	c := connect(t, socket)
	ask := func() error { _, err := c.Self(t.Context()); return err }
	must(t, ask())
	stop()
	if err := ask(); !errors.Is(err, client.ErrNoAgent) && !errors.Is(err, client.ErrDead) {
		t.Errorf("without an agent: %v", err)
	}
	// The client dials again after a back-off; until then it gives the last reason.
	err := ask()
	for range 1000 {
		if errors.Is(err, client.ErrNoAgent) {
			break
		}
		err = ask()
	}
	if !errors.Is(err, client.ErrNoAgent) {
		t.Errorf("without a socket: %v", err)
	}
	oneLine(t, err, socket, "pidigree agent")
	again, err := agent{}.serve(socket)
	must(t, err)
	defer again()
	deadline := time.Now().Add(20 * time.Second)
	for err = ask(); err != nil && time.Now().Before(deadline); err = ask() {
		if !errors.Is(err, client.ErrNoAgent) && !errors.Is(err, client.ErrDead) {
			t.Fatal(err)
		}
	}
	must(t, err)
}

func TestAnAgentThatWasRestartedAnswersTheNextCall(t *testing.T) {
	socket, stop := start(t, agent{})
	c := connect(t, socket)
	for range 3 {
		if _, err := c.Self(t.Context()); err != nil {
			t.Fatal(err)
		}
		stop()
		var err error
		stop, err = agent{}.serve(socket)
		must(t, err)
	}
	stop()
}

func TestACallThatLostItsConnectionIsMadeAgain(t *testing.T) {
	var w wire
	asked := 0
	behind, _ := start(t, agent{resolve: func(ctx context.Context, _ server.Peer, _ workload.Query) workload.Result {
		if asked++; asked == 1 {
			w.cut()
			<-ctx.Done()
		}
		return workload.Result{Answer: workload.Answer{Status: workload.StatusHost}}
	}})
	socket := tempSocket(t)
	w.run(t, socket, behind)
	a, err := connect(t, socket).Self(t.Context())
	if err != nil || a.Status != workload.StatusHost || asked != 2 {
		t.Errorf("%+v, %v, asked %d times", a, err, asked)
	}
}

// wire passes bytes between clients and an agent until it is cut.
type wire struct {
	mu    sync.Mutex // guards all below
	conns []net.Conn
}

func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.conns {
		_ = c.Close()
	}
	w.conns = nil
}

func (w *wire) run(t *testing.T, socket, behind string) {
	t.Helper()
	l, err := net.Listen("unix", socket)
	must(t, err)
	var all sync.WaitGroup
	all.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("unix", behind)
			if err != nil {
				_ = in.Close()
				continue
			}
			w.mu.Lock()
			w.conns = append(w.conns, in, out)
			w.mu.Unlock()
			pass := func(to, from net.Conn) { _, _ = io.Copy(to, from); _ = to.Close() }
			all.Go(func() { pass(in, out) })
			all.Go(func() { pass(out, in) })
		}
	})
	t.Cleanup(func() { _ = l.Close(); w.cut(); all.Wait() })
}

func TestWatchGivesWhatThereIsAndResumes(t *testing.T) {
	socket, stop := start(t, agent{})
	c := connect(t, socket)
	var last workload.Revision
	n := 0
	for ch, err := range c.Watch(t.Context(), workload.Selector{}) {
		if n++; n == 2 {
			last = ch.Revision
			stop() // ends the stream
		}
		if n == 3 {
			if !errors.Is(err, client.ErrDead) {
				t.Errorf("the stream ended with %v", err)
			}
			oneLine(t, err, "watch")
		}
	}
	if n != 3 || last != 3 {
		t.Errorf("%d changes, the last revision is %d", n, last)
	}
}

func TestWatchEndsWithItsContextAndWhenTheCallerBreaksOff(t *testing.T) {
	socket, _ := start(t, agent{})
	c := connect(t, socket)
	for range c.Watch(t.Context(), workload.Selector{}) {
		break
	}
	ctx, cancel := context.WithCancel(t.Context())
	var last error
	for ch, err := range c.Watch(ctx, workload.Selector{}) {
		if ch.Type == workload.ChangeBookmark {
			cancel()
		}
		last = err
	}
	cancel()
	if !errors.Is(last, context.Canceled) {
		t.Errorf("the stream ended with %v", last)
	}
	for _, err := range c.Watch(t.Context(), workload.Selector{Kinds: []workload.Kind{"teapot"}}) {
		if !errors.Is(err, workload.ErrInvalid) {
			t.Errorf("teapots: %v", err)
		}
	}
}

func TestMoreQuestionsThanACallTakesAreAskedInSeveral(t *testing.T) {
	socket, _ := start(t, agent{})
	queries := make([]workload.Query, client.MaxBatch+5)
	for i := range queries {
		queries[i].PID = workload.PID(i + 1)
	}
	got, err := connect(t, socket).Resolve(t.Context(), queries...)
	must(t, err)
	if len(got) != len(queries) || got[client.MaxBatch+4].Answer.Process.Key.PID != workload.PID(client.MaxBatch+5) {
		t.Errorf("%d answers", len(got))
	}
	if got, err := connect(t, socket).Resolve(t.Context()); err != nil || len(got) != 0 {
		t.Errorf("no question: %v, %v", got, err)
	}
}

func TestGet(t *testing.T) {
	socket, _ := start(t, agent{})
	c := connect(t, socket)
	e, err := c.Get(t.Context(), workload.KindContainer, "web")
	if err != nil || e.Container.ID != web.ID {
		t.Errorf("web: %+v, %v", e, err)
	}
	_, err = c.Get(t.Context(), workload.KindPod, "none")
	if !errors.Is(err, workload.ErrNotFound) {
		t.Errorf("a pod that is not there: %v", err)
	}
	oneLine(t, err, "get", "none")
	if _, err := c.Get(t.Context(), "teapot", "x"); !errors.Is(err, workload.ErrInvalid) {
		t.Errorf("a teapot: %v", err)
	}
}

func TestTheEnvironmentNamesTheSocket(t *testing.T) {
	socket, _ := start(t, agent{})
	t.Setenv(client.SocketEnv, socket)
	c, err := client.New(client.Options{})
	must(t, err)
	defer c.Close()
	if c.Socket() != socket {
		t.Errorf("the socket is %s", c.Socket())
	}
	t.Setenv(client.SocketEnv, "")
	if c, err := client.New(client.Options{}); err == nil {
		_ = c.Close() // this machine has an agent
	} else {
		oneLine(t, err, client.DefaultSocket)
	}
}

func TestClosingEndsWhatRuns(t *testing.T) {
	socket, _ := start(t, agent{})
	c := connect(t, socket)
	next, stop := iter.Pull2(c.Watch(t.Context(), workload.Selector{}))
	defer stop()
	if _, err, ok := next(); !ok || err != nil {
		t.Fatal(err)
	}
	must(t, c.Close())
	var last error
	for _, err, ok := next(); ok; _, err, ok = next() {
		last = err
	}
	if last == nil {
		t.Error("the stream ended without an error")
	}
	if _, err := c.Self(t.Context()); err == nil {
		t.Error("a closed client asks")
	}
}

// sleeper is a process that lives until it is ended, and its pidfd.
func sleeper(t *testing.T) (*exec.Cmd, int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "cat")
	in, err := cmd.StdinPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	fd, err := unix.PidfdOpen(cmd.Process.Pid, 0)
	must(t, err)
	t.Cleanup(func() { _ = unix.Close(fd) })
	return cmd, fd
}

func TestAPIDFDIsAskedForByWhatItHolds(t *testing.T) {
	var asked []workload.Query
	socket, _ := start(t, agent{resolve: func(_ context.Context, _ server.Peer, q workload.Query) workload.Result {
		asked = append(asked, q)
		return workload.Result{Answer: workload.Answer{Status: workload.StatusHost}}
	}})
	c := connect(t, socket)
	cmd, fd := sleeper(t)
	if a, err := c.ResolvePIDFD(t.Context(), fd); err != nil || a.Status != workload.StatusHost {
		t.Errorf("%+v, %v", a, err)
	}
	var st unix.Stat_t
	must(t, unix.Fstat(fd, &st))
	want := workload.ProcessKey{PID: workload.PID(cmd.Process.Pid), Inode: st.Ino}
	var fs unix.Statfs_t
	must(t, unix.Fstatfs(fd, &fs))
	if fs.Type == unix.PID_FS_MAGIC && (len(asked) != 1 || asked[0].Key != want) {
		t.Errorf("asked for %+v, want the key %v", asked, want)
	}

	must(t, cmd.Process.Kill())
	_ = cmd.Wait()
	if _, err := c.ResolvePIDFD(t.Context(), fd); !errors.Is(err, workload.ErrNotFound) {
		t.Errorf("a process that was reaped: %v", err)
	}
	null, err := os.Open(os.DevNull)
	must(t, err)
	defer null.Close()
	for _, fd := range []int{int(null.Fd()), -1, 1 << 20} {
		if _, err := c.ResolvePIDFD(t.Context(), fd); !errors.Is(err, workload.ErrInvalid) {
			t.Errorf("descriptor %d: %v", fd, err)
		}
	}
}

func TestADeniedQuestionIsSaidAsSuch(t *testing.T) {
	socket, _ := start(t, agent{resolve: func(context.Context, server.Peer, workload.Query) workload.Result {
		return workload.Result{Err: fmt.Errorf("resolve: %w", workload.ErrDenied)}
	}})
	if _, err := connect(t, socket).Self(t.Context()); !errors.Is(err, client.ErrDenied) {
		t.Errorf("got %v", err)
	}
}

// A socket that a user may not enter, tried by another user's process.
func TestAUserWithoutAccessIsToldWhatToDo(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can become another user")
	}
	socket, _ := start(t, agent{})
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env = append(os.Environ(), client.SocketEnv+"="+socket, anotherUserEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
	said, denied := strings.CutPrefix(string(out), "denied: ")
	if !denied {
		t.Errorf("the child says %q", out)
	}
	oneLine(t, errors.New(said), "become root")
}

// anotherUserEnv makes the test binary be another user's process.
const anotherUserEnv = "PIDIGREE_CLIENT_TEST_USER"

// beAnotherUser prints what it is told, and whether that means ErrDenied.
func beAnotherUser() {
	_, err := client.New(client.Options{})
	if errors.Is(err, client.ErrDenied) {
		fmt.Print("denied: ")
	}
	fmt.Print(err)
}

func TestSomethingThatIsNoAgentIsNotBelieved(t *testing.T) {
	socket := tempSocket(t)
	l, err := net.Listen("unix", socket)
	must(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
			_ = conn.Close()
		}
	}()
	defer func() { _ = l.Close(); <-done }()
	c, err := client.New(client.Options{Socket: socket, Timeout: 5 * time.Second})
	must(t, err)
	defer c.Close()
	_, err = c.Self(t.Context())
	if !errors.Is(err, client.ErrDead) {
		t.Errorf("got %v", err)
	}
	oneLine(t, err, socket)
}

func TestListsComeWhole(t *testing.T) {
	socket, _ := start(t, agent{})
	var names []string
	for e, err := range connect(t, socket).List(t.Context(), workload.Selector{}) {
		must(t, err)
		names = append(names, e.Container.Name)
	}
	if !slices.Equal(names, []string{"web"}) {
		t.Errorf("%v", names)
	}
}

func TestStatus(t *testing.T) {
	socket, _ := start(t, agent{})
	st, err := connect(t, socket).Status(t.Context())
	if err != nil || st.Version != "1.2.3" || st.PID != workload.PID(os.Getpid()) || !st.Ready {
		t.Errorf("%+v, %v", st, err)
	}
}

func TestManyQuestionsAtOnceAreNotBehindEachOther(t *testing.T) {
	const n = 30
	var here sync.WaitGroup
	here.Add(n)
	socket, _ := start(t, agent{resolve: func(ctx context.Context, _ server.Peer, q workload.Query) workload.Result {
		here.Done()
		here.Wait() // for all of them
		return workload.Result{Answer: workload.Answer{Status: workload.StatusHost, Process: &workload.Process{Key: workload.ProcessKey{PID: q.PID}}}}
	}})
	c := connect(t, socket)
	errs := make(chan error, n)
	for i := range n {
		go func() {
			got, err := c.Resolve(context.Background(), workload.Query{PID: workload.PID(i + 1)})
			if err == nil && got[0].Answer.Process.Key.PID != workload.PID(i+1) {
				err = fmt.Errorf("asked for %d, got %v", i+1, got[0].Answer.Process.Key)
			}
			errs <- err
		}()
	}
	for range n {
		must(t, <-errs)
	}
}

func TestAQuestionThatWaitsIsAsked(t *testing.T) {
	socket, _ := start(t, agent{})
	got, err := connect(t, socket).Resolve(t.Context(), workload.Query{PID: 1, Wait: time.Second})
	if err != nil || got[0].Err != nil || got[0].Answer.Status != workload.StatusContainer {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestAClientIsOfUseAfterAQuestionThatWasCancelled(t *testing.T) {
	socket, _ := start(t, agent{resolve: func(ctx context.Context, _ server.Peer, q workload.Query) workload.Result {
		if q.PID == 1 {
			<-ctx.Done()
		}
		return workload.Result{Answer: workload.Answer{Status: workload.StatusHost, Process: &workload.Process{Key: workload.ProcessKey{PID: q.PID}}}}
	}})
	c := connect(t, socket)
	for range 20 { // more than there are lines: none may be lost
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		if _, err := c.Resolve(ctx, workload.Query{PID: 1}); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		cancel()
		got, err := c.Resolve(t.Context(), workload.Query{PID: 2})
		if err != nil || got[0].Answer.Process.Key.PID != 2 {
			t.Fatalf("%+v, %v", got, err)
		}
	}
}

func TestClosingEndsAQuestion(t *testing.T) {
	asked := make(chan struct{})
	socket, _ := start(t, agent{resolve: func(ctx context.Context, _ server.Peer, q workload.Query) workload.Result {
		close(asked)
		<-ctx.Done()
		return workload.Result{Err: ctx.Err()}
	}})
	c := connect(t, socket)
	got := make(chan error, 1)
	go func() { _, err := c.Self(context.Background()); got <- err }()
	<-asked
	must(t, c.Close())
	if err := <-got; err == nil {
		t.Error("it was answered")
	}
}

// oldAgent is one from before ResolveStream and frames.
type oldAgent struct {
	pb.UnimplementedPidigreeServiceServer
}

func (oldAgent) Resolve(_ context.Context, req *pb.ResolveRequest) (*pb.ResolveResponse, error) {
	resp := &pb.ResolveResponse{}
	for range req.GetQueries() {
		resp.Results = append(resp.Results, &pb.Result{Answer: &pb.Answer{Status: pb.Status_STATUS_HOST}})
	}
	return resp, nil
}

// counted counts the connections that were accepted.
type counted struct {
	net.Listener
	n atomic.Int32
}

func (l *counted) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		l.n.Add(1)
	}
	return conn, err
}

func TestAnAgentFromBeforeFramesIsAskedByGRPC(t *testing.T) {
	socket := tempSocket(t)
	listener, err := net.Listen("unix", socket)
	must(t, err)
	l := &counted{Listener: listener}
	old := grpc.NewServer()
	pb.RegisterPidigreeServiceServer(old, oldAgent{})
	done := make(chan struct{})
	go func() { defer close(done); _ = old.Serve(l) }()
	defer func() { old.Stop(); <-done }()
	c := connect(t, socket)
	for range 50 {
		got, err := c.Resolve(t.Context(), workload.Query{PID: 1}, workload.Query{PID: 2})
		if err != nil || len(got) != 2 || got[1].Answer.Status != workload.StatusHost {
			t.Fatalf("%+v, %v", got, err)
		}
	}
	if n := l.n.Load(); n > 3 { // New's, which was tried as a line, one more line, and gRPC's
		t.Errorf("%d connections for 50 questions", n)
	}
}
