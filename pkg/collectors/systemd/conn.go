// SPDX-License-Identifier: Apache-2.0

package systemd

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

const (
	busName          = "org.freedesktop.systemd1"
	managerPath      = dbus.ObjectPath("/org/freedesktop/systemd1")
	managerInterface = busName + ".Manager"
	unitInterface    = busName + ".Unit"
	properties       = "org.freedesktop.DBus.Properties"
	noSuchUnit       = busName + ".NoSuchUnit"
)

// errRefused means that the manager has answered, with an error.
var errRefused = errors.New("systemd refuses")

// maxConn bounds what one connection may bring; the next one brings the rest. An
// answer about a unit is some 6 KiB.
const maxConn = 64 << 20

// conn is one connection.
type conn struct {
	socket string
	bus    *dbus.Conn
}

// wire is the socket, read in large pieces and only so much.
type wire struct {
	net.Conn
	in   *bufio.Reader
	left int
}

func (w *wire) Read(b []byte) (int, error) {
	if w.left <= 0 {
		return 0, errors.New("the connection has brought more than it may")
	}
	n, err := w.in.Read(b[:min(len(b), w.left)])
	w.left -= n
	return n, err
}

// dial connects and says who we are, within ctx.
func dial(ctx context.Context, socket string) (*conn, error) {
	var d net.Dialer
	s, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = s.SetDeadline(time.Now()) })
	defer stop()
	n, err := greet(ctx, socket, s)
	if err != nil {
		_ = s.Close()
		return nil, fmt.Errorf("greet %s: %w", socket, errors.Join(ctx.Err(), err))
	}
	return n, nil
}

func greet(ctx context.Context, socket string, s net.Conn) (*conn, error) {
	bus, err := dbus.NewConn(&wire{Conn: s, in: bufio.NewReader(s), left: maxConn})
	if err != nil {
		return nil, err
	}
	n := &conn{socket, bus}
	if err := bus.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(os.Geteuid()))}); err != nil {
		n.close()
		return nil, err
	}
	if !strings.HasSuffix(socket, "/"+privateSocket) {
		if err := bus.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.Hello", 0).Err; err != nil {
			n.close()
			return nil, err
		}
	}
	return n, nil
}

func (n *conn) close() { _ = n.bus.Close() } // nothing was written to it that matters

// call does one call and gives the one value of the answer. errRefused means that
// the answer was an error. Answers are taken for what they are: the library would
// make a text of a number.
func call[T any](ctx context.Context, n *conn, path dbus.ObjectPath, method string, args ...any) (v T, err error) {
	c := n.bus.Object(busName, path).CallWithContext(ctx, method, dbus.FlagNoAutoStart, args...)
	var refusal dbus.Error
	switch {
	case errors.As(c.Err, &refusal) && refusal.Name == noSuchUnit:
		return v, fmt.Errorf("%w: no such unit is loaded", collectors.ErrNotFound)
	case errors.As(c.Err, &refusal):
		return v, fmt.Errorf("%w: %.200q", errRefused, refusal.Name)
	case c.Err != nil:
		return v, c.Err
	}
	if len(c.Body) == 1 {
		if v, ok := c.Body[0].(T); ok {
			return v, nil
		}
	}
	return v, fmt.Errorf("an answer to %s of another form", method)
}

// property reads one property.
func property[T any](ctx context.Context, n *conn, path dbus.ObjectPath, iface, name string) (T, error) {
	v, err := call[dbus.Variant](ctx, n, path, properties+".Get", iface, name)
	if err != nil {
		var none T
		return none, err
	}
	return as[T](name, v)
}

func as[T any](name string, v dbus.Variant) (T, error) {
	t, ok := v.Value().(T)
	if !ok {
		return t, fmt.Errorf("%s of another form", name)
	}
	return t, nil
}

// unit describes a unit, if its cgroup is the one asked about.
func (n *conn) unit(ctx context.Context, unit, cgroup string) (*workload.Service, error) {
	kind := unitInterfaceOf(unit)
	if kind == "" {
		return nil, fmt.Errorf("%w: no unit of this type has a cgroup", collectors.ErrNotFound)
	}
	path, err := call[dbus.ObjectPath](ctx, n, managerPath, managerInterface+".GetUnit", unit)
	if err != nil {
		return nil, err
	}
	own, err := property[string](ctx, n, path, kind, "ControlGroup")
	if err != nil {
		return nil, err
	}
	if own != cgroup {
		return nil, fmt.Errorf("%w: its cgroup is %.200q", collectors.ErrNotFound, own)
	}
	all, err := call[map[string]dbus.Variant](ctx, n, path, properties+".GetAll", unitInterface)
	if err != nil {
		return nil, err
	}
	s, err := describe(unit, cgroup, all)
	if err != nil || kind != busName+".Service" {
		return s, err
	}
	main, err := property[uint32](ctx, n, path, kind, "MainPID")
	if s.MainPID = workload.PID(main); err == nil && s.MainPID > workload.MaxPID {
		err = fmt.Errorf("its main process is %d", main)
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

// describe reads the properties that all units have. One that is called otherwise
// than what was asked about is an alias, and no cgroup is named by that.
func describe(unit, cgroup string, all map[string]dbus.Variant) (*workload.Service, error) {
	s := &workload.Service{Unit: unit, Cgroup: cgroup, Confidence: workload.Confirmed}
	var id string
	var problems []error
	for property, into := range map[string]*string{"Id": &id, "Description": &s.Description, "ActiveState": &s.Active, "SubState": &s.Sub} {
		text, err := as[string](property, all[property])
		*into, problems = text, append(problems, err)
	}
	invocation, err := as[[]byte]("InvocationID", all["InvocationID"])
	if err := errors.Join(append(problems, err)...); err != nil {
		return nil, err
	}
	if id != unit {
		return nil, fmt.Errorf("%w: the unit is called %.200q", collectors.ErrNotFound, id)
	}
	if len(invocation) == 16 {
		s.InvocationID = hex.EncodeToString(invocation)
	}
	collectors.BoundUnit(s)
	return s, nil
}

// unitInterfaceOf gives the interface of the units that have a cgroup, by their
// type; empty for others.
func unitInterfaceOf(unit string) string {
	for suffix, iface := range map[string]string{
		".service": "Service", ".scope": "Scope", ".slice": "Slice", ".mount": "Mount", ".socket": "Socket", ".swap": "Swap",
	} {
		if strings.HasSuffix(unit, suffix) {
			return busName + "." + iface
		}
	}
	return ""
}

// inStates lists the units with a cgroup that are in one of the states. Of what is
// said of a unit (ssssssouso) its name matters, which comes first.
func (n *conn) inStates(ctx context.Context, states ...string) ([]string, error) {
	units, err := call[[][]any](ctx, n, managerPath, managerInterface+".ListUnitsByPatterns", states, []string{"*.service", "*.scope", "*.slice"})
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(units))
	for _, u := range units {
		if len(u) > 0 {
			if name, ok := u[0].(string); ok {
				names = append(names, name)
			}
		}
	}
	return names, nil
}
