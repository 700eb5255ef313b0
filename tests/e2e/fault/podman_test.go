// SPDX-License-Identifier: Apache-2.0

package fault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/tests/e2e/harness"
	"github.com/pidigree/pidigree/tests/e2e/oracle"
)

// pod is podman, which is no daemon: what can fail are its files, its commands, and
// the conmon of each container.
type pod struct{ *collectortest.Podman }

func (pod) String() string { return "podman" }

func (p pod) agent() harness.AgentOptions { return harness.AgentOptions{Podman: p.Podman} }

func (p pod) run(ctx context.Context, party *oracle.Party, work ...string) (string, error) {
	args := append([]string{"run", "--detach", "--network", "none"}, party.DockerArgs()...)
	id, err := p.Exec(ctx, append(append(args, collectortest.BusyboxImage, oracle.Work), work...)...)
	if err == nil {
		party.SetID(id)
	}
	return id, err
}

func (p pod) remove(ctx context.Context, id string) error {
	_, err := p.Exec(ctx, "rm", "--force", "--time", "0", id)
	if err == nil {
		return nil
	}
	// A podman that has met another database has forgotten the exits that conmon wrote
	// down, and waits in vain for that of one that it thinks runs.
	_, cerr := p.Exec(ctx, "container", "cleanup", id)
	_, rerr := p.Exec(ctx, "rm", id)
	if rerr == nil {
		return nil
	}
	return errors.Join(err, cerr, rerr)
}

// truth is podman's word, but for what it cannot notice: a container whose conmon
// was killed runs for podman for ever.
func (p pod) truth(ctx context.Context) (map[string]fact, error) {
	all := map[string]fact{}
	ids, err := p.Exec(ctx, "ps", "--all", "--quiet", "--no-trunc")
	if err != nil || ids == "" {
		return all, err
	}
	text, err := p.Exec(ctx, append([]string{"inspect", "--type", "container"}, strings.Fields(ids)...)...)
	if err != nil {
		return nil, err
	}
	var list []struct {
		ID, Name, ImageName string
		Config              struct{ Labels map[string]string }
		State               struct {
			Status string
			Pid    int
		}
	}
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		return nil, err
	}
	for _, c := range list {
		f := fact{c.Name, c.ImageName, c.State.Status, c.Config.Labels, 0}
		switch {
		case f.State == "running" && runs(c.State.Pid):
			f.PID = c.State.Pid
		case f.State == "running" || f.State == "stopped":
			f.State = "exited"
		}
		all[c.ID] = f
	}
	return all, nil
}

// runs says whether a process lives; one that has ended may wait for a reaper for ever.
func runs(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

func (p pod) database() string { return p.Root + "/libpod/bolt_state.db" }

func TestPodmanFails(t *testing.T) {
	p := pod{collectortest.StartPodman(t, collectortest.EngineOptions{})}
	b := newBed(t, p, false)
	none := func() error { return nil }
	b.endure(trouble{name: nothing, begin: none, during: b.change, end: none})
	for range *rounds {
		for _, f := range append(b.podmanTroubles(p), b.conmonTroubles(p)...) {
			b.endure(f)
		}
	}
}

// podmanTroubles are about podman's files.
func (b *bed) podmanTroubles(p pod) []trouble {
	b.Helper()
	aside := func(path string) (begin, end func() error) {
		return func() error { return os.Rename(path, path+".aside") }, func() error { return os.Rename(path+".aside", path) }
	}
	gone, back := aside(p.database())
	spoiled := func(spoil func() error) func() error {
		return func() error { return errors.Join(gone(), spoil()) }
	}
	content := func(change func([]byte) []byte) func() error {
		return spoiled(func() error {
			text, err := os.ReadFile(p.database() + ".aside")
			if err != nil {
				return err
			}
			return os.WriteFile(p.database(), change(text), 0o600)
		})
	}
	away, here := aside(p.Root)
	var lock *os.File
	late := b.later()
	return []trouble{
		{
			// What is asked of podman meanwhile is done afterwards. The agent waits for no lock.
			name:  "database locked",
			lasts: 3 * time.Second,
			begin: func() (err error) {
				if lock, err = os.Open(p.database()); err != nil {
					return err
				}
				return syscall.Flock(int(lock.Fd()), syscall.LOCK_EX)
			},
			during: late.start,
			end:    func() error { return errors.Join(lock.Close(), late.wait()) },
		},
		{name: "database removed", begin: gone, end: back},
		{name: "database recreated, empty", begin: spoiled(func() error {
			ctx, cancel := command(b.Context())
			defer cancel()
			if all, err := p.truth(ctx); err != nil || len(all) > 0 {
				return fmt.Errorf("podman has %d containers in a new database: %w", len(all), err)
			}
			return nil
		}), end: back},
		{name: "database cut short", begin: content(func(text []byte) []byte { return text[:len(text)/2] }), end: back},
		{name: "database of zeros", begin: content(func(text []byte) []byte { return make([]byte, len(text)) }), end: back},
		{name: "database of nonsense", begin: content(func(text []byte) []byte {
			for i := range text {
				text[i] ^= byte(i*7) | 1
			}
			return text
		}), end: back},
		{name: "database a directory", begin: spoiled(func() error { return os.Mkdir(p.database(), 0o700) }), end: func() error {
			return errors.Join(os.RemoveAll(p.database()), back())
		}},
		{name: "storage gone", begin: away, end: func() error {
			// conmon has podman clean up after the victim, and podman makes a new storage for that.
			_ = syscall.Unmount(p.Root+"/overlay", syscall.MNT_DETACH) // which is a mount of its own
			return errors.Join(os.RemoveAll(p.Root), here())
		}},
	}
}

// conmonTroubles are about the processes.
func (b *bed) conmonTroubles(p pod) []trouble {
	b.Helper()
	var watched *resident
	begin := func(sig syscall.Signal) func() error {
		return func() error {
			watched = b.start("watched", "stay")
			b.left = append(b.left, watched)
			return syscall.Kill(p.Conmon(watched.id), sig)
		}
	}
	end := func() {
		b.change()
		if err := syscall.Kill(b.truth()[watched.id].PID, syscall.SIGKILL); err != nil {
			b.Errorf("kill the init of %s: %v", watched.party, err)
		}
	}
	late := b.later()
	var hung int
	return []trouble{
		{name: "conmon stopped", begin: begin(syscall.SIGSTOP), during: end, end: func() error {
			return syscall.Kill(p.Conmon(watched.id), syscall.SIGCONT)
		}},
		{
			// It has made a container, and not told of it yet: podman is slow, or hangs.
			name:  "podman stopped half-way through a start",
			lasts: 5 * time.Second,
			begin: func() (err error) {
				before := p.states()
				hung = 0
				late.start()
				return harness.Within(patience, func() error { // stopped each time: it would have ended by the next look
					if hung == 0 {
						if hung, err = p.running(); err != nil {
							return err
						}
					}
					if err := syscall.Kill(hung, syscall.SIGSTOP); err != nil {
						return fmt.Errorf("podman: %w", err)
					}
					if p.states() != before {
						return nil
					}
					return errors.Join(errors.New("runc has made no container"), syscall.Kill(hung, syscall.SIGCONT))
				})
			},
			end: func() error { return errors.Join(syscall.Kill(hung, syscall.SIGCONT), late.wait()) },
		},
		{name: "conmon killed, then the init", begin: begin(syscall.SIGKILL), during: end, end: func() error { return nil }},
		{name: "conmon killed of one that stays", begin: func() error {
			kept := b.start("kept", "stay") // of a new one each time: the last one's has gone
			b.left = append(b.left, kept)
			return syscall.Kill(p.Conmon(kept.id), syscall.SIGKILL)
		}, during: b.change, end: func() error { return nil }},
	}
}

// states is how many containers runc has.
func (p pod) states() int {
	list, _ := filepath.Glob(p.RuncRoot + "/*/state.json")
	return len(list)
}

// running is the process of this podman's command that starts a container.
func (p pod) running() (pid int, _ error) {
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range lines {
		text, _ := os.ReadFile(file) // it may have ended
		args := strings.Split(string(text), "\x00")
		if !strings.HasSuffix(args[0], "podman") || !strings.Contains(string(text), p.Root+"\x00") || !strings.Contains(string(text), "\x00run\x00--detach\x00") {
			continue
		}
		if _, err := fmt.Sscanf(file, "/proc/%d/", &pid); err == nil {
			return pid, nil
		}
	}
	return 0, errors.New("no podman runs")
}

// deferred is a start that takes until a fault is over.
type deferred struct {
	b    *bed
	done chan error
	r    *resident
}

func (b *bed) later() *deferred { return &deferred{b: b, done: make(chan error, 1)} }

func (d *deferred) start() {
	go func() {
		var err error
		d.r, err = d.b.startErr("late", "stay")
		d.done <- err
	}()
}

// wait waits for the container, which stays.
func (d *deferred) wait() error {
	if err := <-d.done; err != nil {
		return err
	}
	d.b.stays = append(d.b.stays, d.r)
	return nil
}
