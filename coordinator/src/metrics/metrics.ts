import { type Plan, promisesSameBits } from '@switchyard/proto';
import { Gauge, Registry } from 'prom-client';
import type { Membership } from '../membership/membership.ts';
import { metricPrefix, vllmSuffixes } from './names.ts';
import { RequestMetrics } from './request-metrics.ts';
import { expertTokensMetric, WorkerMetrics } from './worker-metrics.ts';

interface MetricsSubject {
  model: string;
  version: string;
  plan: Plan;
  planChecksum: string;
  numericClass(): string;
}

interface QueueView {
  readonly running: number;
  readonly waiting: number;
}

/** Everything under /metrics. */
export class Metrics {
  readonly registry = new Registry();
  readonly requests: RequestMetrics;
  #workers: WorkerMetrics | null = null;
  readonly #subject: MetricsSubject;
  readonly #compat: 'none' | 'vllm';
  #queue: QueueView = { running: 0, waiting: 0 };

  constructor(subject: MetricsSubject, compat: 'none' | 'vllm') {
    this.#subject = subject;
    this.#compat = compat;
    this.requests = new RequestMetrics(this.registry, subject.model);
  }

  get workers(): WorkerMetrics | null {
    return this.#workers;
  }

  /** Metrics that need the cluster. Called once. */
  watch(membership: Membership, queue: QueueView): void {
    const { model, plan, planChecksum, version, numericClass } = this.#subject;
    this.#queue = queue;
    this.#workers = new WorkerMetrics(this.registry, model, plan, membership.places);
    const gauge = (suffix: string, help: string, value: () => number, labels: Record<string, string> = {}) => {
      const all = { model_name: model, ...labels };
      new Gauge({
        name: metricPrefix + suffix,
        help,
        labelNames: Object.keys(all),
        registers: [this.registry],
        collect() {
          this.set(all, value());
        },
      });
    };
    gauge('coordinator_sequences_running', 'Sequences with workers.', () => queue.running);
    gauge('coordinator_sequences_waiting', 'Sequences waiting in the coordinator.', () => queue.waiting);
    gauge('uncovered_experts', '(layer, expert) pairs without a serving worker.', () => membership.uncovered);
    gauge('control_plane_up', '1 while the coordinator runs.', () => 1);
    gauge('plan_info', 'The plan in force.', () => 1, { plan_id: planChecksum, epoch: String(membership.epoch) });
    new Gauge({
      name: `${metricPrefix}numeric_class_info`,
      help: 'What decides the bits of answers; exact: they do not depend on where experts live.',
      labelNames: ['model_name', 'numeric_class', 'exact'],
      registers: [this.registry],
      collect() {
        // Workers may name another than the configuration let expect.
        this.reset();
        const name = numericClass();
        this.set({ model_name: model, numeric_class: name, exact: String(promisesSameBits(name)) }, 1);
      },
    });
    gauge('build_info', 'The version of the coordinator.', () => 1, { version });
    const replicas = plan.replicas.flat();
    const { places } = membership;
    new Gauge({
      name: `${metricPrefix}cache_config_info`,
      help: 'The KV cache of all workers together: tokens of a block, and blocks.',
      // What reads the size of vLLM's cache reads it from the labels.
      labelNames: ['model_name', 'block_size', 'num_gpu_blocks'],
      registers: [this.registry],
      collect() {
        this.reset();
        const blocks = places.reduce((sum, { ready }) => sum + (ready?.kvBlocks ?? 0), 0);
        this.set({ model_name: model, block_size: '16', num_gpu_blocks: String(blocks) }, 1);
      },
    });
    new Gauge({
      name: `${metricPrefix}expert_replicas`,
      help: 'Replicas of experts by whether their worker serves.',
      labelNames: ['model_name', 'state'],
      registers: [this.registry],
      collect() {
        let serving = 0;
        let all = 0;
        for (const holders of replicas) {
          all += holders.length;
          for (const worker of holders) if (places[worker].state === 'serving') serving++;
        }
        this.set({ model_name: model, state: 'serving' }, serving);
        this.set({ model_name: model, state: 'missing' }, all - serving);
      },
    });
  }

  get contentType(): string {
    return this.registry.contentType;
  }

  /** @param withExperts whether the rows of each expert are among them, which are nearly a routing trace where few requests run */
  async text(withExperts: boolean): Promise<string> {
    const own = withExperts ? await this.registry.metrics() : await this.#withoutExperts();
    if (this.#compat === 'none') return own;
    const renamed = await Promise.all(vllmSuffixes.map((suffix) => this.#asVllm(suffix)));
    return own + renamed.join('');
  }

  async #withoutExperts(): Promise<string> {
    const names = this.registry.getMetricsAsArray().flatMap(({ name }) => (name === expertTokensMetric ? [] : [name]));
    return `${(await Promise.all(names.map((name) => this.registry.getSingleMetricAsString(name)))).join('\n\n')}\n`;
  }

  async #asVllm(suffix: string): Promise<string> {
    const text = await this.registry.getSingleMetricAsString(metricPrefix + suffix);
    return `${text.replaceAll(/^(# (?:HELP|TYPE) )?switchyard_/gm, '$1vllm:')}\n${suffix === 'num_requests_waiting' ? this.#unplaced() : ''}`;
  }

  /** Who sums up what waits, to scale by it, means what waits in the coordinator too: a series without a worker. */
  #unplaced(): string {
    return `vllm:num_requests_waiting{model_name="${escaped(this.#subject.model)}"} ${this.#queue.waiting}\n`;
  }
}

/** A label's value as Prometheus' text format has it. JSON escapes more, and would name another model. */
function escaped(value: string): string {
  return value.replaceAll('\\', '\\\\').replaceAll('\n', '\\n').replaceAll('"', '\\"');
}
