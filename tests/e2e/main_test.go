// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"testing"
	"time"

	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/tests/e2e/harness"
)

// programs are built once, by TestMain, and only read by the tests.
var programs harness.Programs

func TestMain(m *testing.M) { harness.Main(m, &programs) }

// askerImage is a busybox with the asker in it.
const askerImage = "registry.test/asker:1"

// engineOptions load the asker's image beside busybox.
func engineOptions(tb testing.TB) collectortest.EngineOptions {
	tb.Helper()
	img, err := collectortest.Busybox()
	if err != nil {
		tb.Fatal(err)
	}
	img.Name = askerImage
	img.Files["bin/asker"] = programs.Asker
	return collectortest.EngineOptions{Images: []collectortest.Image{img}}
}

// patience is how long a test waits for what has to become true soon: on two
// cores that several tests share, far longer than it takes.
const patience = 20 * time.Second
