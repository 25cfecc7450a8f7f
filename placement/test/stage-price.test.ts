import { chooseReplicas } from '@switchyard/proto';
import { expect, it, vi } from 'vitest';
import { evenCluster, NO_EXPERT, seededRandom } from '../src/index.ts';
import { layerCosts, visitsOnly } from '../src/replan/stage-price.ts';
import { toyTrace } from './slice.ts';

vi.mock('@switchyard/proto', async (original) => {
  const proto = await original<typeof import('@switchyard/proto')>();
  return { ...proto, chooseReplicas: vi.fn(proto.chooseReplicas) };
});

it('routes only tokens again whose experts changed, where nodes are too many for a mask', () => {
  const random = seededRandom(2);
  const trace = toyTrace({ layers: 2, experts: 24, topK: 3, sequences: 40, tokensEach: 5 });
  trace.ids.fill(NO_EXPERT, 30, 36);
  const cluster = evenCluster(40, 1, 80);
  const homes = Int32Array.from(trace.sequences, (_, s) => s % 40);
  const anywhere = () => [...new Set([random.below(40), random.below(40)])].sort((a, b) => a - b);
  const layers = [0, 1].map(() => Array.from({ length: 24 }, anywhere));
  const anew = () => layerCosts(trace, cluster, homes, layers, visitsOnly)[1].cost;
  const cost = layerCosts(trace, cluster, homes, layers, visitsOnly)[1];
  expect(cost.cost).toBe(anew());
  for (let round = 0; round < 20; round++) {
    const changed = [...new Set([random.below(24), random.below(24)])];
    const before = cost.cost;
    layers[1] = layers[1].map((own, e) => (changed.includes(e) ? anywhere() : own));
    const choosing = Array.from({ length: trace.tokens }, (_, t) => trace.ids.subarray((t * 2 + 1) * 3, (t * 2 + 2) * 3));
    vi.mocked(chooseReplicas).mockClear();
    const tried = cost.trial(layers[1], changed);
    expect(vi.mocked(chooseReplicas).mock.calls.length).toBeLessThanOrEqual(
      choosing.filter((ids) => changed.some((e) => ids.includes(e))).length,
    );
    expect(cost.cost).toBe(before);
    cost.set(layers[1], changed);
    expect([tried, cost.cost, cost.remoteNodes]).toEqual(new Array(3).fill(anew()));
  }
});
