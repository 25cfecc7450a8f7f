import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { type DeviceOptions, type NativeError, native } from '../src/index.ts';

test('compilers that do not know the instruction sets are named, with what is needed', () => {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'switchyard-native-'));
  try {
    const old = '#!/bin/sh\n[ "$1" = --version ] && echo "c++ (Old) 8.3.0"\n';
    writeFileSync(path.join(folder, 'c++'), old, { mode: 0o755 });
    const build = fileURLToPath(new URL('../build.mjs', import.meta.url));
    const run = spawnSync(process.execPath, [build], { encoding: 'utf8', env: { PATH: folder } });
    expect(run.stderr).toBe(
      'switchyard native: too old: c++ (c++ (Old) 8.3.0); C++17 with -mavx512bf16 needs gcc 10, clang 9 or newer: install one or set CXX\n',
    );
    expect(run.status).toBe(1);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

const nvcc = [process.env.NVCC, 'nvcc', '/usr/local/cuda/bin/nvcc'].find(
  (name) => name && name !== 'none' && spawnSync(name, ['--version']).status === 0,
);

test.skipIf(nvcc === undefined)(`the kernels for GPUs are built where nvcc is found${nvcc ? '' : ' (there is none here)'}`, () => {
  const open = () => native.deviceClose(native.deviceOpen({ backend: 'cuda', isa: 'auto', threads: 1, cpus: null }));
  try {
    open();
  } catch (error) {
    // No GPU, no driver: but not a build without CUDA.
    expect((error as NativeError).status).toBe('unsupported');
    expect((error as NativeError).message).not.toContain('built without CUDA');
  }
});

test('GPUs that are not there, or are none, are refused with the reason', () => {
  const open = (backend: string) => () =>
    native.deviceOpen({ backend: backend as DeviceOptions['backend'], isa: 'auto', threads: 1, cpus: null });
  expect(open('cuda:999')).toThrow(/^backend = "cuda(:999)?": /);
  expect(open('cuda:')).toThrow('backend = "cuda:": after the colon comes a GPU\'s number, 0..999');
  expect(open('cuda:-1')).toThrow("after the colon comes a GPU's number");
  expect(open('cuda-emulated:1')).toThrow('backend = "cuda-emulated:1": there is one, number 0');
});
