// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"bytes"
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/pidigree/pidigree/pkg/collectors"
)

// target is whom to ask, and how, for one call.
type target struct {
	base *url.URL
	// names are those of which one is in the kubelet's certificate.
	names []string
	roots *x509.CertPool
	// trusted says where roots came from.
	trusted []string
	cert    *tls.Certificate
	token   string
	// how says what is shown: "no credentials", "client certificate ...".
	how     string
	process process
}

// The files of this process's service account, where it runs in a pod.
const (
	accountToken = "/var/run/secrets/kubernetes.io/serviceaccount/token"
	accountCA    = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"
)

// own is this process's root directory, for paths that were configured.
const own host = "/"

// parseAddress takes https://HOST:PORT or http://HOST:PORT, and nothing beside.
func parseAddress(address string) (*url.URL, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, fmt.Errorf("address %q is no URL", address)
	}
	port := map[string]int{"https": defaultPort, "http": defaultReadOnlyPort}[u.Scheme]
	switch {
	case port == 0 || u.Hostname() == "":
		return nil, fmt.Errorf("address %q is not https://HOST:PORT, nor http://HOST:PORT for a read-only port", address)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "":
		return nil, fmt.Errorf("address %q has more than a host and a port", address)
	case u.Port() != "":
		if port, err = strconv.Atoi(u.Port()); err != nil || port <= 0 || port > 65535 {
			return nil, fmt.Errorf("address %q has no port", address)
		}
	}
	return &url.URL{Scheme: u.Scheme, Host: net.JoinHostPort(u.Hostname(), strconv.Itoa(port))}, nil
}

// target puts together what is configured and what is found.
func (c *Collector) target() (*target, error) {
	t := &target{how: "no credentials"}
	found, files, err := c.found(t)
	if c.opts.Address != "" {
		t.base, err = parseAddress(c.opts.Address)
	} else if err == nil {
		t.base = found.url()
	}
	if err != nil || t.base.Scheme == "http" {
		return t, err
	}
	t.names = names(c.opts.ServerName, found.node, t.base.Hostname())
	var id identity
	if found.kubeconfig != "" && (c.opts.CA == "" || c.anonymous()) {
		// Not the agent's own: without it there may be other ways.
		if id, err = identityOf(found.kubeconfig, files); err != nil {
			c.log.Debug("kubelet's kubeconfig not read", "err", err)
		}
	}
	if err := c.trust(t, found, files, id); err != nil {
		return nil, err
	}
	return t, c.identify(t, found, id)
}

// anonymous: no credentials were configured.
func (c *Collector) anonymous() bool { return c.opts.Certificate == "" && c.opts.Token == "" }

// found gives what the kubelet's process was started with. Without one there is
// still what was configured.
func (c *Collector) found(t *target) (settings, host, error) {
	p, ok := c.find.kubelet()
	if !ok {
		return settings{}, own, fmt.Errorf("%w: no kubelet runs here", collectors.ErrNotPresent)
	}
	t.process = p
	files := host(c.find.path(p.pid, "root"))
	args, err := c.find.args(p.pid)
	if err != nil {
		return settings{}, files, fmt.Errorf("%w: read the kubelet's arguments: %w", collectors.ErrUnavailable, err)
	}
	s, err := settingsOf(args, files)
	if err != nil {
		err = fmt.Errorf("%w: %w", collectors.ErrUnavailable, err)
	}
	return s, files, err
}

// url prefers the read-only port, which needs no credentials. An address that
// stands for all is asked at the loopback's.
func (s settings) url() *url.URL {
	host := s.address
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	if s.readOnlyPort > 0 {
		return &url.URL{Scheme: "http", Host: net.JoinHostPort(host, strconv.Itoa(s.readOnlyPort))}
	}
	return &url.URL{Scheme: "https", Host: net.JoinHostPort(host, strconv.Itoa(s.port))}
}

// names gives those that the certificate may be for: the configured one alone, or
// the node's and the address. Another kubelet's has neither.
func names(configured, node, host string) []string {
	if configured != "" {
		return []string{configured}
	}
	if node == "" {
		node, _ = os.Hostname() // without, the address is left
	}
	if node = strings.ToLower(strings.TrimSpace(node)); node == "" || node == host {
		return []string{host}
	}
	return []string{node, host}
}

// trust gathers the certificates by which the kubelet's is verified.
func (c *Collector) trust(t *target, found settings, files host, id identity) error {
	t.roots = x509.NewCertPool()
	add := func(pem []byte, from string) {
		if t.roots.AppendCertsFromPEM(pem) {
			t.trusted = append(t.trusted, from)
		}
	}
	if c.opts.CA != "" {
		pem, err := own.read(c.opts.CA)
		if err != nil {
			return unusable("kubelet.ca", err)
		}
		add(pem, c.opts.CA)
	} else {
		for _, file := range found.serving {
			if pem, err := files.read(file); err == nil {
				add(pem, file)
			}
		}
		add(id.ca, found.kubeconfig)
		if pem, err := own.read(accountCA); err == nil {
			add(pem, accountCA)
		}
	}
	if len(t.trusted) == 0 {
		return unusable("kubelet.ca", errors.New("no certificate was found to verify the kubelet's by: name a file"))
	}
	return nil
}

// identify chooses what to show: what is configured, else the service account's
// token, else the node's own certificate, else nothing.
func (c *Collector) identify(t *target, found settings, id identity) error {
	switch {
	case c.opts.Certificate != "":
		cert, err := own.read(c.opts.Certificate)
		if err != nil {
			return unusable("kubelet.certificate", err)
		}
		key, err := own.read(cmp.Or(c.opts.Key, c.opts.Certificate))
		if err != nil {
			return unusable("kubelet.key", err)
		}
		return t.show(cert, key, c.opts.Certificate)
	case c.opts.Token != "":
		token, err := own.read(c.opts.Token)
		if err != nil {
			return unusable("kubelet.token", err)
		}
		return t.bear(token, c.opts.Token)
	}
	if token, err := own.read(accountToken); err == nil {
		return t.bear(token, accountToken)
	}
	if len(id.cert) > 0 {
		return t.show(id.cert, id.key, found.kubeconfig)
	}
	return nil
}

func (t *target) show(cert, key []byte, from string) error {
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return unusable("client certificate "+from, err)
	}
	t.cert, t.how = &pair, "client certificate of "+from
	return nil
}

func (t *target) bear(token []byte, from string) error {
	token = bytes.TrimSpace(token)
	if len(token) == 0 || bytes.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return unusable("token "+from, errors.New("not one line of ASCII"))
	}
	t.token, t.how = string(token), "token of "+from
	return nil
}

// unusable: as things are, no call is worth making.
func unusable(what string, err error) error {
	return fmt.Errorf("%w: %s: %w", collectors.ErrUnavailable, what, err)
}
