import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { writeSwitchyardTrace } from '@switchyard/placement';
import { afterAll, expect, it, vi } from 'vitest';
import { equalNodes, runPlace } from './place-command.ts';

const dir = mkdtempSync(join(tmpdir(), 'place-verify-'));
afterAll(() => rmSync(dir, { recursive: true }));

it('finds what a certificate is for without digesting the whole of a long trace', async () => {
  const [tokens, perSequence] = [50_000, 5000];
  const [trace, topology, plan, certificate] = ['long.trace', 'topology.json', 'plan.json', 'certificate.json'].map((name) =>
    join(dir, name),
  );
  const { chunks, sequences } = writeSwitchyardTrace(
    {
      ...{ model: 'toy', moeLayers: [0], experts: 2, topK: 1, tokens },
      ids: Uint16Array.from({ length: tokens }, (_, t) => t % 2),
      sequenceOf: Uint32Array.from({ length: tokens }, (_, t) => Math.floor(t / perSequence)),
      generated: new Uint8Array(tokens),
      sequences: Array.from({ length: tokens / perSequence }, (_, sequence) => ({ sequence, domain: null, tokens: perSequence })),
    },
    '2026-01-01T00:00:00Z',
  );
  writeFileSync(trace, Buffer.concat([...chunks]));
  writeFileSync(`${trace}.sequences.jsonl`, sequences);
  writeFileSync(topology, JSON.stringify(equalNodes(2, 2)));
  await runPlace(['--trace', trace, '--topology', topology, '--out', plan, '--certificate', certificate, '--starts', '1']);
  const update = vi.spyOn(Object.getPrototypeOf(createHash('sha256')), 'update');
  expect(await runPlace(['verify', plan, trace, certificate])).not.toContain('FAIL');
  const largest = Math.max(...update.mock.calls.map(([data]) => (data as string | Uint8Array).length));
  update.mockRestore();
  // A token's sequence takes four bytes.
  expect(largest).toBeLessThanOrEqual(4 * 40_000);
});
