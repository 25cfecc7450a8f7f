import { expect, it } from 'vitest';
import { clusterSequences, seededRandom, sequenceUsage } from '../src/index.ts';
import { gptOssSlice } from './slice.ts';

it('clusters of sequences end between rounds when asked to, balanced as they are', async () => {
  const trace = await gptOssSlice();
  const tokens = trace.sequences.map((s) => s.tokens);
  const balance = { share: new Float64Array(4).fill(1 / 4), tolerance: 0.05 };
  const clustered = async (stop: () => boolean) => {
    let rounds = 0;
    const pause = async () => {
      rounds++;
    };
    const homes = await clusterSequences(sequenceUsage(trace), tokens, balance, seededRandom(1), { stop, pause });
    const held = [0, 0, 0, 0];
    homes.forEach((h, s) => {
      held[h] += tokens[s];
    });
    return { rounds, uneven: held.some((h) => Math.abs(h - trace.tokens / 4) > (0.05 * trace.tokens) / 4) };
  };
  expect(await clustered(() => true)).toEqual({ rounds: 1, uneven: false });
  expect(await clustered(() => false)).toEqual({ rounds: 8, uneven: false });
});
