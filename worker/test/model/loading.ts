import { expect } from 'vitest';
import type { LoadOptions, Model } from '../../src/model/contract.ts';
import { loadModel } from '../../src/model/load.ts';
import { firstDifferentBit } from '../../src/verify/comparison.ts';
import { type Runner, wholeModel } from '../../src/verify/lockstep-cluster.ts';
import { SequenceRun } from '../../src/verify/sequence-run.ts';

/** Options for a tiny checkpoint: f32, one thread, room for a few short sequences. */
export function tinyOptions(dir: string, changes: Partial<LoadOptions> = {}): LoadOptions {
  return {
    dir,
    hosted: null,
    numericClass: { activations: 'f32', experts: 'stored', dense: 'stored', sum: 'exact' },
    device: { backend: 'cpu', isa: 'auto', threads: 1, cpus: null },
    maxBatchRows: 160,
    laneRows: null,
    maxSequences: 4,
    maxLogitRows: 160,
    maxContext: 0,
    kvBlocks: 40,
    kvBytes: 0,
    onProgress: () => {},
    signal: null,
    ...changes,
  };
}

/** Loads a model, hands it to `use`, and closes it. */
export async function withModel<T>(options: LoadOptions, use: (model: Model) => T | Promise<T>): Promise<T> {
  const model = await loadModel(options);
  try {
    return await use(model);
  } finally {
    model.close();
  }
}

/** Tokens that reach every part of a small vocabulary. */
export function someTokens(count: number, vocab: number, seed = 1): Int32Array {
  return Int32Array.from({ length: count }, (_, i) => (seed * 31 + i * 97 + ((i * i) % 13) * 7) % vocab);
}

/** Logits (tokens, vocab) of a sequence fed in pieces of the given sizes, in turn. */
export function logitsOf(runner: Runner, tokens: Int32Array, sizes: readonly number[] = [tokens.length]): Float32Array {
  const { vocab } = runner.model.shape;
  const run = new SequenceRun(runner, tokens.length);
  const logits = new Float32Array(tokens.length * vocab);
  for (let from = 0, i = 0; from < tokens.length; i++) {
    const to = Math.min(from + sizes[i % sizes.length]!, tokens.length);
    logits.set(run.feed(tokens.subarray(from, to)).logits, from * vocab);
    from = to;
  }
  return logits;
}

/** Logits of a prompt in one piece on a model loaded for it. */
export async function logitsOfFolder(options: LoadOptions, tokens: Int32Array): Promise<Float32Array> {
  return withModel(options, (model) => logitsOf(wholeModel(model), tokens));
}

/** Compares as bits: -0 is not 0, and a NaN equals itself. */
export function expectSameBits(got: Float32Array, wanted: Float32Array): void {
  expect(got.length).toBe(wanted.length);
  expect(firstDifferentBit(got, wanted), 'index of the first different logit').toBe(-1);
}
