// SPDX-License-Identifier: Apache-2.0

package collectors

import (
	"strings"

	"github.com/pidigree/pidigree/pkg/workload"
)

// The labels that the ECS agent gives its containers (amazon-ecs-agent, engine/docker_task_engine.go).
const (
	ecsPrefix    = "com.amazonaws.ecs."
	ecsTaskARN   = ecsPrefix + "task-arn"
	ecsCluster   = ecsPrefix + "cluster"
	ecsFamily    = ecsPrefix + "task-definition-family"
	ecsRevision  = ecsPrefix + "task-definition-version"
	ecsContainer = ecsPrefix + "container-name"
)

// TaskOf reads an ECS task from an engine's labels, nil where they name none.
// They are the word of whoever made the container, as all labels are.
func TaskOf(labels map[string]string) *workload.TaskRef {
	arn := labels[ecsTaskARN]
	name, ok := workload.ParseTaskARN(arn)
	if !ok {
		return nil
	}
	ref := &workload.TaskRef{ARN: arn, Cluster: labels[ecsCluster], Family: labels[ecsFamily], Revision: labels[ecsRevision], Container: labels[ecsContainer]}
	if strings.HasPrefix(ref.Cluster, "arn:") {
		_, ref.Cluster, _ = strings.Cut(ref.Cluster, ":cluster/")
	}
	if name.Cluster != "" {
		ref.Cluster = name.Cluster // the ARN has the last word on that
	}
	return ref
}
