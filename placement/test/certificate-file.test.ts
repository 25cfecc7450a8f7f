import { createHash } from 'node:crypto';
import type { Topology } from '@switchyard/proto';
import { beforeAll, describe, expect, it, vi } from 'vitest';
import {
  type Certificate,
  type ChainClaim,
  clusterOf,
  parseCertificate,
  place,
  planDigest,
  prove,
  type RoutingTrace,
  tightenChain,
  traceDigest,
  verifyCertificate,
} from '../src/index.ts';

/** 60 tokens of 6 sequences through 3 layers of 8 experts, top-2. */
const layers = 3;
const trace: RoutingTrace = {
  model: 'toy',
  moeLayers: [0, 1, 2],
  experts: 8,
  topK: 2,
  tokens: 60,
  ids: Uint16Array.from({ length: 60 * layers * 2 }, (_, i) => {
    const [token, layer] = [Math.floor(i / (2 * layers)), Math.floor(i / 2) % layers];
    return (5 * token + 3 * layer + (i % 2)) % 8;
  }),
  sequenceOf: Uint32Array.from({ length: 60 }, (_, t) => Math.floor(t / 10)),
  generated: new Uint8Array(60),
  sequences: Array.from({ length: 6 }, (_, sequence) => ({ sequence, domain: null, tokens: 10 })),
};
const topology: Topology = {
  format: 'switchyard-topology',
  version: 1,
  nodes: Array.from({ length: 4 }, (_, n) => ({
    name: `n${n}`,
    workers: [{ name: `n${n}w0`, expertMemoryBytes: 1000, relativeSpeed: 1 }],
  })),
  expertBytes: 1,
  dispatchRowBytes: 2,
  combineRowBytes: 2,
  intraNode: { bandwidth: 1e9, latency: 0 },
  interNode: { bandwidth: 1e9, latency: 0 },
  links: null,
};

let proven: { plan: Awaited<ReturnType<typeof place>>['plan']; certificate: Certificate };
beforeAll(async () => {
  const { plan, cluster, homes } = await place(trace, topology, { model: 'chain', replicas: 0, seed: 1 });
  proven = { plan, certificate: await prove(plan, cluster, trace, { homes, claims: ['fan-out', 'load', 'chain'] }) };
});

/** What the checker says of the certificate as it comes from a file, after a change. */
function verdictAfter(change: (file: { claims: Record<string, unknown>[] } & Record<string, unknown>) => void) {
  const file = JSON.parse(JSON.stringify(proven.certificate));
  change(file);
  return verifyCertificate(proven.plan, trace, parseCertificate(file));
}

const windowOf = (...duals: [string, number][]) => ({ kind: 'window', from: 0, to: 2, duals });

describe('a certificate', () => {
  it('is of the layers of its plan', () => {
    const plan = { ...proven.plan, model: { ...proven.plan.model, moeLayers: [3, 4, 5] } };
    const { checks } = verifyCertificate(plan, trace, { ...proven.certificate, plan: planDigest(plan) });
    expect(checks.filter(({ ok }) => !ok).map(({ text }) => text)).toEqual(['3 layers and 8 experts, as in the trace']);
  });

  it('names the speeds by which a load is judged', () => {
    const { checks } = verdictAfter(({ claims }) => Object.assign(claims[1], { speeds: [1, 2, 3, 4] }));
    expect(checks.map(({ text }) => text)).toContain('load: a home for every sequence, and a speed for every worker, 1 to 4');
  });

  it('holds however little effort is made', async () => {
    const homes = Int32Array.from(trace.sequences, (_, s) => s % 4);
    const certificate = await prove(proven.plan, clusterOf(topology), trace, { homes, claims: ['fan-out'], rounds: 0 });
    expect(verifyCertificate(proven.plan, trace, certificate).checks.filter(({ ok }) => !ok)).toEqual([]);
  });

  it('holds where the proof is interrupted, which it notices while it runs', async () => {
    const homes = Int32Array.from(trace.sequences, (_, s) => s % 4);
    const interrupt = new AbortController();
    setImmediate(() => interrupt.abort());
    const forYears = { homes, claims: ['fan-out' as const], rounds: 1e9, signal: interrupt.signal };
    const certificate = await prove(proven.plan, clusterOf(topology), trace, forYears);
    expect(verifyCertificate(proven.plan, trace, certificate).checks.filter(({ ok }) => !ok)).toEqual([]);
    expect(await prove(proven.plan, clusterOf(topology), trace, forYears)).toEqual(
      await prove(proven.plan, clusterOf(topology), trace, { ...forYears, rounds: 1 }),
    );
  });

  it('has windows of two layers at least', async () => {
    const [, , claim] = proven.certificate.claims;
    if (claim.kind !== 'chain') throw new Error('expected a chain claim');
    const tightened = tightenChain(claim, trace, { width: 1, rounds: 1, timeLimitMs: 1000 });
    await expect(tightened).rejects.toThrow('width is 1, must be an integer of at least 2');
  });
});

describe('a certificate from a file', () => {
  it('holds as it was written', () => {
    expect(verdictAfter(() => {}).ok).toBe(true);
    // A window proves something too, if less.
    expect(verdictAfter(({ claims }) => Object.assign(claims[2], { bound: 100, proofs: [windowOf(['R 0 0', 1], ['D 1 3', -2])] })).ok).toBe(
      true,
    );
  });

  it.each<[string, Parameters<typeof verdictAfter>[0], string]>([
    ['no claims', (file) => Object.assign(file, { claims: null }), 'certificate: claims is null, must be a list'],
    ['a claim of another kind', ({ claims }) => Object.assign(claims[0], { kind: 'hope' }), 'claims[0].kind is "hope"'],
    ['a bound that is text', ({ claims }) => Object.assign(claims[0], { bound: '1' }), 'claims[0].bound is "1", must be a number'],
    ['no homes', ({ claims }) => Object.assign(claims[0], { homes: undefined }), 'claims[0].homes is absent, must be a list'],
    ['a negative time', ({ claims }) => Object.assign(claims[1], { time: [-1, 1, 1] }), 'claims[1].time[0] is -1'],
    [
      'a window without end',
      ({ claims }) => Object.assign(claims[2], { proofs: [{ kind: 'window', from: 0, to: 1e15, duals: [] }] }),
      'claims[2].proofs[0].to is 1000000000000000, must be an integer in 0..1023',
    ],
  ])('with %s is refused by field', (_, change, message) => {
    expect(() => verdictAfter(change)).toThrow(message);
  });

  it.each<[string, Parameters<typeof verdictAfter>[0], string]>([
    ['a home is missing', ({ claims }) => (claims[0].homes as number[]).pop(), 'a home for every sequence'],
    [
      "a load is better than the plan's",
      ({ claims }) => Object.assign(claims[1], { score: (claims[1].score as number) - 0.001 }),
      'load: peak/mean',
    ],
    ['a home of the load is missing', ({ claims }) => (claims[1].homes as number[]).pop(), 'load: a home for every sequence'],
    [
      // No time is too short for workers that are infinitely fast.
      'speeds add up to no number',
      ({ claims }) =>
        Object.assign(claims[1], { speeds: [1e308, 1e308, 1e308, 1e308], time: [1e-320, 1e-320, 1e-320], score: 1, bound: 1 }),
      'a speed for every worker',
    ],
    [
      'a time is so long that it proves everything',
      ({ claims }) => Object.assign(claims[1], { speeds: [2, 2, 2, 2], time: [1e308, 1e308, 1e308], bound: claims[1].score }),
      'each layer has its proof',
    ],
    ['a layer has no time', ({ claims }) => (claims[1].time as number[]).pop(), 'a time and a number of replicas for every layer'],
    [
      'a proof is of a layer that is not there',
      ({ claims }) => Object.assign((claims[2] as unknown as ChainClaim).proofs[0], { layer: 900 }),
      'every proof is of layers and experts of the trace',
    ],
    [
      // Two parts of four experts: equalities of a class in which this plan, four parts of two, is not.
      'the class has fewer parts than the plan',
      ({ claims }) => Object.assign(claims[2], { parts: 2, partExpertsMax: 4 }),
      'chain: 4 parts, claimed 2',
    ],
    [
      'a row of a window takes a transition outside it',
      ({ claims }) => Object.assign(claims[2], { proofs: [{ kind: 'window', from: 0, to: 2, duals: [['R 5 0', 1]] }] }),
      'duals prove at most Infinity%',
    ],
    [
      // Twice the same row says no more than once with both duals, but it is not what the format has.
      'a row of a window is named twice',
      ({ claims }) => Object.assign(claims[2], { bound: 100, proofs: [windowOf(['R 0 0', 1], ['R 0 0', 1])] }),
      'duals prove at most Infinity%',
    ],
    [
      'a row of a window is named by too many experts',
      ({ claims }) => Object.assign(claims[2], { bound: 100, proofs: [windowOf(['R 0 0 1', 1])] }),
      'duals prove at most Infinity%',
    ],
    [
      'duals are too large to be summed exactly',
      ({ claims }) => {
        const rows = [0, 1].flatMap((l) => Array.from({ length: 8 }, (_, e) => [`R ${l} ${e}`, 2 ** 45] as [string, number]));
        Object.assign(claims[2], {
          bound: 1e15,
          proofs: [windowOf(...rows, ...rows.map(([name, dual]): [string, number] => [name.replace('R', 'C'), dual]))],
        });
      },
      'duals prove at most Infinity%',
    ],
  ])('does not hold where %s', (_, change, line) => {
    const { ok, checks } = verdictAfter(change);
    expect(ok).toBe(false);
    expect(checks.filter((check) => !check.ok).map((check) => check.text)).toEqual(expect.arrayContaining([expect.stringContaining(line)]));
  });
});

it('names a trace by one digest, however many pieces its ids are digested in', () => {
  const tokens = 400_000;
  const ids = Uint16Array.from({ length: tokens * layers * 2 }, (_, i) => i % 8);
  const long: RoutingTrace = { ...trace, tokens, ids, sequenceOf: new Uint32Array(tokens), generated: new Uint8Array(tokens) };
  const whole = createHash('sha256')
    .update(JSON.stringify([long.moeLayers, 8, 2, tokens]))
    .update(ids)
    .update(long.sequenceOf)
    .digest('hex');
  const update = vi.spyOn(Object.getPrototypeOf(createHash('sha256')), 'update');
  expect(traceDigest(long)).toBe(whole);
  const pieces = update.mock.calls.map(([data]) => (data as string | Uint8Array).length);
  update.mockRestore();
  expect(Math.max(...pieces)).toBeLessThan(ids.byteLength / 2);
});
