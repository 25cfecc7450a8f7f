import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import type { AddressInfo } from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { json } from 'node:stream/consumers';
import { expect, it } from 'vitest';
import { start, until } from './program.ts';

it.each(['SIGINT', 'SIGTERM', 'SIGHUP'] as const)('trace record ends its recording on %s: a terminal may be closed, too', async (wish) => {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'sw-'));
  const token = path.join(folder, 'token');
  writeFileSync(token, 'secret\n');
  const trace = { on: true, file: '/t/a', files: ['/t/a-0000.trace'], sequences: 1, rows: 2, droppedRows: 0, failure: null };
  const asked: unknown[] = [];
  const server = http.createServer(async (request, response) => {
    const body = request.method === 'POST' ? await json(request) : 'status';
    response.setHeader('content-type', 'application/json');
    response.end(JSON.stringify(body === 'status' ? { format: 'switchyard-status', trace } : trace));
    asked.push(body);
  });
  await once(server.listen(0, '127.0.0.1'), 'listening');
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const args = ['trace', 'record', '--out', path.join(folder, 'a.trace'), '--url', url, '--admin-token-file', token];
  const recording = start(args);
  await until(() => recording.output().stderr.includes('Ctrl-C ends it'));
  recording.child.kill(wish);
  const { status, signal, stdout } = await recording.finished;
  server.close();
  rmSync(folder, { recursive: true });
  expect([status, signal]).toEqual([0, null]);
  expect(stdout).toMatch(/^2 tokens of 1 sequence\n/);
  expect(asked.at(-1)).toEqual({ on: false });
});
