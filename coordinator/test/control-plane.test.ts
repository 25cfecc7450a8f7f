import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { contiguousPlan, Finish, idleStats } from '@switchyard/proto';
import { afterAll, afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type RunningCoordinator, startCoordinator } from '../src/index.ts';
import { readModelFolder } from '../src/model-folder.ts';
import { becomes } from './becomes.ts';
import { modelDir } from './model-dir.ts';
import { ScriptedWorker } from './scripted-worker.ts';

const folder = mkdtempSync(path.join(os.tmpdir(), 'sw-co-'));
afterAll(() => rmSync(folder, { recursive: true }));

let coordinator: RunningCoordinator;
let control: string;
let serial = 0;
beforeEach(async () => {
  control = `unix:${path.join(folder, `${serial++}.sock`)}`;
  coordinator = await startCoordinator({
    model: modelDir,
    listen: '127.0.0.1:0',
    control,
    workersPerNode: 2,
    logLevel: 'silent',
    graceMs: 0,
  });
});
afterEach(() => coordinator.close());

interface WorkerStatus {
  name: string;
  state: string;
  progress: number;
  failure: string | null;
  losses: number;
  stats: { steps: number; links: { peer: string }[] } | null;
}
const workers = () => (coordinator.status() as { workers: WorkerStatus[] }).workers;
const ready = () => (coordinator.status() as { ready: boolean }).ready;

async function pair(memories: readonly string[][] = []): Promise<[ScriptedWorker, ScriptedWorker]> {
  const join = (worker: number) => ScriptedWorker.join(control, `n0w${worker}`, 'n0', memories[worker]);
  const both: [ScriptedWorker, ScriptedWorker] = [await join(0), await join(1)];
  for (const worker of both) worker.ready();
  for (const worker of both) await worker.next('peers');
  return both;
}

async function complete(body: Record<string, unknown>): Promise<{
  status: number;
  text: string;
  json: () => { choices: { text: string; logprobs: unknown }[]; error: { code: string; message: string } };
}> {
  const response = await fetch(`${coordinator.url}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ prompt: [100, 101], ...body }),
  });
  const text = await response.text();
  return { status: response.status, text, json: () => JSON.parse(text) };
}

describe('a worker that attaches', () => {
  it('is assigned its place, and told of its peers once all are ready', async () => {
    const first = await ScriptedWorker.attach(control);
    first.hello('n0w1');
    const assign = await first.next('assign');
    expect(assign).toMatchObject({ worker: 1, modelDir, engine: { numericClass: 'auto', sumMode: 'exact', prefixCache: true } });
    const plan = JSON.parse(Buffer.from(assign.plan).toString());
    expect(plan.workers.map(({ name }: { name: string }) => name)).toEqual(['n0w0', 'n0w1']);
    first.send({ type: 'progress', epoch: first.epoch, done: 1, total: 4, what: 'experts' });
    await becomes(() => workers()[1].progress === 0.25);
    first.ready();
    await becomes(() => workers()[1].state === 'loaded');
    expect(ready()).toBe(false);
    const second = await ScriptedWorker.join(control, 'n0w0');
    second.ready({ epoch: 7 }); // Of another epoch: not ours.
    second.ready();
    for (const worker of [first, second]) {
      const { peers } = await worker.next('peers');
      expect(peers.map(({ worker: index, name, dataAddresses }) => [index, name, dataAddresses])).toEqual([
        [0, 'n0w0', ['uds:///n0w0']],
        [1, 'n0w1', ['uds:///n0w1']],
      ]);
    }
    await becomes(ready);
  });

  it('under a name that the plan does not have is refused', async () => {
    const stranger = await ScriptedWorker.attach(control);
    stranger.hello('n9w9');
    expect(await stranger.next('refuse')).toMatchObject({ code: 'bad_plan', message: expect.stringContaining('n0w0, n0w1') });
    await stranger.stream.closed;
  });

  it('without saying hello first is cut off', async () => {
    const rude = await ScriptedWorker.attach(control);
    rude.ready();
    await rude.stream.closed;
    expect(workers().every(({ state }) => state === 'absent')).toBe(true);
  });

  it('under the name of another replaces it', async () => {
    const [old, other] = await pair();
    const asked = Promise.all([complete({ max_tokens: 5 }), complete({ max_tokens: 5 })]);
    await old.next('submit');
    await other.next('submit');
    const successor = await ScriptedWorker.join(control, 'n0w0');
    // If it lives after all it shall not take its place back.
    expect(await old.next('refuse')).toMatchObject({ message: 'another worker attached as n0w0' });
    await old.stream.closed;
    successor.ready();
    expect((await successor.next('peers')).peers).toHaveLength(2);
    await other.next('peers');
    await becomes(ready);
    expect(workers()[0].losses).toBe(1);
    await other.stream.close();
    expect((await asked).map(({ status, json }) => [status, json().error.code])).toEqual([
      [503, 'worker_lost'],
      [503, 'worker_lost'],
    ]);
  });

  it('is known to hold what it has loaded before its next heartbeat', async () => {
    const worker = await ScriptedWorker.join(control, 'n0w0');
    worker.send({ type: 'stats', ...idleStats });
    worker.ready({ residentBytes: 1234 });
    await becomes(() => workers()[0].state === 'loaded');
    expect(workers()[0]).toMatchObject({ residentBytes: 1234 });
  });

  it('is seen with the links that carried something, and the rows of its experts', async () => {
    const worker = await ScriptedWorker.join(control, 'n0w0');
    const silent = { peer: 0, bytesSent: 0, bytesReceived: 0, framesSent: 0, transport: 'uds', roundTripSeconds: 0, roundTrips: 0 };
    const links = [silent, { ...silent, peer: 1, bytesSent: 7 }, { ...silent, peer: 2, bytesReceived: 7 }];
    worker.send({ type: 'stats', ...idleStats, steps: 1, links, expertTokens: [1, 2] });
    const seen = () => workers()[0].stats;
    await becomes(() => seen()?.steps === 1);
    expect(seen()).not.toHaveProperty('expertTokens');
    expect(seen()).toHaveProperty('expertRows', 3);
    expect(seen()!.links.map(({ peer }) => peer)).toEqual(['n0w1', '2']);
  });

  it('says in which numeric class it computes; one that computes in another cannot serve beside it', async () => {
    const seen = () => coordinator.status() as { numericClass: string; fingerprint: string; plan: { rowBytes: number } };
    // As far as config.json tells.
    expect(seen()).toMatchObject({ numericClass: 'bf16', plan: { rowBytes: 2 * 256 } });
    const first = await ScriptedWorker.join(control, 'n0w0');
    first.ready({ numericClass: 'f32' });
    await becomes(() => seen().numericClass === 'f32');
    expect(seen()).toMatchObject({ fingerprint: expect.stringMatching(/-f32$/), plan: { rowBytes: 4 * 256 } });
    const metrics = await (await fetch(`${coordinator.url}/metrics`)).text();
    expect(metrics.match(/^switchyard_numeric_class_info.*$/gm)).toEqual([
      expect.stringMatching(/^switchyard_numeric_class_info\{model_name="[^"]+",numeric_class="f32",exact="true"\} 1$/),
    ]);
    const second = await ScriptedWorker.join(control, 'n0w1');
    second.ready();
    await becomes(() => workers()[1].failure === 'version_mismatch: it computes in bf16, n0w0 in f32');
    expect(seen().numericClass).toBe('f32');
    const third = await ScriptedWorker.join(control, 'n0w1');
    third.ready({ numericClass: 'no name\n' });
    await third.stream.closed;
    expect(workers()[1].state).toBe('absent');
  });

  it('has read the same checkpoint as the others, or waits until they are gone', async () => {
    const first = await ScriptedWorker.join(control, 'n0w0');
    first.ready();
    const second = await ScriptedWorker.join(control, 'n0w1');
    second.ready({ weightsHash: 2n });
    await becomes(() => workers()[1].failure === 'version_mismatch: its checkpoint is another than n0w0 has read');
    expect(ready()).toBe(false);
    await first.stream.close();
    await becomes(() => workers()[1].state === 'loaded');
    const successor = await ScriptedWorker.join(control, 'n0w0');
    successor.ready({ weightsHash: 2n });
    await becomes(ready);
  });

  it('and says what cannot be is cut off; the others go on', async () => {
    await coordinator.close();
    const traceDir = mkdtempSync(path.join(folder, 'trace-'));
    const adminTokenFile = path.join(folder, 'admin');
    writeFileSync(adminTokenFile, 'the-operator', { mode: 0o600 });
    coordinator = await startCoordinator({
      ...{ model: modelDir, listen: '127.0.0.1:0', control, workersPerNode: 2 },
      ...{ logLevel: 'silent', graceMs: 0, traceDir, adminTokenFile },
    });
    const [rude, polite] = await pair();
    const route = `${coordinator.url}/v1/switchyard/trace`;
    const headers = { 'content-type': 'application/json', authorization: 'Bearer the-operator' };
    expect((await fetch(route, { method: 'POST', headers, body: '{"on":true,"file":"x"}' })).status).toBe(200);
    const asked = Promise.all([complete({ max_tokens: 1 }), complete({ max_tokens: 1 })]);
    const { request } = await rude.next('submit');
    rude.send({ type: 'trace', request: [request], position: [0], generated: [false], experts: new Uint8Array(1) });
    expect(await rude.stream.closed).toMatchObject({ message: expect.stringContaining('expert ids') });
    polite.tokens({ request: [(await polite.next('submit')).request], token: [69], finish: [Finish.length], cachedTokens: [0] });
    expect((await asked).map(({ status }) => status).sort()).toEqual([200, 503]);
    expect(workers().map(({ state }) => state)).toEqual(['absent', 'ready']);
  });

  it('and names another node than the plan is told of in the log, once', async () => {
    await coordinator.close();
    const warnings: string[] = [];
    coordinator = await startCoordinator(
      { model: modelDir, listen: '127.0.0.1:0', control, nodes: 2, logLevel: 'warn', graceMs: 0 },
      (line) => warnings.push(JSON.parse(line).msg),
    );
    for (const [name, node] of [
      ['n0w0', 'n0'],
      ['n1w0', `n0${'x'.repeat(126)}`],
    ]) {
      const worker = await ScriptedWorker.join(control, name, node);
      worker.ready();
    }
    await becomes(ready);
    expect(warnings).toEqual([`worker n1w0 says it is on node "n0${'x'.repeat(126)}"; in the plan it is on "n1", which counts`]);
  });

  it('that cannot serve says why', async () => {
    const worker = await ScriptedWorker.join(control, 'n0w0');
    worker.send({ type: 'failed', epoch: worker.epoch, code: 'bad_checkpoint', message: 'model.safetensors: truncated' });
    await becomes(() => workers()[0].failure === 'bad_checkpoint: model.safetensors: truncated');
    expect(workers()[0].state).toBe('failed');
  });
});

describe('tokens', () => {
  let home: ScriptedWorker;
  let away: ScriptedWorker;
  beforeEach(async () => {
    [home, away] = await pair();
  });

  /** Both workers can be home: answers whoever is asked. */
  async function submitted(): Promise<[ScriptedWorker, number]> {
    return await Promise.race(
      [home, away].map(async (worker): Promise<[ScriptedWorker, number]> => [worker, (await worker.next('submit')).request]),
    );
  }

  it('tell how long a sequence waited on its worker, which is queue time and no prefill', async () => {
    const sum = async (metric: string) => {
      const text = await (await fetch(`${coordinator.url}/metrics`)).text();
      return Number(new RegExp(`^switchyard_request_${metric}_time_seconds_sum\\{.*\\} (.*)$`, 'm').exec(text)![1]);
    };
    const answer = complete({ max_tokens: 1 });
    const [worker, request] = await submitted();
    // As if it had waited until now: all the time to the first token is queue time.
    worker.tokens({ request: [request], token: [69], finish: [Finish.length], cachedTokens: [0], queuedUs: [3_600_000_000] });
    await answer;
    expect(await sum('queue')).toBeGreaterThan(0);
    expect(await sum('prefill')).toBe(0);
    expect(await sum('inference')).toBe(0);
  });

  it('keep their columns in step when an answer has ended before its worker knows', async () => {
    // Both on one home: the second is sent where the first prompt is known to be.
    const prompt = Array.from({ length: 64 }, (_, i) => 100 + i);
    const stopped = complete({ prompt, max_tokens: 9, logprobs: 0, stop: 'B' });
    const [worker, one] = await submitted();
    const going = complete({ prompt, max_tokens: 9, logprobs: 1 });
    const { request: two } = await worker.next('submit');
    const id = (char: string) => char.charCodeAt(0) - 30; // Printable ASCII of the bundled vocabulary.
    const top = (token: number, logprob: number) => ({ token: [token], logprob: [logprob] });
    worker.tokens({
      request: [one, two],
      token: [id('A'), id('C')],
      finish: [0, 0],
      logprob: [-1, -2],
      top: [top(1, -1), top(id('C'), -2)],
      cachedTokens: [0, 48],
    });
    worker.tokens({
      request: [one, two],
      token: [id('B'), id('D')],
      finish: [0, 0],
      logprob: [-3, -4],
      top: [top(1, -1), top(id('D'), -4)],
      cachedTokens: [0, 0],
    });
    expect((await stopped).json().choices[0].text).toBe('A');
    expect(await worker.next('cancel')).toMatchObject({ request: one });
    // One token was on its way when the cancel was; then the worker gives it up.
    worker.tokens({
      request: [one, two],
      token: [id('X'), id('E')],
      finish: [0, 0],
      logprob: [-5, -6],
      top: [top(1, -1), top(id('E'), -6)],
      cachedTokens: [0, 0],
    });
    worker.tokens({
      request: [one, two],
      token: [0, id('F')],
      finish: [4, 2],
      logprob: [-8],
      top: [top(id('F'), -8)],
      cachedTokens: [0, 0],
    });
    const { choices, usage } = (await going).json() as unknown as { choices: { text: string; logprobs: object }[]; usage: object };
    expect(choices[0].text).toBe('CDEF');
    expect(choices[0].logprobs).toMatchObject({
      token_logprobs: [-2, -4, -6, -8],
      top_logprobs: [{ C: -2 }, { D: -4 }, { E: -6 }, { F: -8 }],
    });
    expect(usage).toMatchObject({ prompt_tokens_details: { cached_tokens: 48 }, completion_tokens: 4 });
  });

  it('that bring an error fail their request with its code and text', async () => {
    const failing = complete({ max_tokens: 5, stream: true });
    const [worker, request] = await submitted();
    worker.tokens({
      request: [request],
      token: [0],
      finish: [3],
      errors: [{ code: 'expert_unavailable', message: 'layer 3' }],
      cachedTokens: [0],
    });
    const { status, json } = await failing;
    expect(status).toBe(503);
    expect(json().error).toMatchObject({ code: 'expert_unavailable', message: 'layer 3' });
    const strange = complete({ max_tokens: 5 });
    const [other, id] = await submitted();
    other.tokens({ request: [id], token: [0], finish: [3], errors: [{ code: 'no such code', message: 'x' }], cachedTokens: [0] });
    expect((await strange).json().error.code).toBe('internal');
  });

  it('for a client that takes none are held up to a bound, then the client is cut off and the worker told', async () => {
    const body = JSON.stringify({ prompt: [[100], [101]], n: 16, max_tokens: 1000, logprobs: 20, stream: true });
    const { hostname, port } = new URL(coordinator.url);
    const socket = net.connect(Number(port), hostname);
    socket.pause();
    socket.write(
      `POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`,
    );
    const cut = new Promise((resolve) => socket.once('close', resolve));
    socket.on('error', () => {});
    const [ours, theirs] = await Promise.all([home, away].map((worker) => worker.submits(16)));
    const tokens = 100;
    // Each token is about 700 bytes of log-probabilities: 22 MB in all, more than sockets hold.
    const top = { token: Array.from({ length: 20 }, (_, i) => 1000 + i), logprob: Array.from({ length: 20 }, (_, i) => -i - 0.123456789) };
    const fill = <T>(value: T) => Array<T>(16 * tokens).fill(value);
    for (let round = 0; round < 10; round++) {
      for (const [worker, submits] of [
        [home, ours],
        [away, theirs],
      ] as const) {
        const request = submits.flatMap((submit) => Array<number>(tokens).fill(submit.request));
        worker.tokens({ request, token: fill(67), finish: fill(0), logprob: fill(-1), top: fill(top), cachedTokens: fill(0) });
      }
    }
    await Promise.all([home.next('cancel'), away.next('cancel')]);
    socket.resume();
    await cut;
    expect((await fetch(`${coordinator.url}/health/live`)).status).toBe(200);
  });

  it('of nobody are ignored', async () => {
    home.tokens({ request: [4711], token: [1], finish: [2], cachedTokens: [0] });
    home.tokens({ prompt: [{ request: 4711, logprob: [-1], top: [] }] });
    home.send({ type: 'trace', request: [4711], position: [0], generated: [false], experts: new Uint8Array(48) });
    // Both are asked, and the messages of a worker are read in order.
    const asked = Promise.all([complete({ max_tokens: 1 }), complete({ max_tokens: 1 })]);
    for (const worker of [home, away]) {
      const { request } = await worker.next('submit');
      worker.tokens({ request: [request], token: [69], finish: [2], cachedTokens: [0] });
    }
    expect((await asked).map(({ json }) => json().choices[0].text)).toEqual(['c', 'c']);
    expect(workers()[0]).toMatchObject({ state: 'ready', losses: 0 });
  });

  it('whose columns disagree harm nobody else', async () => {
    const asked = complete({ max_tokens: 5 });
    const [worker, request] = await submitted();
    worker.tokens({ request: [request], token: [1], finish: [0, 1, 2], cachedTokens: [] });
    worker.tokens({ request: [request], token: [69], finish: [2], cachedTokens: [0] });
    expect((await asked).status).toBe(200);
  });
});

describe('home choice', () => {
  it.each([
    ['fills a home before another worker of the same memory becomes one', [['a'], ['a']], [0, 2], ['n0w1']],
    ['spreads over memories', [['a'], ['b']], [1, 1], []],
    ['lets a worker that tells impossibly much share nothing', [['a'], Array<string>(5000).fill('a')], [1, 1], []],
  ])('%s', async (_, memories, submitted, sharing) => {
    const both = await pair(memories);
    expect((coordinator.status() as { workers: { sharesMemoryWith: string[] }[] }).workers[0].sharesMemoryWith).toEqual(sharing);
    const open = [complete({ max_tokens: 2 }), complete({ max_tokens: 2 })];
    const submits = () => both.map(({ received }) => received.filter(({ type }) => type === 'submit').length).sort();
    await becomes(() => submits()[0] + submits()[1] === 2);
    expect(submits()).toEqual(submitted);
    for (const worker of both) await worker.stream.close();
    await Promise.all(open);
  });

  it.each([
    ['inside a machine fills a home whatever another node promises', (name: string) => `shm:///${name}`, [0, 2]],
    ['over a network opens another for much that its node promises', (name: string) => `tcp://10.0.0.1:${name.length}`, [1, 1]],
  ])('%s', async (_, addressOf, submitted) => {
    await coordinator.close();
    const names = ['n0w0', 'n1w0'];
    const made = contiguousPlan(
      readModelFolder(modelDir).plan,
      names.map((name, node) => ({ name, node })),
    );
    const plan = path.join(folder, 'homes.json');
    writeFileSync(plan, JSON.stringify({ ...made, provenance: { homes: { domains: { code: { homeShare: [0.1, 0.9] } } } } }));
    coordinator = await startCoordinator({ model: modelDir, listen: '127.0.0.1:0', control, plan, logLevel: 'silent', graceMs: 0 });
    const both: ScriptedWorker[] = [];
    for (const [node, name] of names.entries()) both.push(await ScriptedWorker.join(control, name, `n${node}`, ['a'], addressOf(name)));
    for (const worker of both) worker.ready();
    for (const worker of both) await worker.next('peers');
    const counts = () => both.map(({ received }) => received.filter(({ type }) => type === 'submit').length);
    const open = [complete({ max_tokens: 50 })];
    await becomes(() => counts()[0] + counts()[1] === 1);
    open.push(complete({ max_tokens: 50, metadata: { domain: 'code' } }));
    await becomes(() => counts()[0] + counts()[1] === 2);
    expect(counts().sort()).toEqual(submitted);
    for (const worker of both) await worker.stream.close();
    await Promise.all(open);
  });

  it('returns a conversation to the worker that knows it, and spreads others', async () => {
    const both = await pair();
    const homes: number[] = [];
    const open: Promise<unknown>[] = [];
    const prompt = (start: number) => Array.from({ length: 80 }, (_, i) => start + i);
    const submit = async (start: number) => {
      open.push(complete({ prompt: prompt(start), max_tokens: 2 }));
      homes.push(await Promise.race(both.map(async (worker, i) => worker.next('submit').then(() => i))));
    };
    await submit(100);
    await submit(1100);
    await submit(100);
    await submit(1100);
    expect(homes[1]).toBe(1 - homes[0]);
    expect(homes.slice(2)).toEqual(homes.slice(0, 2));
    for (const worker of both) await worker.stream.close();
    await Promise.all(open);
  });
});
