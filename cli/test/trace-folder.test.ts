import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { traceFolder } from '../src/cluster/trace-folder.ts';

/** What another process makes the moment before we do. */
let raced = '';
vi.mock('node:fs', async (original) => {
  const fs = await original<typeof import('node:fs')>();
  const mkdirSync = ((folder: string, options: object) => {
    if (folder === raced) fs.mkdirSync(folder, options);
    return fs.mkdirSync(folder, options);
  }) as typeof fs.mkdirSync;
  return { ...fs, default: { ...fs, mkdirSync }, mkdirSync };
});

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(path.join(os.tmpdir(), 'sw-'));
  vi.stubEnv('HOME', path.join(folder, 'home'));
});
afterEach(() => {
  raced = '';
  vi.unstubAllEnvs();
  rmSync(folder, { recursive: true });
});

it('is where this user keeps the state of programs, where nobody asked for another', () => {
  const state = path.join(folder, 'state');
  expect(traceFolder(undefined, { XDG_STATE_HOME: state })).toEqual({ dir: path.join(state, 'switchyard/traces') });
  expect(statSync(path.join(state, 'switchyard/traces')).mode & 0o777).toBe(0o700);
  const usual = { dir: path.join(folder, 'home/.local/state/switchyard/traces') };
  for (const XDG_STATE_HOME of [undefined, '', 'relative']) expect(traceFolder(undefined, { XDG_STATE_HOME })).toEqual(usual);
  expect(traceFolder(path.join(folder, 'asked'), {})).toEqual({ dir: path.join(folder, 'asked') });
});

it('is none where there is no such place, with the reason; one that was asked for has to be there', () => {
  const file = path.join(folder, 'file');
  writeFileSync(file, '');
  expect(traceFolder(undefined, { XDG_STATE_HOME: file })).toEqual({ dir: null, reason: expect.stringMatching(/EEXIST|ENOTDIR/) });
  expect(() => traceFolder(path.join(file, 'traces'), {})).toThrow(`--trace-dir ${file}/traces: `);
  vi.stubEnv('HOME', '');
  expect(traceFolder(undefined, {})).toEqual({ dir: null, reason: 'you have no home folder' });
});

it('may be made by another that starts at the same time', () => {
  raced = path.join(folder, 'home');
  expect(traceFolder(undefined, {}).dir).toContain('traces');
});
