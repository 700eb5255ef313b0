// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// CopyFile copies a program, in place of what is there, for everybody to execute.
func CopyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	_ = os.Remove(to) // it may be running still
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// BusyboxRoot makes a root file system with the machine's busybox alone, at /bin/busybox.
func BusyboxRoot(tb testing.TB, rootfs string) {
	tb.Helper()
	busybox, err := exec.LookPath("busybox")
	if err == nil {
		err = errors.Join(os.MkdirAll(rootfs+"/bin", 0o755), CopyFile(busybox, rootfs+"/bin/busybox"))
	}
	if err != nil {
		tb.Fatal(err)
	}
}

// RuncSpec is what `runc spec` writes, decoded, for a process with these
// arguments and without a terminal. Its root is the bundle's "rootfs".
func RuncSpec(tb testing.TB, args ...string) map[string]any {
	tb.Helper()
	cmd := exec.CommandContext(tb.Context(), "runc", "spec")
	cmd.Dir = tb.TempDir()
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("runc spec: %v: %s", err, out)
	}
	var spec map[string]any
	b, err := os.ReadFile(filepath.Join(cmd.Dir, "config.json"))
	if err := errors.Join(err, json.Unmarshal(b, &spec)); err != nil {
		tb.Fatalf("runc spec: %v", err)
	}
	process := spec["process"].(map[string]any)
	process["terminal"], process["args"] = false, args
	return spec
}

// WriteSpec makes a directory the bundle of a container.
func WriteSpec(tb testing.TB, dir string, spec map[string]any) {
	tb.Helper()
	b, err := json.Marshal(spec)
	if err == nil {
		err = errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(dir+"/config.json", b, 0o600))
	}
	if err != nil {
		tb.Fatal(err)
	}
}
