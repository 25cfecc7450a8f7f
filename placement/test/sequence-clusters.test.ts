import { expect, it } from 'vitest';
import { clusterSequences, NO_EXPERT, seededRandom, sequenceUsage } from '../src/index.ts';
import { gptOssSlice, toyTrace } from './slice.ts';

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

it('what sequences use is listed expert by expert, and takes no more memory than their choices', async () => {
  const slice = await gptOssSlice();
  slice.ids[5] = NO_EXPERT;
  for (const trace of [slice, toyTrace({ layers: 3, experts: 300, topK: 2, sequences: 200, tokensEach: 1 })]) {
    const layers = trace.moeLayers.length;
    const { width, start, expertOf, shareOf } = sequenceUsage(trace);
    expect(width).toBe(layers * trace.experts);
    expect(Math.max(expertOf.length, shareOf.length)).toBeLessThanOrEqual(trace.ids.length);
    const counted = new Map<string, number>();
    trace.ids.forEach((e, i) => {
      if (e === NO_EXPERT) return;
      const key = `${trace.sequenceOf[Math.floor(i / (layers * trace.topK))]} ${(Math.floor(i / trace.topK) % layers) * trace.experts + e}`;
      counted.set(key, (counted.get(key) ?? 0) + 1);
    });
    expect(expertOf.length).toBe(counted.size);
    trace.sequences.forEach(({ tokens }, s) => {
      const own = expertOf.subarray(start[s], start[s + 1]);
      expect(own.every((expert, i) => i === 0 || own[i - 1] < expert)).toBe(true);
      own.forEach((expert, i) => {
        expect(shareOf[start[s] + i] * tokens).toBeCloseTo(counted.get(`${s} ${expert}`)!, 3);
      });
    });
  }
});
