import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, expect, it, vi } from 'vitest';
import { becomes } from './becomes.ts';
import { startWithOneWorker } from './one-worker.ts';

vi.mock('../../proto/src/limits.ts', async (original) => {
  const { limits } = await original<typeof import('../../proto/src/limits.ts')>();
  return { limits: { ...limits, traceFileBytesMax: 1024 } };
});

const folder = mkdtempSync(path.join(os.tmpdir(), 'sw-tf-'));
afterAll(() => rmSync(folder, { recursive: true }));

it('a recording that the disk fails says so in the status and the log, asks workers for no more, and can be begun anew', async () => {
  const traceDir = path.join(folder, 'traces');
  mkdirSync(traceDir);
  const adminTokenFile = path.join(folder, 'admin');
  writeFileSync(adminTokenFile, 'the-operator', { mode: 0o600 });
  const lines: string[] = [];
  const config = { logLevel: 'error' as const, graceMs: 0, traceDir, adminTokenFile };
  const { coordinator, worker } = await startWithOneWorker(folder, config, {}, 'n0w0', (line) => lines.push(line));
  const turn = async (body: Record<string, unknown>) => {
    const headers = { 'content-type': 'application/json', authorization: 'Bearer the-operator' };
    return fetch(`${coordinator.url}/v1/switchyard/trace`, { method: 'POST', headers, body: JSON.stringify(body) });
  };
  const trace = () => (coordinator.status() as { trace: { on: boolean; failure: string | null; rows: number; droppedRows: number } }).trace;
  expect(await (await turn({ on: true, file: 'a' })).json()).toMatchObject({ on: true, failure: null });
  expect(await worker.next('trace')).toMatchObject({ on: true });
  const answer = fetch(`${coordinator.url}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ prompt: [100], max_tokens: 5 }),
  });
  const { request } = await worker.next('submit');
  mkdirSync(path.join(traceDir, 'a-0001.trace'));
  const rows = 20;
  for (let position = 0; position < 2 * rows; position += rows) {
    const column = <T>(value: T) => Array<T>(rows).fill(value);
    const positions = column(position).map((first, i) => first + i);
    worker.send({
      type: 'trace',
      request: column(request),
      position: positions,
      generated: column(false),
      experts: new Uint8Array(48 * rows),
    });
  }
  await becomes(() => trace().failure !== null);
  expect(trace()).toMatchObject({ on: true, failure: expect.stringMatching(/^EEXIST/), rows, droppedRows: rows });
  expect(lines.join('')).toMatch(/EEXIST.*routing trace has failed/);
  expect(await worker.next('trace')).toMatchObject({ on: false });
  const stopped = await turn({ on: false });
  expect(stopped.status).toBe(500);
  expect(await stopped.text()).toMatch(/could not be written: EEXIST/);
  expect(trace()).toEqual({ on: false });
  expect((await turn({ on: true, file: 'b' })).status).toBe(200);
  worker.tokens({ request: [request], token: [69], finish: [2], cachedTokens: [0] });
  expect((await answer).status).toBe(200);
  await coordinator.close();
});
