// SPDX-License-Identifier: Apache-2.0

package collectortest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// KubeletNode is the name of the node of StartKubelet: a pod "web" is "web-testnode".
const KubeletNode = "testnode"

// Kubelet is a kubelet without an API server, which runs the static pods of a
// directory on a CRI of a test's.
type Kubelet struct {
	// Dir holds all of it, and goes with the test.
	Dir string
	// ReadOnly is http://HOST:PORT, Secure https://HOST:PORT; that one knows who has
	// a certificate of CA, and nobody else.
	ReadOnly, Secure string
	// ServingCert is the file of its own certificate, for KubeletNode.
	ServingCert string
	// ClientCert is a file of a client certificate that it knows, and its key.
	ClientCert string
	// Config is its configuration file.
	Config string

	tb  testing.TB
	d   *daemon
	cri *CRI
}

// StartKubelet starts a kubelet on e, without pods, and waits until it answers.
// The first start on a machine builds it (scripts/kubelet.sh), which takes minutes.
func StartKubelet(tb testing.TB, e *CRI) *Kubelet {
	tb.Helper()
	k := NewKubelet(tb, e)
	if err := k.Start(); err != nil {
		tb.Fatal(err)
	}
	return k
}

// NewKubelet is StartKubelet for one that is not started yet.
func NewKubelet(tb testing.TB, e *CRI) *Kubelet {
	tb.Helper()
	needRoot(tb)
	bin := kubeletBinary(tb)
	dir := privateDir(tb, "pdk")
	k := &Kubelet{Dir: dir, tb: tb, cri: e, ServingCert: dir + "/pki/kubelet.crt", ClientCert: dir + "/client.pem", Config: dir + "/kubelet.yaml"}
	ports := freePorts(tb, 2)
	k.Secure, k.ReadOnly = fmt.Sprintf("https://127.0.0.1:%d", ports[0]), fmt.Sprintf("http://127.0.0.1:%d", ports[1])
	for _, d := range []string{"manifests", "pki", "root", "log", "varlib", "varlog", "mask"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			tb.Fatal(err)
		}
	}
	k.writeClient()
	script := dir + "/run.sh"
	for file, text := range map[string]string{
		k.Config: kubeletConfig(dir, e.Address, ports[0], ports[1]),
		script:   fmt.Sprintf(kubeletScript, dir, bin, k.Config, KubeletNode),
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	k.d = &daemon{name: "kubelet", log: dir + "/kubelet.log", argv: []string{"/usr/bin/unshare", "--mount", "--propagation", "slave", "/bin/bash", script}}
	before := kubepods()
	tb.Cleanup(func() { k.cleanup(before) })
	return k
}

// kubeletScript runs the kubelet in a mount namespace of its own: it writes four of
// the host's sysctls, and below /var/lib/kubelet and /var/log.
const kubeletScript = `set -e
dir=%[1]s
mkdir -p /var/lib/kubelet /var/log/containers
for f in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops; do
	cat /proc/sys/$f >$dir/mask/${f##*/}
	mount --bind $dir/mask/${f##*/} /proc/sys/$f
done
mount --bind $dir/varlib /var/lib/kubelet
mount --bind $dir/varlog /var/log/containers
exec %[2]s --config %[3]s --root-dir $dir/root --cert-dir $dir/pki --hostname-override %[4]s --v 2
`

func kubeletConfig(dir, cri string, secure, readOnly int) string {
	return fmt.Sprintf(`apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix://%[2]s
staticPodPath: %[1]s/manifests
cgroupDriver: cgroupfs
failSwapOn: false
failCgroupV1: false
authentication: {anonymous: {enabled: false}, webhook: {enabled: false}, x509: {clientCAFile: %[1]s/ca.crt}}
authorization: {mode: AlwaysAllow}
address: 127.0.0.1
port: %[3]d
readOnlyPort: %[4]d
healthzPort: 0
podLogsDir: %[1]s/log
volumePluginDir: %[1]s/varlib
enforceNodeAllocatable: []
localStorageCapacityIsolation: false
makeIPTablesUtilChains: false
resolvConf: ""
evictionHard: {memory.available: "0%%", nodefs.available: "0%%", imagefs.available: "0%%", nodefs.inodesFree: "0%%", imagefs.inodesFree: "0%%"}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
registerNode: false
syncFrequency: 5s
fileCheckFrequency: 1s
oomScoreAdj: 0
`, dir, cri, secure, readOnly)
}

// kubeletBinary builds the kubelet where no test has yet.
func kubeletBinary(tb testing.TB) string {
	tb.Helper()
	_, file, _, _ := runtime.Caller(0)
	cmd := exec.CommandContext(tb.Context(), filepath.Join(filepath.Dir(file), "../../../scripts/kubelet.sh"))
	cmd.Env = toolEnv()
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		tb.Fatalf("build the kubelet: %v\n%s", err, stderr.String())
	}
	return strings.TrimSpace(string(out))
}

// freePorts gives ports that nobody has had a moment ago.
func freePorts(tb testing.TB, n int) []int {
	tb.Helper()
	var ports []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			tb.Fatal(err)
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports
}

// writeClient makes an authority and a client certificate of it.
func (k *Kubelet) writeClient() {
	k.tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		k.tb.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "pidigree-test"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		k.tb.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		k.tb.Fatal(err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for file, text := range map[string][]byte{
		k.Dir + "/ca.crt": cert, k.ClientCert: append(cert, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})...),
	} {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			k.tb.Fatal(err)
		}
	}
}

// Start starts the kubelet again after Stop or Kill. Its pods live on meanwhile.
func (k *Kubelet) Start() error {
	return k.d.start(func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, k.ReadOnly+"/pods", nil)
		if err != nil {
			return err
		}
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		return resp.Body.Close()
	})
}

// Stop ends the kubelet in order.
func (k *Kubelet) Stop() { k.d.stop() }

// Kill ends it with SIGKILL.
func (k *Kubelet) Kill() {
	_, done := k.d.current()
	_ = k.d.signal(syscall.SIGKILL)
	<-done
}

// Signal sends a signal: SIGSTOP hangs it.
func (k *Kubelet) Signal(s syscall.Signal) error { return k.d.signal(s) }

// PID is the kubelet's.
func (k *Kubelet) PID() int { pid, _ := k.d.current(); return pid }

// AddPod writes a manifest, which makes a pod. The kubelet finds it by inotify.
func (k *Kubelet) AddPod(name, manifest string) {
	k.tb.Helper()
	tmp := filepath.Join(k.Dir, name+".yaml")
	if err := os.WriteFile(tmp, []byte(manifest), 0o600); err != nil {
		k.tb.Fatal(err)
	}
	if err := os.Rename(tmp, filepath.Join(k.Dir, "manifests", name+".yaml")); err != nil {
		k.tb.Fatal(err)
	}
}

// RemovePod removes a manifest, which ends the pod.
func (k *Kubelet) RemovePod(name string) {
	k.tb.Helper()
	if err := os.Remove(filepath.Join(k.Dir, "manifests", name+".yaml")); err != nil {
		k.tb.Fatal(err)
	}
}

func (k *Kubelet) cleanup(before map[string]bool) {
	_ = k.d.signal(syscall.SIGCONT)
	k.d.stop()
	k.cri.removeAll()
	if k.tb.Failed() {
		k.tb.Logf("kubelet's log ends:\n%s", k.d.tail())
	}
	for dir := range kubepods() {
		if !before[dir] {
			removeCgroups(dir)
		}
	}
	sweep(k.tb, k.Dir)
}

// kubepods gives the kubelet's cgroups, one for each hierarchy.
func kubepods() map[string]bool {
	found := map[string]bool{}
	for _, pattern := range []string{"/sys/fs/cgroup/kubepods", "/sys/fs/cgroup/*/kubepods", "/sys/fs/cgroup/*/*/kubepods"} {
		dirs, _ := filepath.Glob(pattern)
		for _, d := range dirs {
			if st, err := os.Lstat(filepath.Dir(d)); err == nil && st.IsDir() { // not by a link: cpu -> cpu,cpuacct
				found[d] = true
			}
		}
	}
	return found
}

// removeCgroups removes an empty tree, the innermost first.
func removeCgroups(dir string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if e.IsDir() {
			removeCgroups(filepath.Join(dir, e.Name()))
		}
	}
	_ = os.Remove(dir) // a process that has not ended yet keeps it
}
