// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"iter"

	"github.com/pidigree/pidigree/pkg/workload"
)

// Store is the state. Make one with New.
type Store struct{}

// New makes an empty store.
func New(Options) *Store { return &Store{} }

// Apply makes the changes, in order and as one batch for watchers, and gives
// the revision of the last. It never waits for a reader. For the one writer.
func (s *Store) Apply(...Change) workload.Revision { panic("soon") }

// SetAsOf says which instant the store is right at: that of the last event
// whose consequences have been applied. For the one writer.
func (s *Store) SetAsOf(workload.KTime) { panic("soon") }

// Revision is that of the last change applied.
func (s *Store) Revision() workload.Revision { panic("soon") }

// Resolve says what a process belongs to, from memory.
func (s *Store) Resolve(workload.ProcessKey) workload.Answer { panic("soon") }

// PID answers for the newest process known to have had the PID, also when it is gone.
func (s *Store) PID(workload.PID) (workload.Answer, bool) { panic("soon") }

// PIDAt answers for the process that had the PID at an instant.
func (s *Store) PIDAt(workload.PID, workload.KTime) (workload.Answer, bool) { panic("soon") }

// Container gives a container, live or a tombstone, by its key, its id or an alias.
func (s *Store) Container(workload.ContainerID) (*workload.Container, bool) { panic("soon") }

// ContainerAnswer is what Resolve would say about a process in the container, without the process.
func (s *Store) ContainerAnswer(workload.ContainerID) (workload.Answer, bool) { panic("soon") }

// FindContainers gives the containers that a user may mean: whole id, else
// name or a prefix of an id with 4 characters or more. Live ones come first.
func (s *Store) FindContainers(string) []*workload.Container { panic("soon") }

// ByCgroup gives the innermost container that the cgroup is registered for.
func (s *Store) ByCgroup(workload.CgroupID) (*workload.Container, bool) { panic("soon") }

// All gives the entities selected, oldest change first; From is ignored.
func (s *Store) All(workload.Selector) iter.Seq[workload.Entity] { panic("soon") }

// Counts says what there is.
func (s *Store) Counts() Counts { panic("soon") }

// Batch is what a watcher gets at once.
type Batch struct {
	Changes []workload.Change
	// Revision is where to resume from after this batch.
	Revision workload.Revision
	// More: the rest follows at once. Where it is false, the reader's copy is the state at Revision exactly.
	More bool
}

// Watch streams the state and its changes until ctx ends; see watch.go.
func (s *Store) Watch(context.Context, workload.Selector) iter.Seq[Batch] { panic("soon") }
