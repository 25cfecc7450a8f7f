import type { LinkStats, Plan, Stats } from '@switchyard/proto';
import { Counter, Gauge, type Registry } from 'prom-client';
import type { Place } from '../membership/membership.ts';
import { metricPrefix } from './names.ts';

/** One series per (layer, expert) up to so many; a larger model has the imbalance per layer alone. */
const expertSeriesMax = 4096;
/** One series per ordered pair of workers up to so many, 64 workers; of a larger cluster the bytes of each worker by locality alone. */
const linkSeriesMax = 4096;

/** Rows of each expert, over all requests. */
export const expertTokensMetric = `${metricPrefix}expert_tokens_total`;

/** Totals of `Stats` that are counters of their own. */
const counted = [
  'promptTokens',
  'generatedTokens',
  'preemptions',
  'prefixQueries',
  'prefixHits',
  'draftTokens',
  'draftTokensAccepted',
  'rowsDispatched',
  'remoteNodesVisited',
  'steps',
] as const satisfies readonly (keyof Stats)[];

/** What each entry of `Stats.seconds` is. */
export const activities = ['attention', 'exchange_wait', 'experts_own', 'experts_others', 'sampling', 'other', 'idle'] as const;

/** What a process of a worker said, and which. */
interface Said {
  pid: number;
  stats: Stats;
}

/**
 * What workers report once a second, as totals that survive their restarts. Gauges are read when someone asks.
 */
export class WorkerMetrics {
  readonly #plan: Plan;
  readonly #model: string;
  readonly #places: readonly Place[];
  readonly #counters: Record<(typeof counted)[number], Counter<string>>;
  readonly #seconds: Counter<string>;
  readonly #awake: Counter<string>;
  readonly #bytes: Counter<string>;
  readonly #experts: Counter<string> | null;
  /** Rows computed by each worker, (workers) of (moeLayers * experts). */
  readonly #computed: Float64Array[];
  readonly #perLink: boolean;
  /** What each worker said last, whatever its stream has been through since. */
  readonly #last: (Said | null)[];

  constructor(registry: Registry, model: string, plan: Plan, places: readonly Place[]) {
    this.#plan = plan;
    this.#model = model;
    this.#places = places;
    this.#perLink = places.length * (places.length - 1) <= linkSeriesMax;
    this.#last = places.map(() => null);
    const labelled = ['model_name', 'worker'];
    const counter = (suffix: string, help: string, labelNames: string[] = labelled) =>
      new Counter({ name: metricPrefix + suffix, help, labelNames, registers: [registry] });
    this.#counters = {
      promptTokens: counter('prompt_tokens_total', 'Prompt tokens of sequences that were begun, cached ones included.'),
      generatedTokens: counter('generation_tokens_total', 'Tokens generated.'),
      preemptions: counter('num_preemptions_total', 'Sequences whose cache was taken away and computed again.'),
      prefixQueries: counter('prefix_cache_queries_total', 'Prompt tokens looked up in the prefix cache.'),
      prefixHits: counter('prefix_cache_hits_total', 'Prompt tokens found in the prefix cache.'),
      draftTokens: counter('spec_decode_num_draft_tokens_total', 'Guessed tokens that steps checked.'),
      draftTokensAccepted: counter('spec_decode_num_accepted_tokens_total', 'Guessed tokens that were right.'),
      rowsDispatched: counter('rows_dispatched_total', '(row, layer) pairs that went through MoE layers.'),
      remoteNodesVisited: counter('remote_nodes_visited_total', 'Distinct remote nodes visited, summed over (row, layer) pairs.'),
      steps: counter('steps_total', 'Steps of the worker loop.'),
    };
    this.#seconds = counter('worker_seconds_total', 'What workers spent their time on.', [...labelled, 'activity']);
    this.#awake = counter(
      'worker_awake_seconds_total',
      'Processor time in which workers waited awake for frames, for any other program to have.',
    );
    this.#bytes = counter('dispatch_bytes_total', 'Bytes sent from worker to worker: rows and, back, their sums.', [
      'model_name',
      'src',
      ...(this.#perLink ? ['dst'] : []),
      'locality',
    ]);
    const series = plan.model.moeLayers.length * plan.model.experts;
    this.#experts =
      series > expertSeriesMax
        ? null
        : counter('expert_tokens_total', 'Rows that each expert computed.', ['model_name', 'layer', 'expert']);
    this.#computed = places.map(() => new Float64Array(series));
    this.#createSeries();
    this.#createReadings(registry);
  }

  onStats(place: Place, stats: Stats): void {
    const said = { pid: place.hello?.pid ?? 0, stats };
    const last = this.#last[place.worker];
    this.#last[place.worker] = said;
    const previous = last === null || isAnother(last, said) ? null : last.stats;
    const worker = { model_name: this.#model, worker: place.name };
    const add = (metric: Counter<string>, labels: Record<string, string>, now: number, before: number) => {
      if (now > before) metric.inc(labels, now - before);
    };
    for (const field of counted) add(this.#counters[field], worker, stats[field], previous?.[field] ?? 0);
    activities.forEach((activity, i) => {
      add(this.#seconds, { ...worker, activity }, stats.seconds[i] ?? 0, previous?.seconds[i] ?? 0);
    });
    add(this.#awake, worker, stats.awakeSeconds, previous?.awakeSeconds ?? 0);
    const before = linkBytes(previous?.links ?? []);
    for (const [worker, bytes] of linkBytes(stats.links)) {
      const peer = this.#places[worker];
      if (peer === undefined || peer === place) continue;
      // Only the end that dialled a link reports it: what it received, the other end sent.
      add(this.#bytes, this.#linkLabels(place, peer), bytes.sent, before.get(worker)?.sent ?? 0);
      add(this.#bytes, this.#linkLabels(peer, place), bytes.received, before.get(worker)?.received ?? 0);
    }
    this.#addExperts(place, previous, stats);
  }

  /** Highest load of a worker over the mean, in rows computed of one layer. 1: perfectly even; 0: nothing computed yet. */
  imbalance(layer: number): number {
    const { experts } = this.#plan.model;
    const loads = this.#computed.map((rows) => {
      let sum = 0;
      for (let e = 0; e < experts; e++) sum += rows[layer * experts + e];
      return sum;
    });
    const total = loads.reduce((sum, load) => sum + load, 0);
    return total === 0 ? 0 : Math.max(...loads) / (total / loads.length);
  }

  #addExperts(place: Place, previous: Stats | null, stats: Stats): void {
    const computed = this.#computed[place.worker];
    const { experts, moeLayers } = this.#plan.model;
    if (stats.expertTokens.length !== computed.length) return;
    for (let i = 0; i < computed.length; i++) {
      const more = stats.expertTokens[i] - (previous?.expertTokens[i] ?? 0);
      if (more <= 0) continue;
      computed[i] += more;
      this.#experts?.inc({ model_name: this.#model, layer: String(moeLayers[Math.floor(i / experts)]), expert: String(i % experts) }, more);
    }
  }

  #linkLabels(from: Place, to: Place): Record<string, string> {
    const locality = from.node === to.node ? 'node' : 'remote';
    return { model_name: this.#model, src: from.name, ...(this.#perLink ? { dst: to.name } : {}), locality };
  }

  #createSeries(): void {
    for (const place of this.#places) {
      const worker = { model_name: this.#model, worker: place.name };
      for (const metric of [...Object.values(this.#counters), this.#awake]) metric.inc(worker, 0);
      for (const activity of activities) this.#seconds.inc({ ...worker, activity }, 0);
    }
    this.#createLinkSeries();
    const { moeLayers, experts } = this.#plan.model;
    for (const layer of moeLayers)
      for (let e = 0; e < experts; e++) this.#experts?.inc({ model_name: this.#model, layer: String(layer), expert: String(e) }, 0);
  }

  #createLinkSeries(): void {
    const nodeSizes = new Map<number, number>();
    for (const { node } of this.#places) nodeSizes.set(node, (nodeSizes.get(node) ?? 0) + 1);
    for (const place of this.#places) {
      if (this.#perLink) {
        for (const peer of this.#places) if (peer !== place) this.#bytes.inc(this.#linkLabels(place, peer), 0);
        continue;
      }
      const src = { model_name: this.#model, src: place.name };
      if (nodeSizes.get(place.node)! > 1) this.#bytes.inc({ ...src, locality: 'node' }, 0);
      if (nodeSizes.size > 1) this.#bytes.inc({ ...src, locality: 'remote' }, 0);
    }
  }

  #createReadings(registry: Registry): void {
    const model_name = this.#model;
    const places = this.#places;
    const perWorker = (suffix: string, help: string, value: (place: Place) => number) => {
      new Gauge({
        name: metricPrefix + suffix,
        help,
        labelNames: ['model_name', 'worker'],
        registers: [registry],
        collect() {
          for (const place of places) this.set({ model_name, worker: place.name }, value(place));
        },
      });
    };
    perWorker('num_requests_running', 'Sequences in the batch.', ({ stats }) => stats?.running ?? 0);
    perWorker('num_requests_waiting', 'Sequences waiting on the worker.', ({ stats }) =>
      stats === null ? 0 : stats.waiting + stats.waitingForPrefix,
    );
    perWorker('kv_cache_usage_perc', 'Share of the cache in use, 0 to 1.', ({ stats }) =>
      stats === null || stats.kvBlocks === 0 ? 0 : stats.kvBlocksUsed / stats.kvBlocks,
    );
    perWorker('worker_up', '1 while the worker serves.', ({ state }) => (state === 'serving' ? 1 : 0));
    perWorker(
      'worker_resident_bytes',
      'Weights in memory, and the KV cache, counted whole.',
      ({ ready, stats }) => stats?.residentBytes ?? ready?.residentBytes ?? 0,
    );
    perWorker(
      'step_last_timestamp_seconds',
      'When the worker last ended a step, Unix time; 0: it has said nothing yet.',
      ({ stats, statsAtMs }) => (stats === null ? 0 : (Date.now() - (performance.now() - statsAtMs) - stats.lastStepAgeMs) / 1000),
    );
    new Counter({
      name: `${metricPrefix}worker_losses_total`,
      help: 'How often the worker was lost.',
      labelNames: ['model_name', 'worker'],
      registers: [registry],
      collect() {
        this.reset();
        for (const { name, losses } of places) this.inc({ model_name, worker: name }, losses);
      },
    });
    const imbalance = (layer: number) => this.imbalance(layer);
    const { moeLayers } = this.#plan.model;
    new Gauge({
      name: `${metricPrefix}rank_imbalance_ratio`,
      help: 'Highest load of a worker over the mean, rows of one layer since start.',
      labelNames: ['model_name', 'layer'],
      registers: [registry],
      collect() {
        moeLayers.forEach((layer, i) => {
          this.set({ model_name, layer: String(layer) }, imbalance(i));
        });
      },
    });
  }
}

/** A process that says `now` is not the one that said `last`: its counts begin anew. */
function isAnother(last: Said, now: Said): boolean {
  const before = counts(last.stats);
  return now.pid !== last.pid || counts(now.stats).some((count, i) => count < before[i]);
}

/** What only grows while a process lives. */
function counts({ steps, promptTokens, generatedTokens, seconds, awakeSeconds }: Stats): number[] {
  let lifeSeconds = 0;
  for (let i = 0; i < seconds.length; i++) lifeSeconds += seconds[i];
  return [steps, promptTokens, generatedTokens, awakeSeconds, lifeSeconds];
}

/** By peer: a worker may have several links to one. */
function linkBytes(links: readonly LinkStats[]): Map<number, { sent: number; received: number }> {
  const bytes = new Map<number, { sent: number; received: number }>();
  for (const { peer, bytesSent, bytesReceived } of links) {
    const sum = bytes.get(peer) ?? { sent: 0, received: 0 };
    bytes.set(peer, { sent: sum.sent + bytesSent, received: sum.received + bytesReceived });
  }
  return bytes;
}
