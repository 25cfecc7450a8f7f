import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { contiguousPlan, type Plan } from '@switchyard/proto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { bedRefusal, startBed } from './bed/bed.mjs';
import { startCluster } from './bed/cluster.mjs';

// Switchyard over hosts that are network namespaces, with a network between them that can be cut. Where no namespaces may be made, this is skipped.

const model = path.join(fileURLToPath(new URL('../..', import.meta.url)), 'models/shunter-16m');

function planOn(hosts: number): Plan {
  const workers = Array.from({ length: hosts }, (_, node) => ({ name: `n${node}w0`, node }));
  return contiguousPlan({ type: 'qwen3_moe', moeLayers: [0, 1, 2, 3, 4, 5], experts: 32 }, workers);
}

/** The first host has every expert; the second one needs it for half of its rows. */
function leaningPlan(): Plan {
  const plan = planOn(2);
  return { ...plan, replicas: plan.replicas.map((layer) => layer.map((_, e) => (e < 16 ? [0] : [0, 1]))) };
}

const requests = (count: number, maxTokens: number) =>
  Array.from({ length: count }, (_, n) => ({
    prompt: Array.from({ length: 24 }, (__, i) => 300 + ((n * 131 + i * i * 7) % 3500)),
    maxTokens,
    wantIds: true,
  }));

interface Completion {
  home: string;
  ids: number[];
  error: string | null;
}

type Cluster = Awaited<ReturnType<typeof startCluster>>;

const refusal = bedRefusal();
describe.skipIf(refusal !== null)(`several hosts${refusal === null ? '' : `, skipped: ${refusal}`}`, () => {
  let bed: Awaited<ReturnType<typeof startBed>>;
  /** What one worker alone answers. */
  let alone: Completion[];

  beforeAll(async () => {
    bed = await startBed({ hosts: 2, rateMbit: 1000, delayMicros: 250 });
    alone = await withCluster(planOn(1), [], (cluster) => cluster.batch(requests(6, 16)));
  });

  afterAll(() => bed?.stop());

  async function withCluster<T>(plan: Plan, flags: string[], use: (cluster: Cluster) => Promise<T>): Promise<T> {
    const cluster = await startCluster(bed, { model, plan, coordinatorFlags: ['--no-prefix-cache', '--home-fill', '1', ...flags] }); // Every host is a home.
    return use(cluster).finally(cluster.stop);
  }

  const idsOf = (completions: Completion[]) => {
    for (const { error } of completions) expect(error).toBeNull();
    return completions.map(({ ids }) => ids);
  };

  test('give the bits that one worker gives, also over links that lose packets, and carry little more than what is counted', async () => {
    await withCluster(planOn(2), [], async (cluster) => {
      const frames = async () => {
        const { workers } = await cluster.counters();
        return workers.flatMap(({ stats }: { stats: { links: { bytesSent: number; bytesReceived: number }[] } }) => stats.links);
      };
      const wireBefore = await bed.counters();
      expect(idsOf(await cluster.batch(requests(6, 16)))).toEqual(idsOf(alone));
      expect(alone.every(({ ids }) => ids.length === 16)).toBe(true);
      let counted = 0;
      for (const link of await frames()) counted += link.bytesSent + link.bytesReceived;
      const wireAfter = await bed.counters();
      const carried = wireAfter.bytes[0][1] + wireAfter.bytes[1][0] - wireBefore.bytes[0][1] - wireBefore.bytes[1][0];
      expect(counted).toBeGreaterThan(500_000);
      // Above the frames: headers of TCP and IP, acknowledgements, and what a worker and the coordinator tell each other.
      expect(carried / counted).toBeGreaterThan(1);
      expect(carried / counted).toBeLessThan(1.4);
      await bed.setLink({ loss: 0.02 });
      expect(idsOf(await cluster.batch(requests(6, 16)))).toEqual(idsOf(alone));
      await bed.setLink({ loss: 0 });
      const { dropped } = await bed.counters();
      expect(dropped[0] + dropped[1]).toBeGreaterThan(0);
    });
  });

  test('fail with a reason what a cut link was needed for, go on with the rest, and heal', async () => {
    await withCluster(leaningPlan(), ['--row-deadline-ms', '1000'], async (cluster) => {
      const streams = cluster.batch(requests(6, 900));
      const there = async () => (await cluster.status()).workers[1];
      while (((await there()).stats?.generatedTokens ?? 0) === 0) await turn();
      await bed.partition(1);
      while ((await cluster.status()).workers[0].load > 0) await turn();
      // Nobody knows yet that the second host is away; its sequences keep the first one the less loaded.
      expect(idsOf(await cluster.batch(requests(1, 16)))).toEqual(idsOf(alone.slice(0, 1)));
      await bed.heal(1);
      const completions: Completion[] = await streams;
      const [unharmed, failed] = ['n0w0', 'n1w0'].map((name) => completions.filter(({ home }) => home === name));
      expect([unharmed.length, failed.length]).toEqual([3, 3]);
      for (const { error, ids } of unharmed) expect([error, ids.length]).toEqual([null, 900]);
      // A row was late, or found its link cut for that; or, on a slow machine, the probes of the control stream gave up before the network healed.
      const reasons =
        /^(worker n0w0, layer \d+: no answer for \d+ ms; the limit is 1000|expert .* n0w0, which cannot be reached|worker n1w0 was lost)/;
      for (const { error } of failed) expect(error).toMatch(reasons);
      // The links come back by themselves.
      let healed = await cluster.batch(requests(6, 16));
      for (let tries = 0; healed.some(({ error }: { error: string | null }) => error !== null) && tries < 100; tries++) {
        await turn();
        healed = await cluster.batch(requests(6, 16));
      }
      expect(idsOf(healed)).toEqual(idsOf(alone));
    });
  });
});

/** Lets the other processes go on; what is waited for is asked again, not timed. */
function turn(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 20));
}
