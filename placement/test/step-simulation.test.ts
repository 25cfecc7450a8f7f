import { describe, expect, it } from 'vitest';
import { type Cluster, evenCluster } from '../src/cluster/cluster.ts';
import type { HostModel } from '../src/cost/host-model.ts';
import { type StepWorkload, simulateSteps } from '../src/cost/step-simulation.ts';
import { scoreFanOut } from '../src/score/fan-out-score.ts';
import type { RoutingTrace } from '../src/trace/routing-trace.ts';
import { thinTokens } from '../src/trace/sample.ts';
import { gptOssSlice } from './slice.ts';

const host: HostModel = {
  step: { fixed: 1e-3, perRow: 1e-4 },
  segment: { fixed: 2e-3, perRow: 3e-4 },
  experts: { fixed: 5e-4, perRow: 2e-4, perExpert: 7e-4 },
  frame: { fixed: 1e-4, perByte: 1e-9 },
  outsidePerToken: 0,
};
const frames = { headerBytes: 64, dispatchRowBytes: 2048, pairBytes: 8, combineRowBytes: 4096 };
const links = { interNode: { bandwidth: 30e6, latency: 250e-6 }, intraNode: { bandwidth: 5e9, latency: 1e-5 }, links: null };

/** Tokens of two layers and top-2 of four experts; one sequence. */
function traceOf(ids: number[][]): RoutingTrace {
  return {
    model: 'toy',
    moeLayers: [0, 1],
    experts: 4,
    topK: 2,
    tokens: ids.length,
    ids: Uint16Array.from(ids.flat()),
    sequenceOf: new Uint32Array(ids.length),
    generated: new Uint8Array(ids.length),
    sequences: [{ sequence: 0, domain: null, tokens: ids.length }],
  };
}

/** Experts 0 and 1 on worker 0, 2 and 3 on worker 1. */
const halves = [0, 1].map(() => [[0], [0], [1], [1]]);
const twoNodes = evenCluster(2, 1, 8);

function workload(trace: RoutingTrace, steps: number[][][], change: Partial<StepWorkload> = {}): StepWorkload {
  return { trace, replicas: halves, cluster: twoNodes, links, host, frames, coreGroups: null, steps, stepsInFlight: 1, ...change };
}

const segment = (rows: number) => host.segment.fixed + rows * host.segment.perRow;
const experts = (pairs: number, distinct: number) => host.experts.fixed + pairs * host.experts.perRow + distinct * host.experts.perExpert;
const frame = (bytes: number) => host.frame.fixed + bytes * host.frame.perByte;
const step = (rows: number) => host.step.fixed + rows * host.step.perRow;

describe('simulated steps', () => {
  it('are the sum of their parts when nothing leaves', () => {
    const trace = traceOf([
      [0, 1, 1, 0],
      [0, 1, 0, 1],
    ]);
    const one = step(2) + 3 * segment(2) + 2 * experts(4, 2);
    const { secondsPerStep, remoteNodes, bytesPerRow } = simulateSteps(
      workload(trace, [
        [
          [0, 1],
          [0, 1],
          [1, 0],
        ],
        [],
      ]),
    );
    expect(secondsPerStep).toBeCloseTo(one, 12);
    expect([remoteNodes, bytesPerRow]).toEqual([0, 0]);
  });

  it('wait for one round trip where a row leaves, own experts meanwhile', () => {
    // Layer 0: one expert here, one there. Layer 1: both here.
    const trace = traceOf([[0, 2, 0, 1]]);
    const out = 64 + 2048 + 8;
    const back = 64 + 4096;
    const away = (out + back) / links.interNode.bandwidth + 2 * links.interNode.latency + frame(out) + experts(1, 1) + 2 * frame(back);
    const expected = step(1) + segment(1) + frame(out) + Math.max(away, experts(1, 1)) + segment(1) + experts(2, 2) + segment(1);
    const { secondsPerStep, remoteNodes, bytesPerRow } = simulateSteps(workload(trace, [[[0]], []]));
    expect(secondsPerStep).toBeCloseTo(expected, 12);
    expect(remoteNodes).toBe(0.5);
    expect(bytesPerRow).toBe(out + back);
  });

  it('share cores that are said to be shared', () => {
    const trace = traceOf([
      [0, 1, 0, 1],
      [2, 3, 2, 3],
    ]);
    const steps = [[[0]], [[1]]];
    const alone = step(1) + 3 * segment(1) + 2 * experts(2, 2);
    const on = (cores: number) => simulateSteps(workload(trace, steps, { coreGroups: [{ cores, workers: [0, 1], outside: false }] }));
    expect(on(2).secondsPerStep).toBeCloseTo(alone, 12);
    expect(on(1).secondsPerStep).toBeCloseTo(2 * alone, 12);
    expect(on(1.5).secondsPerStep).toBeCloseTo(alone / 0.75, 12);
  });

  it('queue on a link that several use, and not on one that is used the other way', () => {
    const three = evenCluster(3, 1, 12);
    const away = [0, 1].map(() => [[2], [2], [2], [2]]);
    const free: HostModel = {
      step: { fixed: 0, perRow: 0 },
      segment: { fixed: 0, perRow: 0 },
      experts: { fixed: 0, perRow: 0, perExpert: 0 },
      frame: { fixed: 0, perByte: 0 },
      outsidePerToken: 0,
    };
    const trace = traceOf([[0, 1, 0, 1]]);
    const run = (steps: number[][][], cluster: Cluster) =>
      simulateSteps(workload(trace, steps, { cluster, replicas: away, host: free })).seconds;
    const out = (64 + 2048 + 2 * 8) / links.interNode.bandwidth;
    const back = (64 + 4096) / links.interNode.bandwidth;
    const alone = 2 * (out + back + 2 * links.interNode.latency);
    expect(run([[[0]], [], []], three)).toBeCloseTo(alone, 12);
    // Both begin at once, so the second one's first frame waits for the first one's; answers are longer, so each waits for the other's.
    expect(run([[[0]], [[0]], []], three)).toBeGreaterThan(alone + out);
    expect(run([[[0]], [[0]], []], three)).toBeLessThan(alone + 2 * (out + back));
  });

  it('hide rows that are away behind the next step, which keeps behind', () => {
    const trace = traceOf(Array.from({ length: 8 }, () => [0, 2, 1, 3]));
    const rows = Array.from({ length: 8 }, (_, i) => i);
    const slow = { ...links, interNode: { bandwidth: 30e6, latency: 5e-3 } };
    const run = (stepsInFlight: number, steps: number[][]) =>
      simulateSteps(workload(trace, [steps, []], { stepsInFlight, links: slow })).seconds;
    const one = run(1, [rows]);
    expect(run(1, [rows, rows])).toBeCloseTo(2 * one, 12);
    expect(run(2, [rows, rows])).toBeLessThan(1.6 * one);
    expect(run(2, [rows, rows])).toBeGreaterThan(one);
    expect(run(2, [rows])).toBe(one);
  });

  it('visit the nodes that the score counts', async () => {
    const trace = thinTokens(await gptOssSlice(), 1000);
    const cluster = evenCluster(4, 1, 24 * 32);
    const replicas = trace.moeLayers.map(() => Array.from({ length: 32 }, (_, e) => (e % 5 === 0 ? [0, 1, 2, 3] : [Math.floor(e / 8)])));
    const homes = Int32Array.from(trace.sequences, (_, s) => s % 4);
    const steps = [0, 1, 2, 3].map((home) => {
      const rows: number[] = [];
      for (let t = 0; t < trace.tokens; t++) if (homes[trace.sequenceOf[t]] === home) rows.push(t);
      return [rows];
    });
    const simulated = simulateSteps({ ...workload(trace, steps), cluster, replicas });
    expect(simulated.remoteNodes).toBeCloseTo(scoreFanOut(trace, replicas, cluster, homes).remoteNodes, 12);
    expect(simulateSteps({ ...workload(trace, steps), cluster, replicas })).toEqual(simulated);
  });
});
