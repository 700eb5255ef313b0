// SPDX-License-Identifier: Apache-2.0

package store

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/pidigree/pidigree/pkg/workload"
)

// The crowd: one writer, and readers of every kind beside it. Containers come
// in twins that each batch gives the same name; a process's PID says which
// container it is in; so a reader can tell a torn answer from a right one.
const (
	crowdTwins   = 20
	crowdPIDs    = 200
	crowdBatches = 3000
)

func crowdContainer(pid workload.PID) workload.ContainerID {
	return docker(fmt.Sprintf("twin%03da", int(pid)%crowdTwins))
}

func crowdKey(pid workload.PID, life uint64) workload.ProcessKey {
	return workload.ProcessKey{PID: pid, Start: life, Inode: life}
}

type crowd struct {
	s    *Store
	life atomic.Uint64
	done chan struct{}
}

func (c *crowd) write() {
	defer close(c.done)
	r := rand.New(rand.NewPCG(1, 1))
	for i := range crowdBatches {
		var batch []Change
		twin := r.IntN(crowdTwins)
		for _, half := range []string{"a", "b"} {
			id := docker(fmt.Sprintf("twin%03d%s", twin, half))
			l := named(id, fmt.Sprintf("%03d-%d", twin, i))
			l.Run = &workload.Run{Cgroups: []workload.CgroupPath{{CgroupID: workload.CgroupID{ID: uint64(twin + 1), Hierarchy: uint32(half[0])}}}}
			batch = append(batch, putLayer(id, KernelSource, l))
			if r.IntN(10) == 0 {
				batch = append(batch, gone(id, workload.KTime(i+1)))
			}
		}
		pid := workload.PID(1 + r.IntN(crowdPIDs))
		p := inContainer(crowdKey(pid, c.life.Add(1)), crowdContainer(pid))
		batch = append(batch, put(p))
		if r.IntN(2) == 0 {
			batch = append(batch, put(exited(p, workload.KTime(i+1), 1)))
		}
		batch = append(batch, expire(workload.KTime(i+1)))
		c.s.Apply(batch...)
		c.s.SetAsOf(workload.KTime(i))
	}
	c.s.Apply(putLayer(docker("the-end"), "docker", named(docker("the-end"), "the end")))
}

// ask resolves at random until the writer is done.
func (c *crowd) ask(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 2))
	for {
		select {
		case <-c.done:
			return
		default:
		}
		pid := workload.PID(1 + r.IntN(crowdPIDs))
		k := crowdKey(pid, 1+r.Uint64N(c.life.Load()+1))
		c.check(t, pid, k, c.s.Resolve(k))
		if a, ok := c.s.PID(pid); ok {
			c.check(t, pid, a.Process.Key, a)
		}
		twin := uint64(r.IntN(crowdTwins))
		if got, ok := c.s.ByCgroup(workload.CgroupID{ID: twin + 1, Hierarchy: 'a'}); ok && got.ID.ID != fmt.Sprintf("twin%03da", twin) {
			t.Errorf("the cgroup of twin %d is %v's", twin, got.ID)
		}
		if r.IntN(50) == 0 {
			for _, got := range c.s.FindContainers("twin") {
				if !strings.HasPrefix(got.Name, got.ID.ID[4:7]) {
					t.Errorf("%v is called %s", got.ID, got.Name)
				}
			}
		}
	}
}

func (c *crowd) check(t *testing.T, pid workload.PID, k workload.ProcessKey, a workload.Answer) {
	switch {
	case a.Status == workload.StatusUnknown:
	case a.Process.Key != k || k.PID != pid:
		t.Errorf("asked for %v of PID %d, got %v", k, pid, a.Process.Key)
	case a.Container().ID != crowdContainer(pid):
		t.Errorf("PID %d is in %v", pid, a.Container().ID)
	}
}

// follow keeps a copy until it has seen the end, and checks the twins at every whole state.
func (c *crowd) follow(t *testing.T, sel workload.Selector, slow func()) map[string]workload.Entity {
	have := map[string]workload.Entity{}
	for b := range c.s.Watch(t.Context(), sel) {
		for _, ch := range b.Changes {
			switch {
			case ch.Type == workload.ChangeBookmark:
			case ch.Type == workload.ChangeResync:
				clear(have)
			case ch.Type == workload.ChangeUnset || ch.Entity.Gone && !sel.All:
				delete(have, entityID(ch.Entity))
			default:
				have[entityID(ch.Entity)] = ch.Entity
			}
		}
		if b.More {
			continue
		}
		checkTwins(t, have, b.Revision)
		if _, ok := have[docker("the-end").String()]; ok {
			return have
		}
		slow()
	}
	return nil
}

func checkTwins(t *testing.T, have map[string]workload.Entity, rev workload.Revision) {
	for i := range crowdTwins {
		a, aok := have[docker(fmt.Sprintf("twin%03da", i)).String()]
		b, bok := have[docker(fmt.Sprintf("twin%03db", i)).String()]
		if aok && bok && a.Container.Name != b.Container.Name {
			t.Errorf("at revision %d the twins are %s and %s: half a batch", rev, a.Container.Name, b.Container.Name)
		}
	}
}

func TestACrowdOfReadersBesideTheWriter(t *testing.T) {
	c := &crowd{
		s:    New(Options{Grace: 100, MaxProcessTombstones: 50, MaxContainerTombstones: 10}),
		done: make(chan struct{}),
	}
	var wg sync.WaitGroup
	for i := range uint64(2) {
		wg.Go(func() { c.ask(t, i) })
	}
	sels := []workload.Selector{{}, {All: true}, {Kinds: both}, {Kinds: both, All: true}, {Kinds: both, All: true}}
	slow := func() { // one that reads now and then
		for range 50 {
			c.s.Resolve(crowdKey(1, 1))
		}
	}
	copies := make([]map[string]workload.Entity, len(sels))
	for i, sel := range sels {
		wg.Go(func() {
			wait := func() {}
			if i == len(sels)-1 {
				wait = slow
			}
			copies[i] = c.follow(t, sel, wait)
		})
	}
	wg.Go(c.write)
	wg.Wait()
	for i, sel := range sels {
		want := map[string]workload.Entity{}
		for e := range c.s.All(sel) {
			want[entityID(e)] = e
		}
		if diff := cmp.Diff(want, copies[i], cmpopts.EquateComparable()); diff != "" {
			t.Errorf("the copy of %+v is not the state (-want +got):\n%s", sel, diff)
		}
	}
	if n := c.s.Counts().Watchers; n != 0 {
		t.Errorf("%d watchers left", n)
	}
}

func TestTheIndexAgreesWithAMap(t *testing.T) {
	x, m := newIndex[uint64, uint64](), map[uint64]*uint64{}
	r := rand.New(rand.NewPCG(3, 3))
	var stop atomic.Bool
	var wg sync.WaitGroup
	always := uint64(1 << 40)
	x.put(always, &always)
	wg.Go(func() {
		for !stop.Load() {
			if v := x.get(always); v == nil || *v != always {
				t.Error("a key that is always there was missed")
				return
			}
		}
	})
	for i := range 50_000 {
		k := r.Uint64N(3000)
		if i/5000%2 == 1 { // grow and shrink in turns
			x.del(k)
			delete(m, k)
			continue
		}
		v := k
		x.put(k, &v)
		m[k] = &v
	}
	stop.Store(true)
	wg.Wait()
	for k := range uint64(3000) {
		if x.get(k) != m[k] {
			t.Errorf("key %d: %v, want %v", k, x.get(k), m[k])
		}
	}
	if x.n != len(m)+1 {
		t.Errorf("%d keys, want %d", x.n, len(m)+1)
	}
}

func TestThePIDTableFindsAllWhileItIsRebuilt(t *testing.T) {
	s := New(Options{MaxProcessTombstones: 100})
	const stay = workload.PID(4_000_000)
	s.Apply(put(onHost(key(stay, 1))))
	var stop atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		for !stop.Load() {
			if a, ok := s.PID(stay); !ok || a.Process.Key.PID != stay {
				t.Error("a process that is always there was missed")
				return
			}
		}
	})
	r := rand.New(rand.NewPCG(4, 4))
	var live []workload.ProcessKey
	for i := range 30_000 {
		if len(live) < 2000 && (i/10_000%2 == 0 || len(live) == 0) {
			k := workload.ProcessKey{PID: 1 + workload.PID(r.IntN(3_000_000)), Start: uint64(i + 1)}
			if _, taken := s.PID(k.PID); !taken {
				s.Apply(put(onHost(k)))
				live = append(live, k)
			}
			continue
		}
		n := r.IntN(len(live))
		s.Apply(put(exited(onHost(live[n]), workload.KTime(i+1), 0)))
		live = slices.Delete(live, n, n+1)
	}
	stop.Store(true)
	wg.Wait()
	for _, k := range live {
		if a, ok := s.PID(k.PID); !ok || a.Process.Key != k {
			t.Errorf("PID(%d) = %+v, want %v", k.PID, a.Process, k)
		}
	}
	if n := s.pids.live; n > len(live)+101 {
		t.Errorf("%d slots in use for %d processes and 100 tombstones", n, len(live)+1)
	}
}

// A reader may find the slot of its PID taken over by another between its two
// loads. It must not take the other's process for its own.
func TestASlotTakenOverMidwayIsEmpty(t *testing.T) {
	s := New(Options{})
	s.Apply(put(onHost(key(7, 1))), put(onHost(key(8, 1))))
	slot := s.pids.slots.Load().find(7, s.pids.seed)
	slot.node.Store(s.pids.head(8))
	if a, ok := s.PID(7); ok {
		t.Errorf("PID(7) = %v", a.Process.Key)
	}
}
