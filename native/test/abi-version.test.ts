import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { abiVersion, requireAbi } from '../src/abi-version.ts';
import { NativeError, native } from '../src/index.ts';

test('the header, the kernels and TypeScript have one version', () => {
  const header = readFileSync(new URL('../include/switchyard.h', import.meta.url), 'utf8');
  expect(header).toMatch(new RegExp(`^#define SY_ABI_VERSION ${abiVersion}$`, 'm'));
  expect(native.abiVersion()).toBe(abiVersion);
});

test('kernels of another version are refused, with the command that builds them again', () => {
  requireAbi(abiVersion, 'switchyard.node');
  expect(() => requireAbi(abiVersion - 1, '/somewhere/switchyard.node')).toThrow(NativeError);
  expect(() => requireAbi(abiVersion - 1, '/somewhere/switchyard.node')).toThrow(
    `the kernels in /somewhere/switchyard.node are of version ${abiVersion - 1}, this code needs version ${abiVersion}: run \`npm run build\``,
  );
});
