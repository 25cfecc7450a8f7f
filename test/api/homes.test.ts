import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { TrafficReport } from '../../cli/src/traffic/traffic-report.ts';
import { switchyard } from '../cli/program.ts';
import { adminToken, type Cluster, modelDir, post, startCluster, status, until } from './cluster.ts';

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

describe('a plan made from what requests chose', () => {
  it('is served as it is, and its domains live where it says', async () => {
    const domains = ['code', 'scripture'];
    const texts = domains.map((domain) => readFileSync(path.join(modelDir, 'held-out', `${domain}.txt`), 'utf8'));
    const operate = (body: Record<string, unknown>) => post(alone, '/v1/switchyard/trace', body, { authorization: `Bearer ${adminToken}` });
    expect((await operate({ on: true, file: 'kinds' })).status).toBe(200);
    for (let part = 0; part < 6; part++)
      await Promise.all(
        domains.map((domain, d) =>
          post(
            alone,
            '/v1/completions',
            { prompt: texts[d].slice(900 * part, 900 * part + 600), max_tokens: 8 },
            { 'x-switchyard-domain': domain },
          ),
        ),
      );
    const { files } = (await operate({ on: false })).json() as { files: string[] };
    const topology = path.join(folder, 'topology.json');
    const nodes = ['n0', 'n1'].map((name) => ({
      name,
      workers: [0, 1].map((w) => ({ name: `${name}w${w}`, expertMemoryBytes: 1e9, relativeSpeed: 1 })),
    }));
    const speeds = { intraNode: { bandwidth: 5e10, latency: 5e-6 }, interNode: { bandwidth: 1.25e9, latency: 3e-5 }, links: null };
    const sizes = { expertBytes: 150_000, dispatchRowBytes: 512, combineRowBytes: 1024 };
    writeFileSync(topology, JSON.stringify({ format: 'switchyard-topology', version: 1, nodes, ...sizes, ...speeds }));
    const made = path.join(folder, 'made.json');
    const flags = ['--replicas', '10%', '--starts', '1', '--sample-tokens', '1500', '--held-out', '0', '--out', made];
    const placed = await switchyard(['place', '--trace', files[0], '--topology', topology, ...flags]);
    expect(placed.status, placed.stderr).toBe(0);
    const { provenance } = JSON.parse(readFileSync(made, 'utf8'));
    const served = await startCluster({ nodes: 2, workersPerNode: 2, flags: ['--plan', made] });
    try {
      for (const [d, domain] of domains.entries()) {
        const body = { ...sampled, prompt: texts[d].slice(20_000, 20_400) };
        const [{ switchyard: bill, ...choice }] = (
          await post(served, '/v1/completions', { ...body, return_traffic: true }, { 'x-switchyard-domain': domain })
        ).json().choices;
        const { homeShare } = provenance.homes.domains[domain];
        expect([bill.node, bill.reason, bill.expected_home_share]).toEqual([
          homeShare.indexOf(Math.max(...homeShare)),
          'domain',
          Math.max(...homeShare),
        ]);
        expect(bill.home_share).toBeGreaterThan(0.5);
        expect(bill.r).toBeLessThan(1);
        expect(bill.inter_node_bytes).toBeGreaterThan(0);
        expect([choice]).toEqual(await expected(body));
      }
      expect((await status(served)).plan.prediction).toEqual({ remoteNodes: provenance.remoteNodes, homeShare: provenance.homeShare });
    } finally {
      await served.stop();
    }
  });
});
