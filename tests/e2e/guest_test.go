// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/pidigree/pidigree/tests/e2e/harness"
)

// The same names on what most hosts are today: systemd as PID 1, cgroup v2 alone,
// Docker with the systemd driver (docker-<id>.scope below system.slice). The
// agent runs inside, as a unit of the guest's.
func TestTheSameNamesUnderSystemdAndPureV2(t *testing.T) {
	g := harness.StartGuest(t)
	socket := g.Docker()
	docker := dockerAt(socket)
	loadGuestImages(t, docker)
	for _, f := range forms() {
		if f.drop {
			continue // the proxy's socket would have to be the guest's
		}
		t.Run(f.name, func(t *testing.T) {
			dir := startGuestAgent(t, g, f.args)
			askAll(t, fleet{name: "docker", start: func(ctx context.Context, socketDir string, want identity) (string, error) {
				return docker(ctx, dockerRun(socketDir, want)...)
			}}, dir)
		})
	}
}

// dockerAt gives the docker client of an engine.
func dockerAt(socket string) func(ctx context.Context, args ...string) (string, error) {
	return func(ctx context.Context, args ...string) (string, error) {
		var stderr strings.Builder
		cmd := exec.CommandContext(ctx, "docker", append([]string{"--host", "unix://" + socket}, args...)...)
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			err = fmt.Errorf("docker %s: %w: %s", strings.Join(args, " "), err, stderr.String())
		}
		return strings.TrimSpace(string(out)), err
	}
}

// loadGuestImages gives the guest's Docker the asker's image.
func loadGuestImages(t *testing.T, docker func(context.Context, ...string) (string, error)) {
	t.Helper()
	for _, img := range engineOptions(t).Images {
		f, err := os.CreateTemp(t.TempDir(), "image")
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(img.WriteTar(f), f.Close()); err != nil {
			t.Fatal(err)
		}
		if _, err := docker(t.Context(), "load", "--quiet", "--input", f.Name()); err != nil {
			t.Fatal(err)
		}
	}
}

// startGuestAgent runs the agent as a unit of the guest's and gives the
// directory of its socket, as the guest sees it.
func startGuestAgent(t *testing.T, g *harness.Guest, args []string) string {
	t.Helper()
	if err := harness.CopyFile(programs.Pidigree, g.Share+"/pidigree"); err != nil {
		t.Fatal(err)
	}
	dir := "/share/run"
	argv := append([]string{"/share/pidigree", "agent", "--socket", dir + "/pidigree.sock", "--docker-host", "/share/docker.sock", "--log-level", "debug"}, args...)
	g.Service("pidigree", argv...)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the agent's log ends:\n%s", g.Journal("pidigree"))
		}
		if _, err := g.Run(context.Background(), "systemctl", "stop", "pidigree"); err != nil {
			t.Error(err)
		}
	})
	g.Await(patience, func(ctx context.Context) error {
		_, err := g.Run(ctx, "/share/pidigree", "status", "--socket", dir+"/pidigree.sock")
		return err
	})
	return dir
}
