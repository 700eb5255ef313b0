// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metric is one line of the table that the exporter and docs/metrics.md share.
type metric struct {
	desc   *prometheus.Desc
	name   string
	help   string
	labels []string
	kind   prometheus.ValueType
}

// The metrics. Labels are names out of fixed lists: event types, programs,
// collectors; never a container's, a PID or a path.
func metrics() map[string]*metric {
	ms := map[string]*metric{}
	add := func(name, help string, kind prometheus.ValueType, labels ...string) {
		ms[name] = &metric{name: name, help: help, labels: labels, kind: kind, desc: prometheus.NewDesc(name, help, labels, nil)}
	}
	add("pidigree_ready", "1 once what was there at the start is known.", prometheus.GaugeValue)
	add("pidigree_mode", "1 for the mode that the agent runs in.", prometheus.GaugeValue, "mode")
	add("pidigree_containers", "Live containers in the store.", prometheus.GaugeValue)
	add("pidigree_pods", "Live pods in the store.", prometheus.GaugeValue)
	add("pidigree_images", "Images in the stores of the engines.", prometheus.GaugeValue)
	add("pidigree_tasks", "Live ECS tasks in the store.", prometheus.GaugeValue)
	add("pidigree_processes", "Live processes in the store.", prometheus.GaugeValue)
	add("pidigree_processes_held", "Processes held by a pidfd, because they are asked about again and again.", prometheus.GaugeValue)
	add("pidigree_process_details_total", "Processes read for who asked for more than events say: read, gone meanwhile, or too slow to be waited for.", prometheus.CounterValue, "type")
	add("pidigree_tombstones_dropped_total", "Tombstones dropped before their time because there were too many.", prometheus.CounterValue)
	add("pidigree_tombstones_restored", "What an earlier agent of this boot left of what had ended, taken over at the start.", prometheus.GaugeValue)
	add("pidigree_tombstones_file_up", "1 while tombstones are written to the state directory.", prometheus.GaugeValue)
	add("pidigree_tombstones_file_errors_total", "Writes of tombstones that failed, and files of an earlier agent that were ignored.", prometheus.CounterValue)
	add("pidigree_tombstones_file_skipped_total", "Processes, containers, pods and tasks for which the file of tombstones had no room.", prometheus.CounterValue)
	add("pidigree_tombstones_file_bytes", "Size of the file of tombstones.", prometheus.GaugeValue)
	add("pidigree_watchers", "Streams of changes being read.", prometheus.GaugeValue)
	add("pidigree_kernel_events_total", "Kernel events delivered.", prometheus.CounterValue, "type")
	add("pidigree_degraded", "1 while the agent does without something; status says what, and why.", prometheus.GaugeValue)
	add("pidigree_kernel_seen_total", "Runs of the BPF programs: delivered, filtered or lost.", prometheus.CounterValue, "type")
	add("pidigree_kernel_filtered_total", "Runs of the BPF programs that were no event: threads, and processes outside of the agent's PID namespace.", prometheus.CounterValue, "type")
	add("pidigree_kernel_stolen_total", "Kernel events that somebody else took out of a ring.", prometheus.CounterValue)
	add("pidigree_kernel_detached_total", "BPF programs found detached or silent, and attached again.", prometheus.CounterValue, "type")
	add("pidigree_kernel_lost_total", "Kernel events for which a ring had no room.", prometheus.CounterValue, "type")
	add("pidigree_kernel_skipped_total", "Program runs that the kernel skipped; where a program is attached twice, the smaller count of the two.", prometheus.CounterValue, "type")
	add("pidigree_repairs_total", "Snapshots taken after a loss, or because a BPF program is missing.", prometheus.CounterValue)
	add("pidigree_conflicts_total", "Processes found in conflict.", prometheus.CounterValue)
	add("pidigree_questions_waited_total", "Questions about a container that had just begun which waited for the first answer of its engine, and got it.", prometheus.CounterValue)
	add("pidigree_questions_waited_in_vain_total", "Those that had no answer within 250 ms of the engine being asked.", prometheus.CounterValue)
	add("pidigree_lag_seconds", "Age of the last kernel event when it was applied.", prometheus.GaugeValue)
	add("pidigree_source_up", "1 while the source answers.", prometheus.GaugeValue, "source")
	add("pidigree_source_calls_total", "Calls to a source, by method.", prometheus.CounterValue, "source", "method")
	add("pidigree_source_errors_total", "Calls to a source that failed.", prometheus.CounterValue, "source")
	add("pidigree_source_restarts_total", "How often a source's collector was started again.", prometheus.CounterValue, "source")
	return ms
}

// exporter turns Status into metrics at each scrape.
type exporter struct {
	a  *Agent
	ms map[string]*metric
}

// Describe implements prometheus.Collector.
func (e *exporter) Describe(ch chan<- *prometheus.Desc) {
	for _, m := range e.ms {
		ch <- m.desc
	}
}

// Collect implements prometheus.Collector.
func (e *exporter) Collect(ch chan<- prometheus.Metric) {
	put := func(name string, v float64, labels ...string) {
		m := e.ms[name]
		ch <- prometheus.MustNewConstMetric(m.desc, m.kind, v, labels...)
	}
	s, cs, counts := e.a.Status(), e.a.correlator.Stats(), e.a.store.Counts()
	put("pidigree_ready", gauge(s.Ready))
	put("pidigree_mode", 1, s.Mode)
	put("pidigree_containers", float64(s.Containers))
	put("pidigree_pods", float64(s.Pods))
	put("pidigree_tasks", float64(s.Tasks))
	put("pidigree_images", float64(s.Images))
	put("pidigree_processes", float64(s.Processes))
	put("pidigree_processes_held", float64(e.a.resolver.Held()))
	d := e.a.resolver.DetailCounts()
	put("pidigree_process_details_total", float64(d.Read), "read")
	put("pidigree_process_details_total", float64(d.Gone), "gone")
	put("pidigree_process_details_total", float64(d.Slow), "slow")
	put("pidigree_tombstones_dropped_total", float64(counts.DroppedTombstones))
	e.a.tombs.measure(put)
	put("pidigree_watchers", float64(s.Watchers))
	each(put, "pidigree_kernel_events_total", s.Kernel.Events)
	put("pidigree_degraded", gauge(s.ModeReason != "" && s.Mode != ModeOneShot))
	each(put, "pidigree_kernel_seen_total", s.Kernel.Seen)
	each(put, "pidigree_kernel_filtered_total", s.Kernel.Filtered)
	each(put, "pidigree_kernel_detached_total", s.Kernel.Detached)
	put("pidigree_kernel_stolen_total", float64(s.Kernel.Stolen))
	each(put, "pidigree_kernel_lost_total", s.Kernel.Lost)
	each(put, "pidigree_kernel_skipped_total", s.Kernel.Skipped)
	put("pidigree_repairs_total", float64(s.Kernel.Repairs))
	put("pidigree_conflicts_total", float64(cs.Conflicts))
	put("pidigree_questions_waited_total", float64(cs.Settled))
	put("pidigree_questions_waited_in_vain_total", float64(cs.Unsettled))
	put("pidigree_lag_seconds", s.Kernel.Lag.Seconds())
	for _, src := range s.Sources {
		if src.Name == tombsSource {
			continue // it has metrics of its own
		}
		put("pidigree_source_up", gauge(src.State == "running"), src.Name)
		put("pidigree_source_errors_total", float64(src.Errors), src.Name)
		put("pidigree_source_restarts_total", float64(src.Restarts), src.Name)
		for method, n := range src.Calls {
			put("pidigree_source_calls_total", float64(n), src.Name, method)
		}
	}
}

func each(put func(string, float64, ...string), name string, by map[string]uint64) {
	for label, n := range by {
		put(name, float64(n), label)
	}
}

func gauge(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func (a *Agent) serveMetrics(ctx context.Context) error {
	reg := prometheus.NewRegistry()
	reg.MustRegister(&exporter{a: a, ms: metrics()})
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 5 * time.Second}))
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	defer context.AfterFunc(ctx, func() { _ = srv.Close() })()
	if err := srv.Serve(a.metrics); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
