import { contiguousPlan, idleStats, type Stats } from '@switchyard/proto';
import { Registry } from 'prom-client';
import { describe, expect, it } from 'vitest';
import type { Membership, Place } from '../src/membership/membership.ts';
import { Metrics } from '../src/metrics/metrics.ts';
import { activities, WorkerMetrics } from '../src/metrics/worker-metrics.ts';

function cluster(workers: number, perNode: number, moeLayers = [0], experts = workers) {
  const names = Array.from({ length: workers }, (_, w) => ({ name: `w${w}`, node: Math.floor(w / perNode) }));
  const plan = contiguousPlan({ type: 'x', moeLayers, experts }, names);
  const places = names.map(
    (place, worker) => ({ ...place, worker, hello: { pid: 1 }, ready: null, stats: null, losses: 0 }) as unknown as Place,
  );
  const registry = new Registry();
  return { places, registry, metrics: new WorkerMetrics(registry, 'm', plan, places) };
}

function said(changes: Partial<Stats>): Stats {
  return { ...idleStats, kvBlocks: 100, workPending: true, seconds: [], ...changes };
}

const lines = async (registry: Registry, suffix: string) =>
  (await registry.getSingleMetricAsString(`switchyard_${suffix}`)).split('\n').filter((line) => line.startsWith('switchyard_'));

const link = (peer: number, bytesSent: number, bytesReceived: number) =>
  ({ peer, bytesSent, bytesReceived }) as unknown as Stats['links'][number];

describe('counters of workers', () => {
  it('go on when the same process attaches again, and begin anew with another', async () => {
    const { places, registry, metrics } = cluster(1, 1);
    const steps = async () => Number((await lines(registry, 'steps_total'))[0].split(' ').at(-1));
    metrics.onStats(places[0], said({ steps: 100, seconds: [5] }));
    places[0].hello = null; // Detached,
    places[0].hello = { pid: 1 } as Place['hello']; // and back.
    metrics.onStats(places[0], said({ steps: 110, seconds: [6] }));
    expect(await steps()).toBe(110);
    // A container's process has the same number whenever it is started.
    metrics.onStats(places[0], said({ steps: 7, seconds: [1] }));
    expect(await steps()).toBe(117);
    // This one has made more steps than the one before it ever told of, in less time.
    metrics.onStats(places[0], said({ steps: 20, seconds: [0.5] }));
    expect(await steps()).toBe(137);
    places[0].hello = { pid: 2 } as Place['hello'];
    metrics.onStats(places[0], said({ steps: 30, seconds: [2] }));
    expect(await steps()).toBe(167);
  });
});

describe('figures of workers', () => {
  const of = async (registry: Registry, suffix: string, labels = '') => {
    const found = await lines(registry, suffix);
    return found.filter((line) => line.includes(labels)).map((line) => Number(line.split(' ').at(-1)));
  };

  it.each([
    ['promptTokens', 'prompt_tokens_total'],
    ['generatedTokens', 'generation_tokens_total'],
    ['preemptions', 'num_preemptions_total'],
    ['prefixQueries', 'prefix_cache_queries_total'],
    ['prefixHits', 'prefix_cache_hits_total'],
    ['draftTokens', 'spec_decode_num_draft_tokens_total'],
    ['draftTokensAccepted', 'spec_decode_num_accepted_tokens_total'],
    ['rowsDispatched', 'rows_dispatched_total'],
    ['remoteNodesVisited', 'remote_nodes_visited_total'],
    ['steps', 'steps_total'],
    ['awakeSeconds', 'worker_awake_seconds_total'],
  ] as const)('add up what %s grows by, of each worker', async (field, suffix) => {
    const { places, registry, metrics } = cluster(2, 1);
    expect(await of(registry, suffix)).toEqual([0, 0]);
    for (const value of [5, 5, 12]) metrics.onStats(places[1], said({ [field]: value }));
    metrics.onStats(places[0], said({ [field]: 2 }));
    expect(await of(registry, suffix)).toEqual([2, 12]);
  });

  it('tell what time was spent on, by activity', async () => {
    const { places, registry, metrics } = cluster(1, 1);
    for (const seconds of [
      [1, 2, 3, 4, 5, 6, 7],
      [1, 3, 5, 7, 9, 11, 13],
    ])
      metrics.onStats(places[0], said({ seconds }));
    expect(await of(registry, 'worker_seconds_total')).toEqual([1, 3, 5, 7, 9, 11, 13]);
    const named = await Promise.all(activities.map((activity) => of(registry, 'worker_seconds_total', `activity="${activity}"`)));
    expect(named.flat()).toEqual([1, 3, 5, 7, 9, 11, 13]);
  });

  it('tell which experts computed how many rows, by the number of their layer, and how unevenly', async () => {
    const { places, registry, metrics } = cluster(2, 1, [1, 3], 2);
    expect([metrics.imbalance(0), metrics.imbalance(1)]).toEqual([0, 0]);
    metrics.onStats(places[0], said({ expertTokens: [30, 0, 1, 1] }));
    expect([metrics.imbalance(0), metrics.imbalance(1)]).toEqual([2, 2]);
    metrics.onStats(places[1], said({ expertTokens: [0, 10, 0, 2] }));
    expect([metrics.imbalance(0), metrics.imbalance(1)]).toEqual([1.5, 1]);
    metrics.onStats(places[0], said({ expertTokens: [31, 0, 1, 1] }));
    // Of another model: it says nothing of this one's.
    metrics.onStats(places[1], said({ expertTokens: [0, 20, 0] }));
    const rows = (layer: number, expert: number) => of(registry, 'expert_tokens_total', `layer="${layer}",expert="${expert}"`);
    expect([await rows(1, 0), await rows(1, 1), await rows(3, 0), await rows(3, 1)].flat()).toEqual([31, 10, 1, 3]);
    expect(await of(registry, 'rank_imbalance_ratio', 'layer="3"')).toEqual([1]);
  });

  it('are read from what each said last', async () => {
    const { places, registry } = cluster(2, 1);
    const read = async (suffix: string) => await of(registry, suffix);
    expect(await read('kv_cache_usage_perc')).toEqual([0, 0]);
    expect(await read('step_last_timestamp_seconds')).toEqual([0, 0]);
    places[0].stats = said({ running: 3, waiting: 4, waitingForPrefix: 2, kvBlocks: 0 });
    places[1].stats = said({ kvBlocksUsed: 25, residentBytes: 7, lastStepAgeMs: 60_000 });
    places[1].statsAtMs = performance.now() - 40_000;
    places[0].ready = { residentBytes: 5 } as Place['ready'];
    places[1].state = 'serving';
    places[1].losses = 2;
    expect(await read('num_requests_running')).toEqual([3, 0]);
    expect(await read('num_requests_waiting')).toEqual([6, 0]);
    expect(await read('kv_cache_usage_perc')).toEqual([0, 0.25]);
    expect(await read('worker_up')).toEqual([0, 1]);
    expect(await read('worker_resident_bytes')).toEqual([0, 7]);
    expect(await read('worker_losses_total')).toEqual([0, 2]);
    // Forty seconds ago it was sixty.
    expect(Date.now() / 1000 - (await read('step_last_timestamp_seconds'))[1]).toBeGreaterThan(99);
  });
});

describe('bytes between workers', () => {
  it('are counted per pair in a small cluster', async () => {
    const { places, registry, metrics } = cluster(4, 2);
    metrics.onStats(places[0], said({ links: [link(1, 10, 1), link(2, 20, 2)] }));
    const found = await lines(registry, 'dispatch_bytes_total');
    expect(found).toHaveLength(12);
    expect(found).toContain('switchyard_dispatch_bytes_total{model_name="m",src="w0",dst="w2",locality="remote"} 20');
    expect(found).toContain('switchyard_dispatch_bytes_total{model_name="m",src="w1",dst="w0",locality="node"} 1');
  });

  it('are those of all links to a peer, and none of links to nobody', async () => {
    const { places, registry, metrics } = cluster(2, 1);
    metrics.onStats(places[0], said({ links: [link(1, 10, 1), link(1, 20, 2), link(0, 5, 5), link(2, 5, 5)] }));
    metrics.onStats(places[0], said({ links: [link(1, 11, 1), link(1, 20, 3), link(0, 9, 9)] }));
    const bytes = (await lines(registry, 'dispatch_bytes_total')).map((line) => Number(line.split(' ').at(-1)));
    expect(bytes).toEqual([31, 4]);
  });

  it('are counted per worker and locality in a large one', async () => {
    const { places, registry, metrics } = cluster(66, 2);
    metrics.onStats(places[0], said({ links: [link(1, 10, 1), link(2, 20, 2), link(3, 30, 3)] }));
    const found = await lines(registry, 'dispatch_bytes_total');
    expect(found).toHaveLength(132);
    expect(found).toContain('switchyard_dispatch_bytes_total{model_name="m",src="w0",locality="remote"} 50');
    expect(found).toContain('switchyard_dispatch_bytes_total{model_name="m",src="w3",locality="remote"} 3');
    expect(found).toContain('switchyard_dispatch_bytes_total{model_name="m",src="w1",locality="node"} 1');
  });
});

describe('the cache', () => {
  it('is described by labels, as vLLM has it', async () => {
    const { places } = cluster(2, 1);
    const plan = contiguousPlan({ type: 'x', moeLayers: [0], experts: 2 }, places);
    const metrics = new Metrics({ model: 'm', version: '0', plan, planChecksum: '0', numericClass: () => 'bf16' }, 'vllm');
    metrics.watch({ places, epoch: 1, uncovered: 0 } as unknown as Membership, { running: 0, waiting: 0 });
    const said = async () => (await metrics.text(true)).match(/^\S+:cache_config_info.*$/gm);
    expect(await said()).toEqual(['vllm:cache_config_info{model_name="m",block_size="16",num_gpu_blocks="0"} 1']);
    places.forEach((place, w) => {
      place.ready = { kvBlocks: 100 + w } as Place['ready'];
    });
    expect(await said()).toEqual(['vllm:cache_config_info{model_name="m",block_size="16",num_gpu_blocks="201"} 1']);
  });
});

describe("a model's name", () => {
  it('is written in one way in all series, whatever is in it', async () => {
    const model = 'a "quoted"\\name\twith\nlines';
    const { places } = cluster(1, 1);
    const plan = contiguousPlan({ type: 'x', moeLayers: [0], experts: 1 }, [{ name: 'w0', node: 0 }]);
    const metrics = new Metrics({ model, version: '0', plan, planChecksum: '0', numericClass: () => 'bf16' }, 'vllm');
    metrics.watch({ places, epoch: 1, uncovered: 0 } as unknown as Membership, { running: 0, waiting: 7 });
    const names = (await metrics.text(true)).match(/model_name="(?:[^"\\]|\\.)*"/g) ?? [];
    expect(new Set(names)).toEqual(new Set(['model_name="a \\"quoted\\"\\\\name\twith\\nlines"']));
  });
});
