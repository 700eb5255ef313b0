// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
)

// load reads the settings as the agent does.
func load(t *testing.T, file string, env map[string]string, args ...string) (loaded, error) {
	t.Helper()
	flags := pflag.NewFlagSet("agent", pflag.ContinueOnError)
	addFlags(flags, nil)
	if file != "" {
		args = append(args, "--config", write(t, file))
	}
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	return loadConfig(flags, func(k string) string { return env[k] })
}

func write(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestTheFlagWinsThenTheVariableThenTheFile(t *testing.T) {
	tests := map[string]struct {
		file string
		env  map[string]string
		args []string
		want []string
	}{
		"nobody says anything": {want: []string{"/run/docker.sock"}},
		"the file":             {"docker: {host: [/f]}", nil, nil, []string{"/f"}},
		"the file as one word": {"docker:\n  host: /f\n", nil, nil, []string{"/f"}},
		"the file, dotted":     {"docker.host: [/f]", nil, nil, []string{"/f"}},
		"an empty list":        {"docker: {host: []}", nil, nil, nil},
		"a list of nothing":    {"docker: {host: }", nil, nil, nil},
		"the variable":         {"docker: {host: [/f]}", map[string]string{"PIDIGREE_DOCKER_HOST": "/e, unix:///e2,"}, nil, []string{"/e", "unix:///e2"}},
		"an empty variable":    {"docker: {host: [/f]}", map[string]string{"PIDIGREE_DOCKER_HOST": ""}, nil, []string{"/f"}},
		"the flag": {"docker: {host: [/f]}", map[string]string{"PIDIGREE_DOCKER_HOST": "/e"},
			[]string{"--docker-host", "/a,/b", "--docker-host=/c"}, []string{"/a", "/b", "/c"}},
		"an empty flag": {"docker: {host: [/f]}", nil, []string{"--docker-host="}, nil},
	}
	for name, tt := range tests {
		l, err := load(t, tt.file, tt.env, tt.args...)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff(tt.want, l.config.DockerHosts); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// sample gives a value for a setting that is not its default.
func sample(s setting) string {
	switch {
	case s.oneOf != nil:
		return s.oneOf[len(s.oneOf)-1]
	case s.key == "disable-programs":
		return "fork"
	case s.key == "kubelet.address":
		return "https://10.0.0.7:10250"
	case strings.HasPrefix(s.key, "ecs."):
		return "http://127.0.0.1:51679"
	case s.key == "metrics-address", s.key == "tls.listen":
		return "127.0.0.1:9464"
	}
	return map[string]string{"number": "7", "duration": "42s", "list": "/x", "text": "/x"}[s.kind()]
}

func TestEverySettingCanBeSaidInEveryWay(t *testing.T) {
	for _, s := range settings() {
		value := sample(s)
		ways := map[string]func() (loaded, error){
			"flag": func() (loaded, error) { return load(t, "", nil, "--"+s.flag(), value) },
			"env":  func() (loaded, error) { return load(t, "", map[string]string{s.env(): value}) },
			"file": func() (loaded, error) { return load(t, s.key+": "+value, nil) },
		}
		for way, load := range ways {
			l, err := load()
			if err != nil || s.text(&l.config) != value {
				t.Errorf("%s by %s: %q, %v", s.key, way, s.text(&l.config), err)
			}
			if from := l.from[s.key]; from == "default" {
				t.Errorf("%s by %s is said to be the default", s.key, way)
			}
		}
	}
}

func TestThePrintedConfigurationGivesItself(t *testing.T) {
	args := []string{"--metrics-address", "[::1]:1", "--env-allow", "PATH,yes", "--oci-roots=/a,/b", "--socket-group", "0123", "--grace=90m", "--nice=-3"}
	first, err := load(t, "", nil, args...)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := first.printConfig(&out); err != nil {
		t.Fatal(err)
	}
	second, err := load(t, out.String(), nil)
	if err != nil {
		t.Fatalf("%v in\n%s", err, out.String())
	}
	var empty []string
	if diff := cmp.Diff(first.config, second.config, cmp.Transformer("nil", func(s []string) []string { return append(empty, s...) })); diff != "" {
		t.Error(diff)
	}
}

func TestMistakesInTheSettingsNameThePlaceAndTheRemedy(t *testing.T) {
	tests := map[string]struct {
		file string
		env  string
		args string
		want string
	}{
		"an unknown key":              {file: "grace: 1m\ngrcae: 5m\n", want: `config.yaml:2: unknown key "grcae": did you mean "grace"?`},
		"an unknown key in a group":   {file: "docker:\n  hots: /x\n", want: `config.yaml:2: unknown key "docker.hots": did you mean "docker.host"?`},
		"an unknown group":            {file: "dokcer:\n  host: /x\n", want: `config.yaml:1: unknown key "dokcer": did you mean "docker"?`},
		"a key that is nothing like":  {file: "colour: red\n", want: `config.yaml:1: unknown key "colour"; see`},
		"a key twice":                 {file: "nice: 1\nnice: 2\n", want: "config.yaml:2: nice is set a second time"},
		"a key twice in two spelling": {file: "docker: {host: /a}\ndocker.host: /b\n", want: "config.yaml:2: docker.host is set a second time"},
		"a value out of range":        {file: "nice: 99\n", want: "config.yaml:1: nice: 99 is not between -20 and 19"},
		"a list for one value":        {file: "nice: [1]\n", want: "config.yaml:1: nice takes a number"},
		"a map for a value":           {file: "grace: {a: b}\n", want: "config.yaml:1: grace takes a duration"},
		"a list of maps":              {file: "oci: {roots: [{a: b}]}\n", want: "config.yaml:1: oci.roots takes a list of words"},
		"a value for a group":         {file: "docker: /x\n", want: "config.yaml:1: expected keys and values"},
		"a list at the top":           {file: "- a\n", want: "config.yaml:1: expected keys and values"},
		"no YAML":                     {file: "nice: [1\n", want: "config.yaml:"},
		"a tab":                       {file: "docker:\n\thost: /x\n", want: "config.yaml:2: found character that cannot start any token"},
		"two documents":               {file: "nice: 1\n---\nnice: 2\n", want: "a second document"},
		"an alias":                    {file: "socket: &a /x\nprocfs: *a\n", want: "config.yaml:2: procfs takes a text"},
		"a merge":                     {file: "a: &a {nice: 1}\n<<: *a\n", want: `config.yaml:1: unknown key "a"`},
		"binary":                      {file: "\x00\x01", want: "config.yaml:1: control characters are not allowed"},
		"a duration without unit":     {file: "grace: 5\n", want: `grace: "5" is not a duration; write 500ms, 30s or 5m`},
		"a word that is not allowed":  {env: "PIDIGREE_BPF=maybe", want: `PIDIGREE_BPF: "maybe" is not one of auto, off`},
		"no number":                   {env: "PIDIGREE_NICE=low", want: `PIDIGREE_NICE: "low" is not a whole number`},
		"a path that is relative":     {args: "--procfs proc", want: `--procfs: "proc" is not an absolute path`},
		"a socket that is too long":   {args: "--socket /" + strings.Repeat("x", 107), want: "longer than the 107 bytes"},
		"an engine elsewhere":         {args: "--docker-host tcp://10.0.0.1:2375", want: "is not a unix socket"},
		"an engine in two places":     {args: "--docker-nested /run/docker.sock", want: "is also a socket of docker.host"},
		"an engine under two names":   {args: "--containerd-nested unix:///run/containerd/containerd.sock", want: "is also a socket of containerd.address"},
		"an unknown program":          {args: "--disable-programs forc", want: `"forc" is not one of fork, exec, exit`},
		"metrics for the world":       {args: "--metrics-address 0.0.0.0:9464", want: `"0.0.0.0" is not a loopback address; write 127.0.0.1:9464`},
		"metrics without a host":      {args: "--metrics-address :9464", want: "is not a loopback address"},
		"metrics without a port":      {args: "--metrics-address 127.0.0.1", want: "is not HOST:PORT"},
		"metrics with a bad port":     {args: "--metrics-address 127.0.0.1:99999", want: `"99999" is not a port`},
		"a control character":         {env: "PIDIGREE_SOCKET_GROUP=a\x1bb", want: "has a control character"},
		"a poll that never rests":     {args: "--poll-interval 1ns", want: "is not between 10ms and 1h"},
		"a flag with a typo":          {args: "--docker-hots /x", want: `unknown flag "--docker-hots": did you mean "--docker-host"?`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := world{env: map[string]string{}, run: func(context.Context, AgentConfig) error { t.Error("the agent ran"); return nil }}
			args := append([]string{"agent"}, strings.Fields(tt.args)...)
			if tt.file != "" {
				args = append(args, "--config", write(t, tt.file))
			}
			if k, v, ok := strings.Cut(tt.env, "="); ok {
				w.env[k] = v
			}
			got := w.main(t, args...)
			if got.code != ExitUsage {
				t.Errorf("exit code %d", got.code)
			}
			checkLine(t, got.stderr, tt.want)
		})
	}
}

func TestAConfigurationFileThatCannotBeRead(t *testing.T) {
	dir := t.TempDir()
	fifo, big := filepath.Join(dir, "fifo"), filepath.Join(dir, "big")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(big, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(big, 1<<40); err != nil { // sparse
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		dir + "/none": "none does not exist", fifo: "fifo is not a regular file", dir: "is not a regular file",
		"/dev/zero": "/dev/zero is not a regular file", big: "big is larger than 1048576 bytes",
	} {
		for _, w := range []*world{{}, {env: map[string]string{"PIDIGREE_CONFIG": name}}} {
			args := []string{"agent"}
			if w.env == nil {
				args = append(args, "--config", name)
			}
			got := w.main(t, args...)
			if got.code != ExitUsage {
				t.Errorf("%s: exit code %d", name, got.code)
			}
			checkLine(t, got.stderr, want)
		}
	}
}

func TestTheCommandsReadTheFileToo(t *testing.T) {
	w := world{agent: testAgent()}
	name := write(t, "socket: /tmp/from-file.sock\n")
	if got := w.main(t, "status", "--config", name); got.code != 0 || w.dialled != "/tmp/from-file.sock" {
		t.Errorf("%+v, dialled %q", got, w.dialled)
	}
}

func TestAnEmptyFileSaysNothing(t *testing.T) {
	for _, text := range []string{" ", "# nothing\n", "---\n", "docker:\n", "~\n"} {
		l, err := load(t, text, nil)
		if err != nil || l.config.Grace != 5*time.Minute {
			t.Errorf("%q: %v, %s", text, err, l.config.Grace)
		}
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte("docker: {host: [/a]}\nnice: 1"))
	f.Add([]byte("a: &a [*a]"))
	f.Add([]byte("? [a]\n: b"))
	f.Fuzz(func(t *testing.T, data []byte) {
		values, err := parseConfig(data)
		if err != nil {
			if strings.Contains(err.Error(), "\n") || err.Error()[0] < '0' || err.Error()[0] > '9' {
				t.Errorf("%q does not begin with a line, or has several", err)
			}
			return
		}
		for key, v := range values {
			if v.line < 1 {
				t.Errorf("%s has line %d", key, v.line)
			}
		}
	})
}

func TestNearestFindsTypingMistakesOnly(t *testing.T) {
	names := []string{"agent", "who", "explain", "list", "watch", "status", "version"}
	for word, want := range map[string]string{
		"hwo": "who", "whoo": "who", "stauts": "status", "lsit": "list", "explian": "explain", "agnet": "agent", "watsh": "watch",
		"": "", "xyz": "", "restart": "", "frobnicate": "", strings.Repeat("w", 1000): "",
	} {
		if got := nearest(word, names); got != want {
			t.Errorf("nearest(%.20q) = %q, want %q", word, got, want)
		}
	}
}

func TestTheLoggerFollowsTheSettings(t *testing.T) {
	var out bytes.Buffer
	l := AgentConfig{LogLevel: "warn", LogFormat: "json"}.Logger(&out)
	l.Info("quiet")
	l.Warn("loud", slog.Int("pid", 1))
	if got := out.String(); strings.Contains(got, "quiet") || !strings.Contains(got, `"msg":"loud","pid":1`) {
		t.Error(got)
	}
}
