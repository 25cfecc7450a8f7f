/**
 * The promise, end to end with the real kernels: whatever the plan, its replicas, the number of workers, the batch, the chunks, the transport, the threads or the
 * instruction set, a request gets the tokens and logprobs that it gets alone on one worker, bit for bit.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { native, sharedMemory } from '@switchyard/native';
import {
  grpcTransport,
  MemoryNetwork,
  type Plan,
  type Submit,
  sharedMemoryTransport,
  socketTransport,
  type Transport,
} from '@switchyard/proto';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { laneRows } from '../../worker/src/engine/lanes.ts';
import type { LoadOptions, Model } from '../../worker/src/model/contract.ts';
import { hostedBy } from '../../worker/src/model/hosted-experts.ts';
import { loadModel } from '../../worker/src/model/load.ts';
import { readExpectedCases } from '../../worker/src/verify/expected-cases.ts';
import { type Answer, InProcessCluster, submitOf } from '../../worker/test/in-process-cluster.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const bundled = path.join(root, 'models/shunter-16m');
const golden = (name: string) => path.join(root, 'test/golden', name);

type ClassOptions = LoadOptions['numericClass'];
const bf16: ClassOptions = { activations: 'bf16', experts: 'stored', dense: 'stored', sum: 'exact' };
const f32: ClassOptions = { activations: 'f32', experts: 'stored', dense: 'stored', sum: 'exact' };
const int8: ClassOptions = { activations: 'bf16', experts: 'int8', dense: 'int8', sum: 'exact' };

interface Machine {
  threads: number;
  backend: 'cpu' | 'cpu-ref' | 'cuda-emulated';
  isa: 'auto' | 'avx2';
}

function load(dir: string, numericClass: ClassOptions, hosted: number[][] | null, machine: Machine, kvBlocks: number): Promise<Model> {
  return loadModel({
    dir,
    hosted,
    numericClass,
    device: { ...machine, cpus: null },
    maxBatchRows: 128,
    // A worker whose rows leave runs its steps in lanes; one alone does not.
    laneRows: hosted === null ? null : laneRows({ maxBatchRows: 128, maxSequences: 16, draftMax: 8 }),
    maxSequences: 16,
    maxLogitRows: 64,
    maxContext: 0,
    kvBlocks,
    kvBytes: 0,
    onProgress: () => {},
    signal: null,
  });
}

interface Layout {
  /** [moeLayer][expert] -> workers */
  replicas: number[][][];
  nodes: number[];
  machines: Machine[];
  transport: 'memory' | 'shm' | 'uds' | 'tcp' | 'grpc';
  delayMs: number;
  seed: number;
  maxBatchRows: number;
  maxLogitRows: number;
  kvBlocks: number;
  prefixCache: boolean;
  draftMax: number;
}

let sockets: string;
beforeAll(async () => {
  sockets = await mkdtemp(path.join(tmpdir(), 'switchyard-exact-'));
});
afterAll(() => rm(sockets, { recursive: true }));
let lastSocket = 0;

function transportOf({ transport, seed, delayMs }: Layout): { transport: Transport; addressOf: (worker: number) => string } {
  lastSocket++;
  const cluster = lastSocket;
  switch (transport) {
    case 'memory':
      return { transport: new MemoryNetwork({ seed, delayMs: [0, delayMs] }), addressOf: (w) => `memory://w${w}` };
    case 'shm':
      return { transport: sharedMemoryTransport(sharedMemory), addressOf: (w) => `shm://${sockets}/${cluster}-${w}.shm` };
    case 'uds':
      return { transport: socketTransport('uds'), addressOf: (w) => `uds://${sockets}/${cluster}-${w}.sock` };
    case 'tcp':
      return { transport: socketTransport('tcp'), addressOf: () => 'tcp://127.0.0.1:0' };
    case 'grpc':
      return { transport: grpcTransport(), addressOf: () => 'grpc://127.0.0.1:0' };
  }
}

async function startCluster(dir: string, numericClass: ClassOptions, shape: Model['shape'], layout: Layout): Promise<InProcessCluster> {
  const plan: Plan = {
    format: 'switchyard-plan',
    version: 1,
    model: { type: shape.modelType, moeLayers: shape.moeLayers, experts: shape.experts },
    workers: layout.nodes.map((node, w) => ({ name: `w${w}`, node })),
    replicas: layout.replicas,
    provenance: null,
  };
  const models = await Promise.all(
    layout.machines.map((machine, w) => {
      const hosted = hostedBy(plan, w);
      const all = hosted.every((experts) => experts.length === shape.experts);
      return load(dir, numericClass, all ? null : hosted, machine, layout.kvBlocks);
    }),
  );
  return InProcessCluster.start({
    native,
    models,
    plan,
    ...transportOf(layout),
    maxBatchRows: layout.maxBatchRows,
    maxSequences: 16,
    maxLogitRows: layout.maxLogitRows,
    prefixCache: layout.prefixCache,
    draftMax: layout.draftMax,
    rowDeadlineMs: 30_000,
  });
}

/** AVX2 and the best there is, which may be the same; and scalar code and the GPU's kernels on the CPU, too slow for all but small models. */
const vectors = [
  { backend: 'cpu', isa: 'auto' },
  { backend: 'cpu', isa: 'avx2' },
] as const;
const everything = [...vectors, { backend: 'cpu-ref', isa: 'auto' }, { backend: 'cuda-emulated', isa: 'auto' }] as const;
const usual: Machine = { threads: 1, ...vectors[0] };

function layoutArbitrary(
  { moeLayers, experts }: Model['shape'],
  longestBlocks: number,
  kernels: readonly Omit<Machine, 'threads'>[],
): fc.Arbitrary<Layout> {
  return fc.integer({ min: 1, max: 5 }).chain((workers) =>
    fc.record({
      replicas: fc.array(
        fc.array(
          fc
            .uniqueArray(fc.integer({ min: 0, max: workers - 1 }), { minLength: 1, maxLength: Math.min(workers, 3) })
            .map((holders) => holders.sort((a, b) => a - b)),
          { minLength: experts, maxLength: experts },
        ),
        { minLength: moeLayers.length, maxLength: moeLayers.length },
      ),
      nodes: fc.array(fc.integer({ min: 0, max: 2 }), { minLength: workers, maxLength: workers }),
      machines: fc.array(
        fc.tuple(fc.integer({ min: 1, max: 2 }), fc.constantFrom(...kernels)).map(([threads, kind]) => ({ threads, ...kind })),
        { minLength: workers, maxLength: workers },
      ),
      transport: fc.constantFrom('memory' as const, 'shm' as const, 'uds' as const, 'tcp' as const, 'grpc' as const),
      delayMs: fc.constantFrom(0, 0.5),
      seed: fc.nat(),
      maxBatchRows: fc.integer({ min: 3, max: 128 }),
      maxLogitRows: fc.integer({ min: 1, max: 64 }),
      kvBlocks: fc.integer({ min: longestBlocks, max: longestBlocks * 4 }),
      prefixCache: fc.boolean(),
      draftMax: fc.constantFrom(0, 2, 8),
    }),
  );
}

/** Requests of every kind: greedy and sampled, long and short, with shared beginnings, with logprobs of prompt and output. */
function requestsFor(vocab: number, longest: number): Submit[] {
  const text = (length: number, from: number) => Array.from({ length }, (_, i) => (from + i * i * 31 + i * 7) % vocab);
  const plain = submitOf([]).sampling;
  const wanted = { wantLogprob: true, logprobs: 3 };
  return [
    submitOf(text(1, 5), { ...wanted, maxTokens: 12 }),
    submitOf(text(longest, 11), { ...wanted, maxTokens: 6 }),
    submitOf([...text(longest - 3, 11), 1, 2, 3], { ...wanted, maxTokens: 6 }),
    submitOf(text(20, 3), { ...wanted, maxTokens: 10, sampling: { ...plain, temperature: 1, seed: 42n } }),
    submitOf(text(17, 9), { ...wanted, maxTokens: 10, sampling: { ...plain, temperature: 0.8, topP: 0.9, topK: 40, seed: 7n } }),
    submitOf(text(33, 2), {
      ...wanted,
      maxTokens: 8,
      sampling: { ...plain, temperature: 1.2, minP: 0.02, frequencyPenalty: 0.5, presencePenalty: 0.2, repetitionPenalty: 1.1, seed: 1n },
    }),
    submitOf(text(30, 8), { ...wanted, maxTokens: 4, promptLogprobs: true }),
    // What repeats itself is guessed.
    submitOf(
      Array.from({ length: longest - 20 }, (_, i) => 7 + (i % 5)),
      { ...wanted, maxTokens: 20 },
    ),
    submitOf(text(16, 1), { ...wanted, maxTokens: 9, sampling: { ...plain, biasToken: [4, 5], biasValue: [2, -100] } }),
  ];
}

/** What a client may say that it expects. */
const predictions = {
  nothing: () => [],
  this: (tokens: number[]) => tokens,
  other: (tokens: number[]) => tokens.toSpliced(3, 2, 1, 2, 3),
};

const pause = (turns: number) => (turns === 0 ? Promise.resolve() : new Promise<void>((resolve) => setTimeout(resolve, turns)));

describe.each([
  { name: 'bundled model, bf16 activations', dir: bundled, numericClass: bf16, longest: 150, runs: 12, kernels: vectors },
  { name: 'bundled model, f32 activations', dir: bundled, numericClass: f32, longest: 90, runs: 5, kernels: vectors },
  { name: 'bundled model, int8 weights', dir: bundled, numericClass: int8, longest: 90, runs: 5, kernels: vectors },
  { name: 'mixtral', dir: golden('mixtral'), numericClass: f32, longest: 60, runs: 15, kernels: everything },
  { name: 'deepseek_v3', dir: golden('deepseek_v3'), numericClass: bf16, longest: 60, runs: 15, kernels: everything },
  { name: 'gpt_oss', dir: golden('gpt_oss_mxfp4'), numericClass: bf16, longest: 60, runs: 15, kernels: everything },
])('$name', ({ dir, numericClass, longest, runs, kernels }) => {
  let shape: Model['shape'];
  let requests: Submit[];
  let alone: Answer[];

  beforeAll(async () => {
    const everything = await load(dir, numericClass, null, usual, 64);
    shape = everything.shape;
    requests = requestsFor(shape.vocab, longest);
    const cluster = await InProcessCluster.start({
      native,
      models: [everything],
      plan: {
        format: 'switchyard-plan',
        version: 1,
        model: { type: shape.modelType, moeLayers: shape.moeLayers, experts: shape.experts },
        workers: [{ name: 'w0', node: 0 }],
        replicas: shape.moeLayers.map(() => Array.from({ length: shape.experts }, () => [0])),
        provenance: null,
      },
      transport: new MemoryNetwork(),
      addressOf: () => 'memory://w0',
      maxBatchRows: 128,
      maxSequences: 16,
      maxLogitRows: 64,
      prefixCache: false,
      draftMax: 0,
      rowDeadlineMs: 30_000,
    });
    alone = [];
    for (const submit of requests) alone.push(await cluster.run(0, submit));
    await cluster.close();
  });

  test('every plan, replica, batch, chunk, transport, thread count and instruction set gives the bits of one worker alone', async () => {
    const longestBlocks = Math.ceil((longest + 20) / 16);
    await fc.assert(
      fc.asyncProperty(
        layoutArbitrary(shape, longestBlocks, kernels),
        fc.array(
          fc.tuple(fc.nat({ max: requests.length - 1 }), fc.nat(), fc.nat({ max: 2 }), fc.constantFrom('nothing', 'this', 'other')),
          {
            minLength: 4,
            maxLength: 10,
          },
        ),
        async (layout, arrivals) => {
          const cluster = await startCluster(dir, numericClass, shape, layout);
          try {
            const running: Promise<Answer>[] = [];
            for (const [which, home, wait, expected] of arrivals) {
              // The same request may come several times: each time it is another one.
              const submit = { ...requests[which], request: submitOf([]).request, prediction: predictions[expected](alone[which].tokens) };
              running.push(cluster.run(home % layout.nodes.length, submit));
              await pause(wait);
            }
            const answers = await Promise.all(running);
            expect(answers.flatMap(({ error }) => error ?? [])).toEqual([]);
            expect(answers).toEqual(arrivals.map(([which]) => alone[which]));
            for (const { engine } of cluster.workers) expect(engine.residency.pool.used).toBe(0);
          } finally {
            await cluster.close();
          }
        },
      ),
      { numRuns: runs, seed: 20261123, endOnFailure: true },
    );
  });

  test('text that was decoded has the same logprobs when it is given as a prompt', async () => {
    const cluster = await startCluster(dir, numericClass, shape, {
      replicas: shape.moeLayers.map((_, l) => Array.from({ length: shape.experts }, (_unused, e) => [(e + l) % 3])),
      nodes: [0, 0, 1],
      machines: [usual, usual, usual],
      transport: 'memory',
      delayMs: 0,
      seed: 1,
      maxBatchRows: 13,
      maxLogitRows: 64,
      kvBlocks: 32,
      prefixCache: true,
      draftMax: 8,
    });
    const [spoken, submit] = [alone[0], requests[0]];
    const again = submitOf([...Array.from(submit.prompt), ...spoken.tokens], { maxTokens: 0, promptLogprobs: true, logprobs: 3 });
    const given = await cluster.run(1, again);
    await cluster.close();
    expect(given.prompt!.logprob.slice(submit.prompt.length - 1)).toEqual(spoken.logprobs);
    expect(given.prompt!.top.slice(submit.prompt.length - 1)).toEqual(spoken.top);
  });
});

describe.each(['qwen3_moe', 'olmoe', 'granitemoe', 'deepseek_v2', 'gpt_oss'])('%s', (name) => {
  test('three workers continue its prompts as the independent implementation does', async () => {
    const probe = await load(golden(name), f32, null, usual, 64);
    const { shape } = probe;
    probe.close();
    const cluster = await startCluster(golden(name), f32, shape, {
      replicas: shape.moeLayers.map((_, l) => Array.from({ length: shape.experts }, (_unused, e) => [(e * 2 + l) % 3])),
      nodes: [0, 1, 1],
      machines: [usual, usual, usual],
      transport: 'memory',
      delayMs: 0,
      seed: 1,
      maxBatchRows: 29,
      maxLogitRows: 16,
      kvBlocks: 64,
      prefixCache: true,
      draftMax: 8,
    });
    const cases = readExpectedCases(golden(name), shape);
    const answers = await Promise.all(
      cases.map(({ tokens, generated }, i) => cluster.run(i % 3, submitOf(tokens, { maxTokens: generated.length }))),
    );
    await cluster.close();
    expect(answers.map(({ tokens }) => tokens)).toEqual(cases.map(({ generated }) => Array.from(generated)));
  });
});
