import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { placeCommand } from '../src/place/index.ts';

const trace = new URL('../../placement/test/fixtures/gpt-oss-20b-slice.trace.gz', import.meta.url).pathname;
const dir = mkdtempSync(join(tmpdir(), 'place-'));
const topology = join(dir, 'topology.json');
writeFileSync(
  topology,
  JSON.stringify({
    format: 'switchyard-topology',
    version: 1,
    nodes: Array.from({ length: 3 }, (_, n) => ({
      name: `n${n}`,
      workers: [{ name: `n${n}w0`, expertMemoryBytes: 400_000, relativeSpeed: 1 }],
    })),
    expertBytes: 1000,
    dispatchRowBytes: 5760,
    combineRowBytes: 5760,
    intraNode: { bandwidth: 5e10, latency: 5e-6 },
    interNode: { bandwidth: 1.25e9, latency: 3e-5 },
    links: null,
  }),
);

/** Runs the command in this process and returns what it printed. */
async function run(...args: string[]): Promise<string> {
  let printed = '';
  const out = vi.spyOn(process.stdout, 'write').mockImplementation((chunk) => {
    printed += String(chunk);
    return true;
  });
  const err = vi.spyOn(process.stderr, 'write').mockImplementation(() => true);
  try {
    await placeCommand().exitOverride().parseAsync(args, { from: 'user' });
  } finally {
    out.mockRestore();
    err.mockRestore();
  }
  return printed;
}

const quick = ['--starts', '1', '--sample-tokens', '1000'];

afterEach(() => {
  process.exitCode = undefined;
});

describe('switchyard place', () => {
  it('writes a plan and a certificate that verify accepts, and export and diff read', async () => {
    const [plan, certificate] = [join(dir, 'plan.json'), join(dir, 'certificate.json')];
    const text = await run('--trace', trace, '--topology', topology, '--out', plan, '--certificate', certificate, ...quick);
    expect(text).toMatch(/remote nodes per token and layer \(r\)\s+\d\.\d+\s+\d\.\d+/);
    expect(text).toContain('who lives where');
    expect(await run('verify', plan, trace, certificate)).not.toContain('FAIL');
    expect(JSON.parse(await run('export', plan, '--format', 'sglang')).physical_to_logical_map).toHaveLength(24);
    expect(await run('diff', plan, plan, '--expert-bytes', '1M')).toContain('0 copies, 0 drops');
    const broken = JSON.parse(readFileSync(certificate, 'utf8'));
    broken.claims[0].bound += 1;
    writeFileSync(certificate, JSON.stringify(broken));
    await expect(run('verify', plan, trace, certificate)).rejects.toThrow('the certificate does not hold');
  });

  it('writes nothing in a dry run, and speaks JSON', async () => {
    const plan = join(dir, 'never.json');
    const report = JSON.parse(await run('--trace', trace, '--topology', topology, '--out', plan, '--dry-run', '--json', ...quick));
    expect(report.proposed.remoteNodes).toBeLessThan(report.now.remoteNodes);
    expect(() => readFileSync(plan)).toThrow();
  });

  it('keeps groups whole when asked to', async () => {
    const report = JSON.parse(await run('--trace', trace, '--topology', topology, '--groups', '8', '--dry-run', '--json', ...quick));
    expect(report.plan.provenance.wholeGroups).toBe(8);
    const nodeOf = report.plan.workers.map((worker: { node: number }) => worker.node);
    for (const layer of report.plan.replicas as number[][][])
      for (let first = 0; first < layer.length; first += 4) {
        const nodes = layer.slice(first, first + 4).map((holders) => new Set(holders.map((w) => nodeOf[w])));
        expect([...nodes[0]!].some((node) => nodes.every((held) => held.has(node)))).toBe(true);
      }
    await expect(run('--trace', trace, '--topology', topology, '--groups', 'whole', ...quick)).rejects.toThrow(/give their number/);
    await expect(run('--trace', trace, '--topology', topology, '--groups', '5', ...quick)).rejects.toThrow(
      /groups is 5, must divide the 32/,
    );
  });

  it('answers worth-it and what-if', async () => {
    const worth = JSON.parse(await run('worth-it', '--trace', trace, '--levels', '0,50%', '--json', ...quick));
    expect(worth.levels[1].heldOut.remoteNodes).toBeLessThan(worth.levels[0].heldOut.remoteNodes);
    const [before, after] = JSON.parse(
      await run('what-if', '--trace', trace, '--topology', topology, '--lose-node', 'n1', '--json', ...quick),
    );
    expect(after.figures.remoteNodes).toBeLessThan(before.figures.remoteNodes);
  });

  it('says what is missing or wrong', async () => {
    await expect(run('--topology', topology)).rejects.toThrow('place needs --trace <file>');
    await expect(run('--trace', trace, '--topology', trace)).rejects.toThrow(/is not JSON/);
    await expect(run('what-if', '--trace', trace, '--topology', topology)).rejects.toThrow(/nothing to ask/);
    await expect(run('--trace', join(dir, 'no.trace'), '--topology', topology)).rejects.toThrow(/cannot read the trace|no such file/);
  });
});
