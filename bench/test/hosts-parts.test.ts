import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { openParts } from '../hosts/parts.mjs';
import { cutShort, setting } from '../hosts/report.mjs';

const folder = mkdtempSync(path.join(os.tmpdir(), 'sw-bench-'));
afterAll(() => rmSync(folder, { recursive: true }));
const settings = { batches: '1,8', delays: '250', transport: 'tcp', warmRounds: '30', rounds: 'Infinity', attempts: '3' };
const run = { settings, command: 'node bench', madeBy: { commit: 'c', date: 'd', machine: 'm' }, again: false };

it('a part is taken for measured only where all that decides its figures is the same', () => {
  const { keep, has } = openParts(folder, run);
  expect(has('part')).toBe(false);
  keep('part', {}, false);
  expect(has('part')).toBe(false);
  keep('part', {});
  expect(has('part')).toBe(true);
  expect(openParts(folder, { ...run, again: true }).has('part')).toBe(false);
  for (const name of Object.keys(settings))
    expect(openParts(folder, { ...run, settings: { ...settings, [name]: '2' } }).has('part'), name).toBe(false);
});

it('a report names the commands that made it and how its hosts were linked', () => {
  const groups = [
    { transport: 'grpc', command: 'node a', madeBy: run.madeBy },
    { transport: 'grpc', command: 'node b', madeBy: run.madeBy },
  ];
  for (const coresPerHost of [null, 2]) {
    const text = setting(groups, coresPerHost).join('\n');
    expect(text).toContain('links by grpc;');
    expect(text).toContain('`node a`; `node b`; d, commit c, m.');
  }
});

it('a report says which of its parts were cut short, and which it leaves out for want of a calibration', () => {
  const part = { workload: 'text', hosts: 2, kind: 'optimised + 25%', network: 'tun', rateMbit: 250 };
  expect(cutShort([part, { ...part, whole: true }], [])).toEqual([]);
  expect(cutShort([{ ...part, whole: false }], [{ ...part, hosts: 4 }])).toEqual([
    'Cut short, so that cells are missing: text_2_optimised-25-_tun_250.',
    'Left out, cut short before their calibration: text_4_optimised-25-_tun_250.',
  ]);
});
