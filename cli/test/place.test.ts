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

  it('proves the chain model by windows when asked to, which verify accepts', async () => {
    // 12 requests of 30 tokens through 4 layers of 8 experts; a token's experts follow one another, most of the time.
    const lines = Array.from({ length: 12 * 30 * 4 }, (_, i) => {
      const [layer, token, request] = [i % 4, Math.floor(i / 4) % 30, Math.floor(i / 120)];
      const start = (7 * request + 5 * token) % 8;
      return JSON.stringify({
        req_id: `r${request}`,
        token_idx: token,
        layer,
        topk_ids: [(start * (layer + 1) + ((token + layer) % 3)) % 8],
      });
    });
    const [small, pair] = [join(dir, 'small.jsonl'), join(dir, 'pair.json')];
    writeFileSync(small, `${lines.join('\n')}\n`);
    const cluster = JSON.parse(readFileSync(topology, 'utf8'));
    writeFileSync(pair, JSON.stringify({ ...cluster, nodes: cluster.nodes.slice(0, 2) }));
    const [plan, loose, tight] = [join(dir, 'chain.json'), join(dir, 'stars.json'), join(dir, 'windows.json')];
    const common = ['--trace', small, '--topology', pair, '--model', 'chain', '--peak', '4', '--out', plan, ...quick];
    await run(...common, '--certificate', loose);
    await run(...common, '--certificate', tight, '--prove', 'windows=4');
    const chainOf = (path: string) => JSON.parse(readFileSync(path, 'utf8')).claims.find((c: { kind: string }) => c.kind === 'chain');
    expect(chainOf(tight).proofs.map((p: { kind: string }) => p.kind)).toContain('window');
    expect(chainOf(tight).bound).toBeLessThan(chainOf(loose).bound);
    expect(chainOf(tight).bound).toBeGreaterThanOrEqual(chainOf(tight).score);
    expect(await run('verify', plan, small, tight)).not.toContain('FAIL');
    await expect(run('--trace', small, '--topology', pair, '--prove', 'windows=4')).rejects.toThrow(/needs --model chain/);
  });

  it('plans and proves for a hundred nodes', async () => {
    const [wide, plan, certificate] = [join(dir, 'wide.json'), join(dir, 'wide-plan.json'), join(dir, 'wide-certificate.json')];
    const cluster = JSON.parse(readFileSync(topology, 'utf8'));
    const workers = (n: number) => [{ name: `n${n}w0`, expertMemoryBytes: 12_000, relativeSpeed: 1 }];
    const nodes = Array.from({ length: 100 }, (_, n) => ({ name: `n${n}`, workers: workers(n) }));
    writeFileSync(wide, JSON.stringify({ ...cluster, nodes }));
    const ask = ['--trace', trace, '--topology', wide, '--replicas', '25%', '--deadline', '1s', ...quick];
    expect(await run(...ask, '--out', plan, '--certificate', certificate)).toContain('n96…n99');
    expect(new Set(JSON.parse(readFileSync(plan, 'utf8')).replicas.flat(2)).size).toBe(100);
    const verdict = await run('verify', plan, trace, certificate);
    expect(verdict).toContain('remote nodes per token and layer');
    expect(verdict).not.toContain('FAIL');
  });

  it('spends remote nodes up to a limit on home share, with --max-r', async () => {
    const ask = ['--trace', trace, '--topology', topology, '--replicas', '25%', '--dry-run', '--json', ...quick, '--anneal', '50'];
    const of = async (...more: string[]) => JSON.parse(await run(...ask, ...more)).proposed;
    const [strict, loose] = [await of('--max-r', '0.6'), await of('--max-r', '0.9')];
    expect(strict.remoteNodes).toBeLessThan(loose.remoteNodes);
    expect(loose.remoteNodes).toBeLessThan(0.95);
    expect(loose.homeShare).toBeGreaterThan(strict.homeShare);
    await expect(run('--trace', trace, '--topology', topology, '--max-r', '0')).rejects.toThrow(/0.01/);
  });

  it('prices steps by a calibration', async () => {
    const calibration = join(dir, 'calibration.json');
    const host = {
      step: { fixed: 0, perRow: 0, perToken: 0 },
      segment: { fixed: 1, perRow: 0, perContext: 0 },
      experts: { fixed: 0, perRow: 0, perExpert: 0 },
      frame: { fixed: 0, perByte: 0 },
      outside: { perRequest: 0, perStep: 0, perToken: 0 },
      wake: 0,
    };
    const file = { format: 'switchyard-calibration', version: 1, host, interNode: null, intraNode: null };
    writeFileSync(calibration, JSON.stringify(file));
    const ask = ['--trace', trace, '--topology', topology, '--dry-run', '--json', '--deadline', '10ms', ...quick];
    const report = JSON.parse(await run(...ask, '--calibration', calibration));
    // A second for each of 24 segments, and for the one behind the last layer.
    expect(report.proposed.decodeSeconds).toBeGreaterThanOrEqual(24);
    writeFileSync(calibration, JSON.stringify({ ...file, host: { ...host, wake: -1 } }));
    await expect(run(...ask, '--calibration', calibration)).rejects.toThrow(/host.wake is -1/);
  });

  it('refuses files that are no plan, topology or certificate by file and field', async () => {
    const [bad, plan] = [join(dir, 'bad.json'), join(dir, 'of-contiguous.json')];
    await run('--trace', trace, '--topology', topology, '--out', plan, '--deadline', '10ms', ...quick);
    writeFileSync(bad, 'null');
    await expect(run('--trace', trace, '--topology', bad)).rejects.toThrow(`${bad}: topology: file is null, must be an object`);
    await expect(run('export', bad, '--format', 'vllm')).rejects.toThrow(`${bad}: plan: plan is null, must be an object`);
    writeFileSync(bad, JSON.stringify({ ...JSON.parse(readFileSync(plan, 'utf8')), replicas: 3 }));
    await expect(run('diff', plan, bad)).rejects.toThrow(`${bad}: plan: replicas is 3, must be a list`);
    writeFileSync(bad, JSON.stringify({ format: 'switchyard-certificate', version: 1 }));
    await expect(run('verify', plan, trace, bad)).rejects.toThrow(`${bad}: certificate: plan is absent`);
  });

  it('says before it searches where a result cannot be written', async () => {
    const nowhere = join(dir, 'no', 'folder.json');
    for (const option of ['--out', '--certificate', '--pareto'])
      await expect(run('--trace', trace, '--topology', topology, option, nowhere)).rejects.toThrow(`${option} ${nowhere}: ENOENT`);
    await expect(run('--trace', trace, '--topology', topology, '--out', dir)).rejects.toThrow(`--out ${dir}: it is a folder`);
  });

  it('refuses options that would change nothing', async () => {
    const loads = join(dir, 'loads.json');
    writeFileSync(loads, '[[1,2,3,4],[3,2,1,0]]');
    const ask = ['--topology', topology, '--dry-run'];
    expect(await run('--trace', loads, ...ask)).toContain('The trace holds loads only');
    for (const option of ['--certificate', '--pareto'])
      await expect(run('--trace', loads, ...ask, option, join(dir, 'x'))).rejects.toThrow(`${option} needs to know which experts`);
    await expect(run('--trace', trace, ...ask, '--budget-bytes', '1G')).rejects.toThrow('it needs --current');
    await expect(run('--trace', trace, ...ask, '--model', 'chain', '--max-r', '1')).rejects.toThrow('--max-r needs --model fan-out');
    await expect(run('--trace', trace, ...ask, '--model', 'chain', '--robust', 'worst')).rejects.toThrow('--robust worst needs --model');
    await expect(run('--trace', trace, ...ask, '--held-out', '100%')).rejects.toThrow('below 100%');
  });

  it('says what is missing or wrong', async () => {
    await expect(run('--topology', topology)).rejects.toThrow('place needs --trace <file>');
    await expect(run('--trace', trace, '--topology', trace)).rejects.toThrow(/is not JSON/);
    await expect(run('what-if', '--trace', trace, '--topology', topology)).rejects.toThrow(/nothing to ask/);
    await expect(run('--trace', join(dir, 'no.trace'), '--topology', topology)).rejects.toThrow(/cannot read the trace|no such file/);
  });
});
