import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { Finish, type Traffic } from '@switchyard/proto';
import { afterAll, afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type RunningCoordinator, startCoordinator } from '../src/index.ts';
import { becomes } from './becomes.ts';
import { modelDir } from './model-dir.ts';
import { ScriptedWorker } from './scripted-worker.ts';

const folder = mkdtempSync(path.join(os.tmpdir(), 'sw-tr-'));
afterAll(() => rmSync(folder, { recursive: true }));

let coordinator: RunningCoordinator;
let both: ScriptedWorker[];
let serial = 0;
beforeEach(async () => {
  const control = `unix:${path.join(folder, `${serial++}.sock`)}`;
  coordinator = await startCoordinator({
    model: modelDir,
    listen: '127.0.0.1:0',
    control,
    nodes: 2,
    maxBatchRows: 8,
    logLevel: 'silent',
    graceMs: 0,
  });
  both = [await ScriptedWorker.join(control, 'n0w0'), await ScriptedWorker.join(control, 'n1w0')];
  for (const worker of both) worker.ready();
  for (const worker of both) await worker.next('peers');
});
afterEach(() => coordinator.close());

interface Choice {
  text: string;
  finish_reason: string;
  switchyard?: Record<string, unknown>;
}

async function complete(body: Record<string, unknown>): Promise<Choice> {
  const response = await fetch(`${coordinator.url}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ prompt: [100, 101], max_tokens: 4, ...body }),
  });
  return ((await response.json()) as { choices: Choice[] }).choices[0];
}

/** Whoever is asked next, and what. */
async function submitted(): Promise<{ index: number; worker: ScriptedWorker; request: number; reportRouting: boolean }> {
  return await Promise.race(
    both.map(async (worker, index) => {
      const { request, reportRouting } = await worker.next('submit');
      return { index, worker, request, reportRouting };
    }),
  );
}

const id = (char: string) => char.charCodeAt(0) - 30; // Printable ASCII of the bundled vocabulary.

function bill(request: number, changes: Partial<Traffic> = {}): Traffic {
  return {
    rows: 20,
    remoteNodes: 5,
    visits: 80,
    homeVisits: 60,
    interNodeBytes: 1234.4,
    intraNodeBytes: 10,
    routing: { request, sampled: 800, held: [600, 300] },
    ...changes,
  };
}

const status = () =>
  coordinator.status() as {
    requests: { running: number; traffic: Record<string, number> };
    homes: { choices: Record<string, number>; known: Record<string, number> };
    workers: { load: number }[];
  };

describe('a bill', () => {
  it('is told where it was asked for, added up, and makes known what kind of request it was', async () => {
    const told = complete({ return_traffic: true, metadata: { domain: 'code' } });
    const { index, worker, request } = await submitted();
    worker.tokens({ request: [request], token: [id('A')], finish: [Finish.length], cachedTokens: [0], traffic: [bill(request)] });
    expect((await told).switchyard).toEqual({
      home: `n${index}w0`,
      node: index,
      reason: 'least-loaded',
      expected_home_share: null,
      moved_from: null,
      rows: 20,
      r: 0.25,
      home_share: 0.75,
      inter_node_bytes: 1234,
      intra_node_bytes: 10,
    });
    expect(status().requests.traffic).toMatchObject({ rows: 20, remoteNodes: 5, interNodeBytes: 1234.4 });
    expect(status().homes.known).toMatchObject({ domains: 1, tenants: 0 });
    // The next of its domain goes where more of it is held, and only who asks is told.
    for (let i = 0; i < 3; i++) {
      const next = complete({ prompt: [i + 1], metadata: { domain: 'code' } });
      const again = await submitted();
      expect(again.index).toBe(0);
      again.worker.tokens({ request: [again.request], token: [id('B')], finish: [2], cachedTokens: [0], traffic: [bill(again.request)] });
      expect(await next).not.toHaveProperty('switchyard');
    }
    expect(status().homes.choices).toMatchObject({ 'least-loaded': 1, domain: 3 });
    const metrics = await (await fetch(`${coordinator.url}/metrics`)).text();
    expect(metrics).toContain(`switchyard_request_remote_nodes_per_row_bucket{le="0.25",model_name="${path.basename(modelDir)}"} 4`);
    expect(metrics).toMatch(/switchyard_request_expert_visits_total\{model_name="[^"]+",locality="remote"\} 80\n/);
  });

  it('of an answer that a stop string ended is waited for, and a worker that is lost meanwhile ends it all the same', async () => {
    const stopped = complete({ return_traffic: true, stop: 'B', max_tokens: 9 });
    const { worker, request } = await submitted();
    worker.tokens({ request: [request, request], token: [id('A'), id('B')], finish: [0, 0], cachedTokens: [0, 0] });
    expect(await worker.next('cancel')).toMatchObject({ request });
    worker.tokens({ request: [request, request], token: [id('C'), 0], finish: [0, 4], cachedTokens: [0, 0], traffic: [bill(request)] });
    expect(await stopped).toMatchObject({ text: 'A', finish_reason: 'stop', switchyard: { rows: 20 } });
    const orphaned = complete({ return_traffic: true, stop: 'B', max_tokens: 9 });
    const other = await submitted();
    other.worker.tokens({ request: [other.request, other.request], token: [id('A'), id('B')], finish: [0, 0], cachedTokens: [0, 0] });
    await other.worker.next('cancel');
    await other.worker.stream.close();
    expect(await orphaned).toMatchObject({ text: 'A', finish_reason: 'stop', switchyard: { rows: 0, r: null, home_share: null } });
  });

  it('that is absent or cannot be is none', async () => {
    for (const traffic of [
      [],
      [bill(1, { remoteNodes: 10_000, routing: { request: 1, sampled: 0, held: [] } })],
      [bill(1, { routing: { request: 1, sampled: 10, held: [99] } })],
    ]) {
      const told = complete({ return_traffic: true, metadata: { domain: 'verse' } });
      const { worker, request } = await submitted();
      worker.tokens({ request: [request], token: [id('A')], finish: [2], cachedTokens: [0], traffic });
      expect(await told).toMatchObject({ text: 'A' });
    }
    expect(status().requests.traffic.rows).toBe(20);
    expect(status().homes.known.domains).toBe(0);
  });
});

describe('a long prompt of unknown kind', () => {
  const prompt = Array.from({ length: 80 }, (_, i) => 200 + i);

  it('moves by what its first chunk chose, once, before anything of it was told', async () => {
    const told = complete({ prompt, return_traffic: true, logprobs: 0 });
    const first = await submitted();
    expect(first.reportRouting).toBe(true);
    const held = first.index === 0 ? [100, 900] : [900, 100];
    first.worker.tokens({ routing: [{ request: first.request, sampled: 1000, held }] });
    expect(await first.worker.next('cancel')).toMatchObject({ request: first.request });
    const second = await submitted();
    expect([second.index, second.reportRouting]).toEqual([1 - first.index, false]);
    // What the first home still says of it, a token even, is nobody's.
    first.worker.tokens({
      request: [first.request, first.request],
      token: [id('X'), 0],
      finish: [0, 4],
      logprob: [-9],
      cachedTokens: [0, 0],
      traffic: [bill(first.request)],
    });
    await becomes(() => status().workers[first.index].load === 0);
    second.worker.tokens({ routing: [{ request: second.request, sampled: 1000, held: held.reverse() }] });
    second.worker.tokens({
      request: [second.request],
      token: [id('A')],
      finish: [2],
      logprob: [-1],
      cachedTokens: [0],
      traffic: [bill(second.request)],
    });
    expect(await told).toMatchObject({
      text: 'A',
      logprobs: { token_logprobs: [-1] },
      switchyard: {
        home: `n${second.index}w0`,
        reason: 'first-chunk',
        moved_from: `n${first.index}w0`,
        rows: 40,
        expected_home_share: 0.9,
      },
    });
    expect(status()).toMatchObject({ requests: { running: 0 }, homes: { choices: { 'least-loaded': 1, 'first-chunk': 1 } } });
  });

  it('stays where it is for less than it must gain', async () => {
    const told = complete({ prompt });
    const first = await submitted();
    const held = first.index === 0 ? [500, 600] : [600, 500];
    first.worker.tokens({ routing: [{ request: first.request, sampled: 1000, held }] });
    first.worker.tokens({ request: [first.request], token: [id('A')], finish: [2], cachedTokens: [0], traffic: [bill(first.request)] });
    expect((await told).text).toBe('A');
    expect(status().homes.choices['first-chunk']).toBe(0);
  });

  it('survives the loss of the home that it has left', async () => {
    const told = complete({ prompt });
    const first = await submitted();
    first.worker.tokens({ routing: [{ request: first.request, sampled: 1000, held: first.index === 0 ? [0, 900] : [900, 0] }] });
    const second = await submitted();
    await first.worker.stream.close();
    await becomes(() => status().requests.running === 1);
    second.worker.tokens({ request: [second.request], token: [id('A')], finish: [2], cachedTokens: [0], traffic: [bill(second.request)] });
    expect((await told).text).toBe('A');
  });

  it('is not asked about when it is short, or its kind is known', async () => {
    const short = complete({ prompt: prompt.slice(0, 63), metadata: { domain: 'code' } });
    const first = await submitted();
    expect(first.reportRouting).toBe(false);
    first.worker.tokens({ request: [first.request], token: [id('A')], finish: [2], cachedTokens: [0], traffic: [bill(first.request)] });
    await short;
    const known = complete({ prompt, metadata: { domain: 'code' } });
    const second = await submitted();
    expect([second.index, second.reportRouting]).toEqual([0, false]);
    second.worker.tokens({ request: [second.request], token: [id('A')], finish: [2], cachedTokens: [0], traffic: [bill(second.request)] });
    await known;
  });
});
