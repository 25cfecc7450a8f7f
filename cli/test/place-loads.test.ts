import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, expect, it } from 'vitest';
import { exitStatus } from '../src/failure.ts';
import { equalNodes, runPlace } from './place-command.ts';

const dir = mkdtempSync(join(tmpdir(), 'place-loads-'));
afterAll(() => rmSync(dir, { recursive: true }));
afterEach(() => {
  process.exitCode = undefined;
});

it('ends on Ctrl-C with a plan of all layers, those to come by less effort', async () => {
  const [layers, experts] = [6, 12];
  const [loads, topology] = [join(dir, 'loads.json'), join(dir, 'topology.json')];
  writeFileSync(
    loads,
    JSON.stringify(Array.from({ length: layers }, (_, l) => Array.from({ length: experts }, (_, e) => 1 + ((7 * e + l) % 11)))),
  );
  writeFileSync(topology, JSON.stringify(equalNodes(4, 24)));
  let told = '';
  const ask = ['--trace', loads, '--topology', topology, '--dry-run'];
  const printed = await runPlace([...ask, '--json'], (text) => {
    // As a signal comes: when the search lets others have their turn.
    if (told === '') setImmediate(() => process.emit('SIGINT'));
    told += text;
  });
  expect(told).toContain(`layer 1 of ${layers}`);
  expect(process.exitCode).toBe(exitStatus.interrupted);
  const report = JSON.parse(printed);
  expect(report.stopped).toBe(true);
  expect(report.plan.replicas).toHaveLength(layers);
  process.exitCode = undefined;
  expect(JSON.parse(await runPlace([...ask, '--json'])).stopped).toBe(false);
  expect(await runPlace([...ask, '--deadline', '1ms'])).toContain('stopped early: this is the best plan found so far\n');
  expect(process.exitCode).toBeUndefined();
});
