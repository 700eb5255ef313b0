// SPDX-License-Identifier: Apache-2.0

package main

// figures are the promises, in the order of the page. A benchmark that was
// renamed shows as "not measured" until it is renamed here too.
func figures() []figure {
	return nil
}
