import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, expect, it } from 'vitest';
import { availableCpus, memoriesBeside } from '../src/index.ts';

const folder = mkdtempSync(path.join(os.tmpdir(), 'switchyard-machine-'));
afterAll(() => rmSync(folder, { recursive: true }));
for (const [name, cpus] of Object.entries({ node0: '0-3,8', node1: '4-7\n', power: 'none' })) {
  mkdirSync(path.join(folder, name));
  writeFileSync(path.join(folder, name, 'cpulist'), cpus);
}

it('names the memories beside CPUs, one a NUMA node, or one in all where the machine does not tell', () => {
  const nodesOf = (cpus: number[]) => memoriesBeside(cpus, folder).map((name) => name.split(' ')[1]);
  expect(nodesOf([1, 8])).toEqual(['node0']);
  expect(nodesOf([5])).toEqual(['node1']);
  expect(nodesOf([3, 4])).toEqual(['node0', 'node1']);
  const [whole, ...more] = memoriesBeside([1], path.join(folder, 'nowhere'));
  expect(more).toEqual([]);
  expect(memoriesBeside([99], folder)).toEqual([whole]);
  expect(memoriesBeside([1], folder)).toEqual([`${whole} node0`]);
});

it('names them alike in every process of a machine', () => {
  const index = fileURLToPath(new URL('../dist/index.js', import.meta.url));
  const program = `import(${JSON.stringify(index)}).then((proto) => console.log(JSON.stringify(proto.memoriesBeside(proto.availableCpus()))))`;
  const { stdout } = spawnSync(process.execPath, ['-e', program], { encoding: 'utf8' });
  const own = memoriesBeside(availableCpus());
  expect(own.length).toBeGreaterThan(0);
  expect(JSON.parse(stdout)).toEqual(own);
});
