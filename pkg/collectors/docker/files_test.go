// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// hexID is 64 digits that mean nothing.
var hexID = strings.Repeat("4f3a", 16)

// fixture makes a collector on a root of files alone.
func fixture(t testing.TB) (c *Collector, dir string) {
	t.Helper()
	root := t.TempDir()
	dir = filepath.Join(root, "containers", hexID)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	c, err := New(Options{Host: root + "/none.sock", Root: root, EnvAllow: []string{"REGION"}})
	if err != nil {
		t.Fatal(err)
	}
	return c, dir
}

func write(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A container of Docker 20.10.24 that runs, as that engine wrote it.
const (
	runningConfig = `{"StreamConfig":{},"State":{"Running":true,"Paused":false,"Restarting":false,"OOMKilled":false,
"RemovalInProgress":false,"Dead":false,"Pid":26853,"ExitCode":0,"Error":"","StartedAt":"2026-11-22T10:18:11.289321831Z",
"FinishedAt":"0001-01-01T00:00:00Z","Health":null},"ID":"%s",
"Created":"2026-11-22T10:18:10.829451527Z","Managed":false,"Path":"sleep","Args":["100"],"Config":{"Hostname":"host1",
"Domainname":"","User":"1000","ExposedPorts":{"80/tcp":{},"53/udp":{}},"Env":["REGION=eu","SECRET=x"],"Cmd":["sleep","100"],
"Image":"registry.test:5000/team/bb:1","Volumes":null,"Labels":{"a":"b","exitCode":"77"}},
"Image":"sha256:fac43b0e3bd3194e0bdba78fc37f090218825c5552d0f6f1db723195c4f4af28","NetworkSettings":{"Networks":{"front":
{"IPAddress":"10.0.0.2","GlobalIPv6Address":"fd00::2","MacAddress":"02:42:0a:00:00:02"},"back":{"IPAddress":""}},
"Ports":{"80/tcp":[{"HostIp":"0.0.0.0","HostPort":"8080"}]}},"LogPath":"","Name":"/web","Driver":"overlay2",
"MountPoints":{"/data":{"Source":"/srv/x","Destination":"/data","RW":false,"Type":"bind"},
"/cache":{"Source":"/var/lib/docker/volumes/v/_data","Destination":"/cache","RW":true,"Name":"v","Type":"volume"}}}`
	runningHost = `{"NetworkMode":"host","PortBindings":{"80/tcp":[{"HostIp":"","HostPort":"8080"}]},
"CapAdd":["SYS_ADMIN","cap_net_admin"],"IpcMode":"host","PidMode":"host","Privileged":true,"ReadonlyRootfs":true,
"CpuShares":512,"Memory":67108864,"NanoCpus":0,"CpuPeriod":50000,"CpuQuota":25000,"PidsLimit":100}`
)

func TestPrefillSaysAllThatTheFilesSay(t *testing.T) {
	c, dir := fixture(t)
	write(t, dir+"/config.v2.json", fmt.Sprintf(runningConfig, hexID))
	write(t, dir+"/hostconfig.json", runningHost)
	got, err := c.Prefill(t.Context(), workload.ContainerID{ID: hexID})
	if err != nil {
		t.Fatal(err)
	}
	want := &workload.Container{
		ID:      workload.ContainerID{Runtime: "docker", Instance: c.socket, ID: hexID},
		Aliases: []workload.ContainerID{{Runtime: "containerd", Namespace: "moby", ID: hexID}},
		Name:    "web",
		Runtime: "docker",
		Image: workload.ImageRef{
			Name: "registry.test:5000/team/bb:1", Tag: "1",
			ID: "sha256:fac43b0e3bd3194e0bdba78fc37f090218825c5552d0f6f1db723195c4f4af28",
		},
		Labels:   map[string]string{"a": "b", "exitCode": "77"},
		Env:      map[string]string{"REGION": "eu"},
		State:    workload.StateRunning,
		Created:  time.Date(2026, 11, 22, 10, 18, 10, 829451527, time.UTC),
		Started:  time.Date(2026, 11, 22, 10, 18, 11, 289321831, time.UTC),
		Hostname: "host1",
		User:     "1000",
		Networks: []workload.Network{
			{Name: "back"},
			{Name: "front", IPs: []string{"10.0.0.2", "fd00::2"}, MAC: "02:42:0a:00:00:02"},
		},
		Ports: []workload.Port{{Container: 80, Protocol: "tcp", HostIP: "0.0.0.0", HostPort: 8080}},
		Mounts: []workload.Mount{
			{Type: "volume", Source: "/var/lib/docker/volumes/v/_data", Destination: "/cache"},
			{Type: "bind", Source: "/srv/x", Destination: "/data", ReadOnly: true},
		},
		Limits: &workload.Limits{MemoryBytes: 64 << 20, NanoCPUs: 500_000_000, CPUShares: 512, Pids: 100},
		Security: &workload.Security{
			Privileged: true, AddedCaps: []string{"CAP_NET_ADMIN", "CAP_SYS_ADMIN"},
			HostPID: true, HostNetwork: true, HostIPC: true, ReadOnlyRoot: true,
		},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestTheStateOfAFileIsReadAsTheEngineMeansIt(t *testing.T) {
	const never = `"0001-01-01T00:00:00Z"`
	const then = `"2026-11-22T10:18:11Z"`
	cases := map[string]struct {
		state string
		want  workload.State
		exit  *workload.Exit
	}{
		"created": {`"Running":false,"StartedAt":` + never, workload.StateCreated, nil},
		"created, then failed to start": {`"Running":false,"ExitCode":127,"StartedAt":` + never + `,"FinishedAt":` + then,
			workload.StateCreated, nil},
		"running after an earlier exit": {`"Running":true,"ExitCode":0,"StartedAt":` + then + `,"FinishedAt":` + then,
			workload.StateRunning, nil},
		"paused":     {`"Running":true,"Paused":true,"StartedAt":` + then, workload.StatePaused, nil},
		"restarting": {`"Running":true,"Restarting":true,"ExitCode":1,"StartedAt":` + then, workload.StateRestarting, nil},
		"exited": {`"Running":false,"ExitCode":137,"OOMKilled":true,"StartedAt":` + then + `,"FinishedAt":` + then,
			workload.StateExited, &workload.Exit{Known: true, Code: 137, OOM: true}},
		"an exit code that is none": {`"Running":false,"ExitCode":-1,"StartedAt":` + then + `,"FinishedAt":` + then,
			workload.StateExited, nil},
		"dead": {`"Dead":true,"StartedAt":` + never, workload.StateExited, nil},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			c, dir := fixture(t)
			write(t, dir+"/config.v2.json", `{"ID":"`+hexID+`","State":{`+tc.state+`}}`)
			got, err := c.Prefill(t.Context(), c.id(hexID))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tc.exit, got.Exit); got.State != tc.want || d != "" {
				t.Errorf("state %q, want %q; exit (-want +got):\n%s", got.State, tc.want, d)
			}
			if got.State == workload.StateRunning && !got.Finished.IsZero() {
				t.Error("the end of the last life was given for this one")
			}
		})
	}
}

func TestHostileFilesAreRefusedAtOnce(t *testing.T) {
	good := fmt.Sprintf(runningConfig, hexID)
	cases := map[string]func(t *testing.T, dir string){
		"a FIFO": func(t *testing.T, dir string) {
			if err := unix.Mkfifo(dir+"/config.v2.json", 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"a device": func(t *testing.T, dir string) {
			if err := unix.Mknod(dir+"/config.v2.json", unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5))); err != nil {
				t.Fatal(err)
			}
		},
		"a directory": func(t *testing.T, dir string) {
			if err := os.Mkdir(dir+"/config.v2.json", 0o700); err != nil {
				t.Fatal(err)
			}
		},
		"a link to a good file": func(t *testing.T, dir string) {
			write(t, dir+"/good", good)
			if err := os.Symlink("good", dir+"/config.v2.json"); err != nil {
				t.Fatal(err)
			}
		},
		"a link out": func(t *testing.T, dir string) {
			if err := os.Symlink("/etc/passwd", dir+"/config.v2.json"); err != nil {
				t.Fatal(err)
			}
		},
		"a directory that is a link out": func(t *testing.T, dir string) {
			out := t.TempDir()
			write(t, out+"/config.v2.json", good)
			if err := errors.Join(os.Remove(dir), os.Symlink(out, dir)); err != nil {
				t.Fatal(err)
			}
		},
		"a file of someone else's": func(t *testing.T, dir string) {
			write(t, dir+"/config.v2.json", good)
			if err := os.Chown(dir+"/config.v2.json", 12345, 12345); err != nil {
				t.Fatal(err)
			}
		},
		"a file that all may write": func(t *testing.T, dir string) {
			write(t, dir+"/config.v2.json", good)
			if err := os.Chmod(dir+"/config.v2.json", 0o666); err != nil {
				t.Fatal(err)
			}
		},
		"a terabyte of nothing": func(t *testing.T, dir string) {
			write(t, dir+"/config.v2.json", good)
			if err := os.Truncate(dir+"/config.v2.json", 1<<40); err != nil {
				t.Fatal(err)
			}
		},
		"brackets without end": func(t *testing.T, dir string) {
			write(t, dir+"/config.v2.json", `{"Config":`+strings.Repeat("[", 1<<20))
		},
		"objects without end": func(t *testing.T, dir string) { write(t, dir+"/config.v2.json", strings.Repeat(`{"a":`, 1<<18)) },
		"half a file":         func(t *testing.T, dir string) { write(t, dir+"/config.v2.json", good[:len(good)/2]) },
		"an empty file":       func(t *testing.T, dir string) { write(t, dir+"/config.v2.json", "") },
		"null":                func(t *testing.T, dir string) { write(t, dir+"/config.v2.json", "null") },
		"another type":        func(t *testing.T, dir string) { write(t, dir+"/config.v2.json", `{"ID":{"a":1},"Config":[]}`) },
		"another container's": func(t *testing.T, dir string) {
			write(t, dir+"/config.v2.json", strings.ReplaceAll(good, hexID, strings.Repeat("a", 64)))
		},
		"a million levels where nobody looks": func(t *testing.T, dir string) {
			write(t, dir+"/config.v2.json", `{"ID":"`+hexID+`","X":`+strings.Repeat(`{"a":[`, 1_000_000)+strings.Repeat("]}", 1_000_000)+"}")
		},
	}
	for what, prepare := range cases {
		t.Run(what, func(t *testing.T) {
			c, dir := fixture(t)
			prepare(t, dir)
			began := time.Now()
			got, err := c.Prefill(t.Context(), c.id(hexID))
			if got != nil || !errors.Is(err, collectors.ErrUnavailable) {
				t.Errorf("Prefill = %v, %v; want ErrUnavailable", got, err)
			}
			if d := time.Since(began); d > 5*time.Second {
				t.Errorf("it took %v", d)
			}
		})
	}
}

func TestAHostConfigThatCannotBeReadTakesOnlyItsOwnFieldsAway(t *testing.T) {
	c, dir := fixture(t)
	write(t, dir+"/config.v2.json", fmt.Sprintf(runningConfig, hexID))
	if err := unix.Mkfifo(dir+"/hostconfig.json", 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := c.Prefill(t.Context(), c.id(hexID))
	if err != nil || got.Name != "web" || got.Security != nil || got.Limits != nil {
		t.Errorf("%+v, %v", got, err)
	}
}

func manyLabels(n int) string {
	var b strings.Builder
	fmt.Fprintf(&b, `{"ID":"%s","Name":"/web","Config":{"Image":"bb:1","Labels":{"z":"z"`, hexID)
	for i := range n {
		fmt.Fprintf(&b, `,"l%06d":"v"`, i)
	}
	return b.String() + "}}}"
}

func TestAPoisonedContainerStillHasItsNameAndImage(t *testing.T) {
	for what, content := range map[string]string{
		"100,000 labels":   manyLabels(100_000),
		"1,000,000 labels": manyLabels(1_000_000),
		"a label of 64 MiB": fmt.Sprintf(`{"ID":"%s","Config":{"Image":"bb:1","Labels":{"a":"b","big":"%s"}},"Name":"/web"}`,
			hexID, strings.Repeat(`\u0041`, 64<<20/6)),
	} {
		t.Run(what, func(t *testing.T) {
			c, dir := fixture(t)
			write(t, dir+"/config.v2.json", content)
			got, err := c.Prefill(t.Context(), c.id(hexID))
			if err != nil {
				t.Fatal(err)
			}
			if got.Name != "web" || got.Image.Name != "bb:1" || len(got.Labels) > 256 || !cmp.Equal(got.Truncated, []string{"labels"}) {
				t.Errorf("name %q, image %q, %d labels, truncated %v", got.Name, got.Image.Name, len(got.Labels), got.Truncated)
			}
		})
	}
}

func TestLocateTakesTheInnermostClaimThatHasFiles(t *testing.T) {
	c, dir := fixture(t)
	write(t, dir+"/config.v2.json", "{}")
	other := strings.Repeat("b", 64)
	claim := func(runtime, id string) workload.ContainerID { return workload.ContainerID{Runtime: runtime, ID: id} }
	cases := map[string]struct {
		e  workload.Evidence
		ok bool
	}{
		"a claim of docker's":        {workload.Evidence{Claims: []workload.ContainerID{claim("docker", hexID)}}, true},
		"a claim without an engine":  {workload.Evidence{Claims: []workload.ContainerID{claim("", hexID)}}, true},
		"behind one without files":   {workload.Evidence{Claims: []workload.ContainerID{claim("docker", other), claim("", hexID)}}, true},
		"the bundle alone":           {workload.Evidence{Bundle: "/run/x/moby/" + hexID}, true},
		"a claim of podman's":        {workload.Evidence{Claims: []workload.ContainerID{claim("podman", hexID)}}, false},
		"a name that nobody gave":    {workload.Evidence{Claims: []workload.ContainerID{claim("docker", other)}}, false},
		"upper case":                 {workload.Evidence{Claims: []workload.ContainerID{claim("docker", strings.ToUpper(hexID))}}, false},
		"a path":                     {workload.Evidence{Claims: []workload.ContainerID{claim("docker", "../containers/"+hexID)}}, false},
		"a short id":                 {workload.Evidence{Claims: []workload.ContainerID{claim("docker", hexID[:12])}}, false},
		"nothing":                    {workload.Evidence{}, false},
		"another engine's container": {workload.Evidence{Claims: []workload.ContainerID{{Runtime: "docker", Instance: "/other.sock", ID: hexID}}}, false},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			id, err := c.Locate(t.Context(), tc.e)
			if tc.ok && (err != nil || id != c.id(hexID)) || !tc.ok && !errors.Is(err, collectors.ErrNotFound) {
				t.Errorf("%+v, %v", id, err)
			}
		})
	}
}

func TestWithoutSocketAndRootTheEngineIsNotPresent(t *testing.T) {
	dir := t.TempDir()
	c, err := New(Options{Host: dir + "/d.sock", Root: dir + "/root"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Probe(t.Context()); !errors.Is(err, collectors.ErrNotPresent) {
		t.Errorf("Probe: %v", err)
	}
	if _, err := c.Lookup(t.Context(), c.id(hexID)); !errors.Is(err, collectors.ErrNotPresent) {
		t.Errorf("Lookup: %v", err)
	}
	if err := os.Mkdir(dir+"/root", 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Lookup(t.Context(), c.id(hexID)); !errors.Is(err, collectors.ErrUnavailable) {
		t.Errorf("Lookup with a root and no socket: %v", err)
	}
}

func TestTheHostIsAUnixSocket(t *testing.T) {
	for host, want := range map[string]string{
		"": DefaultSocket, "/x/d.sock": "/x/d.sock", "unix:///x//d.sock": "/x/d.sock",
	} {
		c, err := New(Options{Host: host})
		if err != nil || c.socket != want {
			t.Errorf("New(%q): %v", host, err)
		}
		if c != nil && (c.instance == "") != (want == DefaultSocket) {
			t.Errorf("New(%q): instance %q", host, c.instance)
		}
	}
	for _, host := range []string{"tcp://1.2.3.4:2375", "ssh://x", "d.sock", "unix://d.sock", "http:///x"} {
		if _, err := New(Options{Host: host}); err == nil {
			t.Errorf("New(%q) succeeded", host)
		}
	}
}

func TestImagesAreSplitWhereTheyShould(t *testing.T) {
	for ref, want := range map[string][2]string{
		"busybox":                       {"", ""},
		"busybox:1.36":                  {"1.36", ""},
		"registry.test:5000/busybox":    {"", ""},
		"registry.test:5000/busybox:1":  {"1", ""},
		"busybox@sha256:aa":             {"", "sha256:aa"},
		"registry.test/busybox:1@s:aa":  {"1", "s:aa"},
		"sha256:" + hexID:               {"", ""},
		"":                              {"", ""},
		"x:":                            {"", ""},
		":":                             {"", ""},
		"@":                             {"", ""},
		"docker.io/library/busybox:1@":  {"1", ""},
		"docker.io/library/busy/box/a:": {"", ""},
	} {
		if whole, tag, digest := splitImage(ref); whole != ref || tag != want[0] || digest != want[1] {
			t.Errorf("splitImage(%q) = %q, %q, %q", ref, whole, tag, digest)
		}
	}
}

func FuzzFilesNeverPanicAndStayInBudget(f *testing.F) {
	f.Add([]byte(fmt.Sprintf(runningConfig, hexID)), []byte(runningHost))
	f.Add([]byte(`{"MountPoints":{"a":null},"NetworkSettings":{"Networks":{"x":null},"Ports":{"/":[{}],"99999/x":null}}}`), []byte(`{"CapAdd":[""]}`))
	f.Fuzz(func(t *testing.T, config, host []byte) {
		c, err := New(Options{EnvAllow: []string{"REGION"}})
		if err != nil {
			t.Fatal(err)
		}
		var fs files
		if json.Unmarshal(config, &fs.config) != nil {
			return
		}
		var h hostConfigFile
		if json.Unmarshal(host, &h) == nil {
			fs.host = &h
		}
		got := c.fromFiles(&fs)
		if len(got.Name) > 256 || len(got.Labels) > 256 || len(got.Mounts) > 256 || !utf8.ValidString(got.Name+got.Image.Name) {
			t.Errorf("over budget: %+v", got)
		}
		if got.Run != nil {
			t.Error("a file vouched for a process")
		}
	})
}
