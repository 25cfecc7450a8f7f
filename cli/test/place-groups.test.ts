import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type RoutingTrace, writeSwitchyardTrace } from '@switchyard/placement';
import { afterAll, expect, it } from 'vitest';
import { equalNodes, runPlace } from './place-command.ts';

const dir = mkdtempSync(join(tmpdir(), 'place-groups-'));
afterAll(() => rmSync(dir, { recursive: true }));

/** Two layers of 64 experts in 4 groups; each token keeps inside one group of 16. */
function groupedTrace(): RoutingTrace {
  const [tokens, perSequence] = [240, 20];
  const ids = Uint16Array.from({ length: tokens * 2 * 2 }, (_, i) => {
    const token = Math.floor(i / 4);
    return 16 * (token % 4) + ((token + 5 * (i % 2)) % 16);
  });
  return {
    model: 'deepseek_v3',
    modelType: 'deepseek_v3',
    moeLayers: [3, 4],
    experts: 64,
    topK: 2,
    groups: 4,
    tokens,
    ids,
    sequenceOf: Uint32Array.from({ length: tokens }, (_, t) => Math.floor(t / perSequence)),
    generated: new Uint8Array(tokens),
    sequences: Array.from({ length: tokens / perSequence }, (_, sequence) => ({ sequence, domain: null, tokens: perSequence })),
  };
}

const trace = join(dir, 'grouped.trace');
const { chunks, sequences } = writeSwitchyardTrace(groupedTrace(), '2026-01-01T00:00:00Z');
writeFileSync(trace, Buffer.concat([...chunks]));
writeFileSync(`${trace}.sequences.jsonl`, sequences);

function asking(nodes: number, ...options: string[]): string[] {
  const topology = join(dir, `${nodes}-nodes.json`);
  writeFileSync(topology, JSON.stringify(equalNodes(nodes, 64)));
  return ['--trace', trace, '--topology', topology, '--starts', '1', '--dry-run', '--json', ...options];
}

it('keeps the groups that a trace names whole where it can, and lets them go on more nodes than that', async () => {
  const provenance = async (nodes: number) => JSON.parse(await runPlace(asking(nodes))).plan.provenance;
  expect(await provenance(4)).toMatchObject({ wholeGroups: 4 });
  expect(await provenance(33)).not.toHaveProperty('wholeGroups');
});

it('refuses groups that are asked for on too many nodes, by number and before the trace is read', async () => {
  const [, , ...rest] = asking(33, '--groups', 'whole');
  const unread = ['--trace', join(dir, 'none.trace'), ...rest];
  await expect(runPlace(unread)).rejects.toThrow('--groups whole is for at most 32 nodes; the topology has 33');
  await expect(runPlace([...unread, '--groups', '4'])).rejects.toThrow('at most 32 nodes; the topology has 33');
});
