// SPDX-License-Identifier: Apache-2.0

package fault

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
)

func startDocker(t *testing.T) docker {
	return docker{collectortest.StartDockerd(t, collectortest.EngineOptions{})}
}

func startContainerd(t *testing.T) containerd {
	return containerd{collectortest.StartContainerd(t, collectortest.EngineOptions{})}
}

func TestDockerFails(t *testing.T)     { engineFails(t, startDocker(t)) }
func TestContainerdFails(t *testing.T) { engineFails(t, startContainerd(t)) }
func TestCRIFails(t *testing.T)        { engineFails(t, startKube(t)) }

// engineFails ends and stops the engine itself, and then breaks what is between
// it and the agent.
func engineFails(t *testing.T, e engine) {
	b := newBed(t, e, false)
	none := func() error { return nil }
	b.endure(trouble{name: nothing, begin: none, during: b.change, end: none})
	for range *rounds {
		for _, f := range b.daemonTroubles() {
			b.endure(f)
		}
	}
	// All of them, while they run: who has ended when the next agent starts has no
	// init by which two sources could be joined that know the engine by two sockets.
	b.remove(b.stays...)
	b.remove(b.left...)
	b.o.Close()
	b.probe.stop()
	b.agent.Stop()

	b = newBed(t, e, true)
	b.endure(trouble{name: nothing, begin: none, during: b.change, end: none})
	for range *rounds {
		for _, f := range b.wireTroubles() {
			b.endure(f)
		}
	}
}

// daemonTroubles end or stop the process of the engine.
func (b *bed) daemonTroubles() []trouble {
	e := b.engine.(engine)
	queued := make(chan error, 1)
	var late *resident
	return []trouble{
		{name: "kill -9", begin: func() error { e.Kill(); return nil }, end: e.Start},
		{
			// What was asked of it meanwhile is done when it goes on.
			name:  "SIGSTOP and SIGCONT",
			lasts: 3 * time.Second, // more than the deadline of a call
			begin: func() error { return e.Signal(syscall.SIGSTOP) },
			during: func() {
				go func() {
					var err error
					late, err = b.startErr("late", "stay")
					queued <- err
				}()
			},
			end: func() error {
				if err := errors.Join(e.Signal(syscall.SIGCONT), <-queued); err != nil {
					return err
				}
				b.stays = append(b.stays, late) // it is one more of those that stay
				return nil
			},
		},
		{name: "SIGTERM and start", ends: e.String() == "docker", begin: func() error { e.Stop(); return nil }, end: e.Start},
	}
}

// wireTroubles break what is between the agent and the engine, which goes on.
func (b *bed) wireTroubles() []trouble {
	p := b.proxy
	void := func(f func()) func() error { return func() error { f(); return nil } }
	events := func(f collectortest.EventFault) func() error { return void(func() { p.Events(f) }) }
	all := []trouble{
		{name: "slow by 5 s", lasts: 6 * time.Second, begin: void(func() { p.Delay(5 * time.Second) }), end: void(func() { p.Delay(0) })},
		{name: "socket removed", begin: void(p.Remove), end: p.Listen},
		{name: "socket recreated", begin: void(p.Remove), lasts: time.Millisecond, end: p.Listen},
		{name: "socket replaced by a file", begin: func() error { p.Remove(); return os.WriteFile(p.Socket, nil, 0o600) }, end: p.Listen},
		{name: "socket replaced by a directory", begin: func() error { p.Remove(); return os.Mkdir(p.Socket, 0o700) }, end: p.Listen},
		{name: "event stream cut", begin: void(p.Cut), end: void(p.Cut)},
		{name: "events twice", begin: events(collectortest.EventsTwice), end: events(collectortest.EventsWhole)},
		{name: "events the last first", begin: events(collectortest.EventsReversed), end: events(collectortest.EventsWhole)},
		{name: "no events", begin: events(collectortest.EventsDropped), end: events(collectortest.EventsWhole)},
	}
	for i := range all {
		all[i].during = b.change
	}
	return append(all, b.largeList())
}

// change starts one container and removes another, which the engine does at once.
func (b *bed) change() {
	b.Helper()
	b.left = append(b.left, b.start("new", "stay"))
	b.remove(b.start("brief", "stay"))
	if d, ok := b.engine.(docker); ok {
		r := b.start("renamed", "stay")
		b.left = append(b.left, r)
		name := r.party.Truth().Name + "-again"
		r.party.AlsoNamed(name)
		d.Docker("rename", r.id, name)
	}
}

// largeList is a list over 16 MiB, which the agent has to ask for when its
// connections are cut.
func (b *bed) largeList() trouble {
	var ids []string
	return trouble{
		name: "a list over 16 MiB",
		begin: func() (err error) {
			ctx, cancel := command(b.Context())
			defer cancel()
			if ids, err = b.engine.(engine).giants(ctx); err != nil {
				return err
			}
			b.proxy.Cut()
			return nil
		},
		during: func() {
			b.change()
			e := b.equalSince(time.Now())
			b.Logf("%s: equal after %s beside %d giants", b.engine, e.took.Round(time.Millisecond), len(ids))
			if e.diff != "" {
				b.Errorf("beside giants the store is not the truth after %s (-engine +agent):\n%s", e.took, e.diff)
			}
		},
		end: func() error {
			ctx, cancel := command(b.Context())
			defer cancel()
			var errs []string
			for _, id := range ids {
				if err := b.engine.remove(ctx, id); err != nil {
					errs = append(errs, err.Error())
				}
			}
			if errs != nil {
				return errors.New(strings.Join(errs, "; "))
			}
			b.proxy.Cut()
			return nil
		},
	}
}
