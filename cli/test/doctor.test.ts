import { describe, expect, it } from 'vitest';
import { describeBandwidth } from '../src/doctor/machine.ts';
import { bytesPerThread, measureReadBandwidth } from '../src/doctor/read-bandwidth.ts';

const mib = 1024 ** 2;

describe('read bandwidth', () => {
  it('is measured on a quarter of the available memory at most, over all threads', () => {
    expect(bytesPerThread(4, 64 * 1024 * mib)).toBe(192 * mib);
    expect(bytesPerThread(64, 1024 * mib)).toBe(4 * mib);
    for (const threads of [1, 2, 7, 64, 384]) expect(threads * bytesPerThread(threads, 256 * mib)).toBeLessThanOrEqual(64 * mib);
  });

  it('says when it was measured on less than caches hold', () => {
    expect(describeBandwidth(2e10, 2, bytesPerThread(2, 64 * 1024 * mib)).found).toMatch(/^about 20 GB\/s read by 2 threads: /);
    expect(describeBandwidth(2e10, 2, bytesPerThread(2, 256 * mib)).found).toMatch(
      /read by 2 threads of 32.0 MiB each, for want of memory/,
    );
  });

  it('is a number however little is read', async () => {
    expect(await measureReadBandwidth(2, mib)).toBeGreaterThan(0);
  });
});
