import { expect, it } from 'vitest';
import { place } from '../src/index.ts';
import { gptOssSlice, testTopology, worstDomain } from './slice.ts';

it('lowers the worst domain within the limit of peaks, of tokens that count alike', async () => {
  const trace = await gptOssSlice();
  const options = { starts: 1, replicas: 0.25, programColumns: 0 };
  const peakMeanMax = 1.12;
  const placed = (kind: 'mean' | 'worst') => place(trace, testTopology(4, 1, 960), { ...options, peakMeanMax, robust: { kind } });
  const [mean, worst] = [await placed('mean'), await placed('worst')];
  expect(worst.score.nodePeakMean).toBeLessThan(peakMeanMax + 0.01);
  expect(worstDomain(worst)).toBeLessThan(worstDomain(mean));
});
