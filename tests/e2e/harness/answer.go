// SPDX-License-Identifier: Apache-2.0

package harness

// Answer is the JSON of `pidigree who -o json` as users may rely on it. It is
// written down here a second time, so that a change of the encoder which would
// break a user's program breaks a test first.
type Answer struct {
	PID         int64       `json:"pid"`
	StartTimeNs uint64      `json:"startTimeNs"`
	Status      string      `json:"status"`
	Confidence  string      `json:"confidence"`
	Reason      string      `json:"reason"`
	Exited      bool        `json:"exited"`
	Containers  []Container `json:"containers"`
	Pod         *Pod        `json:"pod"`
	Task        *Task       `json:"task"`
	Process     *Process    `json:"process"`
	Sources     []Source    `json:"sources"`
	Missing     []string    `json:"missing"`
}

// Pod is the pod of an Answer.
type Pod struct {
	UID       string            `json:"uid"`
	Name      string            `json:"name"`
	Namespace string            `json:"namespace"`
	Labels    map[string]string `json:"labels"`
	Filtered  bool              `json:"filtered"`
}

// Task is the ECS task of an Answer.
type Task struct {
	ARN        string   `json:"arn"`
	Cluster    string   `json:"cluster"`
	Family     string   `json:"family"`
	Revision   string   `json:"definitionRevision"`
	Service    string   `json:"service"`
	LaunchType string   `json:"launchType"`
	Zone       string   `json:"zone"`
	Missing    []string `json:"missing"`
}

// Container is one link of an Answer's chain.
type Container struct {
	ID        string            `json:"id"`
	Name      string            `json:"name"`
	Runtime   string            `json:"runtime"`
	Image     string            `json:"image"`
	Labels    map[string]string `json:"labels"`
	State     string            `json:"state"`
	Exit      *Exit             `json:"exit"`
	Truncated []string          `json:"truncated"`
	Filtered  bool              `json:"filtered"`
}

// Exit is how a process or container ended.
type Exit struct {
	Known  bool  `json:"known"`
	Code   int32 `json:"code"`
	Signal int32 `json:"signal"`
}

// Process is the process that an Answer is about.
type Process struct {
	Comm      string `json:"comm"`
	Exe       string `json:"exe"`
	ParentPID int64  `json:"parentPid"`
	Entry     string `json:"entry"`
	Exit      *Exit  `json:"exit"`
}

// Source is one origin of what an Answer says.
type Source struct {
	Source string `json:"source"`
}

// Container gives the innermost container, the zero one if there is none.
func (a Answer) Container() Container {
	if len(a.Containers) == 0 {
		return Container{}
	}
	return a.Containers[len(a.Containers)-1]
}
