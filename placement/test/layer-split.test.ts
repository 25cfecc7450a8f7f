import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { solveChain, transitionsOf } from '../src/index.ts';
import { betterSplit, splitValue } from '../src/solve/layer-split.ts';
import { gptOssSlice } from './slice.ts';

const unstopped = { seed: 1, starts: 1, kicks: 1, stop: () => false, onImproved: () => {} };

describe('splitting large parts', () => {
  it('is the best split where load has no price, and never worse than the present one where it has', () => {
    const experts = fc.array(fc.tuple(fc.integer({ min: -50, max: 50 }), fc.nat(50)), { minLength: 2, maxLength: 10 });
    fc.assert(
      fc.property(experts, fc.nat(), fc.nat(100), fc.constantFrom(0, 0, 0.5, 3), (list, part, othersPeak, loadPrice) => {
        const size = 1 + (part % (list.length - 1));
        const split = {
          gain: Float64Array.from(list, ([gain]) => gain),
          load: Float64Array.from(list, ([, load]) => load),
          size,
          loadPrice,
          othersPeak,
        };
        const present = Uint8Array.from(list, (_, i) => (i < size ? 1 : 0));
        const found = betterSplit(split, present);
        const value = splitValue(split, found ?? present);
        if (found !== null) {
          expect(value).toBeGreaterThan(splitValue(split, present));
          expect(found.reduce((sum, own) => sum + own)).toBe(size);
        }
        if (loadPrice > 0) return;
        const sorted = [...split.gain].sort((x, y) => y - x).slice(0, size);
        expect(value).toBeCloseTo(
          sorted.reduce((sum, gain) => sum + gain, 0),
          6,
        );
      }),
    );
  });

  it('keeps load within its cap at little cost: four parts of 8 experts keep more than eight parts of 4 do', async () => {
    const transitions = transitionsOf(await gptOssSlice(), 'top1');
    const coarse = solveChain(transitions, 4, { ...unstopped, peakMeanMax: 1.12 });
    expect(coarse.peakMean).toBeLessThanOrEqual(1.12);
    expect(coarse.local).toBeGreaterThan(0.6);
  });
});
