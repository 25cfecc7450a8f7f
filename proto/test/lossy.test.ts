import { describe, expect, it } from 'vitest';
import { lossyNames, nodeLimitProblem, notLossy, parseLossy, promisesSameBits } from '../src/index.ts';

describe('lossy options', () => {
  it('are named one by one, and name the numeric class', () => {
    expect(parseLossy('')).toEqual(notLossy);
    expect(parseLossy('wire=fp8')).toEqual({ nodeLimit: null, wire: 'fp8' });
    const both = parseLossy('node-limit=2,wire=int8');
    expect(both).toEqual({ nodeLimit: 2, wire: 'int8' });
    expect(lossyNames(both)).toEqual(['node-limit-2', 'int8-wire']);
    expect(lossyNames(notLossy)).toEqual([]);
  });

  it.each([
    ['node-limit', /"node-limit"; node-limit is 1 to 32 nodes/],
    ['node-limit=0', /node-limit is 1 to 32/],
    ['node-limit=33', /node-limit is 1 to 32/],
    ['node-limit=2=9', /"node-limit=2=9"; node-limit is 1 to 32/],
    ['node-limit=0x2', /node-limit is 1 to 32/],
    ['node-limit= 2', /node-limit is 1 to 32/],
    ['node-limit=2,node-limit=3', /"node-limit=3"; node-limit is given twice/],
    ['wire=int8=fp8', /"wire=int8=fp8"; wire is int8 or fp8/],
    ['wire=int8,wire=int8', /wire is given twice/],
    ['wire=int4', /"wire=int4"; wire is int8 or fp8/],
    ['wire=int8,', /""; there are node-limit=N, wire=int8 and wire=fp8/],
    ['speed=9', /"speed=9"; there are/],
  ])('%s is refused by name', (text, message) => {
    expect(() => parseLossy(text)).toThrow(message);
  });

  it('limit fewer nodes than there are, or nothing', () => {
    const workers = [{ node: 0 }, { node: 2 }, { node: 2 }];
    expect(nodeLimitProblem(parseLossy('node-limit=1'), workers)).toBeNull();
    expect(nodeLimitProblem(notLossy, workers)).toBeNull();
    expect(nodeLimitProblem(parseLossy('node-limit=2'), workers)).toBe('--lossy node-limit=2 limits nothing: there are 2 nodes');
    expect(nodeLimitProblem(parseLossy('node-limit=1'), [{ node: 'n0' }])).toBe('--lossy node-limit=1 limits nothing: there is 1 node');
  });

  it('end the promise of equal bits, as fast sums do', () => {
    for (const name of ['bf16', 'f32', 'bf16+int8-experts+int8-dense']) expect(promisesSameBits(name)).toBe(true);
    for (const name of ['bf16+fast-sum', 'bf16+int8-wire', 'f32+int8-experts+node-limit-2']) expect(promisesSameBits(name)).toBe(false);
  });
});
