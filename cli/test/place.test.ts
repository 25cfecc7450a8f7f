import { mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { equalNodes, runPlace } from './place-command.ts';

const trace = new URL('../../placement/test/fixtures/gpt-oss-20b-slice.trace.gz', import.meta.url).pathname;
const dir = mkdtempSync(join(tmpdir(), 'place-'));
afterAll(() => rmSync(dir, { recursive: true }));
const topology = join(dir, 'topology.json');
writeFileSync(topology, JSON.stringify(equalNodes(3, 400)));

/** What the last run wrote to stderr. */
let progress = '';

/** Whether the tests themselves run on a terminal. */
const terminal = process.stderr.isTTY;
const onTerminal = (is: boolean) => Object.defineProperty(process.stderr, 'isTTY', { value: is, configurable: true, writable: true });

/** Runs the command in this process and returns what it printed. */
async function run(...args: string[]): Promise<string> {
  progress = '';
  return runPlace(args, (text) => {
    progress += text;
  });
}

const quick = ['--starts', '1', '--sample-tokens', '1000'];

afterEach(() => {
  process.exitCode = undefined;
  onTerminal(terminal);
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
    expect(JSON.parse(await run('diff', plan, plan, '--json'))).toEqual({
      format: 'switchyard-place-diff',
      version: 1,
      copies: [],
      drops: [],
    });
    expect(JSON.parse(await run('verify', plan, trace, certificate, '--json'))).toMatchObject({
      format: 'switchyard-place-verify',
      version: 1,
      ok: true,
    });
    const broken = JSON.parse(readFileSync(certificate, 'utf8'));
    broken.claims[0].bound += 1;
    writeFileSync(certificate, JSON.stringify(broken));
    await expect(run('verify', plan, trace, certificate)).rejects.toThrow('the certificate does not hold');
  });

  it('writes nothing in a dry run, and speaks JSON', async () => {
    const plan = join(dir, 'never.json');
    const report = JSON.parse(await run('--trace', trace, '--topology', topology, '--out', plan, '--dry-run', '--json', ...quick));
    expect(report).toMatchObject({ format: 'switchyard-place', version: 1 });
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
    for (const option of ['--anneal', '--max-r'])
      await expect(run('--trace', trace, '--topology', topology, '--groups', '8', option, '3', ...quick)).rejects.toThrow(
        /--groups whole goes without --anneal and --max-r/,
      );
    await expect(run('--trace', trace, '--topology', topology, '--groups', '5', ...quick)).rejects.toThrow(
      /groups is 5, must divide the 32/,
    );
  });

  it('answers worth-it and what-if', async () => {
    const worth = JSON.parse(await run('worth-it', '--trace', trace, '--levels', '0,50%', '--json', ...quick));
    expect(worth.levels[1].heldOut.remoteNodes).toBeLessThan(worth.levels[0].heldOut.remoteNodes);
    expect(worth).toMatchObject({ format: 'switchyard-place-worth-it', version: 1 });
    const what = JSON.parse(await run('what-if', '--trace', trace, '--topology', topology, '--lose-node', 'n1', '--json', ...quick));
    expect(what).toMatchObject({ format: 'switchyard-place-what-if', version: 1 });
    const [before, after] = what.clusters;
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

  it('says before it reads where a result would overwrite another, or what it is made from', async () => {
    const [same, other] = [join(dir, 'same.json'), join(dir, '.', 'other.json')];
    const ask = (...more: string[]) => run('--trace', trace, '--topology', topology, ...more, ...quick);
    await expect(ask('--out', same, '--certificate', same)).rejects.toThrow(`--certificate ${same}: --out writes there too`);
    await expect(ask('--out', other, '--pareto', `${dir}/./other.json`)).rejects.toThrow('other.json: --out writes there too');
    await expect(ask('--out', trace)).rejects.toThrow(`--out ${trace}: --trace reads it`);
    const link = join(dir, 'link');
    symlinkSync(trace, link);
    await expect(ask('--out', link)).rejects.toThrow(`--out ${link}: --trace reads it`);
    await expect(ask('--current', other, '--certificate', other)).rejects.toThrow(`--certificate ${other}: --current reads it`);
    await expect(ask('--certificate', topology)).rejects.toThrow(`--certificate ${topology}: --topology reads it`);
    const [plan, planLink] = [join(dir, 'exported.json'), join(dir, 'plan-link')];
    writeFileSync(plan, 'a plan');
    symlinkSync(plan, planLink);
    for (const out of [plan, planLink])
      await expect(run('export', plan, '--format', 'sglang', '--out', out)).rejects.toMatchObject({
        message: `--out ${out} is the plan that is read; choose another name`,
        status: 2,
      });
  });

  it('refuses options that would change nothing', async () => {
    const loads = join(dir, 'loads.json');
    writeFileSync(loads, '[[1,2,3,4],[3,2,1,0]]');
    const ask = ['--topology', topology, '--dry-run'];
    expect(await run('--trace', loads, ...ask)).toContain('The trace holds loads only');
    for (const option of ['--certificate', '--pareto'])
      await expect(run('--trace', loads, ...ask, option, join(dir, 'x'))).rejects.toThrow(`${option} needs to know which experts`);
    await expect(run('--trace', trace, ...ask, '--budget-bytes', '1G')).rejects.toThrow('it needs --current');
    const within = [...ask, '--current', join(dir, 'none.json'), '--budget-bytes', '1G'];
    await expect(run('--trace', trace, ...within, '--model', 'chain')).rejects.toThrow('--budget-bytes needs --model fan-out or home-rank');
    for (const option of ['--starts', '--anneal', '--max-r'])
      await expect(run('--trace', trace, ...within, option, '3')).rejects.toThrow(`${option} and --budget-bytes exclude each other`);
    await expect(run('--trace', trace, ...within, '--robust', 'worst')).rejects.toThrow(
      '--robust worst and --budget-bytes exclude each other',
    );
    await expect(run('--trace', trace, ...ask, '--model', 'chain', '--max-r', '1')).rejects.toThrow('--max-r needs --model fan-out');
    await expect(run('--trace', trace, ...ask, '--model', 'chain', '--robust', 'worst')).rejects.toThrow('--robust worst needs --model');
    await expect(run('--trace', trace, ...ask, '--held-out', '100%')).rejects.toThrow('below 100%');
  });

  it('refuses options and short files before it reads a trace', async () => {
    const [unread, none] = [['--trace', join(dir, 'no.trace')], join(dir, 'none.json')];
    const cluster = ['--topology', topology];
    const unused = [...unread, ...cluster, '--model', 'chain', '--robust', 'worst'];
    for (const command of [['--dry-run'], ['worth-it'], ['what-if', '--add-node']])
      await expect(run(...command, ...unused)).rejects.toThrow('--robust worst needs --model fan-out or home-rank');
    const groups = ['--groups', 'whole', '--anneal', '5', '--dry-run'];
    await expect(run(...unread, ...cluster, ...groups)).rejects.toThrow('--groups whole goes without --anneal');
    const whole = [...unread, ...cluster, '--groups', 'whole', '--dry-run'];
    await expect(run(...whole, '--robust', 'worst')).rejects.toThrow('--groups whole and --robust worst exclude each other');
    await expect(run(...whole, '--model', 'chain')).rejects.toThrow('--groups whole needs --model fan-out or home-rank; it is chain');
    const fast = join(dir, 'fast.json');
    const tooFast = equalNodes(3, 400);
    tooFast.nodes[1].workers[0].relativeSpeed = 1e9;
    writeFileSync(fast, JSON.stringify(tooFast));
    const range = /fast\.json: .*nodes\[1\]\.workers\[0\]\.relativeSpeed.* 1000000000/;
    for (const command of [['--dry-run'], ['worth-it'], ['what-if', '--add-node']])
      await expect(run(...command, ...unread, '--topology', fast)).rejects.toThrow(range);
    const links = join(dir, 'fast-links.json');
    writeFileSync(links, JSON.stringify({ ...equalNodes(3, 400), interNode: { bandwidth: 1e17, latency: 0 } }));
    await expect(run('what-if', ...unread, '--topology', links, '--link-speed', '1000')).rejects.toThrow(
      /interNode\.bandwidth.* 1(e\+20|0{20})/,
    );
    await expect(run(...unread, ...cluster, '--current', none, '--dry-run')).rejects.toThrow(`cannot read the plan ${none}`);
    await expect(run('worth-it', ...unread, '--topology', none)).rejects.toThrow(`cannot read the topology ${none}`);
    await expect(run('verify', none, unread[1], none)).rejects.toThrow(`cannot read the plan ${none}`);
  });

  it('names the model of a foreign trace by its checkpoint, with experts that no token chose', async () => {
    const checkpoint = new URL('../../models/shunter-16m', import.meta.url).pathname;
    const small = join(dir, 'small-topology.json');
    writeFileSync(small, JSON.stringify(JSON.parse(readFileSync(topology, 'utf8'))));
    const foreign = (layers: number[], experts: number) => {
      const file = join(dir, `foreign-${layers}-${experts}.jsonl`);
      const line = (req: number, token: number, layer: number) =>
        JSON.stringify({ req_id: req, token_idx: token, layer, topk_ids: [(5 * req + token) % experts, (5 * req + token + 1) % experts] });
      const lines = Array.from({ length: 8 }, (_, req) => [0, 1, 2].flatMap((token) => layers.map((layer) => line(req, token, layer))));
      writeFileSync(file, lines.flat().join('\n'));
      return file;
    };
    const ask = (file: string, ...more: string[]) => run('--trace', file, '--topology', small, '--dry-run', '--json', ...quick, ...more);
    const six = foreign([0, 1, 2, 3, 4, 5], 9);
    expect(JSON.parse(await ask(six)).plan.model).toMatchObject({ type: 'unknown', experts: 9 });
    const { plan } = JSON.parse(await ask(six, '--model-dir', checkpoint));
    expect(plan.model).toEqual({ type: 'qwen3_moe', moeLayers: [0, 1, 2, 3, 4, 5], experts: 32 });
    expect(plan.replicas[0]).toHaveLength(32);
    await expect(ask(foreign([0, 1], 9), '--model-dir', checkpoint)).rejects.toThrow('there are 2 with experts, and the model has 6');
    await expect(ask(foreign([0, 1, 2, 3, 4, 6], 9), '--model-dir', checkpoint)).rejects.toThrow('is layer 6, and in the model 5');
    await expect(ask(foreign([0, 1, 2, 3, 4, 5], 33), '--model-dir', checkpoint)).rejects.toThrow(
      'there are 33, and the model has 32 in a layer',
    );
    const loads = join(dir, 'model-loads.json');
    writeFileSync(loads, JSON.stringify(Array.from({ length: 6 }, () => Array.from({ length: 32 }, (_, e) => 1 + e))));
    const balanced = JSON.parse(await run('--trace', loads, '--topology', small, '--dry-run', '--json', '--model-dir', checkpoint));
    expect(balanced.plan.model.type).toBe('qwen3_moe');
  });

  it('balances loads by speed, layers without load too, and obeys what it can', async () => {
    const [loads, uneven, popularity] = [join(dir, 'uneven-loads.json'), join(dir, 'speeds.json'), join(dir, 'expert_popularity_x.json')];
    writeFileSync(loads, '[[2,1,1,2],[0,0,0,0]]');
    writeFileSync(popularity, '{"total_input_tokens": 3, "expert_popularity": [[2,1,1,2],[0,0,0,0]]}');
    const cluster = JSON.parse(readFileSync(topology, 'utf8'));
    const nodes = cluster.nodes.slice(0, 2).map((node: { workers: object[] }, n: number) => ({
      ...node,
      workers: node.workers.map((w) => ({ ...w, relativeSpeed: 2 - n })),
    }));
    writeFileSync(uneven, JSON.stringify({ ...cluster, nodes }));
    const ask = ['--topology', uneven, '--replicas', '0', '--dry-run', '--json'];
    for (const file of [loads, popularity]) {
      const { now, proposed } = JSON.parse(await run('--trace', file, ...ask, '--deadline', '1s'));
      // Contiguous: 3 rows each, where 2 is the fair share of the slower one; nothing to balance in the other layer.
      expect(now.peakMean).toBeCloseTo((1.5 + 1) / 2, 9);
      expect(proposed.peakMean).toBe(1);
    }
    for (const [option, value] of [
      ['--model', 'chain'],
      ['--robust', 'worst'],
      ['--held-out', '10%'],
    ])
      await expect(run('--trace', loads, ...ask, option!, value!)).rejects.toThrow(`${option} needs to know which experts`);
    writeFileSync(uneven, JSON.stringify({ ...cluster, nodes, expertBytes: 200_000 }));
    await expect(run('--trace', loads, ...ask)).rejects.toThrow(/memory holds 4 experts, the model has 8/);
  });

  it('reads dumps of expert ids whose shape is given', async () => {
    const dump = join(dir, 'bare.experts.u8');
    // 40 tokens of 10 sequences through 2 layers of 4 experts, top-2.
    writeFileSync(
      dump,
      Uint8Array.from({ length: 160 }, (_, i) => (Math.floor(i / 16) + (i % 2)) % 4),
    );
    writeFileSync(
      join(dir, 'bare.seq.u16le'),
      Uint16Array.from({ length: 40 }, (_, t) => Math.floor(t / 4)),
    );
    const ask = ['--topology', topology, '--dry-run', '--json', ...quick];
    await expect(run('--trace', dump, ...ask)).rejects.toThrow('an id dump does not say its shape');
    const { plan } = JSON.parse(await run('--trace', dump, '--shape', '2x2x4', ...ask));
    expect(plan.model).toEqual({ type: 'bare', moeLayers: [0, 1], experts: 4 });
    await expect(run('--trace', dump, '--shape', '2x2', ...ask)).rejects.toThrow('layers x top-k x experts');
    await expect(run('--trace', trace, '--shape', '2x2x4', ...ask)).rejects.toThrow('--shape is for dumps of expert ids');
  });

  it('moves nothing to a plan that is the same under other names', async () => {
    const [plan, renamed] = [join(dir, 'as-found.json'), join(dir, 'renamed.json')];
    const ask = ['--trace', trace, '--topology', topology, '--replicas', '10%', '--tokens-max', '1000', ...quick];
    await run(...ask, '--out', plan);
    const found = JSON.parse(readFileSync(plan, 'utf8'));
    const replicas = found.replicas.map((layer: number[][]) => layer.map((own) => own.map((w) => (w + 1) % 3).sort((a, b) => a - b)));
    writeFileSync(renamed, JSON.stringify({ ...found, replicas }));
    expect(JSON.parse(await run(...ask, '--current', renamed, '--dry-run', '--json')).bytesToMove).toBe(0);
    // The same plan again, its workers in another order: nothing to copy either.
    const reversed = {
      ...found,
      workers: [...found.workers].reverse(),
      replicas: found.replicas.map((layer: number[][]) => layer.map((own) => own.map((w) => 2 - w).sort((a, b) => a - b))),
    };
    writeFileSync(renamed, JSON.stringify(reversed));
    expect(await run('diff', renamed, plan)).toContain('0 copies, 0 drops');
    expect(JSON.parse(await run(...ask, '--current', renamed, '--dry-run', '--json')).bytesToMove).toBe(0);
    writeFileSync(
      renamed,
      JSON.stringify({ ...found, workers: found.workers.map((w: object, i: number) => (i === 1 ? { ...w, name: 'n9w0' } : w)) }),
    );
    const message = 'the plan is for other layers or workers: workers[1].name is "n9w0", must be "n1w0"';
    await expect(run(...ask, '--current', renamed, '--dry-run')).rejects.toThrow(message);
    await expect(run('diff', renamed, plan)).rejects.toThrow(message);
    writeFileSync(
      renamed,
      JSON.stringify({ ...found, model: { ...found.model, moeLayers: found.model.moeLayers.map((l: number) => l + 1) } }),
    );
    await expect(run(...ask, '--current', renamed, '--dry-run')).rejects.toThrow('model.moeLayers[0] is 1, must be 0');
  });

  it('counts the bytes of the trade-offs under the names that move least, too', async () => {
    const [plan, renamed] = [join(dir, 'trade-off.json'), join(dir, 'trade-off-renamed.json')];
    const ask = ['--trace', trace, '--topology', topology, '--replicas', '25%', '--peak', '1.1', '--tokens-max', '300', ...quick];
    await run(...ask, '--out', plan);
    const found = JSON.parse(readFileSync(plan, 'utf8'));
    const replicas = found.replicas.map((layer: number[][]) => layer.map((own) => own.map((w) => (w + 1) % 3).sort((a, b) => a - b)));
    writeFileSync(renamed, JSON.stringify({ ...found, replicas }));
    const { pareto } = JSON.parse(await run(...ask, '--current', renamed, '--pareto', join(dir, 'x.html'), '--dry-run', '--json'));
    expect(pareto.find(({ label }: { label: string }) => label === '+25%, peak 1.1').bytesMoved).toBe(0);
  });

  it('says which trade-offs were cut short', async () => {
    const page = join(dir, 'short.html');
    const ask = ['--trace', trace, '--topology', topology, '--pareto', page, '--out', join(dir, 'short.json'), ...quick];
    expect(await run(...ask, '--deadline', '1ms')).toContain('+0%, peak 1.03 (stopped early)');
    expect(readFileSync(page, 'utf8')).toContain('<td>+0%, peak 1.03 (stopped early)</td>');
  });

  it('keeps to the number of replicas asked for, whatever a budget of bytes leaves undone', async () => {
    const [plan, next] = [join(dir, 'roomy.json'), join(dir, 'lean.json')];
    const ask = ['--trace', trace, '--topology', topology, '--tokens-max', '1000', ...quick];
    await run(...ask, '--replicas', '40%', '--out', plan);
    await run(...ask, '--replicas', '0', '--current', plan, '--budget-bytes', '10K', '--out', next);
    expect(JSON.parse(readFileSync(next, 'utf8')).replicas.flat(2)).toHaveLength(24 * 32);
  });

  it('says so where a bound is 0, and shows one while it searches where somebody watches and it is had at once', async () => {
    const roomy = join(dir, 'roomy-topology.json');
    const cluster = JSON.parse(readFileSync(topology, 'utf8'));
    const memory = (bytes: number[]) =>
      JSON.stringify({
        ...cluster,
        nodes: cluster.nodes.map((node: { workers: object[] }, n: number) => ({
          ...node,
          workers: node.workers.map((w) => ({ ...w, expertMemoryBytes: bytes[n] })),
        })),
      });
    writeFileSync(roomy, memory([800_000, 800_000, 800_000]));
    const ask = ['--trace', trace, '--topology', roomy, '--dry-run', '--tokens-max', '1000', ...quick];
    expect(await run(...ask, '--replicas', '200%')).toMatch(/gap to the proven bound .*fan-out bound 0, load \d/);
    onTerminal(false);
    await run(...ask, '--replicas', '0');
    expect(progress).toMatch(/incumbent/);
    expect(progress).not.toContain('bound');
    onTerminal(true);
    await run(...ask, '--replicas', '0');
    expect(progress).toMatch(/incumbent \S+ {2}bound/);
    await run(...ask, '--replicas', '0', '--groups', '8');
    expect(progress).toMatch(/incumbent/);
    expect(progress).not.toContain('bound');
    // Of a model of many experts a bound takes longer than anybody wants to wait for a search to begin.
    const wide = join(dir, 'wide.jsonl');
    const record = (i: number) => ({ req_id: `r${i % 8}`, token_idx: Math.floor(i / 8), layer: 0, topk_ids: [i % 5, 720 + (i % 3)] });
    writeFileSync(wide, Array.from({ length: 80 }, (_, i) => JSON.stringify(record(i))).join('\n'));
    await run('--trace', wide, '--topology', roomy, '--dry-run', ...quick, '--replicas', '0');
    expect(progress).toMatch(/incumbent/);
    expect(progress).not.toContain('bound');
    writeFileSync(roomy, memory([800_000, 400_000, 200_000]));
    await run(...ask, '--replicas', '0');
    expect(progress).not.toContain('bound');
  });

  it('says where worth-it had too little to hold out, or too little time', async () => {
    const one = join(dir, 'one.jsonl');
    const lines = Array.from({ length: 60 }, (_, i) =>
      JSON.stringify({ req_id: 'only', token_idx: Math.floor(i / 2), layer: i % 2, topk_ids: [i % 5, (i % 5) + 1] }),
    );
    writeFileSync(one, lines.join('\n'));
    const text = await run('worth-it', '--trace', one, '--nodes', '2', '--levels', '0', ...quick);
    expect(text).toContain('too few to hold any out');
    expect(text).not.toContain('NaN');
    const hurried = await run('worth-it', '--trace', trace, '--levels', '0,50%', '--deadline', '1ms', ...quick);
    expect(hurried).toMatch(/stopped early: not searched with .*\+50.0% replicas/);
    // On one node there is no traffic to save.
    const alone = join(dir, 'alone.json');
    const { nodes, ...rest } = JSON.parse(readFileSync(topology, 'utf8'));
    writeFileSync(alone, JSON.stringify({ ...rest, nodes: nodes.slice(0, 1) }));
    expect(await run('worth-it', '--trace', one, '--topology', alone, '--levels', '0', ...quick)).not.toContain('NaN');
  });

  it('says which cluster of what-if had too little time, or has too little memory, before it searches the other', async () => {
    const ask = ['what-if', '--trace', trace, '--topology', topology, ...quick];
    expect(await run(...ask, '--add-node', '--deadline', '1ms')).toContain(
      'stopped early, with the best plan so far: as it is; add-node\n',
    );
    expect(JSON.parse(await run(...ask, '--add-node', '--deadline', '1ms', '--json')).clusters).toMatchObject([
      { name: 'as it is', stopped: true },
      { name: 'add-node', stopped: true },
    ]);
    const tight = join(dir, 'tight.json');
    const cluster = JSON.parse(readFileSync(topology, 'utf8'));
    for (const node of cluster.nodes) node.workers[0].expertMemoryBytes = 300_000;
    writeFileSync(tight, JSON.stringify(cluster));
    await expect(run('what-if', '--trace', trace, '--topology', tight, '--lose-node', 'n1', ...quick)).rejects.toThrow(
      "lose-node: the workers' memory holds 600 experts, the model has 768 (24 layers x 32) (bad_plan)",
    );
    expect(progress).toBe('');
  });

  it('says what is missing or wrong', async () => {
    await expect(run('--topology', topology)).rejects.toThrow('place needs --trace <file>');
    await expect(run('--trace', trace, '--topology', trace)).rejects.toThrow(/is not JSON/);
    await expect(run('what-if', '--trace', trace, '--topology', topology)).rejects.toThrow(/nothing to ask/);
    await expect(run('what-if', '--trace', trace, '--topology', topology, '--lose-node', 'n7')).rejects.toThrow(/no node is named n7/);
    expect(progress).toBe('');
    await expect(run('worth', '--trace', trace)).rejects.toThrow(
      'place has no worth: there are worth-it, what-if, diff, export, verify; without one it needs --trace and --topology',
    );
    await expect(run('--trace', join(dir, 'no.trace'), '--topology', topology)).rejects.toThrow(/cannot read the trace|no such file/);
  });
});
