import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { TrafficReport } from '../../cli/src/traffic/traffic-report.ts';
import { switchyard } from '../cli/program.ts';
import { adminToken, type Cluster, modelDir, post, startCluster, until } from './cluster.ts';

// Two nodes of two workers. The first node holds every expert, the second half of them too: by what it learns, the coordinator prefers the first.
const config = JSON.parse(readFileSync(path.join(modelDir, 'config.json'), 'utf8'));
const experts: number = config.num_experts;
const moeLayers = Array.from({ length: config.num_hidden_layers as number }, (_, l) => l);
const plan = {
  format: 'switchyard-plan',
  version: 1,
  model: { type: config.model_type, moeLayers, experts },
  workers: ['n0w0', 'n0w1', 'n1w0', 'n1w1'].map((name, w) => ({ name, node: Math.floor(w / 2) })),
  replicas: moeLayers.map(() => Array.from({ length: experts }, (_, e) => (e < experts / 2 ? [e % 2, 2 + (e % 2)] : [e % 2]))),
  provenance: {
    homes: {
      domains: {
        prose: { tokens: 1, homeShare: [0.2, 0.8] },
        code: { tokens: 1, homeShare: [0.8, 0.2] },
        broken: { tokens: 1, homeShare: ['all', 0] },
      },
    },
  },
};

const folder = mkdtempSync(path.join(os.tmpdir(), 'sw-homes-'));
let cluster: Cluster;
/** One worker, which has nothing to choose. */
let alone: Cluster;
beforeAll(async () => {
  const file = path.join(folder, 'plan.json');
  writeFileSync(file, JSON.stringify(plan));
  [cluster, alone] = await Promise.all([
    startCluster({ nodes: 2, workersPerNode: 2, flags: ['--plan', file, '--max-batch-rows', '16'] }),
    startCluster(),
  ]);
}, 60_000);
afterAll(async () => {
  await cluster?.stop();
  await alone?.stop();
  rmSync(folder, { recursive: true, force: true });
});

const prompt = (start: number, length: number) => Array.from({ length }, (_, i) => 100 + ((start + 7 * i) % 3000));
const sampled = { max_tokens: 12, temperature: 1, seed: 7, logprobs: 3, ignore_eos: true };

interface Choice {
  switchyard: { home: string; node: number; reason: string; moved_from: string | null; r: number; home_share: number; rows: number };
}

async function ask(body: Record<string, unknown>, domain: string | null = null) {
  const { status, json, text, headers } = await post(
    cluster,
    '/v1/completions',
    { ...sampled, return_traffic: true, ...body },
    domain === null ? {} : { 'x-switchyard-domain': domain },
  );
  expect(status, text).toBe(200);
  const homes = headers.get('x-switchyard-home')!.split(', ');
  const answers = json().choices.map(({ switchyard: _, ...choice }: Choice) => choice);
  return { homes, answers, bills: json().choices.map(({ switchyard }: Choice) => switchyard) as Choice['switchyard'][] };
}

/** What the request gets alone. */
async function expected(body: Record<string, unknown>): Promise<unknown[]> {
  return (await post(alone, '/v1/completions', { ...sampled, ...body })).json().choices;
}

describe('a home', () => {
  it('is on the node that the plan names for a declared domain, and decides nothing that a client reads', async () => {
    const body = { prompt: prompt(1, 40) };
    const prose = await ask(body, 'prose');
    const code = await ask({ ...body, metadata: { domain: 'code' } });
    expect(prose.homes[0]).toMatch(/^n1w\d; domain$/);
    expect(code.homes[0]).toMatch(/^n0w\d; domain$/);
    const reference = await expected(body);
    expect(prose.answers).toEqual(reference);
    expect(code.answers).toEqual(reference);
    expect(cluster.log()).toContain('provenance.homes.domains: 1 entries are not used');
  });

  it('is learnt for a domain that the plan does not know, and spills to other nodes when it has too much', async () => {
    const first = await ask({ prompt: prompt(2, 40) }, 'verse');
    expect(first.homes[0]).toContain('; least-loaded');
    const body = { prompt: prompt(3, 40), n: 12 };
    const many = await ask(body, 'verse');
    // Five on each worker of the preferred node, which is four more than the others have; the next two spill.
    const count = (home: string) => many.homes.filter((one) => one === home).length;
    expect([count('n0w0; domain'), count('n0w1; domain'), count('n1w0; overload'), count('n1w1; overload')]).toEqual([5, 5, 1, 1]);
    expect(many.answers).toEqual(await expected(body));
  });

  it('stays with a conversation, whatever its domain prefers', async () => {
    const turn = await ask({ prompt: prompt(4, 150) }, 'prose');
    expect(turn.homes[0]).toMatch(/^n1w\d; domain$/);
    const body = { prompt: [...prompt(4, 150), ...prompt(99, 30)] };
    const next = await ask(body, 'code');
    expect(next.homes[0]).toBe(turn.homes[0].replace('domain', 'prefix'));
    expect(next.answers).toEqual(await expected(body));
  });

  it('moves after the first chunk of a long prompt of which nothing was known, and the bits stay', async () => {
    const moved: string[] = [];
    for (let start = 0; start < 4; start++) {
      const body = { prompt: prompt(1000 + 5 * start, 200), echo: true };
      const { homes, answers, bills } = await ask(body);
      expect(answers).toEqual(await expected(body));
      if (bills[0].moved_from === null) expect(homes[0]).toMatch(/^n0w\d; least-loaded$/);
      else expect(homes[0]).toMatch(/^n0w\d; first-chunk$/);
      if (bills[0].moved_from !== null) moved.push(bills[0].moved_from);
    }
    // Homes take turns, so some began on the second node.
    expect(moved.length).toBeGreaterThan(0);
    for (const from of moved) expect(from).toMatch(/^n1w\d$/);
  });

  it('is counted: the matrix of the cluster, by the program', async () => {
    const token = path.join(folder, 'admin');
    writeFileSync(token, adminToken, { mode: 0o600 });
    const run = async () => await switchyard(['traffic', '--url', cluster.url, '--admin-token-file', token, '--json']);
    let report: TrafficReport = JSON.parse((await run()).stdout);
    // Workers tell about once a second.
    await until(async () => {
      report = JSON.parse((await run()).stdout);
      return report.rows > 0;
    });
    expect(report.workers.names).toEqual(['n0w0', 'n0w1', 'n1w0', 'n1w1']);
    expect(report.nodes.names).toEqual(['n0', 'n1']);
    expect(report.nodes.bytes[1][0]).toBeGreaterThan(0);
    expect(report.homes.domain).toBeGreaterThan(0);
    expect(report.r).toBeGreaterThan(0);
    // Every row that crosses carries its values; what is more is headers and tables.
    expect(report.formula!.rowBytes).toBe(2 * config.hidden_size);
    expect(report.formula!.deviation).toBeGreaterThan(0);
    const refused = await switchyard(['traffic', '--url', cluster.url]);
    expect(refused.status).not.toBe(0);
    expect(refused.stderr).toContain('--admin-token-file');
  });

  it('is told in a stream with the end of each choice', async () => {
    const { text } = await post(cluster, '/v1/chat/completions', {
      messages: [{ role: 'user', content: 'Hello' }],
      max_tokens: 4,
      n: 2,
      stream: true,
      return_traffic: true,
    });
    const chunks = text.split('\n\n').flatMap((event) => (event.startsWith('data: {') ? [JSON.parse(event.slice(6)).choices[0]] : []));
    const told = chunks.filter((choice) => choice.switchyard !== undefined);
    expect(told.map(({ index, finish_reason }) => [index, typeof finish_reason]).sort()).toEqual([
      [0, 'string'],
      [1, 'string'],
    ]);
    for (const { switchyard } of told) expect(switchyard.home).toMatch(/^n\dw\d$/);
  });
});
