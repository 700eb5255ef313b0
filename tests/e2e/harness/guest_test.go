// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"os"
	"strings"
	"testing"
)

func TestAGuestBootsAndRunsDockerWithTheSystemdDriver(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("needs root to boot a guest: run the tests as root")
	}
	g := StartGuest(t)
	g.Docker()
	out, err := g.Run(t.Context(), "cat", "/proc/1/comm")
	if err != nil || strings.TrimSpace(out) != "systemd" {
		t.Errorf("PID 1 of the guest is %q, %v", out, err)
	}
}
