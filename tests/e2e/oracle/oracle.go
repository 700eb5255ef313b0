// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/pkg/client"
	"github.com/pidigree/pidigree/pkg/workload"
	"github.com/pidigree/pidigree/tests/e2e/oracle/report"
)

// An Asker answers in this process: *agent.Agent is one.
type Asker interface {
	Resolve(ctx context.Context, q workload.Query) workload.Result
}

// Options say how to ask. What is left empty is not asked.
type Options struct {
	// Work is the built program tests/e2e/oracle/work. Required.
	Work string
	// Library is an agent embedded in this process.
	Library Asker
	// Socket is that of an agent.
	Socket string
	// Command is the program and first arguments of a command line that is asked
	// about Socket: "who -o json" and the questions are added.
	Command []string
	// CommandEvery is how often the command line is asked. Default one second.
	CommandEvery time.Duration
	// Env are variables for the command line, "PIDIGREE_OCI_ROOTS=...": where the
	// test's engines are. With them the command line is asked without an agent,
	// too (Alone), and is held to what it says by itself while none runs.
	Env []string
	// Timeout is how long an agent that does not react is waited for. Default 5 s.
	Timeout time.Duration
	// Rate bounds the sweeps, in lookups a second and way. Default 300, which
	// leaves the machine to the test; negative is without bound.
	Rate int
	// Rounds is how often a process that has just reported is asked about in the
	// whole cycle of questions, beside its PID, key and pidfd: so many lookups are
	// about as many processes. Default none.
	Rounds int
	// Linger is how long, at most, every eighth of the short-lived processes is held
	// after its first round, for the sweeps to meet it at every age. Default none.
	Linger time.Duration
	// Patience is how long a process may stay unknown in its first round. Default 3 s.
	Patience time.Duration
}

// Work is the program's path in a container.
const Work = report.Dir + "/" + report.WorkFile

// Dir is where a container must have its Party.Dir, for engines that have no
// function here that says so.
const Dir = report.Dir

// maxAsking bounds the first rounds that ask over the socket at the same time:
// thousands of questions at once would measure how long they wait for each other.
const maxAsking = 16

// Oracle is one running oracle.
type Oracle struct {
	// Dir is below /tmp and goes with the test.
	Dir string

	tb      testing.TB
	opts    Options
	ctx     context.Context // of everything that the oracle started; ended by Close
	cancel  context.CancelFunc
	ln      *net.UnixListener
	running sync.WaitGroup
	begun   time.Time

	tally tally
	brief atomic.Uint64 // short-lived processes so far
	slots chan struct{} // one for each process in its first round that is being asked about over the socket

	mu      sync.Mutex // guards all below
	parties []*Party
	byNonce map[[report.NonceSize]byte]*Party
	live    map[*process]struct{}
	met     map[uint64]*Party // by pidfs inode, of all processes ever
	client  *client.Client
	closed  bool
}

// Start starts an oracle, which ends with the test.
func Start(tb testing.TB, opts Options) *Oracle {
	tb.Helper()
	opts.Rate = cmp.Or(opts.Rate, 300)
	opts.Timeout = cmp.Or(opts.Timeout, 5*time.Second)
	opts.CommandEvery = cmp.Or(opts.CommandEvery, time.Second)
	opts.Patience = cmp.Or(opts.Patience, 3*time.Second)
	dir, err := os.MkdirTemp("/tmp", "pdo") // t.TempDir is too long for a socket's path
	if err != nil {
		tb.Fatal(err)
	}
	o := &Oracle{
		Dir: dir, tb: tb, opts: opts, begun: time.Now(),
		slots: make(chan struct{}, maxAsking), byNonce: map[[report.NonceSize]byte]*Party{}, live: map[*process]struct{}{}, met: map[uint64]*Party{},
	}
	o.ctx, o.cancel = context.WithCancel(context.Background())
	if err := o.listen(); err != nil {
		o.cancel()
		tb.Fatal(errors.Join(err, os.RemoveAll(dir)))
	}
	tb.Cleanup(o.Close)
	o.running.Go(o.accept)
	o.sweep()
	return o
}

// listen makes the socket and the first name of the program, which every party's
// directory has links to.
func (o *Oracle) listen() (err error) {
	if err := copyFile(o.opts.Work, filepath.Join(o.Dir, report.WorkFile)); err != nil {
		return fmt.Errorf("the workload program: %w", err)
	}
	sock := filepath.Join(o.Dir, report.SocketFile)
	if o.ln, err = net.ListenUnix("unix", &net.UnixAddr{Name: sock, Net: "unix"}); err != nil {
		return err
	}
	return os.Chmod(sock, 0o777) // any user of a container may report
}

// Close lets go of every process, ends the sweeps and waits for all of it. The
// test's end does it too.
func (o *Oracle) Close() {
	o.mu.Lock()
	closed := o.closed
	o.closed = true
	o.mu.Unlock()
	if closed {
		return
	}
	o.cancel()
	if err := o.ln.Close(); err != nil {
		o.tb.Errorf("close the oracle's socket: %v", err)
	}
	o.running.Wait()
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.client != nil {
		_ = o.client.Close() // nobody asks any longer
	}
	if err := os.RemoveAll(o.Dir); err != nil {
		o.tb.Errorf("remove %s: %v", o.Dir, err)
	}
}

// Container registers a container that is about to be started. It fails the test
// where it cannot.
func (o *Oracle) Container(truth Truth) *Party {
	o.tb.Helper()
	return o.party(truth, false)
}

// Host registers processes of the host itself: Party.HostArgs starts them.
func (o *Oracle) Host() *Party {
	o.tb.Helper()
	return o.party(Truth{Name: "the host"}, true)
}

func (o *Oracle) party(truth Truth, host bool) *Party {
	o.tb.Helper()
	p := &Party{oracle: o, host: host, truth: truth, group: "all", claimed: map[string]bool{}}
	var secret [report.NonceSize / 2]byte
	if _, err := rand.Read(secret[:]); err != nil {
		o.tb.Fatal(err)
	}
	hex.Encode(p.nonce[:], secret[:])
	o.mu.Lock()
	p.number = len(o.parties)
	o.parties = append(o.parties, p)
	o.byNonce[p.nonce] = p
	o.mu.Unlock()
	p.Dir = filepath.Join(o.Dir, strconv.Itoa(p.number))
	if !host {
		// One label that no two containers share, whatever they are called.
		p.truth.Labels = maps.Clone(truth.Labels)
		if p.truth.Labels == nil {
			p.truth.Labels = map[string]string{}
		}
		p.truth.Labels[Label] = filepath.Base(o.Dir) + "-" + strconv.Itoa(p.number)
	}
	if err := p.prepare(); err != nil {
		o.tb.Fatalf("prepare a directory for %s: %v", truth.Name, err)
	}
	return p
}

// asking gives the client, made when first needed and after an agent was away.
func (o *Oracle) asking() (*client.Client, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return nil, net.ErrClosed
	}
	if o.client == nil {
		c, err := client.New(client.Options{Socket: o.opts.Socket, Timeout: o.opts.Timeout})
		if err != nil {
			return nil, err
		}
		o.client = c
	}
	return o.client, nil
}

// copyFile makes the program everybody's to execute.
func copyFile(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o755)
}

// prepare makes the directory that goes into the container: the socket and the
// program are links, so that it is one mount.
func (p *Party) prepare() error {
	if err := os.Mkdir(p.Dir, 0o755); err != nil {
		return err
	}
	up := func(name string) string { return filepath.Join(p.oracle.Dir, name) }
	in := func(name string) string { return filepath.Join(p.Dir, name) }
	return errors.Join(
		os.WriteFile(in(report.NonceFile), p.nonce[:], fs.FileMode(0o644)),
		unix.Link(up(report.SocketFile), in(report.SocketFile)),
		unix.Link(up(report.WorkFile), in(report.WorkFile)),
		unix.Link(up(report.WorkFile), in(report.OtherFile)),
	)
}
