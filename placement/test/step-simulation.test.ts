import { limits } from '@switchyard/proto';
import { describe, expect, it } from 'vitest';
import { type Cluster, evenCluster } from '../src/cluster/cluster.ts';
import type { HostModel, PlannedStep } from '../src/cost/host-model.ts';
import { decodeSteps, promptSteps } from '../src/cost/planned-steps.ts';
import { type StepWorkload, simulateSteps } from '../src/cost/step-simulation.ts';
import { scoreFanOut } from '../src/score/fan-out-score.ts';
import type { RoutingTrace } from '../src/trace/routing-trace.ts';
import { thinTokens } from '../src/trace/sample.ts';
import { gptOssSlice } from './slice.ts';

const host: HostModel = {
  step: { fixed: 1e-3, perRow: 1e-4, perToken: 6e-4 },
  segment: { fixed: 2e-3, perRow: 3e-4, perContext: 1e-6 },
  experts: { fixed: 5e-4, perRow: 2e-4, perExpert: 7e-4 },
  frame: { fixed: 1e-4, perByte: 1e-9 },
  wake: 3e-5,
  outside: { perRequest: 4e-3, perStep: 0, perToken: 0 },
};
const free: HostModel = {
  step: { fixed: 0, perRow: 0, perToken: 0 },
  segment: { fixed: 0, perRow: 0, perContext: 0 },
  experts: { fixed: 0, perRow: 0, perExpert: 0 },
  frame: { fixed: 0, perByte: 0 },
  wake: 0,
  outside: { perRequest: 0, perStep: 0, perToken: 0 },
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

/** A step of rows that attend to 100 positions in all and give one token. */
const planned = (rows: number[], change: Partial<PlannedStep> = {}): PlannedStep => ({
  rows,
  contextTokens: 100,
  tokens: 1,
  afterRequests: 0,
  ...change,
});

function workload(trace: RoutingTrace, steps: number[][][], change: Partial<StepWorkload> = {}): StepWorkload {
  return {
    ...{ trace, replicas: halves, cluster: twoNodes, links, host, frames, coreGroups: null, stepsInFlight: 1 },
    steps: steps.map((own) => own.map((rows) => planned(rows))),
    ...change,
  };
}

const segment = (rows: number) => host.segment.fixed + rows * host.segment.perRow + 100 * host.segment.perContext;
const experts = (pairs: number, distinct: number) => host.experts.fixed + pairs * host.experts.perRow + distinct * host.experts.perExpert;
const frame = (bytes: number) => host.frame.fixed + bytes * host.frame.perByte;
/** Beginning and end: with the logits of one token. */
const step = (rows: number) => host.step.fixed + rows * host.step.perRow + host.step.perToken;

describe('simulated steps', () => {
  it('are the sum of their parts when nothing leaves', () => {
    const trace = traceOf([
      [0, 1, 1, 0],
      [0, 1, 0, 1],
    ]);
    const one = step(2) + 2 * segment(2) + 2 * experts(4, 2);
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
    expect(secondsPerStep).toBeCloseTo(one + host.wake / 3, 12);
    expect([remoteNodes, bytesPerRow]).toEqual([0, 0]);
  });

  it('wait for one round trip where a row leaves, own experts meanwhile', () => {
    // Layer 0: one expert here, one there. Layer 1: both here.
    const trace = traceOf([[0, 2, 0, 1]]);
    const out = 64 + 2048 + 8;
    const back = 64 + 4096;
    const wire = (out + back) / links.interNode.bandwidth + 2 * links.interNode.latency;
    // The far worker slept before, and so does this one: the answer comes later than it waits awake.
    const away = wire + host.wake + frame(out) + experts(1, 1) + frame(back) + host.wake + frame(back);
    expect(wire + frame(out) + experts(1, 1)).toBeGreaterThan(limits.lingerMs / 1000);
    expect(away).toBeGreaterThan(experts(1, 1));
    const expected = host.wake + step(1) + segment(1) + frame(out) + away + segment(1) + experts(2, 2);
    const { secondsPerStep, remoteNodes, bytesPerRow, wakes } = simulateSteps(workload(trace, [[[0]], []]));
    expect(wakes).toEqual([2, 1]);
    expect(secondsPerStep).toBeCloseTo(expected, 12);
    expect(remoteNodes).toBe(0.5);
    expect(bytesPerRow).toBe(out + back);
  });

  it('wait awake for an answer that comes soon after the frame', () => {
    const trace = traceOf([[0, 2, 0, 1]]);
    const quick: HostModel = { ...host, experts: { fixed: 0, perRow: 1e-5, perExpert: 0 } };
    const out = 64 + 2048 + 8;
    const back = 64 + 4096;
    const near = { ...links, interNode: { bandwidth: 1e9, latency: 1e-4 } };
    const wire = (out + back) / 1e9 + 2e-4;
    const away = wire + host.wake + frame(out) + 1e-5 + frame(back) + frame(back);
    expect(away).toBeLessThan(limits.lingerMs / 1000);
    const { secondsPerStep, wakes, roundTripSeconds } = simulateSteps(workload(trace, [[[0]], []], { host: quick, links: near }));
    expect(wakes).toEqual([1, 1]);
    expect(secondsPerStep).toBeCloseTo(host.wake + step(1) + 2 * segment(1) + frame(out) + away + 2e-5, 12);
    expect(roundTripSeconds).toBeCloseTo(away - frame(back), 12);
  });

  it('share cores that are said to be shared', () => {
    const trace = traceOf([
      [0, 1, 0, 1],
      [2, 3, 2, 3],
    ]);
    const steps = [[[0]], [[1]]];
    const alone = host.wake + step(1) + 2 * segment(1) + 2 * experts(2, 2);
    const on = (cores: number, crowdedSpeed = { beside: 1, sharing: 1 }) =>
      simulateSteps(workload(trace, steps, { coreGroups: [{ cores, crowdedSpeed, workers: [0, 1], outside: false, carrier: null }] }));
    expect(on(2).secondsPerStep).toBeCloseTo(alone, 12);
    expect(on(1).secondsPerStep).toBeCloseTo(2 * alone, 12);
    expect(on(1.5).secondsPerStep).toBeCloseTo(alone / 0.75, 12);
    expect(on(2, { beside: 0.8, sharing: 0.1 }).secondsPerStep).toBeCloseTo(alone / 0.8, 12);
    expect(on(1, { beside: 0.1, sharing: 0.8 }).secondsPerStep).toBeCloseTo((2 * alone) / 0.8, 12);
    // What a system counts is the time on a core, however slow the core is.
    expect(on(2, { beside: 0.8, sharing: 0.1 }).busySeconds[0]).toBeCloseTo(alone / 0.8, 12);
    expect(on(1).busySeconds[0]).toBeCloseTo(alone, 12);
  });

  it('queue on a link that several use, and not on one that is used the other way', () => {
    const three = evenCluster(3, 1, 12);
    const away = [0, 1].map(() => [[2], [2], [2], [2]]);
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

  it('send each other worker of the own node a frame of its own, and get an answer of each', () => {
    const apart = [0, 1].map(() => [[0], [0], [1], [2]]);
    const trace = traceOf([[2, 3, 0, 1]]);
    const ends = { ...free, frame: { fixed: 1, perByte: 0 } };
    const { busySeconds } = simulateSteps(
      workload(trace, [[[0]], [], []], { cluster: evenCluster(1, 3, 12), replicas: apart, host: ends }),
    );
    [4, 2, 2].forEach((seconds, worker) => {
      expect(busySeconds[worker]).toBeCloseTo(seconds, 9);
    });
  });

  it('reach a node by the worker that has most of the pairs, which sends on what its neighbours compute and adds their sums', () => {
    const apart = [0, 1].map(() => [[0], [0], [2], [3]]);
    // Layer 0: two pairs for worker 3, and one for its neighbour, which is of one row.
    const trace = traceOf([
      [2, 3, 0, 1],
      [3, 0, 0, 1],
    ]);
    const { busySeconds } = simulateSteps(
      workload(trace, [[[0, 1]], [], [], []], {
        cluster: evenCluster(2, 2, 16),
        replicas: apart,
        host: { ...free, frame: { fixed: 0, perByte: 1 } },
        frames: { headerBytes: 1, dispatchRowBytes: 10, pairBytes: 100, combineRowBytes: 1000 },
      }),
    );
    const [whole, sums] = [1 + 2 * 10 + 3 * 100, 1 + 2 * 1000];
    const [part, partSums] = [1 + 10 + 100, 1 + 1000];
    const expected = [whole + sums, 0, part + partSums, whole + part + partSums + sums];
    expected.forEach((seconds, worker) => {
      expect(busySeconds[worker]).toBeCloseTo(seconds, 6);
    });
  });

  it('wait for the program that carries frames, which goes before the workers', () => {
    const trace = traceOf([[0, 2, 0, 1]]);
    const carried = (cost: number) =>
      simulateSteps(
        workload(trace, [[[0]], []], {
          host: free,
          coreGroups: [
            { cores: 2, crowdedSpeed: { beside: 1, sharing: 1 }, workers: [0, 1], outside: false, carrier: { fixed: cost, perByte: 0 } },
          ],
        }),
      ).seconds;
    expect(carried(1e-3) - carried(0)).toBeCloseTo(2e-3, 12);
  });

  it('begin when their requests have come in, one after the other', () => {
    const trace = traceOf([[0, 1, 0, 1]]);
    const own = step(1) + 2 * segment(1) + 2 * experts(2, 2) + host.wake;
    const steps = [[planned([0], { afterRequests: 1 })], [planned([0], { afterRequests: 3 })]];
    const everywhere = halves.map((layer) => layer.map(() => [0, 1]));
    expect(simulateSteps(workload(trace, [], { steps, replicas: everywhere })).seconds).toBeCloseTo(3 * host.outside.perRequest + own, 12);
    const told = { ...host, outside: { perRequest: 0, perStep: 1e-3, perToken: 2e-3 } };
    const one = [[planned([0])], []];
    expect(simulateSteps(workload(trace, [], { steps: one, replicas: everywhere, host: told })).seconds).toBeCloseTo(own + 3e-3, 12);
  });

  it('never take longer with faster links, hosts and fewer rows away', async () => {
    const trace = thinTokens(await gptOssSlice(), 600);
    const cluster = evenCluster(4, 1, 24 * 32);
    const contiguous = trace.moeLayers.map(() => Array.from({ length: 32 }, (_, e) => [Math.floor(e / 8)]));
    const everywhere = trace.moeLayers.map(() => Array.from({ length: 32 }, () => [0, 1, 2, 3]));
    const homes = Int32Array.from(trace.sequences, (_, s) => s % 4);
    const steps = promptSteps(trace, homes, cluster, 256, 1);
    const run = (change: Partial<StepWorkload>) =>
      simulateSteps({ ...workload(trace, []), cluster, steps, replicas: contiguous, ...change }).seconds;
    const base = run({});
    expect(run({ links: { ...links, interNode: { bandwidth: 60e6, latency: 250e-6 } } })).toBeLessThan(base);
    expect(run({ links: { ...links, interNode: { bandwidth: 30e6, latency: 2e-3 } } })).toBeGreaterThan(base);
    expect(run({ host: { ...host, frame: { fixed: 1e-4, perByte: 9e-9 } } })).toBeGreaterThan(base);
    expect(run({ replicas: everywhere })).toBeLessThan(base);
    // With links that take no time and hosts that do, equal homes with nothing away are as one.
    const alone = run({ replicas: everywhere, steps: [steps[0], [], [], []] });
    expect(run({ replicas: everywhere, steps: steps.map(() => steps[0]) })).toBeCloseTo(alone, 9);
  });

  it('hide rows that are away behind the next step, which keeps behind', () => {
    const trace = traceOf(Array.from({ length: 8 }, () => [0, 2, 1, 3]));
    const rows = Array.from({ length: 8 }, (_, i) => i);
    const slow = { ...links, interNode: { bandwidth: 30e6, latency: 5e-3 } };
    const run = (stepsInFlight: number, steps: number[][]) =>
      simulateSteps(workload(trace, [steps, []], { stepsInFlight, links: slow })).seconds;
    const one = run(1, [rows]);
    expect(run(1, [rows, rows])).toBeCloseTo(2 * one - host.wake, 12);
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

describe('planned steps', () => {
  it('are of sequences at their homes, the same for the same seed', async () => {
    const trace = thinTokens(await gptOssSlice(), 1000);
    const cluster = evenCluster(4, 1, 24 * 32);
    const homes = Int32Array.from(trace.sequences, (_, s) => s % 3);
    const decode = decodeSteps(trace, homes, cluster, 10, 3, 7);
    // A home without sequences runs no step; the others share the streams.
    expect(decode.map((own) => own.map(({ rows }) => rows.length))).toEqual([[4, 4, 4], [3, 3, 3], [3, 3, 3], []]);
    decode.forEach((own, home) => {
      for (const { rows, tokens } of own) {
        expect(tokens).toBe(rows.length);
        for (const token of rows) expect(homes[trace.sequenceOf[token]]).toBe(home);
      }
    });
    expect(decodeSteps(trace, homes, cluster, 10, 3, 7)).toEqual(decode);
    expect(decodeSteps(trace, homes, cluster, 10, 3, 8)).not.toEqual(decode);
    const prompts = promptSteps(trace, homes, cluster, 2048, 7);
    expect(prompts.map((own) => own.map(({ rows }) => rows.length))).toEqual([[256, 256, 170], [256, 256, 171], [256, 256, 171], []]);
    // The first prompt's rows attend to 1, 2, 3, … positions.
    const [first] = prompts[0];
    const length = trace.sequences[trace.sequenceOf[first.rows[0]]].tokens;
    expect(first.rows.slice(0, length)).toEqual(Array.from({ length }, (_, i) => first.rows[0] + i));
    const [short] = promptSteps(trace, homes, cluster, 30, 7)[0];
    expect(short.contextTokens).toBe(55);
  });
});

it('ends where steps take longer than doubles count instants', () => {
  const trace = traceOf([
    [0, 1, 2, 3],
    [1, 3, 0, 2],
    [2, 3, 1, 0],
  ]);
  const cluster = evenCluster(1, 3, 8);
  const replicas = [0, 1].map(() => [[0], [1], [2], [0]]);
  // Workers on the same cores finish one another's parts late or early by a digit of the time, which is days.
  const slow: HostModel = {
    ...host,
    experts: { fixed: 1e7 / 3, perRow: 1e6 / 7, perExpert: 1e6 / 11 },
    step: { ...host.step, fixed: 1e6 / 3 },
  };
  const steps = cluster.workers.map(() =>
    Array.from({ length: 6 }, () => ({ rows: [0, 1, 2], contextTokens: 6, tokens: 3, afterRequests: 0 })),
  );
  const coreGroups = [{ cores: 2, crowdedSpeed: { beside: 0.9, sharing: 0.7 }, workers: [0, 1, 2], outside: true, carrier: null }];
  const { seconds } = simulateSteps({ trace, replicas, cluster, links, host: slow, frames, coreGroups, steps, stepsInFlight: 2 });
  expect(seconds).toBeGreaterThan(1e7);
});
