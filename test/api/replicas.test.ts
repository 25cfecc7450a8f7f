import { cpSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { contiguousPlan } from '@switchyard/proto';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { type Cluster, model, modelDir, post, startCluster, status, until, untilReady } from './cluster.ts';

const names = ['n0w0', 'n0w1', 'n1w0', 'n1w1'];
const asking = Array.from({ length: 8 }, (_, i) => ({
  model,
  prompt: `Chapter ${i + 1}. It was a dark night, and ${['the sea', 'a horse', 'the king', 'nobody'][i % 4]}`,
  temperature: 0,
  max_tokens: 160,
  ignore_eos: true,
  logprobs: 2,
}));

let cluster: Cluster;
let folder: string;
let checkpoint: string;
/** What each asks for gets while nothing happens. */
const undisturbed: unknown[] = [];

beforeAll(async () => {
  folder = mkdtempSync(path.join(os.tmpdir(), 'sw-replicas-'));
  // Every expert once on each node: worker w's are worker w+2's too.
  const once = contiguousPlan(
    { type: 'qwen3_moe', moeLayers: [0, 1, 2, 3, 4, 5], experts: 32 },
    names.map((name) => ({ name, node: Number(name[1]) })),
  );
  const twice = { ...once, replicas: once.replicas.map((layer) => layer.map(([w]) => [w % 2, 2 + (w % 2)])) };
  const plan = path.join(folder, 'plan.json');
  writeFileSync(plan, JSON.stringify(twice));
  checkpoint = path.join(folder, model);
  cpSync(modelDir, checkpoint, { recursive: true });
  const flags = ['--plan', plan, '--no-prefix-cache', '--home-fill', '1'];
  cluster = await startCluster({ nodes: 2, workersPerNode: 2, flags, dir: checkpoint });
  for (const request of asking) undisturbed.push((await answer(request)).choices);
});

afterAll(async () => {
  await cluster?.stop();
  rmSync(folder, { recursive: true });
});

async function answer(request: (typeof asking)[number]) {
  const reply = await post(cluster, '/v1/completions', request);
  const home = /^[^;,]+/.exec(reply.headers.get('x-switchyard-home') ?? '')?.[0] ?? null;
  return { status: reply.status, home, ...reply.json() };
}

/** Answers that have begun. */
async function firstTokens(): Promise<number> {
  const text = await (await fetch(`${cluster.url}/metrics`)).text();
  return Number(/^switchyard_time_to_first_token_seconds_count\{.*\} (\d+)$/m.exec(text)![1]);
}

it('a worker that is killed takes the requests with it whose home it is; the others end with the bits that they would have had', async () => {
  const answers = asking.map(answer);
  // Homes are all four, and all are in the middle of it: what is not begun is given to another.
  await until(async () => (await status(cluster)).workers.every(({ load }) => load >= 2));
  await until(async () => (await firstTokens()) === 2 * asking.length);
  cluster.workers.get('n1w0')!.kill('SIGKILL');
  const ended = await Promise.all(answers);
  const failed = ended.filter((one) => one.status !== 200);
  // What it had been asked, and nothing else.
  expect(failed.length).toBeGreaterThan(0);
  expect(failed.length).toBeLessThanOrEqual(asking.length / 2);
  for (const { error } of failed) expect(error.message).toContain('n1w0');
  for (const [i, { status: code, home, choices }] of ended.entries()) {
    if (code !== 200) continue;
    expect(home).not.toBe('n1w0');
    expect(choices).toEqual(undisturbed[i]);
  }
  // All experts are still there.
  await untilReady(cluster, true);
  expect((await answer(asking[0])).choices).toEqual(undisturbed[0]);
});

/** Every weight is another. A file of its own: workers that run have the old one mapped. */
function retrain(dir: string): void {
  const file = path.join(dir, 'model.safetensors');
  const bytes = readFileSync(file);
  for (let i = 8 + Number(bytes.readBigUInt64LE()); i < bytes.length; i += 2) bytes[i] ^= 8;
  writeFileSync(`${file}.new`, bytes);
  renameSync(`${file}.new`, file);
}

/** Frames that the others have sent it until now, as they count them: each has said so since it was asked. */
async function framesTo(name: string): Promise<number> {
  const askedMs = performance.now();
  let sent = 0;
  await until(async () => {
    const ready = (await status(cluster)).workers.filter(({ state }) => state === 'ready');
    const links = ready.flatMap(({ stats }) => stats?.links ?? []);
    sent = links.reduce((sum, link) => sum + (link.peer === name ? link.framesSent : 0), 0);
    return ready.every(({ statsAgeMs }) => statsAgeMs !== null && statsAgeMs < performance.now() - askedMs);
  });
  return sent;
}

it('a worker that comes back with another checkpoint is asked for no row', async () => {
  cluster.workers.get('n1w0')!.kill('SIGKILL');
  retrain(checkpoint);
  cluster.startWorker('n1w0');
  await until(async () => (await status(cluster)).workers[names.indexOf('n1w0')].state === 'failed');
  // The others know where it was, and it is there again. They have been told that it was lost, and dial it no more.
  const before = await framesTo('n1w0');
  const answers = await Promise.all(asking.map(answer));
  for (const [i, { status: code, choices }] of answers.entries()) expect([code, choices]).toEqual([200, undisturbed[i]]);
  expect(await framesTo('n1w0')).toBe(before);
});
