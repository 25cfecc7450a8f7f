import path from 'node:path';
import { native } from '@switchyard/native';
import { contiguousPlan, MemoryNetwork, type Submit } from '@switchyard/proto';
import { afterAll, afterEach, describe, expect, test, vi } from 'vitest';
import { hostedBy } from '../../src/model/hosted-experts.ts';
import { inspectModel } from '../../src/model/inspect.ts';
import { loadModel } from '../../src/model/load.ts';
import { type FileTensor, readTensors, ScratchFolder, writeTensors } from '../checkpoint/checkpoint-files.ts';
import { type Answer, InProcessCluster, submitOf } from '../in-process-cluster.ts';
import { tinyOptions } from '../model/loading.ts';

// A row that cannot be completed ends its own sequence; whoever shares the step gets the bits of a step without it.

const scratch = new ScratchFolder();
afterAll(() => scratch.remove());
afterEach(() => vi.restoreAllMocks());

/** A copy of a golden checkpoint with one tensor's bf16 values changed. */
function broken(name: string, change: (values: Uint16Array, shape: number[]) => void): string {
  const dir = scratch.copyOf('qwen3_moe');
  const tensors = readTensors(dir);
  const { bytes, ...rest } = tensors.get(name)!;
  const copy = Uint8Array.from(bytes);
  change(new Uint16Array(copy.buffer), rest.shape);
  writeTensors(path.join(dir, 'model.safetensors'), new Map<string, FileTensor>([...tensors, [name, { ...rest, bytes: copy }]]));
  return dir;
}

const badToken = 9;
const bfloatNan = 0x7fc0;
const noisyEmbedding = () =>
  broken('model.embed_tokens.weight', (values, [, width]) => {
    values[badToken * width! + 3] = bfloatNan;
  });
/** Finite, but beyond any grid. */
const loudExpert = () =>
  broken('model.layers.1.mlp.experts.3.down_proj.weight', (values) => {
    values.fill(0x7149); // 1e30
  });

async function start(dir: string, workers: number, draftMax = 0): Promise<InProcessCluster> {
  const { modelType, moeLayers, experts } = inspectModel(dir);
  const plan = contiguousPlan(
    { type: modelType, moeLayers, experts },
    Array.from({ length: workers }, (_, w) => ({ name: `w${w}`, node: w })),
  );
  const models = await Promise.all(
    plan.workers.map((_, w) =>
      loadModel(
        tinyOptions(dir, {
          hosted: workers === 1 ? null : hostedBy(plan, w),
          numericClass: { activations: 'bf16', experts: 'stored', dense: 'stored', sum: 'exact' },
          maxSequences: 16,
          kvBlocks: 100,
        }),
      ),
    ),
  );
  return InProcessCluster.start({
    native,
    models,
    plan,
    transport: new MemoryNetwork(),
    addressOf: (w) => `memory://w${w}`,
    maxBatchRows: 160,
    maxSequences: 16,
    maxLogitRows: 160,
    prefixCache: true,
    draftMax,
    rowDeadlineMs: 20_000,
  });
}

const submits = (): Submit[] =>
  Array.from({ length: 12 }, (_, i) =>
    submitOf(
      Array.from({ length: 3 + i }, (_, t) => (i % 4 === 1 && t === 2 ? badToken : 10 + ((i * 37 + t * 11) % 200))),
      { maxTokens: 5, wantLogprob: true, logprobs: 3, promptLogprobs: true },
    ),
  );

async function alone(dir: string): Promise<Answer[]> {
  const cluster = await start(dir, 1);
  const answers: Answer[] = [];
  for (const submit of submits()) answers.push(await cluster.run(0, submit));
  await cluster.close();
  return answers;
}

describe.each([
  {
    what: 'a NaN in the embedding of one token',
    dir: noisyEmbedding,
    message: /^layer 0: a router score is not a number/,
    failing: (_: Answer, i: number) => i % 4 === 1,
  },
  {
    what: 'an expert whose answers no grid can hold',
    dir: loudExpert,
    message: /^layer 1: an expert's answer is not a number, or too large/,
    failing: ({ error }: Answer) => error !== null,
  },
])('$what', ({ dir: make, message, failing }) => {
  test.each([1, 3])('fails the sequences that meet it, and leaves the others their bits, on %i workers', async (workers) => {
    const dir = make();
    const wanted = await alone(dir);
    const failures = wanted.filter(failing);
    expect(failures.length).toBeGreaterThan(0);
    expect(failures.length).toBeLessThan(wanted.length);
    for (const [i, answer] of wanted.entries()) {
      if (failing(answer, i)) expect(answer.error).toEqual({ code: 'internal', message: expect.stringMatching(message) });
      else expect(answer).toMatchObject({ error: null, tokens: { length: 5 } });
    }
    const cluster = await start(dir, workers);
    const together = await Promise.all(submits().map((submit) => cluster.run(0, submit)));
    expect(together).toEqual(wanted);
    // The worker goes on, and what failed has left nothing in its prefix cache.
    expect(await Promise.all(submits().map((submit) => cluster.run(0, submit)))).toEqual(wanted);
    await cluster.close();
  });
});

test.each([1, 3])('a guess that cannot be completed fails nobody, on %i workers', async (workers) => {
  // How much is guessed hangs on what steps take: here all take the same.
  let nowMs = 0;
  vi.spyOn(performance, 'now').mockImplementation(() => ++nowMs);
  const dir = loudExpert();
  const repeating = Array.from({ length: 120 }, (_, i) =>
    submitOf(
      Array.from({ length: 4 }, (_, t) => 10 + 2 * i + (t % 2)),
      { maxTokens: 12, wantLogprob: true },
    ),
  );
  const [plain, guessing] = await Promise.all(
    [0, 8].map(async (draftMax) => {
      const cluster = await start(dir, workers, draftMax);
      const answers: Answer[] = [];
      for (const submit of repeating) answers.push(await cluster.run(0, submit));
      const { counters } = cluster.workers[0];
      await cluster.close();
      return { answers, counters };
    }),
  );
  expect(guessing.counters.draftTokens).toBeGreaterThan(guessing.counters.draftTokensAccepted);
  expect(guessing.counters.draftTokensAccepted).toBeGreaterThan(0);
  const failed = plain.answers.filter(({ error }) => error !== null);
  expect(failed.length).toBeGreaterThan(0);
  expect(failed.length).toBeLessThan(repeating.length);
  expect(guessing.answers).toEqual(plain.answers);
});
