import { constants } from 'node:buffer';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { native } from '../src/index.ts';
import { expectRefused, Workbench } from './fixture.ts';

let bench: Workbench;
beforeAll(() => {
  bench = new Workbench({ backend: 'cpu', isa: 'auto', threads: 1, cpus: null });
});
afterAll(() => bench.close());

test('sizes that 64 bits do not hold are refused, not wrapped', () => {
  const experts = { hidden: 2 ** 20, inter: 2 ** 20, format: 'f32', activation: 'silu', hasBias: false, alpha: 0, limit: 0 } as const;
  expectRefused(
    () => native.expertsCreate(bench.device, { slots: 2 ** 22, ...experts }),
    /4194304 experts.* beyond 64 TiB/,
    'out_of_memory',
  );
  expectRefused(() => native.sumCreate(bench.device, 'exact', 2 ** 30 + 9, 2 ** 31 - 16), /neither may exceed 2147483519/);
  // 8 * (2^30 + 105) * (2^31 - 208) is 16 GiB more than 2^64.
  expectRefused(() => native.sumCreate(bench.device, 'exact', 2 ** 30 + 105, 2 ** 31 - 208), /a sum .* is beyond 64 TiB/, 'out_of_memory');
  expectRefused(() => native.weightCreate(bench.device, 'f32', 2 ** 31 - 129, 2 ** 31 - 129), /a weight .* beyond 64 TiB/, 'out_of_memory');
  expectRefused(() => native.weightCreate(bench.device, 'int4', 1, 2 ** 31 - 128), /neither may exceed 2147483519/);
  expectRefused(() => native.bufferCreate(bench.device, 1, 2 ** 31 - 1), /neither may exceed 2147483519/);
  expect(native.sumEncodedMax(2 ** 31 - 1, 2 ** 31 - 1)).toBe(2 ** 64);
});

test('a buffer that is larger than this Node shows is refused like any other', () => {
  const floats = Math.floor(constants.MAX_LENGTH / 4) + 1; // Beyond any memory since Node 22, 4 GiB before.
  const [rows, width] = floats < 2 ** 31 ? [1, floats] : [2 ** 31 - 129, 2 ** 31 - 129];
  expectRefused(() => native.bufferCreate(bench.device, rows, width), /a buffer \[\d+, \d+\]/, 'out_of_memory');
  expect(native.bufferCreate(bench.device, 2, 2).f32.length).toBe(4);
});
