import { clusterOf, openTrace, type Placement, place, thinTokens } from '@switchyard/placement';
import { parseTopology } from '@switchyard/proto';
import { expect, it } from 'vitest';
import { near } from '../src/place/from-current.ts';
import type { PlaceFlags } from '../src/place/place-action.ts';

it('holds the limit of peaks within a budget of bytes as well as the plan that it leads to', async () => {
  const file = new URL('../../placement/test/fixtures/gpt-oss-20b-slice.trace.gz', import.meta.url).pathname;
  const input = await openTrace(file);
  if (input.kind !== 'routing') throw new Error('the fixture is a routing trace');
  const trace = thinTokens(input.trace, 1200);
  const nodes = [0, 1, 2, 3].map((n) => ({ name: `n${n}`, workers: [{ name: `w${n}`, expertMemoryBytes: 960_000, relativeSpeed: 1 }] }));
  const topology = parseTopology({
    ...{ format: 'switchyard-topology', version: 1, nodes, expertBytes: 1000, dispatchRowBytes: 5760, combineRowBytes: 5760 },
    ...{ intraNode: { bandwidth: 5e10, latency: 5e-6 }, interNode: { bandwidth: 1.25e9, latency: 3e-5 }, links: null },
  });
  expect(clusterOf(topology).nodes).toBe(4);
  const options = { starts: 1, replicas: 0.1, programColumns: 0, sampleTokens: 2000 };
  const now = await place(trace, topology, { ...options, peakMeanMax: 1.6 });
  const target = await place(trace, topology, { ...options, peakMeanMax: 1.03, warmStart: now.plan });
  const stop = new AbortController();
  const within = (budgetBytes: number) => {
    const flags = { current: 'now.json', model: 'fan-out', peak: 1.03, homeTolerance: 0.05, budgetBytes } as PlaceFlags;
    return near(target, now.plan, trace, topology, flags, { signal: stop.signal, stop: () => false });
  };
  const peak = ({ score }: Placement) => score.nodePeakMean;
  expect(peak(now)).toBeGreaterThan(1.5);
  expect(peak(await within(1e12))).toBeLessThan(peak(target) + 0.01);
  // A part of the way goes towards the limit first.
  expect(peak(await within(100_000))).toBeLessThan(1.2);
  stop.abort();
  expect(await within(1e12)).toMatchObject({ stopped: true });
});
