// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"cmp"
	"encoding/base64"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// settings are what a kubelet was started with, as far as it says where and how
// it can be asked. Paths are its own.
type settings struct {
	address      string
	port         int
	readOnlyPort int
	// node is its --hostname-override.
	node       string
	kubeconfig string
	// serving are the files of which one is its serving certificate.
	serving []string
}

// configFile is what we read of a KubeletConfiguration (kubelet.config.k8s.io/v1beta1).
type configFile struct {
	Kind         string `yaml:"kind"`
	Address      string `yaml:"address"`
	Port         *int   `yaml:"port"`
	ReadOnlyPort *int   `yaml:"readOnlyPort"`
	TLSCertFile  string `yaml:"tlsCertFile"`
}

// The kubelet's defaults (cmd/kubelet/app/options). Without a configuration file
// it has a read-only port.
const (
	defaultPort         = 10250
	defaultReadOnlyPort = 10255
	defaultCertDir      = "/var/lib/kubelet/pki"
)

// settingsOf reads a kubelet's arguments, and its configuration file beneath
// them. Drop-ins (--config-dir) are not read.
func settingsOf(args []string, files host) (settings, error) {
	flags := parseFlags(args)
	s := settings{port: defaultPort, node: flags["hostname-override"], kubeconfig: flags["kubeconfig"]}
	var c configFile
	if path := flags["config"]; path == "" {
		s.readOnlyPort = defaultReadOnlyPort
	} else {
		data, err := files.read(path)
		if err != nil {
			return s, fmt.Errorf("the kubelet's configuration: %w", err)
		}
		if err := yaml.Unmarshal(data, &c); err != nil {
			return s, fmt.Errorf("the kubelet's configuration %s: %w", path, err)
		}
	}
	s.address = cmp.Or(flags["address"], c.Address)
	s.port = firstPort(flags["port"], c.Port, s.port)
	s.readOnlyPort = firstPort(flags["read-only-port"], c.ReadOnlyPort, s.readOnlyPort)
	certDir := cmp.Or(flags["cert-dir"], defaultCertDir)
	s.serving = []string{filepath.Join(certDir, "kubelet-server-current.pem"), filepath.Join(certDir, "kubelet.crt")}
	if file := cmp.Or(flags["tls-cert-file"], c.TLSCertFile); file != "" {
		s.serving = []string{file}
	}
	return s, nil
}

// firstPort takes the flag, else the file, else the default.
func firstPort(flag string, file *int, def int) int {
	if n, err := strconv.Atoi(flag); err == nil {
		return n
	}
	if file != nil {
		return *file
	}
	return def
}

// parseFlags reads --name=value and --name value; the last one counts.
func parseFlags(args []string) map[string]string {
	flags := map[string]string{}
	for i := 1; i < len(args); i++ {
		flag, ok := strings.CutPrefix(args[i], "-")
		if !ok {
			continue
		}
		flag = strings.TrimPrefix(flag, "-")
		key, value, ok := strings.Cut(flag, "=")
		if !ok && i+1 < len(args) && !strings.HasPrefix(args[i+1], "-") {
			value = args[i+1]
		}
		flags[key] = value
	}
	return flags
}

// kubeconfigFile is what we read of a kubeconfig: how its current user shows who
// it is, and by whom the cluster's certificates are signed.
type kubeconfigFile struct {
	Clusters []struct {
		Name    string `yaml:"name"`
		Cluster struct {
			CA     string `yaml:"certificate-authority"`
			CAData string `yaml:"certificate-authority-data"`
		} `yaml:"cluster"`
	} `yaml:"clusters"`
	Contexts []struct {
		Name    string `yaml:"name"`
		Context struct {
			Cluster string `yaml:"cluster"`
			User    string `yaml:"user"`
		} `yaml:"context"`
	} `yaml:"contexts"`
	CurrentContext string `yaml:"current-context"`
	Users          []struct {
		Name string `yaml:"name"`
		User struct {
			Certificate     string `yaml:"client-certificate"`
			CertificateData string `yaml:"client-certificate-data"`
			Key             string `yaml:"client-key"`
			KeyData         string `yaml:"client-key-data"`
		} `yaml:"user"`
	} `yaml:"users"`
}

// identity is what a kubeconfig gives: PEM, or nothing.
type identity struct{ ca, cert, key []byte }

// identityOf reads the kubelet's kubeconfig and the files that it names.
func identityOf(path string, files host) (id identity, _ error) {
	data, err := files.read(path)
	if err != nil {
		return id, err
	}
	var k kubeconfigFile
	if err := yaml.Unmarshal(data, &k); err != nil {
		return id, fmt.Errorf("kubeconfig %s: %w", path, err)
	}
	cluster, user := "", ""
	for _, c := range k.Contexts {
		if c.Name == k.CurrentContext {
			cluster, user = c.Context.Cluster, c.Context.User
		}
	}
	pem := func(file, inline string) []byte {
		var data []byte
		switch {
		case err != nil:
		case inline != "":
			data, err = base64.StdEncoding.DecodeString(inline)
		case file != "":
			if !filepath.IsAbs(file) {
				file = filepath.Join(filepath.Dir(path), file)
			}
			data, err = files.read(file)
		}
		return data
	}
	for _, c := range k.Clusters {
		if c.Name == cluster {
			id.ca = pem(c.Cluster.CA, c.Cluster.CAData)
		}
	}
	for _, u := range k.Users {
		if u.Name == user {
			id.cert, id.key = pem(u.User.Certificate, u.User.CertificateData), pem(u.User.Key, u.User.KeyData)
		}
	}
	if err != nil {
		return identity{}, fmt.Errorf("kubeconfig %s: %w", path, err)
	}
	return id, nil
}
