// SPDX-License-Identifier: Apache-2.0

package collectortest

import (
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
)

// ServeHTTP serves a made-up engine's API on a socket until the test ends, and gives its
// path, which has the word in it.
func ServeHTTP(tb testing.TB, word string, answer http.HandlerFunc) (socket string) {
	tb.Helper()
	dir := privateDir(tb, word)
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	l, err := net.Listen("unix", dir+"/unix.socket")
	if err != nil {
		tb.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(answer)
	_ = srv.Listener.Close()
	srv.Listener = l
	srv.Start()
	tb.Cleanup(srv.Close)
	return l.Addr().String()
}
