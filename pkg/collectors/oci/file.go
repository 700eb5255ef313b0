// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/internal/boundjson"
	"github.com/pidigree/pidigree/internal/safefile"
	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/collectors/runtimespec"
)

// errUntrusted means that someone other than root could have written a file.
var errUntrusted = safefile.ErrUntrusted

// trust is what is believed: what root alone can write.
var trust = safefile.Trust{Max: collectors.MaxStateFile}

// stamp tells two versions of a file apart.
type stamp = safefile.Stamp

func stampOf(st *unix.Stat_t) stamp { return safefile.StampOf(st) }

func openTop(host, path string) (int, error) { return safefile.OpenTop(host, path, trust) }

func openDir(dir int, name string) (int, error) { return safefile.OpenDir(dir, name, trust) }

// readFile reads one version of a runtime's JSON file in dir, cut to what is
// worth decoding. runc repeats the annotations in its state as a list of
// key=value, with the bundle at the end; those that matter stay.
func readFile(dir int, name string) (data []byte, s stamp, err error) {
	limits := collectors.Reading(nil)
	limits.Keep = append(limits.Keep, "bundle=")
	limits.Only = wanted[name]
	s, err = read(dir, name, func(r io.Reader) (err error) {
		data, _, err = boundjson.ReadAll(r, limits)
		return err
	})
	return data, s, err
}

// wanted are what is read of a file: most of runc's state is the container's whole
// configuration once more, of which only the annotations matter.
var wanted = map[string]map[string][]string{
	fileState: {
		"": {
			"id", "init_process_pid", "init_process_start", "created", "cgroup_paths", "config",
			"ociVersion", "status", "pid", "bundle", "annotations",
		},
		"config": {"labels"},
	},
}

// readConfig reads the config.json of a bundle.
func readConfig(dir int, env map[string]bool) (spec *runtimespec.Spec, err error) {
	_, err = read(dir, "config.json", func(r io.Reader) (err error) {
		spec, err = runtimespec.Read(r, collectors.Reading(env))
		return err
	})
	if err != nil {
		return nil, err
	}
	return spec, nil
}

// read has fn read one version of a file. What changes each time it is read can
// be read later; what is no JSON within the budgets was written by no runtime.
func read(dir int, name string, fn func(io.Reader) error) (stamp, error) {
	s, err := safefile.Read(dir, name, trust, fn)
	switch {
	case errors.Is(err, safefile.ErrChanging):
		err = fmt.Errorf("%w: %w", err, collectors.ErrUnavailable)
	case errors.Is(err, boundjson.ErrTooDeep), errors.Is(err, boundjson.ErrTooLarge):
		err = fmt.Errorf("%w: %w", err, errUntrusted)
	}
	return s, err
}

// exists says whether dir has an entry of that name.
func exists(dir int, name string) bool {
	var st unix.Stat_t
	return unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil
}

// missing says that a file or directory is not there.
func missing(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR)
}
