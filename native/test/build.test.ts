import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
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
    expect(run.status).toBe(3);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

const cuda = JSON.parse(readFileSync(new URL('../build/cuda.json', import.meta.url), 'utf8')) as { nvcc: string } | null;

test.skipIf(cuda === null)(`the kernels for GPUs are part of a build with nvcc${cuda ? '' : ' (this was one without)'}`, () => {
  const open = () => native.deviceClose(native.deviceOpen({ backend: 'cuda', isa: 'auto', threads: 1, cpus: null }));
  try {
    open();
  } catch (error) {
    // No GPU, no driver: but not a build without CUDA.
    expect((error as NativeError).status).toBe('unsupported');
    expect((error as NativeError).message).not.toContain('built without CUDA');
  }
});

test('an nvcc that cannot compile is left out, with the reason, and all else is built', () => {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'switchyard-native-'));
  try {
    // One that says what it can do and then does nothing of it; a static library lies beside it.
    mkdirSync(path.join(folder, 'bin'));
    mkdirSync(path.join(folder, 'lib'));
    writeFileSync(path.join(folder, 'lib/libcudart_static.a'), '');
    const nvcc = path.join(folder, 'bin/nvcc');
    const lines = [
      '#!/bin/sh',
      'case $1 in',
      '--version) echo Cuda ;;',
      '--list-gpu-arch) echo compute_80 ;;',
      '*) echo broken >&2; exit 1 ;;',
      'esac',
    ];
    writeFileSync(nvcc, `${lines.join('\n')}\n`, { mode: 0o755 });
    cpSync(fileURLToPath(new URL('..', import.meta.url)), path.join(folder, 'native'), {
      recursive: true,
      filter: (file) => !/(node_modules|dist|test|build\/[^o].*)$/.test(file),
    });
    symlinkSync(fileURLToPath(new URL('../../node_modules', import.meta.url)), path.join(folder, 'node_modules'));
    const run = spawnSync(process.execPath, [path.join(folder, 'native/build.mjs')], {
      encoding: 'utf8',
      env: { ...process.env, NVCC: nvcc },
    });
    expect(run.stderr).toMatch(/no CUDA: \S+nvcc with \S+ does not compile its kernels/);
    expect(run.status, run.stderr).toBe(0);
    expect(existsSync(path.join(folder, 'native/build/switchyard.node'))).toBe(true);
    expect(readFileSync(path.join(folder, 'native/build/cuda.json'), 'utf8')).toBe('null\n');
  } finally {
    rmSync(folder, { recursive: true });
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
