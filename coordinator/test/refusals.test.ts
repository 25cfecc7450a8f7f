import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { contiguousPlan, type ErrorCode, Finish, limits, SwitchyardError } from '@switchyard/proto';
import { afterAll, afterEach, describe, expect, it, vi } from 'vitest';
import { type RunningCoordinator, startCoordinator } from '../src/index.ts';
import { Membership } from '../src/membership/membership.ts';
import { readModelFolder } from '../src/model-folder.ts';
import { becomes } from './becomes.ts';
import { modelDir } from './model-dir.ts';
import { ScriptedWorker } from './scripted-worker.ts';

// Longer than any of this takes: nobody here waits for its end.
vi.mock('../src/bounds.ts', async (original) => {
  const { bounds } = await original<typeof import('../src/bounds.ts')>();
  return { bounds: { ...bounds, refusalRestMs: 600_000, failureRestMs: 600_000, failureRestMsMax: 600_000 } };
});

const folder = mkdtempSync(path.join(os.tmpdir(), 'sw-rf-'));
afterAll(() => rmSync(folder, { recursive: true }));

let coordinator: RunningCoordinator;
let control: string;
let serial = 0;
afterEach(() => coordinator?.close(0));

async function start(workers: number, config: Partial<Parameters<typeof startCoordinator>[0]> = {}): Promise<ScriptedWorker[]> {
  control = `unix:${path.join(folder, `${serial++}.sock`)}`;
  const shape = { workersPerNode: workers, ...config };
  coordinator = await startCoordinator({ model: modelDir, listen: '127.0.0.1:0', control, logLevel: 'silent', ...shape });
  const all = [];
  for (let i = 0; i < workers; i++) all.push(await ScriptedWorker.join(control, `n0w${i}`));
  for (const worker of all) worker.ready();
  for (const worker of all) await worker.next('peers');
  return all;
}

async function complete(body: Record<string, unknown> = {}) {
  const response = await fetch(`${coordinator.url}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ prompt: [100, 101], max_tokens: 4, ...body }),
  });
  const json = (await response.json()) as { choices: { text: string }[]; error?: { code: string } };
  return { status: response.status, home: response.headers.get('x-switchyard-home'), text: json.choices?.[0].text, code: json.error?.code };
}

/** Whoever is asked next. */
async function asked(workers: ScriptedWorker[]): Promise<{ index: number; request: number }> {
  const isAsked = ({ received }: ScriptedWorker) => received.some(({ type }) => type === 'submit');
  await becomes(() => workers.some(isAsked));
  const index = workers.findIndex(isAsked);
  return { index, request: (await workers[index].next('submit')).request };
}

function refuse(worker: ScriptedWorker, request: number, code: ErrorCode): void {
  worker.tokens({ request: [request], token: [0], finish: [Finish.error], errors: [{ code, message: 'not now' }], cachedTokens: [0] });
}

function answer(worker: ScriptedWorker, request: number, finish: Finish = Finish.length): void {
  worker.tokens({ request: [request], token: ['A'.charCodeAt(0) - 30], finish: [finish], cachedTokens: [0] });
}

const load = (index: number) => (coordinator.status() as { workers: { load: number }[] }).workers[index].load;

describe('a worker that shuts down', () => {
  it('hands what it refuses to another home, and is asked for nothing more until it is back', async () => {
    const both = await start(2);
    const prompt = Array.from({ length: 80 }, (_, i) => 100 + i);
    const first = complete({ prompt });
    const refused = await asked(both);
    const leaving = both[refused.index];
    const other = both[1 - refused.index];
    refuse(leaving, refused.request, 'shutting_down');
    answer(other, (await other.next('submit')).request);
    expect(await first).toMatchObject({ status: 200, text: 'A', home: expect.stringMatching(`^n0w${1 - refused.index}; `) });
    // The other is the busier one, and has been for long.
    const more = Array.from({ length: 6 }, (_, i) => complete({ prompt: i % 2 === 0 ? prompt : [300 + i] }));
    for (const { request } of await other.submits(6)) answer(other, request);
    expect((await Promise.all(more)).map(({ status }) => status)).toEqual(Array(6).fill(200));
    expect(leaving.received.filter(({ type }) => type === 'submit')).toEqual([]);
    // Back under its name, it has the fewest.
    await leaving.stream.close();
    const back = await ScriptedWorker.join(control, `n0w${refused.index}`);
    back.ready();
    await back.next('peers');
    const again = [complete({ prompt: [500] }), complete({ prompt: [501] })];
    const { request } = await back.next('submit');
    answer(back, request);
    answer(other, (await other.next('submit')).request);
    expect((await Promise.all(again)).map(({ status }) => status)).toEqual([200, 200]);
  });

  it('fails what it had begun to answer, and what it refuses where there is no other', async () => {
    const both = await start(2);
    const begun = complete();
    const { index, request } = await asked(both);
    answer(both[index], request, Finish.none);
    refuse(both[index], request, 'shutting_down');
    expect(await begun).toMatchObject({ status: 503, code: 'shutting_down' });
    const next = complete();
    const { request: last } = await both[1 - index].next('submit');
    refuse(both[1 - index], last, 'shutting_down');
    expect(await next).toMatchObject({ status: 503, code: 'shutting_down' });
    expect(await complete()).toMatchObject({ status: 503, code: 'not_ready' });
    expect([load(0), load(1)]).toEqual([0, 0]);
  });
});

describe('a worker that is lost where others have all its experts', () => {
  /** A plan by which each worker has every expert. */
  function replicated(workers: number): string {
    const named = Array.from({ length: workers }, (_, i) => ({ name: `n0w${i}`, node: 0 }));
    const once = contiguousPlan(readModelFolder(modelDir).plan, named);
    const file = path.join(folder, `${workers}-${serial}.json`);
    writeFileSync(file, JSON.stringify({ ...once, replicas: once.replicas.map((layer) => layer.map(() => named.map((_, i) => i))) }));
    return file;
  }

  it('leaves what it had not begun to answer to another, once, and takes with it what it had', async () => {
    const three = await start(3, { plan: replicated(3) });
    const prompt = Array.from({ length: 80 }, (_, i) => 100 + i);
    const begun = complete({ prompt });
    const { index, request } = await asked(three);
    const waiting = complete({ prompt });
    await three[index].next('submit');
    answer(three[index], request, Finish.none);
    await three[index].stream.close();
    expect(await begun).toMatchObject({ status: 503, code: 'worker_lost' });
    const others = three.filter((_, i) => i !== index);
    const second = await asked(others);
    await others[second.index].stream.close();
    expect(await waiting).toMatchObject({ status: 503, code: 'worker_lost' });
    const next = complete({ prompt });
    const last = others[1 - second.index];
    answer(last, (await last.next('submit')).request);
    expect((await next).status).toBe(200);
  });

  it('and whose stream closes just as it is asked is passed over', async () => {
    const both = await start(2, { plan: replicated(2) });
    const submit = vi.spyOn(Membership.prototype, 'submit').mockImplementationOnce(() => {
      throw new SwitchyardError('link_closed', 'it has just gone');
    });
    const first = complete();
    const { index, request } = await asked(both);
    expect(submit.mock.calls.map(([place]) => place.worker)).toEqual([1 - index, index]);
    submit.mockRestore();
    const second = complete();
    answer(both[index], request);
    answer(both[index], (await both[index].next('submit')).request);
    expect((await Promise.all([first, second])).map(({ status }) => status)).toEqual([200, 200]);
  });
});

describe('choices of one request', () => {
  it('that a worker refuses go nowhere else when another of them fails in the same breath', async () => {
    const both = await start(2);
    const first = complete({ prompt: Array.from({ length: 80 }, (_, i) => 100 + i), n: 2, temperature: 1 });
    const { index, request } = await asked(both);
    const home = both[index];
    const second = (await home.next('submit')).request;
    answer(home, second, Finish.none);
    home.tokens({
      request: [request, second],
      token: [0, 0],
      finish: [Finish.error, Finish.error],
      errors: Array(2).fill({ code: 'shutting_down', message: 'not now' }),
      cachedTokens: [0, 0],
    });
    expect(await first).toMatchObject({ status: 503, code: 'shutting_down' });
    // What is asked next is the first that the other hears of.
    const next = complete({ prompt: [7] });
    const other = both[1 - index];
    const { prompt, request: asking } = await other.next('submit');
    expect(Array.from(prompt)).toEqual([7]);
    answer(other, asking);
    expect((await next).status).toBe(200);
  });
});

describe('a worker that takes nothing for now', () => {
  it.each(['queue_full', 'not_ready'] as const)('is passed over, and asked again where nobody else is left (%s)', async (code) => {
    const both = await start(2);
    const first = complete();
    const { index, request } = await asked(both);
    refuse(both[index], request, code);
    answer(both[1 - index], (await both[1 - index].next('submit')).request);
    expect((await first).status).toBe(200);
    const second = complete();
    // Given to another once: refused there as well, it has failed.
    const { request: again } = await both[1 - index].next('submit');
    refuse(both[1 - index], again, code);
    const third = await asked(both);
    refuse(both[third.index], third.request, code);
    expect(await second).toMatchObject({ status: 503, code });
    const last = complete();
    const { index: taker, request: taken } = await asked(both);
    answer(both[taker], taken);
    expect((await last).status).toBe(200);
  });

  it('of a cluster of one fails what it refuses, and is asked again', async () => {
    const [only] = await start(1);
    const first = complete();
    refuse(only, (await only.next('submit')).request, 'queue_full');
    expect(await first).toMatchObject({ status: 503, code: 'queue_full' });
    const second = complete();
    answer(only, (await only.next('submit')).request);
    expect((await second).status).toBe(200);
  });
});

describe('a worker that fails whatever it is asked', () => {
  it.each(['expert_unavailable', 'internal', 'a code of its own'])(
    'is passed over while another may be asked, though it has nothing to do (%s)',
    async (code) => {
      const both = await start(2);
      const first = complete();
      const { index, request } = await asked(both);
      const [failing, healthy] = [both[index], both[1 - index]];
      refuse(failing, request, code as ErrorCode);
      // What it had begun may have cost more than a refusal: it is not done again.
      expect((await first).status).toBeGreaterThanOrEqual(500);
      const more = Array.from({ length: 6 }, (_, i) => complete({ prompt: [200 + i] }));
      for (const { request } of await healthy.submits(6)) answer(healthy, request);
      expect((await Promise.all(more)).map(({ status }) => status)).toEqual(Array(6).fill(200));
      expect(failing.received.filter(({ type }) => type === 'submit')).toEqual([]);
    },
  );

  it('is asked where all do, and where there is no other', async () => {
    const both = await start(2);
    for (const _ of both) {
      const failed = complete();
      const { index, request } = await asked(both);
      refuse(both[index], request, 'expert_unavailable');
      expect(await failed).toMatchObject({ status: 503, code: 'expert_unavailable' });
    }
    const more = [complete({ prompt: [1] }), complete({ prompt: [2] })];
    for (const worker of both) answer(worker, (await worker.next('submit')).request);
    expect((await Promise.all(more)).map(({ status }) => status)).toEqual([200, 200]);
    await coordinator.close(0);
    const [only] = await start(1);
    const failed = complete();
    refuse(only, (await only.next('submit')).request, 'expert_unavailable');
    expect((await failed).status).toBe(503);
    const next = complete();
    answer(only, (await only.next('submit')).request);
    expect((await next).status).toBe(200);
  });

  it('because of the request is asked like any other', async () => {
    const both = await start(2);
    const first = complete();
    const { index, request } = await asked(both);
    refuse(both[index], request, 'context_length_exceeded');
    expect((await first).status).toBe(400);
    const more = [complete({ prompt: [1] }), complete({ prompt: [2] })];
    for (const worker of both) answer(worker, (await worker.next('submit')).request);
    expect((await Promise.all(more)).map(({ status }) => status)).toEqual([200, 200]);
  });
});

describe('what a worker has no room for', () => {
  it('waits in the coordinator until somebody has', async () => {
    const room = 2 + limits.requestsWaitingMax;
    const [only] = await start(1, { requestsRunningMax: room + 200, maxSequences: 2 });
    const open = Array.from({ length: 5 }, () => complete({ prompt: Array.from({ length: 8 }, () => [100]), n: 16 }));
    const submits = await only.submits(room);
    const requests = () => (coordinator.status() as { requests: { running: number; waiting: number } }).requests;
    await becomes(() => requests().waiting === 5 * 128 - room);
    expect(requests().running).toBe(room);
    answer(only, submits[0].request);
    const [next] = await only.submits(1);
    expect(next.request).toBeGreaterThan(submits.at(-1)!.request);
    await coordinator.close(0);
    expect((await Promise.all(open)).map(({ code }) => code)).toEqual(Array(5).fill('shutting_down'));
  });
});
