// SPDX-License-Identifier: Apache-2.0

package collectors

import (
	"context"
	"net"
)

// DialUnix connects to a socket at a path. look, if it is not nil, looks at the
// connection first; its error ends it.
func DialUnix(ctx context.Context, path string, look func(net.Conn) error) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil || look == nil {
		return conn, err
	}
	if err := look(conn); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}
