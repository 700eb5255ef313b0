// SPDX-License-Identifier: Apache-2.0

package podman

import (
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/pidigree/pidigree/internal/boltread"
	"github.com/pidigree/pidigree/internal/boundjson"
	"github.com/pidigree/pidigree/internal/safefile"
	"github.com/pidigree/pidigree/internal/sqliteread"
	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/collectors/runtimespec"
)

// database is libpod's, opened at one version. What it gives is void unless
// unchanged says nothing afterwards.
type database interface {
	kind() string
	version() uint64
	unchanged() error
	has(id string) error
	container(id string) (record, error)
	// containerIDs and podIDs list those that are ids at all.
	containerIDs() ([]string, error)
	pod(id string) (record, error)
	podIDs() ([]string, error)
	// exitCode is the code of a container that is gone: podman keeps it a while.
	exitCode(id string) (int64, error)
}

// record is what a database has of a container or a pod: two JSON texts, cut to
// their budgets, and what was left out of them.
type record struct {
	id            string
	config, state []byte
	cut           []string
	// podName is the name of the pod of a container.
	podName string
	// tmpDir is where conmon puts the exit code, below "exits".
	tmpDir string
}

// limits are the budgets of one JSON text.
func limits() boundjson.Limits {
	l := collectors.Reading(nil)
	l.Raw, l.Total = collectors.MaxStateFile, collectors.MaxRecord
	return l
}

// take reads one JSON text.
func take(r io.Reader, cut *[]string) ([]byte, error) {
	data, lost, err := boundjson.ReadAll(r, limits())
	if cut != nil {
		*cut = append(*cut, lost...)
	}
	return data, err
}

// both reads a record's texts.
func both(id string, config, state io.Reader) (r record, err error) {
	r.id = id
	if r.config, err = take(config, &r.cut); err != nil {
		return r, fmt.Errorf("config of %s: %w", id, err)
	}
	if r.state, err = take(state, nil); err != nil {
		return r, fmt.Errorf("state of %s: %w", id, err)
	}
	return r, nil
}

// maxIDs bounds the containers of a store, and its pods.
const maxIDs = 1 << 15

// addID adds what is an id.
func addID(ids []string, id string) ([]string, error) {
	if !runtimespec.IsHex64(id) {
		return ids, nil
	}
	if len(ids) == maxIDs {
		return ids, fmt.Errorf("%w: more than %d containers", collectors.ErrUnavailable, maxIDs)
	}
	return append(ids, id), nil
}

// boltDB is the database of podman 4 and before: a bucket of buckets.
type boltDB struct{ *boltread.DB }

// The buckets and keys of libpod (podman 4.3, libpod/boltdb_state_internal.go).
const (
	boltContainers = "ctr"
	boltPods       = "pod"
	boltPodNames   = "allPods"
	boltExitCodes  = "exit-code"
	boltConfig     = "runtime-config"
)

func openBolt(f *safefile.File, _ func() bool) (database, error) {
	now, err := f.Now()
	if err != nil {
		return nil, err
	}
	d, err := boltread.Open(f, now.Size, boltread.Limits{})
	if err != nil {
		return nil, err
	}
	return boltDB{d}, nil
}

func (d boltDB) kind() string     { return "BoltDB" }
func (d boltDB) version() uint64  { return d.Version() }
func (d boltDB) unchanged() error { return d.Unchanged() }

func (d boltDB) has(id string) error {
	_, err := d.Bucket(boltContainers, id)
	return err
}

func (d boltDB) container(id string) (record, error) {
	r, err := d.one(boltContainers, id)
	if err != nil {
		return r, err
	}
	// Neither is worth an error: most containers have no pod.
	r.tmpDir, _ = d.text("tmp-dir", boltConfig)
	if pod, err := d.text("pod-id", boltContainers, id); err == nil {
		r.podName, _ = d.text(pod, boltPodNames)
	}
	return r, nil
}

func (d boltDB) pod(id string) (record, error) { return d.one(boltPods, id) }

func (d boltDB) one(kind, id string) (record, error) {
	b, err := d.Bucket(kind, id)
	if err != nil {
		return record{}, err
	}
	config, err := b.Find([]byte("config"))
	if err != nil {
		return record{}, err
	}
	state, err := b.Find([]byte("state"))
	if err != nil {
		return record{}, err
	}
	return both(id, config.Reader(), state.Reader())
}

func (d boltDB) containerIDs() ([]string, error) { return d.ids(boltContainers) }
func (d boltDB) podIDs() ([]string, error)       { return d.ids(boltPods) }

func (d boltDB) ids(kind string) (ids []string, _ error) {
	b, err := d.Bucket(kind)
	if errors.Is(err, boltread.ErrNotFound) {
		return nil, nil // nothing was ever made
	}
	if err != nil {
		return nil, err
	}
	err = b.Each(func(k []byte, _ boltread.Value) (err error) {
		ids, err = addID(ids, string(k))
		return err
	})
	return ids, err
}

func (d boltDB) exitCode(id string) (int64, error) {
	text, err := d.text(id, boltExitCodes)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(text, 10, 32)
}

func (d boltDB) text(key string, bucket ...string) (string, error) {
	b, err := d.Bucket(bucket...)
	if err != nil {
		return "", err
	}
	v, err := b.Find([]byte(key))
	if err != nil {
		return "", err
	}
	data, err := v.Bytes(maxText)
	return string(data), err
}

// maxText bounds a path or a number of a database.
const maxText = 4096

// sqliteDB is the database of podman 5.
type sqliteDB struct{ *sqliteread.DB }

func openSQLite(f *safefile.File, journal func() bool) (database, error) {
	now, err := f.Now()
	if err != nil {
		return nil, err
	}
	d, err := sqliteread.Open(f, now.Size, sqliteread.Options{Journal: journal})
	if err != nil {
		return nil, err
	}
	return sqliteDB{d}, nil
}

func (d sqliteDB) kind() string     { return "SQLite" }
func (d sqliteDB) version() uint64  { return d.Version() }
func (d sqliteDB) unchanged() error { return d.Unchanged() }

func (d sqliteDB) has(id string) error {
	t, err := d.Table("ContainerConfig")
	if err != nil {
		return err
	}
	_, err = t.Find(id)
	return err
}

func (d sqliteDB) container(id string) (record, error) {
	r, err := d.one("Container", id)
	if err != nil {
		return r, err
	}
	// Neither is worth an error: most containers have no pod.
	r.tmpDir, _ = d.tmpDir()
	if pod, err := d.text("ContainerConfig", id, "PodID"); err == nil && pod != "" {
		r.podName, _ = d.text("PodConfig", pod, "Name")
	}
	return r, nil
}

func (d sqliteDB) pod(id string) (record, error) { return d.one("Pod", id) }

// text gives one column of the row with an id.
func (d sqliteDB) text(table, id, column string) (string, error) {
	t, err := d.Table(table)
	if err != nil {
		return "", err
	}
	r, err := t.Find(id)
	if err != nil {
		return "", err
	}
	text := r.Text(t.Column(column), maxText)
	return text, r.Err()
}

func (d sqliteDB) one(kind, id string) (record, error) {
	config, err := d.json(kind+"Config", id)
	if err != nil {
		return record{}, err
	}
	state, err := d.json(kind+"State", id)
	if err != nil {
		return record{}, err
	}
	return both(id, config, state)
}

// json gives the JSON of a row.
func (d sqliteDB) json(table, id string) (io.Reader, error) {
	t, err := d.Table(table)
	if err != nil {
		return nil, err
	}
	column := t.Column("JSON")
	if column < 0 {
		return nil, fmt.Errorf("%w: %s has no JSON", sqliteread.ErrUnsupported, table)
	}
	r, err := t.Find(id)
	if err != nil {
		return nil, err
	}
	return r.Reader(column), nil
}

func (d sqliteDB) containerIDs() ([]string, error) { return d.ids("ContainerConfig") }
func (d sqliteDB) podIDs() ([]string, error)       { return d.ids("PodConfig") }

func (d sqliteDB) ids(table string) (ids []string, _ error) {
	t, err := d.Table(table)
	if err != nil {
		return nil, err
	}
	err = t.Each(func(row *sqliteread.Row) (err error) {
		if ids, err = addID(ids, row.Text(0, maxText)); err != nil {
			return err
		}
		return row.Err()
	})
	return ids, err
}

func (d sqliteDB) exitCode(id string) (int64, error) {
	t, err := d.Table("ContainerExitCode")
	if err != nil {
		return 0, err
	}
	r, err := t.Find(id)
	if err != nil {
		return 0, err
	}
	code := r.Int(t.Column("ExitCode"))
	return code, r.Err()
}

func (d sqliteDB) tmpDir() (string, error) {
	t, err := d.Table("DBConfig")
	if err != nil {
		return "", err
	}
	dir := ""
	err = t.Each(func(r *sqliteread.Row) error {
		dir = r.Text(t.Column("TmpDir"), maxText)
		return r.Err()
	})
	return dir, err
}
