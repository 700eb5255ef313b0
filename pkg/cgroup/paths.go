// SPDX-License-Identifier: Apache-2.0

package cgroup

import "strings"

// below gives what of path lies below dir, without a leading slash; "" for dir
// itself. Both are absolute and clean.
func below(path, dir string) (string, bool) {
	if dir == "/" {
		return strings.TrimPrefix(path, "/"), strings.HasPrefix(path, "/")
	}
	rest, ok := strings.CutPrefix(path, dir)
	if !ok || rest != "" && rest[0] != '/' {
		return "", false
	}
	return strings.TrimPrefix(rest, "/"), true
}

// join is the inverse of below.
func join(dir, rest string) string {
	switch {
	case rest == "":
		return dir
	case dir == "/":
		return "/" + rest
	default:
		return dir + "/" + rest
	}
}

// splitUps counts the "/.." that a path begins with; rest is absolute. The
// kernel prints them for what lies above the reader's cgroup namespace.
func splitUps(path string) (ups int, rest string) {
	for {
		r, ok := strings.CutPrefix(path, "/..")
		if !ok || r != "" && r[0] != '/' {
			break
		}
		ups, path = ups+1, r
	}
	if path == "" {
		path = "/"
	}
	return ups, path
}

// validPath reports whether the path is one that the kernel could print for a
// cgroup that it shows: absolute, not too long, every component a name.
func validPath(path string) bool {
	if path == "" || path[0] != '/' || cut(path) || strings.IndexByte(path, 0) >= 0 {
		return false
	}
	if path == "/" {
		return true
	}
	for c := range strings.SplitSeq(path[1:], "/") {
		if c == "" || c == "." || c == ".." {
			return false
		}
	}
	return true
}

// cut reports whether a path that the kernel printed may have lost its end:
// since 6.8 or so /proc/PID/cgroup ends in silence after PATH_MAX-1 bytes
// (strscpy), where older kernels gave no path at all.
func cut(path string) bool { return len(path) >= MaxPath-1 }

// depth is the number of components of an absolute, valid path.
func depth(path string) int {
	if path == "/" {
		return 0
	}
	return strings.Count(path, "/")
}

// parent gives the path one level up.
func parent(path string) string {
	if i := strings.LastIndexByte(path, '/'); i > 0 {
		return path[:i]
	}
	return "/"
}
