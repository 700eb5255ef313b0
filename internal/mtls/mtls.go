// SPDX-License-Identifier: Apache-2.0

// Package mtls makes the two ends of a TLS connection on which both show a certificate:
// TLS 1.3 and nothing older, no resumption, and nobody who is not vouched for by the
// authority that the other end was given.
//
// Certificates are files, which are read again for the next connection when they have
// changed. What cannot be read then, as a file that is half written, leaves what was
// there before in force, and is said once.
//
// All methods may be called concurrently.
package mtls

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"
)

// Files are what one end has, in PEM.
type Files struct {
	// Certificate and Key are its own, the certificate with those in between.
	Certificate, Key string
	// CA has the authorities that vouch for the other end, and no others are asked.
	CA string
}

// IsZero reports whether nothing is named.
func (f Files) IsZero() bool { return f == Files{} }

// maxFile bounds what is read of one.
const maxFile = 1 << 20

// Source reads the files.
type Source struct {
	files Files
	warn  func(error)

	mu     sync.Mutex // guards all below
	stamps [3]stamp
	now    *material
	said   string
}

// material is what one reading gave.
type material struct {
	own   tls.Certificate
	peers *x509.CertPool
}

// stamp tells one version of a file from the next.
type stamp struct {
	size  int64
	mtime time.Time
}

// New reads the files. warn gets what goes wrong later; nil: nobody does.
func New(files Files, warn func(error)) (*Source, error) {
	if warn == nil {
		warn = func(error) {}
	}
	s := &Source{files: files, warn: warn}
	for _, f := range []struct{ what, name string }{{"a certificate", files.Certificate}, {"its key", files.Key}, {"the other end's authority", files.CA}} {
		if f.name == "" {
			return nil, fmt.Errorf("TLS needs a file with %s: set tls.cert, tls.key and tls.ca", f.what)
		}
	}
	stamps, err := s.look()
	if err == nil {
		s.now, err = files.read()
	}
	if err != nil {
		return nil, err
	}
	s.stamps = stamps
	return s, nil
}

func (s *Source) look() (stamps [3]stamp, err error) {
	for i, name := range []string{s.files.Certificate, s.files.Key, s.files.CA} {
		st, serr := os.Stat(name)
		if serr != nil {
			return stamps, serr
		}
		stamps[i] = stamp{st.Size(), st.ModTime()}
	}
	return stamps, nil
}

// material gives what the files say by now, or said when they last could be read.
func (s *Source) material() *material {
	s.mu.Lock()
	defer s.mu.Unlock()
	stamps, err := s.look()
	if err == nil && stamps == s.stamps {
		return s.now
	}
	var now *material
	if err == nil {
		now, err = s.files.read()
	}
	if err != nil {
		if text := err.Error(); text != s.said {
			s.said = text
			s.warn(fmt.Errorf("read certificates again: %w; those from before stay in force", err))
		}
		return s.now
	}
	s.stamps, s.now, s.said = stamps, now, ""
	return now
}

func (f Files) read() (*material, error) {
	cert, err := readFile(f.Certificate)
	if err != nil {
		return nil, err
	}
	key, err := readFile(f.Key)
	if err != nil {
		return nil, err
	}
	ca, err := readFile(f.CA)
	if err != nil {
		return nil, err
	}
	m := &material{peers: x509.NewCertPool()}
	if m.own, err = tls.X509KeyPair(cert, key); err != nil {
		return nil, fmt.Errorf("%s and %s: %w", f.Certificate, f.Key, err)
	}
	if !m.peers.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("%s has no certificate in PEM", f.CA)
	}
	return m, nil
}

func readFile(name string) ([]byte, error) {
	st, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() || st.Size() > maxFile {
		return nil, fmt.Errorf("%s is no file of at most %d bytes", name, maxFile)
	}
	return os.ReadFile(name)
}

// ErrName means that a certificate is vouched for and has none of the names that may come in.
var ErrName = errors.New("no name of the certificate is allowed")

// Server gives the configuration of the end that listens. allow are the names of which a
// client's certificate has to have one; without any, every certificate will do that the
// authority vouches for.
func (s *Source) Server(allow []string) *tls.Config {
	base := &tls.Config{MinVersion: tls.VersionTLS13}
	base.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		m := s.material()
		return &tls.Config{
			MinVersion:             tls.VersionTLS13,
			Certificates:           []tls.Certificate{m.own},
			ClientCAs:              m.peers,
			ClientAuth:             tls.RequireAndVerifyClientCert,
			NextProtos:             []string{"h2"},
			SessionTicketsDisabled: true, // each connection is looked at anew
			VerifyConnection: func(st tls.ConnectionState) error {
				if len(allow) > 0 && !slices.ContainsFunc(Names(st), func(n string) bool { return slices.Contains(allow, n) }) {
					return ErrName
				}
				return nil
			},
		}, nil
	}
	return base
}

// Client gives the configuration of the end that connects, for one connection: to whom
// shows a certificate for the name.
func (s *Source) Client(name string) *tls.Config {
	m := s.material()
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{m.own},
		RootCAs:      m.peers,
		ServerName:   name,
		NextProtos:   []string{"h2"},
	}
}

// Names are what a verified peer may be called: the DNS names and URIs of its
// certificate, then its common name.
func Names(st tls.ConnectionState) (names []string) {
	if len(st.PeerCertificates) == 0 {
		return nil
	}
	c := st.PeerCertificates[0]
	names = append(names, c.DNSNames...)
	for _, u := range c.URIs {
		names = append(names, u.String())
	}
	if c.Subject.CommonName != "" {
		names = append(names, c.Subject.CommonName)
	}
	return names
}
