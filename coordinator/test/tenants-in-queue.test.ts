import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { Finish } from '@switchyard/proto';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import type { RunningCoordinator } from '../src/index.ts';
import type { Answer } from '../src/requests/answer.ts';
import { beyondBatchMax, tenantPart, WaitingAnswers } from '../src/requests/waiting-answers.ts';
import { becomes } from './becomes.ts';
import { startWithOneWorker } from './one-worker.ts';
import type { ScriptedWorker } from './scripted-worker.ts';

const folder = mkdtempSync(path.join(os.tmpdir(), 'sw-tq-'));
afterAll(() => rmSync(folder, { recursive: true }));

let coordinator: RunningCoordinator;
let worker: ScriptedWorker;
afterEach(() => coordinator?.close(0));

async function start(keys: string, requestsWaitingMax: number, more: Parameters<typeof startWithOneWorker>[1] = {}): Promise<void> {
  const apiKeyFile = path.join(folder, 'keys');
  writeFileSync(apiKeyFile, keys, { mode: 0o600 });
  const config = { graceMs: 0, requestsRunningMax: 1, requestsWaitingMax, apiKeyFile, ...more };
  ({ coordinator, worker } = await startWithOneWorker(folder, config));
}

async function complete(key: string, body: Record<string, unknown> = {}): Promise<{ status: number; text: string }> {
  const response = await fetch(`${coordinator.url}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', authorization: `Bearer ${key}` },
    body: JSON.stringify({ prompt: [100], max_tokens: 1, ...body }),
  });
  return { status: response.status, text: await response.text() };
}

const waiting = () => (coordinator.status() as { requests: { waiting: number } }).requests.waiting;

/** Asks with each key in turn, once those before wait. */
async function queue(...keys: string[]): Promise<{ asked: Promise<{ status: number }>[] }> {
  const asked: Promise<{ status: number }>[] = [];
  for (const key of keys) {
    const before = waiting();
    asked.push(complete(key));
    await becomes(() => waiting() === before + 1);
  }
  return { asked };
}

/** Answers whatever is submitted; whose that was, in turn. */
async function serve(count: number): Promise<string[]> {
  const tenants: string[] = [];
  while (tenants.length < count) {
    const { request, tenant } = await worker.next('submit');
    tenants.push(tenant);
    worker.tokens({ request: [request], token: [50], finish: [Finish.length], cachedTokens: [0] });
  }
  return tenants;
}

describe('tenants that wait', () => {
  it('take turns, and one that sends much leaves room for others', async () => {
    await start('a alice\nb bob\n', 4);
    // One runs, three wait, and that is all of the queue that is hers.
    const first = complete('a');
    await becomes(() => (coordinator.status() as { requests: { running: number } }).requests.running === 1);
    const { asked: alices } = await queue('a', 'a', 'a');
    const refused = await complete('a');
    expect(refused.status).toBe(503);
    expect(JSON.parse(refused.text).error).toMatchObject({
      code: 'queue_full',
      message: '1 sequences run and 3 of your own wait; with 1 more the limits of 1 and 3 are exceeded',
    });
    const { asked: bobs } = await queue('b');
    expect(JSON.parse((await complete('b')).text).error.message).toBe(
      '1 sequences run and 4 wait; with 1 more the limits of 1 and 4 are exceeded',
    );
    expect(await serve(5)).toEqual(['alice', 'alice', 'bob', 'alice', 'alice']);
    expect((await Promise.all([first, ...alices, ...bobs])).map(({ status }) => status)).toEqual([200, 200, 200, 200, 200]);
  });

  it('of one name have all of the queue, in the order in which they came', async () => {
    await start('a alice\nb alice\n', 3);
    const asked = [complete('a')];
    await becomes(() => (coordinator.status() as { requests: { running: number } }).requests.running === 1);
    const { asked: queued } = await queue('b', 'a', 'b');
    expect((await complete('a')).text).toContain('the limits of 1 and 3 are exceeded');
    await serve(4);
    expect((await Promise.all([...asked, ...queued])).map(({ status }) => status)).toEqual([200, 200, 200, 200]);
  });

  it('wait where turns are taken, not in the order of a worker: of a flood it has little more than its batch', async () => {
    await start('a alice\nb bob\n', 64, { requestsRunningMax: 256, maxSequences: 2 });
    const alices = Array.from({ length: 20 }, () => complete('a'));
    await becomes(() => waiting() === 14);
    const bobs = complete('b');
    await becomes(() => waiting() === 15);
    const tenants = await serve(21);
    expect(tenants.indexOf('bob')).toBe(7);
    expect(new Set((await Promise.all([...alices, bobs])).map(({ status }) => status))).toEqual(new Set([200]));
  });

  it('wait there as well when a worker takes the last that it has first', async () => {
    await start('a alice\nb bob\n', 64, { requestsRunningMax: 256, maxSequences: 2 });
    const alices = Array.from({ length: 20 }, () => complete('a', { max_tokens: 2 }));
    const has = await worker.submits(6);
    await becomes(() => waiting() === 14);
    // Two in its batch and four beyond, whichever they are.
    const out = has.slice(4).map(({ request }) => request);
    worker.tokens({ request: out, token: [50, 50], finish: [Finish.none, Finish.none], cachedTokens: [0, 0] });
    worker.tokens({ request: [out[0]], token: [50], finish: [Finish.length], cachedTokens: [0] });
    await becomes(() => waiting() < 14);
    expect(waiting()).toBe(13);
    for (const { request } of [...has.slice(0, 4), has[5]])
      worker.tokens({ request: [request], token: [50], finish: [Finish.length], cachedTokens: [0] });
    await serve(14);
    expect(new Set((await Promise.all(alices)).map(({ status }) => status))).toEqual(new Set([200]));
  });

  it('are told at once when a request is more than a tenant can ever have', async () => {
    await start('a alice\nb bob\n', 4);
    const refused = await complete('a', { n: 5 });
    expect(refused.status).toBe(400);
    expect(refused.text).toContain('4');
    const asked = complete('a', { n: 4 });
    await serve(4);
    expect((await asked).status).toBe(200);
  });
});

describe('the waiting list', () => {
  const answer = (tenant: string, index: number) => ({ spec: { tenant }, index }) as unknown as Answer;
  const named = (found: Answer | undefined) => (found === undefined ? null : `${found.spec.tenant}${found.index}`);
  const limits = { runningMax: 100, waitingMax: 0, tenantWaitingMax: 0 };

  it('keeps the order of each tenant through what is put back and taken out', () => {
    const list = new WaitingAnswers(limits);
    const [a0, a1, a2, b0, b1, c0] = [answer('a', 0), answer('a', 1), answer('a', 2), answer('b', 0), answer('b', 1), answer('c', 0)];
    list.take([a0, a1, a2], 0);
    list.take([b0, b1], 0);
    list.take([c0], 0);
    expect([list.shift(), list.shift()].map(named)).toEqual(['a0', 'b0']);
    list.unshift(b0);
    list.unshift(a0);
    list.remove(a1);
    list.remove(a1);
    expect(list.length).toBe(5);
    expect([list.shift(), list.shift(), list.shift(), list.shift(), list.shift(), list.shift()].map(named)).toEqual([
      ...['a0', 'b0', 'c0', 'a2', 'b1'],
      null,
    ]);
    list.take([a0, b0], 0);
    expect(list.clear().map(named)).toEqual(['a0', 'b0']);
    expect([list.length, list.shift()]).toEqual([0, undefined]);
  });

  it('gives a tenant three quarters of the places where there are others', () => {
    expect([beyondBatchMax(2, 2), beyondBatchMax(64, 2), beyondBatchMax(64, 1)]).toEqual([4, 8, 512]);
    expect([tenantPart(512, 1), tenantPart(512, 2), tenantPart(1, 2), tenantPart(0, 2)]).toEqual([512, 384, 1, 0]);
  });
});
