import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { Finish, limits, type TraceHeader } from '@switchyard/proto';
import { afterAll, describe, expect, it, vi } from 'vitest';
import { startCoordinator } from '../src/index.ts';
import { PrefixMemory } from '../src/requests/prefix-memory.ts';
import { TraceRecorder } from '../src/trace/trace-recorder.ts';
import { becomes } from './becomes.ts';
import { modelDir } from './model-dir.ts';
import { startWithOneWorker } from './one-worker.ts';
import { ScriptedWorker } from './scripted-worker.ts';

// Real bounds are more time and memory than a test should take.
vi.mock('../src/bounds.ts', async (original) => {
  const { bounds } = await original<typeof import('../src/bounds.ts')>();
  return { bounds: { ...bounds, helloTimeoutMs: 1_000, prefixesRememberedMax: 3, bodiesBytesMax: 64 * 1024, homesHeaderCharsMax: 40 } };
});
vi.mock('@switchyard/proto', async (original) => {
  const proto = await original<typeof import('@switchyard/proto')>();
  return { ...proto, limits: { ...proto.limits, traceSequencesMax: 2 } };
});

const folder = mkdtempSync(path.join(os.tmpdir(), 'sw-bo-'));
afterAll(() => rmSync(folder, { recursive: true }));

describe('a worker that attaches', () => {
  it('and says nothing is cut off, one that has said hello is not', async () => {
    const control = `unix:${path.join(folder, 'c.sock')}`;
    const coordinator = await startCoordinator({ model: modelDir, listen: '127.0.0.1:0', control, logLevel: 'silent', graceMs: 0 });
    const polite = await ScriptedWorker.join(control, 'n0w0');
    const silent = await ScriptedWorker.attach(control);
    expect(await silent.stream.closed).toMatchObject({ code: 'link_closed', message: expect.stringContaining('no hello within 1000 ms') });
    polite.ready();
    await polite.next('peers');
    await coordinator.close();
  });
});

describe('bodies', () => {
  it('that take too much together are refused until others have ended, whether or not those were whole', async () => {
    const bodyBytesMax = 40 * 1024;
    const { coordinator } = await startWithOneWorker(folder, { graceMs: 0, bodyBytesMax });
    const { hostname, port } = new URL(coordinator.url);
    const sockets = [1, 2].map(() => net.connect(Number(port), hostname));
    for (const socket of sockets)
      socket.write(
        `POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: ${bodyBytesMax}\r\n\r\n${' '.repeat(30 * 1024)}`,
      );
    const ask = (spaces: number) =>
      fetch(`${coordinator.url}/detokenize`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: `${JSON.stringify({ tokens: [100] })}${' '.repeat(spaces)}`,
      });
    // What was written has to be read first.
    await becomes(async () => (await ask(10 * 1024)).status === 503);
    const refused = await ask(10 * 1024);
    expect(await refused.json()).toMatchObject({
      error: { code: 'queue_full', message: expect.stringContaining('the limit of all together is 65536') },
    });
    expect(refused.headers.get('retry-after')).toBe('1');
    expect((await ask(0)).status).toBe(200);
    for (const socket of sockets) socket.destroy();
    await becomes(async () => (await ask(30 * 1024)).status === 200);
    // Those that have ended count no more: one after the other there is room for all.
    for (let i = 0; i < 4; i++) expect((await ask(30 * 1024)).status).toBe(200);
    await coordinator.close();
  });
});

describe('the header that names homes', () => {
  it('is left out of a stream that waits longer than nothing may be sent', async () => {
    const { coordinator, worker } = await startWithOneWorker(folder, { graceMs: 0, requestsRunningMax: 1, pingMs: 100 });
    const ask = () =>
      fetch(`${coordinator.url}/v1/completions`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ prompt: [100], max_tokens: 1, stream: true }),
      });
    const running = ask();
    const { request } = await worker.next('submit');
    const waiting = await ask();
    expect(waiting.headers.has('x-switchyard-home')).toBe(false);
    const end = (request: number) => worker.tokens({ request: [request], token: [50], finish: [Finish.length], cachedTokens: [0] });
    end(request);
    end((await worker.next('submit')).request);
    expect(await waiting.text()).toMatch(/^: ping\n\n[\s\S]*data: \[DONE\]\n\n$/);
    expect((await running).headers.get('x-switchyard-home')).toBe('n0w0; only');
    await coordinator.close();
  });

  it('names as many as proxies let pass', async () => {
    const { coordinator, worker } = await startWithOneWorker(folder, { graceMs: 0 });
    const asked = fetch(`${coordinator.url}/v1/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ prompt: [100], n: 16, max_tokens: 1 }),
    });
    const request = (await worker.submits(16)).map((submit) => submit.request);
    const all = <T>(value: T) => request.map(() => value);
    worker.tokens({ request, token: all(69), finish: all(2), cachedTokens: all(0) });
    expect((await asked).headers.get('x-switchyard-home')).toBe('n0w0; only, n0w0; only, n0w0; only');
    await coordinator.close();
  });
});

describe('the memory of prefixes', () => {
  it('forgets those that were used longest ago', () => {
    const memory = new PrefixMemory();
    const known = () => [1, 2, 3, 4, 5].filter((point) => memory.find([point]) !== null);
    memory.remember([1, 2], 0);
    memory.remember([3], 1);
    expect(known()).toEqual([1, 2, 3]);
    memory.remember([1], 0);
    memory.remember([4], 1);
    expect(known()).toEqual([1, 3, 4]);
    memory.remember([1, 2, 3, 4, 5], 0);
    expect(known()).toEqual([3, 4, 5]);
  });
});

describe('a recording', () => {
  const header: Omit<TraceHeader, 'createdAt'> = {
    format: 'switchyard-trace',
    version: 1,
    model: 'm',
    moeLayers: [0],
    experts: 8,
    topK: 1,
  };

  it('takes no name that another has, also where its first file is gone, and no folder that is not there', async () => {
    const dir = mkdtempSync(path.join(folder, 'trace-'));
    const recorder = new TraceRecorder(
      dir,
      header,
      () => ({ tenant: '', domain: '' }),
      () => {},
    );
    writeFileSync(path.join(dir, 'old-0004.trace'), '');
    expect(() => recorder.start({ file: 'old', tenants: null })).toThrow('file is "old"; there is a recording of that name');
    for (const file of ['new', 'new-er']) {
      recorder.start({ file, tenants: null });
      await recorder.stop();
    }
    expect(() => recorder.start({ file: 'new', tenants: null })).toThrow('there is a recording of that name');
    rmSync(dir, { recursive: true });
    expect(() => recorder.start({ file: 'other', tenants: null })).toThrow(`--trace-dir ${dir}: ENOENT`);
  });

  it('forgets which sequence a request of the distant past was', async () => {
    const recorder = new TraceRecorder(
      folder,
      header,
      () => ({ tenant: '', domain: '' }),
      () => {},
    );
    const { file } = recorder.start({ file: 'few', tenants: null });
    for (const request of [70, 71, 70, 72, 71, 70])
      recorder.append(0, { request: [request], position: [0], generated: [false], experts: new Uint8Array(2) });
    expect(await recorder.stop()).toMatchObject({ sequences: 4, rows: 6 });
    const bytes = readFileSync(`${file}-0000.trace`);
    const records = bytes.subarray(bytes.indexOf(10) + 1);
    expect(Array.from({ length: 6 }, (_, i) => records.readUInt32LE(10 * i))).toEqual([0, 1, 0, 2, 1, 3]);
  });

  it('says how many rows it has, without those that were dropped', async () => {
    const recorder = new TraceRecorder(
      folder,
      header,
      () => ({ tenant: '', domain: '' }),
      () => {},
    );
    const { file } = recorder.start({ file: 'fast', tenants: null });
    // At once more than may wait for the disk, then what has room.
    const dropped = Math.ceil(limits.tracePendingBytesMax / 10);
    for (const rows of [dropped, 3]) {
      const position = Array.from({ length: rows }, (_, i) => i);
      recorder.append(0, {
        request: position.map(() => 80),
        position,
        generated: position.map(() => false),
        experts: new Uint8Array(2 * rows),
      });
    }
    expect(recorder.summary).toMatchObject({ rows: 3, droppedRows: dropped });
    expect(await recorder.stop()).toMatchObject({ rows: 3, droppedRows: dropped });
    const bytes = readFileSync(`${file}-0000.trace`);
    expect(bytes.length - bytes.indexOf(10) - 1).toBe(3 * 10);
  });
});
