// SPDX-License-Identifier: Apache-2.0

package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"github.com/pidigree/pidigree/internal/wire"
	"github.com/pidigree/pidigree/pkg/workload"
)

// Backend gives the answers. Its methods are called concurrently and return
// when ctx ends.
type Backend interface {
	// Resolve answers each question, in order, into results, which is as long and
	// not to be touched afterwards; peer is who asks, for Self. The server has
	// checked that each question is about one thing.
	Resolve(ctx context.Context, peer Peer, qs []workload.Query, results []workload.Result)
	// List gives the entities as of one instant.
	List(ctx context.Context, sel workload.Selector) iter.Seq[workload.Entity]
	// Watch gives a snapshot and then the changes; a slow reader delays only itself.
	Watch(ctx context.Context, sel workload.Selector) iter.Seq[[]workload.Change]
	// Status says how the agent does.
	Status(ctx context.Context) workload.AgentStatus
}

// Options say what a Server serves and how much of it. Backend is required.
type Options struct {
	Backend Backend
	// Degraded says in one line what answers are later for, empty for nothing: see
	// FullService. It is called concurrently. Default: nothing ever is.
	Degraded func() string
	// Logger gets panics and refused connections. Default: nothing is logged.
	Logger *slog.Logger
	// Group may ask everything, beside root; the same as Listen was told. Default: see Listen.
	Group string
	// CommandLines lets everybody who may ask everything see every process's command
	// line. Otherwise root sees all, and others those of processes of their own.
	CommandLines bool
	// Owner gives the user as whom a living process runs. With it, users who may not ask
	// everything may ask about their own processes, too, and not only about themselves.
	// It is called concurrently.
	Owner func(workload.ProcessKey) (uid uint32, ok bool)
	// OthersLabel says of the keys of labels, annotations and tags which of them those
	// see of their own processes. Default: none.
	OthersLabel func(key string) bool
	// Standing says whether a peer is in a container, and may therefore ask only about
	// itself. It is called concurrently, about once a second for each connection that
	// asks, and may wait. Default: nobody is.
	Standing func(Peer) Standing
	// MaxMessage bounds a request in bytes. Default 4 MiB.
	MaxMessage int
	// MaxReply bounds the reply to Resolve in bytes; whoever asks for more is told to ask less at once. Default 64 MiB.
	MaxReply int
	// MaxQueries bounds the questions of one call. Default 10,000.
	MaxQueries int
	// MaxWait bounds what a question may ask to wait; longer waits are cut to it. Default 1 minute.
	MaxWait time.Duration
	// MaxStreams bounds the concurrent calls of one connection. Default 128.
	MaxStreams uint32
	// MaxConnections bounds the connections. Those that may ask only about themselves and those in containers
	// (PID namespaces other than the agent's) share a half of them, one such namespace a quarter. Default 4,096.
	MaxConnections int
	// MaxPeerConnections bounds those of one process. Default 1,024.
	MaxPeerConnections int
	// MaxWatchers bounds the streams of entities. Default 4,096.
	MaxWatchers int
	// HandshakeTimeout bounds how long a peer may be connected without speaking gRPC. Default 5 s.
	HandshakeTimeout time.Duration
	// Grace is how long Serve lets running calls end when it is told to stop. Default 1 s.
	Grace time.Duration
}

func (o Options) withDefaults() Options {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Degraded == nil {
		o.Degraded = func() string { return "" }
	}
	if o.OthersLabel == nil {
		o.OthersLabel = func(string) bool { return false }
	}
	o.MaxMessage = cmp.Or(o.MaxMessage, 4<<20)
	o.MaxReply = cmp.Or(o.MaxReply, 64<<20)
	o.MaxQueries = cmp.Or(o.MaxQueries, 10_000)
	o.MaxWait = cmp.Or(o.MaxWait, time.Minute)
	o.MaxStreams = cmp.Or(o.MaxStreams, 128)
	o.MaxConnections = cmp.Or(o.MaxConnections, 4096)
	o.MaxPeerConnections = cmp.Or(o.MaxPeerConnections, 1024)
	o.MaxWatchers = cmp.Or(o.MaxWatchers, 4096)
	o.HandshakeTimeout = cmp.Or(o.HandshakeTimeout, 5*time.Second)
	o.Grace = cmp.Or(o.Grace, time.Second)
	return o
}

// Server is the gRPC service on one socket.
type Server struct {
	opt    Options
	auth   authorizer
	grpc   *grpc.Server
	health *healthService
	conns  *connections

	sessions sessions
	watchers atomic.Int64
	encoded  atomic.Pointer[encodings] // see shared
	stopping chan struct{}             // closed when running streams have to end
	stopOnce sync.Once
}

// New makes a server that Serve starts. Its error names the group that is not
// there.
func New(opt Options) (*Server, error) {
	if opt.Backend == nil {
		return nil, errors.New("server: Options.Backend is nil")
	}
	opt = opt.withDefaults()
	gid, err := groupID(opt.Group)
	if err != nil {
		return nil, fmt.Errorf("server: %w", err)
	}
	auth := authorizer{uid: uint32(os.Geteuid()), gid: gid, commands: opt.CommandLines, standing: opt.Standing, owner: opt.Owner, label: opt.OthersLabel}
	s := &Server{
		opt:      opt,
		auth:     auth,
		health:   newHealth(auth, opt.Degraded),
		conns:    newConnections(opt, auth),
		stopping: make(chan struct{}),
	}
	s.grpc = s.newGRPC(peerCredentials{frames: s.serveFrames}, keepalive.ServerParameters{Time: time.Minute, Timeout: time.Minute})
	s.SetReady(true)
	return s, nil
}

// newGRPC makes the service for connections of one kind.
func (s *Server) newGRPC(creds credentials.TransportCredentials, keep keepalive.ServerParameters) *grpc.Server {
	g := grpc.NewServer(s.grpcOptions(creds, keep)...)
	g.RegisterService(serviceDesc(), s)
	healthpb.RegisterHealthServer(g, s.health)
	reflection.Register(g)
	return g
}

// hourly is what a connection from another host is kept by: see ServeTLS.
func hourly() keepalive.ServerParameters {
	return keepalive.ServerParameters{Time: time.Minute, Timeout: time.Minute, MaxConnectionAge: time.Hour, MaxConnectionAgeGrace: 10 * time.Second}
}

// Flow-control windows, on this side: what a peer may send before it is read.
// Fixed ones, because gRPC's estimator lets a peer grow them to 16 MiB.
const (
	streamWindow = 256 << 10
	connWindow   = 1 << 20
	// readBuffer is for each connection, also an idle one. Requests are small.
	readBuffer = 4 << 10
)

func (s *Server) grpcOptions(creds credentials.TransportCredentials, keep keepalive.ServerParameters) []grpc.ServerOption {
	g := guard{auth: s.auth, log: s.opt.Logger}
	return []grpc.ServerOption{
		grpc.Creds(creds),
		grpc.UnaryInterceptor(g.unary),
		grpc.StreamInterceptor(g.stream),
		grpc.ForceServerCodecV2(wire.Codec{}),
		grpc.MaxRecvMsgSize(s.opt.MaxMessage),
		grpc.MaxSendMsgSize(s.opt.MaxReply),
		grpc.MaxConcurrentStreams(s.opt.MaxStreams),
		grpc.MaxHeaderListSize(16 << 10),
		grpc.InitialWindowSize(streamWindow),
		grpc.InitialConnWindowSize(connWindow),
		grpc.ReadBufferSize(readBuffer),
		grpc.ConnectionTimeout(s.opt.HandshakeTimeout),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		// A peer that stopped reading: the kernel's buffer fills and the ping gets no answer.
		grpc.KeepaliveParams(keep),
		grpc.WaitForHandlers(true),
	}
}

// SetReady says over the health service whether the store holds what runs. A
// server is ready until it is told otherwise.
func (s *Server) SetReady(ready bool) { s.health.setReady(ready) }

// Serve answers until ctx ends, and gives nil then. It closes the listener.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	return s.serve(ctx, s.grpc, peerListener{Listener: l, conns: s.conns})
}

func (s *Server) serve(ctx context.Context, g *grpc.Server, l net.Listener) error {
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		s.stop(g)
	})
	err := g.Serve(l)
	if stop() {
		s.stop(g)
	} else {
		<-done
	}
	if ctx.Err() != nil || errors.Is(err, grpc.ErrServerStopped) {
		return nil
	}
	return fmt.Errorf("serve %s: %w", l.Addr(), err)
}

// stop ends streams at once and gives calls the grace to end.
func (s *Server) stop(g *grpc.Server) {
	s.health.Shutdown()
	s.stopOnce.Do(func() { close(s.stopping) })
	s.sessions.stop()
	timer := time.AfterFunc(s.opt.Grace, func() {
		s.sessions.cut()
		g.Stop()
	})
	defer timer.Stop()
	g.GracefulStop()
	s.sessions.all.Wait()
}
