import { contiguousPlan, type Stats } from '@switchyard/proto';
import { Registry } from 'prom-client';
import { describe, expect, it } from 'vitest';
import type { Membership, Place } from '../src/membership/membership.ts';
import { Metrics } from '../src/metrics/metrics.ts';
import { WorkerMetrics } from '../src/metrics/worker-metrics.ts';

function cluster(workers: number, perNode: number) {
  const names = Array.from({ length: workers }, (_, w) => ({ name: `w${w}`, node: Math.floor(w / perNode) }));
  const plan = contiguousPlan({ type: 'x', moeLayers: [0], experts: workers }, names);
  const places = names.map(
    (place, worker) => ({ ...place, worker, hello: { pid: 1 }, ready: null, stats: null, losses: 0 }) as unknown as Place,
  );
  const registry = new Registry();
  return { places, registry, metrics: new WorkerMetrics(registry, 'm', plan, places) };
}

function said(changes: Partial<Stats>): Stats {
  return {
    ...{ steps: 0, running: 0, waiting: 0, kvBlocksUsed: 0, kvBlocks: 100, lastStepAgeMs: 0, workPending: true, promptTokens: 0 },
    ...{ generatedTokens: 0, prefixQueries: 0, prefixHits: 0, preemptions: 0, links: [], seconds: [], rowsDispatched: 0 },
    ...{ remoteNodesVisited: 0, expertTokens: [], residentBytes: 0, awakeSeconds: 0, draftTokens: 0, draftTokensAccepted: 0 },
    ...changes,
  };
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

describe('bytes between workers', () => {
  it('are counted per pair in a small cluster', async () => {
    const { places, registry, metrics } = cluster(4, 2);
    metrics.onStats(places[0], said({ links: [link(1, 10, 1), link(2, 20, 2)] }));
    const found = await lines(registry, 'dispatch_bytes_total');
    expect(found).toHaveLength(12);
    expect(found).toContain('switchyard_dispatch_bytes_total{model_name="m",src="w0",dst="w2",locality="remote"} 20');
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
    const said = async () => (await metrics.text()).match(/^\S+:cache_config_info.*$/gm);
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
    const names = (await metrics.text()).match(/model_name="(?:[^"\\]|\\.)*"/g) ?? [];
    expect(new Set(names)).toEqual(new Set(['model_name="a \\"quoted\\"\\\\name\twith\\nlines"']));
  });
});
