// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pidigree/pidigree/internal/refusal"
	"github.com/pidigree/pidigree/pkg/collectors"
)

// noNode is a proc without a kubelet.
func noNode(tb testing.TB) string {
	tb.Helper()
	return tb.TempDir()
}

func newCollector(tb testing.TB, opts Options) *Collector {
	tb.Helper()
	if opts.Procfs == "" {
		opts.Procfs = noNode(tb)
	}
	c, err := New(opts)
	if err != nil {
		tb.Fatal(err)
	}
	c.find.traces = nil
	return c
}

// answering serves what a kubelet might say on its read-only port.
func answering(tb testing.TB, answer http.HandlerFunc) *Collector {
	tb.Helper()
	srv := httptest.NewServer(answer)
	tb.Cleanup(srv.Close)
	return newCollector(tb, Options{Address: srv.URL})
}

func say(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, body)
	}
}

func status(code int, body string, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(code)
		_, _ = io.WriteString(w, body)
	}
}

func podList(n int) string {
	var pods []string
	for i := range n {
		pods = append(pods, pod(i))
	}
	return `{"kind":"PodList","apiVersion":"v1","metadata":{},"items":[` + strings.Join(pods, ",") + `]}`
}

func pod(i int) string {
	return fmt.Sprintf(`{"metadata":{"name":"pod-%d","namespace":"n","uid":"uid-%d"},"spec":{"containers":[{"name":"c"}]},"status":{"phase":"Running","containerStatuses":[{"name":"c","ready":true,"state":{"running":{}},"containerID":"containerd://%064x"}]}}`, i, i, i)
}

func endless(head, unit string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		block := strings.Repeat(unit, 64<<10/len(unit))
		_, err := io.WriteString(w, head)
		for err == nil {
			_, err = io.WriteString(w, block)
		}
	}
}

func TestAKubeletThatRefusesOrTalksNonsenseIsUnavailableInOneLine(t *testing.T) {
	for what, tc := range map[string]struct {
		answer http.HandlerFunc
		says   string
	}{
		"401":                   {status(401, "Unauthorized"), "401: the kubelet does not know who asks (no credentials)"},
		"403":                   {status(403, "Forbidden (user=system:anonymous)\x1b[31m\nverb=get"), `Forbidden (user=system:anonymous)\x1b[31m\nverb=get`},
		"429":                   {status(429, "", "Retry-After", "7"), "waiting 7s"},
		"429 for a year":        {status(429, "", "Retry-After", "31536000"), "waiting 5m0s"},
		"500":                   {status(500, strings.Repeat("x", 1<<20)), "status 500"},
		"a redirect":            {status(302, "", "Location", "http://192.0.2.1/pods"), `redirected to "http://192.0.2.1/pods", which is not followed`},
		"a page":                {status(200, "<html>", "Content-Type", "text/html"), `answered with "text/html", not with JSON`},
		"nothing":               {say(""), "EOF"},
		"a page called JSON":    {say("<html>"), "malformed JSON"},
		"another list":          {say(`{"kind":"NodeList","items":[]}`), "no list of pods"},
		"an error called 200":   {say(`{"kind":"Status","message":"no"}`), "no list of pods"},
		"a bare list":           {say(`[]`), "no list of pods"},
		"items of another kind": {say(`{"kind":"PodList","items":{}}`), "no list of pods"},
		"half a list":           {say(podList(3)[:200]), "EOF"},
		"brackets":              {say(strings.Repeat(`{"items":[`, 1<<18)), "nested too deeply"},
		"an endless string":     {endless(`{"kind":"`, "x"), "over the budget"},
		"an endless list":       {endless(`{"kind":"PodList","items":[`, pod(1)+","), "over the budget"},
		"a cut reply":           {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "EOF"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			c := answering(t, tc.answer)
			c.maxReply = 4 << 20
			_, err := c.Probe(t.Context())
			if !errors.Is(err, collectors.ErrUnavailable) || !strings.Contains(err.Error(), tc.says) || strings.ContainsAny(err.Error(), "\n\x1b") {
				t.Errorf("Probe: %v; want %q in one line", err, tc.says)
			}
			if p, err := c.LookupPod(t.Context(), "uid-1"); p != nil || !errors.Is(err, collectors.ErrUnavailable) {
				t.Errorf("LookupPod: %v, %v", p, err)
			}
			for p, err := range c.ListPods(t.Context()) {
				if p != nil || !errors.Is(err, collectors.ErrUnavailable) {
					t.Errorf("ListPods: %v, %v", p, err)
				}
			}
			if err := c.Watch(t.Context(), func(collectors.Hint) {}); !errors.Is(err, collectors.ErrUnavailable) {
				t.Errorf("Watch: %v", err)
			}
		})
	}
}

func TestARefusalIsNotRepeatedAtOnce(t *testing.T) {
	var calls atomic.Int32
	c := answering(t, func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		status(403, "")(w, r)
	})
	for range 100 {
		if _, err := c.Probe(t.Context()); !errors.Is(err, collectors.ErrUnavailable) || !strings.Contains(err.Error(), "403") {
			t.Fatal(err)
		}
	}
	if n := calls.Load(); n != 1 {
		t.Errorf("%d calls within a second of a refusal, want 1", n)
	}
}

func TestNothingButAHostPodOrPortIsAnAddress(t *testing.T) {
	for _, bad := range []string{"127.0.0.1", "127.0.0.1:10250", "ftp://h", "https://", "https://u:p@h:1", "https://h/pods/x", "https://h?x", "https://h:0", "https://h:x", "unix:///x", "https://h#f"} {
		if _, err := New(Options{Address: bad}); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	for good, want := range map[string]string{"https://h": "https://h:10250", "http://[::1]/": "http://[::1]:10255", "https://h:1": "https://h:1"} {
		if u, err := parseAddress(good); err != nil || u.String() != want {
			t.Errorf("%q is %v, %v; want %s", good, u, err, want)
		}
	}
}

func TestWithoutTLSOnlyThisHostIsAsked(t *testing.T) {
	c := newCollector(t, Options{Address: "http://192.0.2.1:10255"})
	if _, err := c.Probe(t.Context()); err == nil || !strings.Contains(err.Error(), "not an address of this host") {
		t.Errorf("Probe: %v", err)
	}
}

func TestNoProxyIsAsked(t *testing.T) {
	proxy := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the proxy was asked") }))
	defer proxy.Close()
	t.Setenv("HTTP_PROXY", proxy.URL)
	t.Setenv("HTTPS_PROXY", proxy.URL)
	t.Setenv("ALL_PROXY", proxy.URL)
	if transport := (&target{}).transport(); transport.Proxy != nil {
		t.Error("the transport looks for a proxy")
	}
	if _, err := answering(t, say(podList(1))).Probe(t.Context()); err != nil {
		t.Error(err)
	}
}

// authority signs certificates.
type authority struct {
	tb   testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string // of its certificate
}

func newAuthority(tb testing.TB) *authority {
	tb.Helper()
	key := newKey(tb)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		tb.Fatal(err)
	}
	a := &authority{tb: tb, key: key, file: filepath.Join(tb.TempDir(), "ca.crt")}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		tb.Fatal(err)
	}
	write(tb, a.file, string(pemOf("CERTIFICATE", der)))
	return a
}

func newKey(tb testing.TB) *ecdsa.PrivateKey {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func write(tb testing.TB, file, text string) {
	tb.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
}

// sign makes a certificate for a name, as PEM with its key.
func (a *authority) sign(name string) []byte {
	a.tb.Helper()
	key := newKey(a.tb)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, key.Public(), a.key)
	if err != nil {
		a.tb.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.tb.Fatal(err)
	}
	return append(pemOf("CERTIFICATE", der), pemOf("PRIVATE KEY", raw)...)
}

// serve is the kubelet's port with TLS: a client certificate of clients', or a
// token that ok likes, may ask.
func serve(tb testing.TB, server []byte, clients *authority, ok func(token string) bool) string {
	tb.Helper()
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if len(r.TLS.PeerCertificates) == 0 && !ok(token) {
			status(401, "Unauthorized")(w, r)
			return
		}
		say(podList(2))(w, r)
	}))
	pair, err := tls.X509KeyPair(server, server)
	if err != nil {
		tb.Fatal(err)
	}
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: x509.NewCertPool()}
	srv.TLS.ClientCAs.AddCert(clients.cert)
	srv.Config.ErrorLog = nil
	srv.StartTLS()
	tb.Cleanup(srv.Close)
	return srv.URL
}

func TestTheKubeletsCertificateIsVerified(t *testing.T) {
	own, others := newAuthority(t), newAuthority(t)
	yes := func(string) bool { return true }
	for what, tc := range map[string]struct {
		server []byte
		ca     string
		says   string // empty: it is believed
	}{
		"signed by the authority":          {own.sign("node-1"), own.file, ""},
		"signed by another":                {others.sign("node-1"), own.file, "signed by none of " + own.file},
		"that of another node":             {own.sign("node-2"), own.file, "for none of node-1"},
		"without an authority to go by":    {own.sign("node-1"), "", "no certificate was found to verify the kubelet's by"},
		"with an authority that is absent": {own.sign("node-1"), "/none", "read /none: no such file"},
	} {
		t.Run(what, func(t *testing.T) {
			c := newCollector(t, Options{Address: serve(t, tc.server, own, yes), CA: tc.ca, ServerName: "node-1"})
			_, err := c.Probe(t.Context())
			if tc.says == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !errors.Is(err, collectors.ErrUnavailable) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%v, want %q", err, tc.says)
			}
		})
	}
	t.Run("its own, on file", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "kubelet.crt")
		server := others.sign("node-1")
		write(t, file, string(server))
		if _, err := newCollector(t, Options{Address: serve(t, server, own, yes), CA: file, ServerName: "node-1"}).Probe(t.Context()); err != nil {
			t.Error(err)
		}
	})
	t.Run("no TLS at all", func(t *testing.T) {
		plain := httptest.NewServer(say(podList(1)))
		defer plain.Close()
		c := newCollector(t, Options{Address: strings.Replace(plain.URL, "http", "https", 1), CA: own.file})
		if _, err := c.Probe(t.Context()); !errors.Is(err, collectors.ErrUnavailable) || !strings.Contains(err.Error(), "no TLS is spoken there") {
			t.Error(err)
		}
	})
}

func TestCredentialsAreReadAnewForEachCall(t *testing.T) {
	ca := newAuthority(t)
	var valid atomic.Value
	valid.Store("first")
	url := serve(t, ca.sign("node-1"), ca, func(token string) bool { return token == valid.Load() })
	// As a pod's volume has it: a link to a link, exchanged at once.
	dir := t.TempDir()
	put := func(version, token string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(dir, version), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, version, "token"), token+"\n")
		if err := os.Symlink(version, filepath.Join(dir, "..tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "..tmp"), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("..data/token", filepath.Join(dir, "token")); err != nil {
		t.Fatal(err)
	}
	put("..1", "first")
	if err := os.Chmod(dir, 0o777); err != nil { // as the kubelet makes it
		t.Fatal(err)
	}
	c := newCollector(t, Options{Address: url, CA: ca.file, Token: filepath.Join(dir, "token"), ServerName: "node-1"})
	c.timing.fresh = 0
	ask := func() error { _, err := c.Probe(t.Context()); return err }
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	valid.Store("second")
	if err := ask(); err == nil || !strings.Contains(err.Error(), "401: the kubelet does not know who asks (token of "+dir) {
		t.Fatalf("with yesterday's token: %v", err)
	}
	put("..2", "second")
	c.gate = refusal.Gate{} // a second later
	if err := ask(); err != nil {
		t.Errorf("with today's token: %v", err)
	}

	cert := filepath.Join(t.TempDir(), "client.pem")
	write(t, cert, string(ca.sign("agent")))
	c = newCollector(t, Options{Address: url, CA: ca.file, Certificate: cert, ServerName: "node-1"})
	if r, err := c.Probe(t.Context()); err != nil || !strings.Contains(r.Detail, "2 pods, client certificate of "+cert) {
		t.Errorf("with a client certificate: %+v, %v", r, err)
	}
	write(t, cert, "-----BEGIN NOTHING-----")
	c.timing.fresh = 0
	if err := ask(); err == nil || !strings.Contains(err.Error(), "client certificate "+cert) {
		t.Errorf("with a broken one: %v", err)
	}
}

func TestWhatWaitsSharesACall(t *testing.T) {
	var calls atomic.Int32
	begun, release := make(chan struct{}, 10), make(chan struct{})
	c := answering(t, func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		begun <- struct{}{}
		<-release
		say(podList(200))(w, r)
	})
	c.timing.spacing = 0
	var wg sync.WaitGroup
	look := func(i int) {
		wg.Go(func() {
			p, err := c.LookupPod(t.Context(), fmt.Sprintf("uid-%d", i))
			if err != nil || p.Name != fmt.Sprintf("pod-%d", i) {
				t.Errorf("uid-%d: %v, %v", i, p, err)
			}
		})
	}
	look(0)
	<-begun
	for i := 1; i < 200; i++ {
		look(i)
	}
	close(release)
	wg.Wait()
	// One is under way when the others come, who cannot tell whether it knows
	// their pods, and all others wait for the next. Who comes late may need one more.
	if n := calls.Load(); n < 2 || n > 5 {
		t.Errorf("200 lookups made %d calls", n)
	}
}

func TestAConfiguredNameStandsAlone(t *testing.T) {
	for _, tc := range []struct {
		configured, node, host string
		want                   []string
	}{
		{"me", "node-1", "127.0.0.1", []string{"me"}},
		{"", "Node-1", "127.0.0.1", []string{"node-1", "127.0.0.1"}},
		{"", "10.0.0.7", "10.0.0.7", []string{"10.0.0.7"}},
	} {
		if got := names(tc.configured, tc.node, tc.host); !slices.Equal(got, tc.want) {
			t.Errorf("%+v: %v", tc, got)
		}
	}
}
