import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { type Listener, serveControl } from '@switchyard/proto';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { becomes } from '../../../test/becomes.ts';
import { parseFlags } from '../../src/process/flags.ts';
import { WorkerProcess } from '../../src/process/worker-process.ts';
import { toyNative } from '../engine/toy-model.ts';

const pauses = vi.hoisted((): number[] => []);
vi.mock('node:timers/promises', () => ({
  setTimeout: async (ms: number) => {
    pauses.push(ms);
  },
}));

const open = { token: '', tls: null };
let folder: string;
let coordinator: Listener | null;
let errors: string[];

beforeEach(() => {
  folder = mkdtempSync(path.join(os.tmpdir(), 'sy-reattach-'));
  coordinator = null;
  errors = [];
  pauses.length = 0;
  vi.spyOn(Math, 'random').mockReturnValue(0.5);
  vi.useFakeTimers({ toFake: ['performance'] });
});

afterEach(async () => {
  vi.useRealTimers();
  vi.restoreAllMocks();
  await coordinator?.close();
  rmSync(folder, { recursive: true });
});

function startWorker(address = `unix:${folder}/control.sock`) {
  const flags = parseFlags(['--coordinator', address, '--name', 'w0', '--node', 'n0', '--data', `uds://${folder}/w0.sock`])!;
  const load = () => Promise.reject(new Error('nothing is assigned'));
  const log = (level: string, text: string) => {
    if (level === 'error') errors.push(text);
  };
  const worker = new WorkerProcess({ flags, native: toyNative, load, version: '0', log });
  return { worker, status: worker.run() };
}

test('pauses grow while a worker is let in and dropped at once, and begin anew after an attachment that lasted', async () => {
  let attachments = 0;
  coordinator = await serveControl(`unix:${folder}/control.sock`, open, (stream) => {
    stream.onMessage(({ type }) => {
      if (type !== 'hello') return;
      attachments++;
      if (attachments === 4) vi.advanceTimersByTime(2_001);
      if (attachments < 7) void stream.close();
    });
  });
  const { worker, status } = startWorker();
  await becomes(() => attachments === 7);
  expect(pauses).toEqual([100, 200, 400, 100, 200, 400]);
  await worker.stop(0);
  expect(await status).toBe(0);
});

test.each([
  ['says so where the coordinator did', true, /^refused by unix:.*: too old$/],
  ['does not where it did not', false, /^cannot attach to unix:/],
])('a worker that gives up because it was refused %s', async (_, byMessage, told) => {
  coordinator = await serveControl(`unix:${folder}/control.sock`, byMessage ? open : { ...open, token: 'secret' }, (stream) => {
    stream.send({ type: 'refuse', code: 'version_mismatch', message: 'too old' });
  });
  expect(await startWorker().status).toBe(1);
  expect(errors).toEqual([expect.stringMatching(told)]);
});
