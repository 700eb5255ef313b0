// SPDX-License-Identifier: Apache-2.0

package podman

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/internal/boltread"
	"github.com/pidigree/pidigree/internal/safefile"
	"github.com/pidigree/pidigree/internal/sqliteread"
	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

// store is one storage directory with its database.
type store struct {
	c    *Collector
	root string
	// owner is the user whose podman it is.
	owner uint32
	// user is set where that is not root's, who runs the agent.
	user bool
	// instance is what the ids of its containers carry, empty for root's usual store.
	instance string
	told     told
}

// The databases that podman may keep in a store, the newer kind first.
var databases = []struct {
	dir, file string
	open      func(f *safefile.File, journal func() bool) (database, error)
	kind      string
}{
	{"", "db.sql", openSQLite, "SQLite"},
	{"libpod", "db.sql", openSQLite, "SQLite"},
	{"libpod", "bolt_state.db", openBolt, "BoltDB"},
}

const (
	// maxDatabase is the size of a database from which on it is not read.
	maxDatabase = 1 << 30
	// attempts is how often a database is read that podman writes to meanwhile, and
	// pause how long it is left alone after the first failures: its writers wait for
	// the disk while they have a journal.
	attempts = 200
	pause    = 2 * time.Millisecond
)

func (s *store) trust() safefile.Trust { return safefile.Trust{Owner: s.owner, Max: maxDatabase} }

// id makes the whole id of one of the store's containers.
func (s *store) id(hex string) workload.ContainerID {
	return workload.ContainerID{Runtime: name, Instance: s.instance, ID: hex}
}

// open opens the store's directory; the caller closes it. It must be its owner's
// and nobody else's: who names a directory is not who owns it.
func (s *store) open() (int, error) {
	fd, err := safefile.OpenTop(s.c.host, s.root, s.trust())
	if err != nil {
		return -1, fileError(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Uid != s.owner {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("%w: %s is user %d's, not user %d's", collectors.ErrUnavailable, s.root, st.Uid, s.owner)
	}
	return fd, nil
}

// view gives fn each of the store's databases, until one has no error but
// ErrNotFound. fn is called again where podman wrote meanwhile: what it made of the
// content before is void.
func (s *store) view(ctx context.Context, fn func(database) error) error {
	dir, err := s.open()
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	err = fmt.Errorf("%w: no database in %s", errNoDatabase, s.root)
	for i := range databases {
		derr := s.viewOne(ctx, dir, i, fn)
		switch {
		case derr == nil:
			return nil
		case errors.Is(derr, fs.ErrNotExist):
		case errors.Is(err, errNoDatabase), !errors.Is(derr, collectors.ErrNotFound):
			err = derr
		}
	}
	return err
}

// errNoDatabase means that a store has none.
var errNoDatabase = fmt.Errorf("%w", collectors.ErrNotFound)

// viewOne reads one database until it was the same from the beginning to the end.
func (s *store) viewOne(ctx context.Context, dir, which int, fn func(database) error) error {
	kind := databases[which]
	path := kind.file
	if kind.dir != "" {
		path = kind.dir + "/" + kind.file
	}
	f, err := safefile.Open(dir, path, s.trust())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return err
	case err != nil:
		return fileError(err)
	}
	defer f.Close()
	journal := func() bool {
		var st unix.Stat_t
		return unix.Fstatat(dir, path+"-journal", &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Size > 0
	}
	for try := range attempts {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("%w: %w", collectors.ErrUnavailable, err)
		}
		db, err := kind.open(f, journal)
		if err == nil {
			err = fn(db)
			if cerr := db.unchanged(); cerr != nil {
				err = cerr
			}
		}
		if !changed(err) {
			return dbError(err)
		}
		if try > 3 {
			sleep(ctx, pause)
		}
	}
	return fmt.Errorf("%w: the database changes each time while it is read", collectors.ErrUnavailable)
}

func changed(err error) bool {
	return errors.Is(err, boltread.ErrChanged) || errors.Is(err, sqliteread.ErrChanged)
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// dbError translates an error of a database to the contract's.
func dbError(err error) error {
	switch {
	case err == nil, errors.Is(err, collectors.ErrNotFound), errors.Is(err, collectors.ErrUnavailable):
		return err
	case errors.Is(err, boltread.ErrNotFound), errors.Is(err, sqliteread.ErrNotFound):
		return fmt.Errorf("%w: %w", collectors.ErrNotFound, err)
	}
	return fmt.Errorf("%w: %w", collectors.ErrUnavailable, err)
}

// fileError translates: what is not there is not found, all else cannot be said.
func fileError(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return fmt.Errorf("%w: %w", collectors.ErrNotFound, err)
	}
	return fmt.Errorf("%w: %w", collectors.ErrUnavailable, err)
}

// probe says which kind of database the store has. ErrNotFound: there is no store.
func (s *store) probe(ctx context.Context) (string, error) {
	kind := "storage without a database"
	err := s.view(ctx, func(d database) error {
		kind = d.kind()
		return nil
	})
	if errors.Is(err, errNoDatabase) && s.storage() == nil {
		return kind, nil
	}
	return kind, err
}

// exists says whether the store has a container.
func (s *store) exists(ctx context.Context, hex string) error {
	err := s.view(ctx, func(d database) error { return d.has(hex) })
	if err == nil || errors.Is(err, collectors.ErrNotFound) && !errors.Is(err, errNoDatabase) {
		return err
	}
	_, serr := s.stored(hex)
	if serr != nil && !errors.Is(err, errNoDatabase) {
		return err // the database may have it, and cannot be read now
	}
	return serr
}

// prefill describes a container as the database does.
func (s *store) prefill(ctx context.Context, hex string) (*workload.Container, error) {
	d, err := s.read(ctx, hex)
	if err != nil {
		return nil, err
	}
	return finish(d.Container), nil
}

// lookup adds what the bundle and the kernel say.
func (s *store) lookup(ctx context.Context, hex string) (*workload.Container, error) {
	d, err := s.read(ctx, hex)
	if err != nil {
		return nil, err
	}
	return s.complete(&d), nil
}

// read describes a container by its record, or by the storage where there is none
// to be had.
func (s *store) read(ctx context.Context, hex string) (described, error) {
	var r record
	err := s.view(ctx, func(d database) (err error) {
		r, err = d.container(hex)
		return err
	})
	if errors.Is(err, collectors.ErrNotFound) && !errors.Is(err, errNoDatabase) || ctx.Err() != nil {
		return described{}, err
	}
	var d described
	if err == nil {
		if d, err = s.translate(&r); err == nil {
			return d, nil
		}
	}
	one, serr := s.stored(hex)
	switch {
	case serr != nil && errors.Is(err, collectors.ErrUnavailable):
		return described{}, err
	case serr != nil:
		return described{}, serr
	}
	s.c.log.Debug("the storage is read in place of the database", "container", hex, "err", err)
	return s.describeStored(one), nil
}
