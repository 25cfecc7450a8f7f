import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Cluster, model, post, startCluster, status } from './cluster.ts';

const name = 'bf16+node-limit-1+int8-wire';
const ask = { model, prompt: 'It was a dark night and', temperature: 0, max_tokens: 12 };

describe('a cluster with lossy options', () => {
  let cluster: Cluster;
  beforeAll(async () => {
    cluster = await startCluster({ nodes: 2, flags: ['--lossy', 'node-limit=1,wire=int8'] });
  });
  afterAll(() => cluster?.stop());

  it('says so wherever it says what it is', async () => {
    const list = await (await fetch(`${cluster.url}/v1/models`)).json();
    expect(list).toMatchObject({ data: [{ numeric_class: name, exact: false }] });
    expect((await status(cluster)).numericClass).toBe(name);
    expect(await (await fetch(`${cluster.url}/metrics`)).text()).toContain(`numeric_class="${name}",exact="false"} 1`);
    const answer = (await post(cluster, '/v1/completions', ask)).json();
    expect(answer.system_fingerprint.endsWith(`-${name}`)).toBe(true);
    expect(answer.usage.completion_tokens).toBe(12);
  });

  it('keeps every token of every layer on one node', async () => {
    // A token on one of two nodes visits no remote one or one; about as many of each, where free routing nearly always needs both.
    for (let i = 0; i < 4; i++) await post(cluster, '/v1/completions', { ...ask, prompt: `${i} ${ask.prompt}` });
    const text = async () => await (await fetch(`${cluster.url}/metrics`)).text();
    const sum = (of: string, metric: string) =>
      of
        .split('\n')
        .filter((line) => line.startsWith(`switchyard_${metric}{`))
        .reduce((total, line) => total + Number(line.split(' ').at(-1)), 0);
    await expect.poll(async () => sum(await text(), 'rows_dispatched_total'), { timeout: 20_000 }).toBeGreaterThan(0);
    const seen = await text();
    const r = sum(seen, 'remote_nodes_visited_total') / sum(seen, 'rows_dispatched_total');
    expect(r).toBeGreaterThan(0.1);
    expect(r).toBeLessThan(0.75);
  });

  it('refuses at the start a limit that limits nothing', async () => {
    await expect(startCluster({ nodes: 2, flags: ['--lossy', 'node-limit=2'], withWorkers: false })).rejects.toThrow(
      /--lossy node-limit=2 limits nothing: there are 2 nodes/,
    );
  });

  it('refuses at the start what it does not know', async () => {
    await expect(startCluster({ flags: ['--lossy', 'speed=9'], withWorkers: false })).rejects.toThrow(
      /--lossy is \\?"speed=9\\?".*there are node-limit=N, wire=int8 and wire=fp8/,
    );
  });
});
