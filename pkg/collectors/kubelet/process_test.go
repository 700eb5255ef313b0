// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pidigree/pidigree/pkg/collectors"
)

// fakeProc is a proc of made-up processes, whose host has root as its root.
type fakeProc struct {
	tb         testing.TB
	proc, root string
}

func newFakeProc(tb testing.TB) *fakeProc {
	tb.Helper()
	f := &fakeProc{tb: tb, proc: tb.TempDir(), root: filepath.Join(tb.TempDir(), "root")}
	f.mkdir(filepath.Join(f.root, "var/lib/kubelet"))
	f.process(1, "systemd", "/sbin/init")
	return f
}

func (f *fakeProc) mkdir(dir string) {
	f.tb.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		f.tb.Fatal(err)
	}
}

func (f *fakeProc) link(target, at string) {
	f.tb.Helper()
	_ = os.Remove(at) // a later one takes its place
	if err := os.Symlink(target, at); err != nil {
		f.tb.Fatal(err)
	}
}

func (f *fakeProc) process(pid int, comm string, args ...string) string {
	f.tb.Helper()
	dir := filepath.Join(f.proc, fmt.Sprint(pid))
	f.mkdir(filepath.Join(dir, "ns"))
	write(f.tb, filepath.Join(dir, "comm"), comm+"\n")
	write(f.tb, filepath.Join(dir, "cmdline"), strings.Join(args, "\x00")+"\x00")
	write(f.tb, filepath.Join(dir, "stat"), fmt.Sprintf("%d (%s) S 1 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 %d 1 1 1", pid, ") ) S 9 9 ("+comm, 1000+pid))
	f.link("pid:[4026531836]", filepath.Join(dir, "ns/pid"))
	f.link(f.root, filepath.Join(dir, "root"))
	return dir
}

// file writes one of the host's files.
func (f *fakeProc) file(path, text string) {
	f.tb.Helper()
	f.mkdir(filepath.Join(f.root, filepath.Dir(path)))
	write(f.tb, filepath.Join(f.root, path), text)
}

func (f *fakeProc) finder() *finder {
	out := newFinder(f.proc)
	out.ports, out.hasty, out.rescan = nil, 0, 0
	return out
}

func TestTheKubeletsProcessIsFoundAndItsSuccessorAtOnce(t *testing.T) {
	f := newFakeProc(t)
	finder := f.finder()
	finder.rescan = time.Hour
	if p, ok := finder.kubelet(); ok {
		t.Fatalf("found %+v", p)
	}
	finder.walked = time.Time{}
	first := f.process(20, "kubelet", "kubelet")
	f.process(30, "kubelet", "kubelet")
	if p, ok := finder.kubelet(); !ok || p != (process{20, 1020}) {
		t.Fatalf("found %+v; want the one that has run longest", p)
	}
	if err := os.RemoveAll(first); err != nil {
		t.Fatal(err)
	}
	if p, ok := finder.kubelet(); !ok || p.pid != 30 {
		t.Fatalf("found %+v; want its successor", p)
	}
	if err := os.RemoveAll(filepath.Join(f.proc, "30")); err != nil {
		t.Fatal(err)
	}
	if p, ok := finder.kubelet(); ok {
		t.Fatalf("found %+v", p)
	}
	f.process(40, "kubelet", "kubelet")
	if p, ok := finder.kubelet(); !ok || p.pid != 40 {
		t.Errorf("found %+v; want the one after a pause", p)
	}
}

func TestAHostThatWasNeverANodeIsNotSearched(t *testing.T) {
	f := newFakeProc(t)
	f.process(20, "kubelet", "kubelet")
	finder := f.finder()
	if err := os.Remove(filepath.Join(f.root, "var/lib/kubelet")); err != nil {
		t.Fatal(err)
	}
	if p, ok := finder.kubelet(); ok || !finder.walked.IsZero() {
		t.Errorf("found %+v, walked at %v", p, finder.walked)
	}
}

// Any process can call itself kubelet, and name files and ports for us.
func TestAContainersProcessIsNoKubelet(t *testing.T) {
	for what, spoil := range map[string]func(f *fakeProc, dir string){
		"in another PID namespace":    func(f *fakeProc, dir string) { f.link("pid:[4026532000]", filepath.Join(dir, "ns/pid")) },
		"with another root directory": func(f *fakeProc, dir string) { f.link(f.tb.TempDir(), filepath.Join(dir, "root")) },
		"of another user": func(f *fakeProc, dir string) {
			if err := os.Chown(dir, 1000, 1000); err != nil {
				f.tb.Fatal(err)
			}
		},
		"of another name": func(f *fakeProc, dir string) { write(f.tb, filepath.Join(dir, "comm"), "kubelet2\n") },
	} {
		t.Run(what, func(t *testing.T) {
			f := newFakeProc(t)
			dir := f.process(20, "kubelet", "kubelet")
			if _, ok := f.finder().kubelet(); !ok {
				t.Fatal("it is not found before")
			}
			spoil(f, dir)
			if p, ok := f.finder().kubelet(); ok {
				t.Errorf("found %+v", p)
			}
		})
	}
}

func TestWhatAKubeletWasStartedWithSaysWhereItIs(t *testing.T) {
	for what, tc := range map[string]struct {
		args   []string
		config string
		want   settings
		url    string
	}{
		"nothing": {[]string{"/usr/bin/kubelet"}, "",
			settings{port: 10250, readOnlyPort: 10255, serving: []string{"/var/lib/kubelet/pki/kubelet-server-current.pem", "/var/lib/kubelet/pki/kubelet.crt"}}, "http://127.0.0.1:10255"},
		"as kubeadm does": {[]string{"kubelet", "--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf", "--kubeconfig=/etc/kubernetes/kubelet.conf", "--config=/var/lib/kubelet/config.yaml", "--hostname-override", "node-1"},
			"apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nauthentication: {x509: {clientCAFile: /etc/kubernetes/pki/ca.crt}}\n",
			settings{port: 10250, node: "node-1", kubeconfig: "/etc/kubernetes/kubelet.conf", serving: []string{"/var/lib/kubelet/pki/kubelet-server-current.pem", "/var/lib/kubelet/pki/kubelet.crt"}}, "https://127.0.0.1:10250"},
		"a file of its own": {[]string{"kubelet", "--config", "/etc/k.yaml", "-cert-dir=/pki"}, `{"address": "10.0.0.7", "port": 11250, "readOnlyPort": 11255, "tlsCertFile": "/tls.crt"}`,
			settings{address: "10.0.0.7", port: 11250, readOnlyPort: 11255, serving: []string{"/tls.crt"}}, "http://10.0.0.7:11255"},
		"flags over the file": {[]string{"kubelet", "--config=/etc/k.yaml", "--port=1", "--read-only-port=0", "--address=::"}, "port: 2\nreadOnlyPort: 3\naddress: 10.0.0.7",
			settings{address: "::", port: 1, serving: []string{"/var/lib/kubelet/pki/kubelet-server-current.pem", "/var/lib/kubelet/pki/kubelet.crt"}}, "https://127.0.0.1:1"},
	} {
		t.Run(what, func(t *testing.T) {
			f := newFakeProc(t)
			f.file("/var/lib/kubelet/config.yaml", tc.config)
			f.file("/etc/k.yaml", tc.config)
			got, err := settingsOf(tc.args, host(f.root))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tc.want, got, cmp.AllowUnexported(settings{})); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
			if u := got.url().String(); u != tc.url {
				t.Errorf("asked at %s, want %s", u, tc.url)
			}
		})
	}
}

func TestANodesOwnCertificateAndAuthorityAreUsed(t *testing.T) {
	ca := newAuthority(t)
	url := serve(t, ca.sign("node-1"), ca, func(string) bool { return false })
	f := newFakeProc(t)
	port := url[strings.LastIndexByte(url, ':')+1:]
	f.process(20, "kubelet", "kubelet", "--config=/etc/k.yaml", "--kubeconfig=/etc/kubernetes/kubelet.conf", "--hostname-override=Node-1")
	f.file("/etc/k.yaml", "port: "+port)
	caPEM, err := os.ReadFile(ca.file)
	if err != nil {
		t.Fatal(err)
	}
	f.file("/etc/kubernetes/pki/ca.crt", string(caPEM))
	f.file("/var/lib/kubelet/pki/kubelet-client-2026.pem", string(ca.sign("system:node:node-1")))
	f.link("/var/lib/kubelet/pki/kubelet-client-2026.pem", filepath.Join(f.root, "var/lib/kubelet/pki/kubelet-client-current.pem"))
	kubeconfig := `
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {certificate-authority: pki/ca.crt, server: "https://192.0.2.1:6443"}}]
contexts: [{name: other, context: {cluster: x, user: y}}, {name: node, context: {cluster: c, user: u}}]
current-context: node
users:
- {name: y, user: {client-certificate: /none}}
- {name: u, user: {client-certificate: /var/lib/kubelet/pki/kubelet-client-current.pem, client-key: /var/lib/kubelet/pki/kubelet-client-current.pem}}
`
	f.file("/etc/kubernetes/kubelet.conf", kubeconfig)
	probe := func() (collectors.Report, error) {
		c := newCollector(t, Options{Procfs: f.proc})
		c.find = f.finder()
		return c.Probe(t.Context())
	}
	r, err := probe()
	if err != nil {
		t.Fatal(err)
	}
	if want := "2 pods, client certificate of /etc/kubernetes/kubelet.conf"; r.Where != "https://127.0.0.1:"+port || r.Detail != want {
		t.Errorf("report %+v, want %q", r, want)
	}
	// A certificate that everybody may write is nobody's.
	if err := os.Chmod(filepath.Join(f.root, "etc/kubernetes/pki/ca.crt"), 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := probe(); !errors.Is(err, collectors.ErrUnavailable) || !strings.Contains(err.Error(), "no certificate was found") {
		t.Errorf("with an authority that anybody may have written: %v", err)
	}
	f.file("/etc/k.yaml", "port: [")
	if _, err := probe(); !errors.Is(err, collectors.ErrUnavailable) || !strings.Contains(err.Error(), "the kubelet's configuration /etc/k.yaml") {
		t.Errorf("with a broken configuration: %v", err)
	}
}

func TestWithoutAKubeletTheSourceIsAbsent(t *testing.T) {
	c := newCollector(t, Options{Procfs: newFakeProc(t).proc})
	if _, err := c.Probe(t.Context()); !errors.Is(err, collectors.ErrNotPresent) {
		t.Errorf("Probe: %v, want ErrNotPresent", err)
	}
}

func TestALinkLeadsNowhereButWithinTheRoot(t *testing.T) {
	f := newFakeProc(t)
	secret := filepath.Join(t.TempDir(), "secret")
	write(t, secret, "ours")
	f.link(secret, filepath.Join(f.root, "absolute"))
	f.link("../../../../../../../../.."+secret, filepath.Join(f.root, "relative"))
	f.link("loop", filepath.Join(f.root, "loop"))
	f.mkdir(filepath.Join(f.root, "dir"))
	for _, path := range []string{"/absolute", "/relative", "/loop", "/dir", "/none", "relative"} {
		if data, err := host(f.root).read(path); err == nil {
			t.Errorf("%s is %q", path, data)
		}
	}
}

func BenchmarkWithoutAKubelet(b *testing.B) {
	c := newCollector(b, Options{Procfs: "/proc"})
	c.find.traces = []string{"/"} // a node, with no kubelet, between two walks
	c.find.walked = time.Now().Add(-10 * time.Second)
	for b.Loop() {
		c.find.walked = time.Now().Add(-10 * time.Second)
		if _, ok := c.find.kubelet(); ok {
			b.Fatal("there is one")
		}
	}
}
