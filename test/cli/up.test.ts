import { cpSync, mkdtempSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import OpenAI from 'openai';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { bundledModel } from '../../cli/src/cluster/bundled-model.ts';
import { findSession } from '../../cli/src/cluster/session.ts';
import { scatteredPlan } from '../../cli/src/exact/plan-variants.ts';
import type { Up } from './program.ts';
import { childrenOf, processLives, start, startUp, switchyard, until } from './program.ts';

const folder = mkdtempSync(path.join(os.tmpdir(), 'sw-'));
afterAll(() => rmSync(folder, { recursive: true }));

const prompts = ['It was a dark night, and the captain', 'def read_file(path):', 'And God said unto Moses,'];

/** Tokens and log-probabilities of greedy completions, as the real client reads them. */
async function greedy(url: string) {
  const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: 'none', maxRetries: 0 });
  return await Promise.all(
    prompts.map(async (prompt) => {
      const { choices } = await client.completions.create({ model: 'shunter-16m', prompt, max_tokens: 16, temperature: 0, logprobs: 3 });
      return { text: choices[0].text, logprobs: choices[0].logprobs };
    }),
  );
}

describe('a cluster of four workers', () => {
  let up: Up;
  beforeAll(async () => {
    const traces = path.relative(process.cwd(), path.join(folder, 'traces'));
    up = await startUp(['--grace', '2', '--trace-dir', traces, '--allowed-hosts', 'chat.example']);
  });
  afterAll(async () => {
    up.child.kill('SIGKILL');
    await up.finished;
  });

  it('says what runs where', () => {
    const { workers } = up.report;
    expect(workers.map((w) => [w.node, w.name])).toEqual([
      ['n0', 'n0w0'],
      ['n0', 'n0w1'],
      ['n1', 'n1w0'],
      ['n1', 'n1w1'],
    ]);
    expect(workers.map((w) => w.experts)).toEqual([48, 48, 48, 48]);
    expect(workers.every((w) => processLives(w.pid) && w.residentBytes > 0 && w.addresses.length > 0)).toBe(true);
    // For commands in other folders.
    expect(findSession(up.report.url)!.traces.dir).toBe(path.join(folder, 'traces'));
  });

  it('answers the real client, streamed and whole', async () => {
    const client = new OpenAI({ baseURL: `${up.report.url}/v1`, apiKey: 'none' });
    const request = {
      model: 'shunter-16m',
      messages: [{ role: 'user' as const, content: 'Continue: It was a dark night' }],
      max_tokens: 12,
      temperature: 0,
    };
    const whole = await client.chat.completions.create(request);
    let streamed = '';
    for await (const chunk of await client.chat.completions.create({ ...request, stream: true }))
      streamed += chunk.choices[0]?.delta.content ?? '';
    expect(streamed).toBe(whole.choices[0].message.content);
    expect(streamed.length).toBeGreaterThan(0);
  });

  it('answers as one worker alone does, as a scattered plan over grpc does, and as workers with the kernels of a GPU do, bit for bit', async () => {
    const plan = path.join(folder, 'scattered.json');
    writeFileSync(plan, JSON.stringify(scatteredPlan(up.report.planModel, 3, 1, 5)));
    const here = await greedy(up.report.url);
    for (const flags of [
      ['--nodes', '1', '--workers-per-node', '1'],
      ['--plan', plan, '--transport', 'grpc'],
      ['--nodes', '1', '--workers-per-node', '2', '--backend', 'cuda-emulated,cpu'],
    ]) {
      const other = await startUp(flags);
      expect(await greedy(other.report.url)).toEqual(here);
      other.child.kill('SIGINT');
      expect((await other.finished).status).toBe(0);
    }
  });

  it('is there for this machine and for the names that it is given, not for a page of another site', async () => {
    const asked = (host: string) =>
      new Promise((resolve) => {
        http.get(`${up.report.url}/v1/models`, { headers: { host } }, (response) => {
          response.resume();
          resolve(response.statusCode);
        });
      });
    expect(await Promise.all(['localhost:8000', 'chat.example', 'other.example'].map(asked))).toEqual([200, 200, 403]);
  });

  it('says so where anybody may ask', async () => {
    const open = await startUp(['--nodes', '1', '--workers-per-node', '1', '--host', '0.0.0.0']);
    open.child.kill('SIGINT');
    expect((await open.finished).stderr).toContain('--host 0.0.0.0 answers anybody: give it an --api-key-file\n');
  });

  it('does not begin with a GPU that is not there', async () => {
    const { status, stdout, stderr } = await switchyard(['up', '--port', '0', '--backend', 'cpu,cuda:999']);
    expect([status, stdout]).toEqual([1, '']);
    expect(stderr).toMatch(/^error: --backend cuda:999: [^\n]+\n$/);
  });

  it('talks to `switchyard chat`', async () => {
    const { status, stdout } = await switchyard(
      ['chat', '--url', up.report.url, '--temperature', '0', '--max-tokens', '8'],
      'Continue: It was\n',
    );
    expect(status).toBe(0);
    expect(stdout.trim().length).toBeGreaterThan(0);
  });

  it('is measured by `bench serve`, with what its workers exchanged', async () => {
    const flags = ['--concurrency', '2', '--requests', '4', '--warmup', '1', '--prompt-tokens', '16', '--output-tokens', '8', '--json'];
    const { status, stdout } = await switchyard(['bench', 'serve', '--url', up.report.url, ...flags]);
    expect(status).toBe(0);
    const report = JSON.parse(stdout);
    expect(report.target.switchyard).toBe(true);
    const [level] = report.levels;
    expect([level.errors, level.promptTokens, level.outputTokens]).toEqual([0, 64, 32]);
    expect(level.wire.links.length).toBeGreaterThan(0);
    expect(level.wire.bytesPerToken).toBeGreaterThan(level.wire.crossNodeBytesPerToken);
    expect(level.wire.crossNodeBytesPerToken).toBeGreaterThan(0);
  });

  it('keeps its promise in `bench exact`', async () => {
    const { status, stdout } = await switchyard([
      'bench',
      'exact',
      '--url',
      up.report.url,
      '--also',
      up.report.url,
      '--questions',
      '2',
      '--tokens',
      '8',
      '--others',
      '4',
      '--json',
    ]);
    const report = JSON.parse(stdout);
    expect(report.results.filter((r: { unsupported: string | null }) => r.unsupported !== null)).toEqual([]);
    expect(report.results.every((r: { sameLogprobs: number }) => r.sameLogprobs === 2)).toBe(true);
    const asked = report.results.map((r: { scenario: string }) => r.scenario);
    expect(asked.slice(-2)).toEqual([`${up.report.url}, alone`, `${up.report.url}, among others`]);
    expect(report.exact).toBe(true);
    expect(status).toBe(0);
  });

  it('keeps it for sampled answers too', async () => {
    const flags = ['--questions', '2', '--tokens', '6', '--others', '3', '--temperature', '0.9', '--json'];
    const { status, stdout } = await switchyard(['bench', 'exact', '--url', up.report.url, ...flags]);
    const report = JSON.parse(stdout);
    const unsupported = report.results.filter((r: { unsupported: string | null }) => r.unsupported !== null);
    expect(unsupported.map((r: { scenario: string }) => r.scenario)).toEqual(['continued from the middle']);
    expect(report.exact).toBe(true);
    expect(status).toBe(0);
  });

  it('loses no measurement to a second server that is not there', async () => {
    const out = path.join(folder, 'exact.json');
    const flags = ['--questions', '1', '--tokens', '4', '--others', '1', '--out', out];
    const { status, stderr } = await switchyard(['bench', 'exact', '--url', up.report.url, '--also', 'http://127.0.0.1:9', ...flags]);
    expect(stderr).toMatch(/error: nothing answers at http:\/\/127\.0\.0\.1:9/);
    expect(status).toBe(1);
    const report = JSON.parse(readFileSync(out, 'utf8'));
    expect(report.results.length).toBeGreaterThan(4);
    expect(report).toMatchObject({ incomplete: expect.stringContaining('nothing answers'), exact: false });
  });

  it('is compared with no other where a plan names its workers, which the report says', async () => {
    const plan = path.join(folder, 'two.json');
    writeFileSync(plan, JSON.stringify(scatteredPlan(up.report.planModel, 2, 1, 3)));
    const flags = ['--questions', '1', '--tokens', '4', '--others', '1', '--json'];
    const { status, stdout, stderr } = await switchyard(['bench', 'exact', ...flags, '--', '--plan', plan]);
    expect(stderr).toContain('no other servers are started: --plan names the workers');
    const report = JSON.parse(stdout);
    expect(report.results.at(-1)).toMatchObject({ scenario: 'elsewhere', unsupported: '--plan names the workers' });
    expect(report).toMatchObject({ incomplete: null, exact: true });
    expect(status).toBe(0);
  });

  it('is left alone by a measurement that is interrupted, which says nothing but that', async () => {
    const bench = start(['bench', 'exact', '--url', up.report.url, '--questions', '20', '--tokens', '200']);
    await until(() => bench.output().stderr.includes('bench exact:'));
    bench.child.kill('SIGINT');
    const { status, stderr, stdout } = await bench.finished;
    expect([status, stdout]).toEqual([130, '']);
    expect(stderr).not.toContain('error');
    expect((await greedy(up.report.url)).length).toBe(prompts.length);
  });

  it('records the routing of real requests', async () => {
    const out = path.join(folder, 'requests.trace');
    const recorder = start(['trace', 'record', '--url', up.report.url, '--out', out]);
    await until(() => recorder.output().stderr.includes('recording'));
    const client = new OpenAI({ baseURL: `${up.report.url}/v1`, apiKey: 'none', defaultHeaders: { 'x-switchyard-domain': 'novels' } });
    const { usage } = await client.completions.create({ model: 'shunter-16m', prompt: prompts[0], max_tokens: 8, temperature: 0, seed: 1 });
    recorder.child.kill('SIGINT');
    expect((await recorder.finished).status).toBe(0);
    const info = await switchyard(['trace', 'info', out, '--json']);
    expect(info.status).toBe(0);
    const summary = JSON.parse(info.stdout);
    expect(summary).toMatchObject({ layers: 6, experts: 32, topK: 4, sequences: 1, domains: [{ domain: 'novels', sequences: 1 }] });
    // The last token is sampled and never fed back, so it is not routed; prompt tokens found in the prefix cache are not routed again.
    expect(summary.tokens).toBeGreaterThan(0);
    expect(summary.tokens).toBeLessThan(usage!.total_tokens);
    expect(statSync(out).mode & 0o077).toBe(0);
  });

  it('says so when its recording is ended from elsewhere, and where the rest lies', async () => {
    const recorder = start(['trace', 'record', '--url', up.report.url, '--out', path.join(folder, 'ended.trace')]);
    await until(() => recorder.output().stderr.includes('recording'));
    const { adminToken } = findSession(up.report.url)!;
    const headers = { authorization: `Bearer ${adminToken}`, 'content-type': 'application/json' };
    await fetch(`${up.report.url}/v1/switchyard/trace`, { method: 'POST', headers, body: JSON.stringify({ on: false }) });
    const { status } = await recorder.finished;
    expect(status).toBe(1);
    expect(recorder.output().stderr).toMatch(/has ended this recording.*traces\/ended\.trace-\d+/);
  });

  it('fails the requests that need a killed worker with a clear error, and recovers by itself', async () => {
    const before = await greedy(up.report.url);
    const victim = up.report.workers[2];
    process.kill(victim.pid, 'SIGKILL');
    const client = new OpenAI({ baseURL: `${up.report.url}/v1`, apiKey: 'none', maxRetries: 0 });
    const failures: InstanceType<typeof OpenAI.APIError>[] = [];
    const ask = async (): Promise<boolean> => {
      try {
        await client.completions.create({ model: 'shunter-16m', prompt: prompts[0], max_tokens: 4, temperature: 0 });
        return true;
      } catch (error) {
        failures.push(error as InstanceType<typeof OpenAI.APIError>);
        return false;
      }
    };
    await until(async () => failures.length > 0 || !(await ask()));
    await until(ask);
    expect(failures.map((error) => error.status)).toEqual(failures.map(() => 503));
    expect(failures.every((error) => ['worker_lost', 'expert_unavailable', 'not_ready', 'link_closed'].includes(String(error.code)))).toBe(
      true,
    );
    expect(await greedy(up.report.url)).toEqual(before);
    expect(up.output().stderr).toMatch(new RegExp(`worker ${victim.name} was killed by SIGKILL; it starts again in`));
  });

  it('leaves no process behind when it is interrupted', async () => {
    // Not those that it reported: one has been started again since.
    const pids = childrenOf(up.child.pid!);
    expect(pids.length).toBeGreaterThanOrEqual(up.report.workers.length);
    // Under npm a Ctrl-C arrives twice, from the terminal and from npm.
    up.child.kill('SIGINT');
    up.child.kill('SIGINT');
    expect((await up.finished).status).toBe(0);
    expect(pids.filter(processLives)).toEqual([]);
  });
});

describe('a first completion', () => {
  const small = ['up', '--port', '0', '--nodes', '1', '--workers-per-node', '1', '--grace', '1', '--try'];
  const keys = path.join(folder, 'keys');
  writeFileSync(keys, '# whose they are\nkey-a alice\nkey-b bob\n', { mode: 0o600 });

  it('is the one that README shows, whose experts are on four workers, and is asked for with a key where one is needed', async () => {
    const readme = readFileSync(fileURLToPath(new URL('../../README.md', import.meta.url)), 'utf8');
    const [shown] = /A first completion: [^`]*/.exec(readme)!;
    const up = start([...small, '--api-key-file', keys]);
    await until(() => up.output().stdout.includes('Ctrl-C stops everything') || up.child.exitCode !== null);
    expect(up.output().stdout.replaceAll('\n', ' ')).toContain(shown.trim().replaceAll('\n', ' '));
    up.child.kill('SIGINT');
    expect((await up.finished).status).toBe(0);
  });

  it('does not stand behind the JSON that programs read', async () => {
    const up = start([...small, '--json']);
    await until(
      () => /A first completion: [\s\S]{60}[\s\S]*\n\n/.test(up.output().stdout + up.output().stderr) || up.child.exitCode !== null,
    );
    up.child.kill('SIGINT');
    const { status, stdout } = await up.finished;
    expect(stdout.trim().split('\n')).toHaveLength(1);
    expect(JSON.parse(stdout)).toMatchObject({ format: 'switchyard-up' });
    expect(status).toBe(0);
  });

  it('fits a small context', async () => {
    const up = start([...small, '--max-context', '32']);
    await until(() => up.output().stdout.includes('Ctrl-C stops everything') || up.child.exitCode !== null);
    up.child.kill('SIGINT');
    const { status, stdout, stderr } = await up.finished;
    expect(stderr).not.toContain('failed');
    expect(stdout).toMatch(/A first completion: It was a dark night, and the captain[\s\S]{10}/);
    expect(status).toBe(0);
  });

  it('that is refused stops nobody else from being answered', async () => {
    const up = start([...small, '']);
    await until(() => up.output().stdout.includes('Ctrl-C stops everything') || up.child.exitCode !== null);
    expect(up.output().stderr).toMatch(/the first completion failed: .*prompt/);
    const url = /is served on (http:\S+)/.exec(up.output().stdout)![1];
    const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: 'none', maxRetries: 0 });
    const { choices } = await client.completions.create({ model: 'shunter-16m', prompt: prompts[0], max_tokens: 4, temperature: 0 });
    expect(choices).toHaveLength(1);
    up.child.kill('SIGINT');
    expect((await up.finished).status).toBe(0);
  });

  it('hears Ctrl-C', async () => {
    const up = start(small);
    await until(() => up.output().stdout.includes('A first completion'));
    up.child.kill('SIGINT');
    const { status, stderr } = await up.finished;
    expect(status).toBe(0);
    expect(stderr).toMatch(/stopping\n$/);
    expect(stderr).not.toContain('error');
  });
});

describe('a supervisor that is killed', () => {
  it('takes its workers with it', async () => {
    const up = await startUp(['--nodes', '1', '--workers-per-node', '2']);
    const pids = up.report.workers.map((worker) => worker.pid);
    up.child.kill('SIGKILL');
    await up.finished;
    await until(() => !pids.some(processLives));
  });

  it('ends when the program that started it closes its input', async () => {
    const up = await startUp(['--nodes', '1', '--workers-per-node', '1', '--grace', '1']);
    up.child.stdin.end();
    expect((await up.finished).status).toBe(0);
    expect(processLives(up.report.workers[0].pid)).toBe(false);
  });
});

describe('what cannot be served', () => {
  it('a port that is in use', async () => {
    const server = net.createServer().listen(0, '127.0.0.1');
    await new Promise((resolve) => server.once('listening', resolve));
    const { port } = server.address() as net.AddressInfo;
    const { status, stderr } = await switchyard(['up', '--port', String(port)]);
    server.close();
    expect(status).toBe(1);
    expect(stderr).toMatch(new RegExp(`port ${port} .*in use`));
    expect(stderr).toMatch(/--port/);
  });

  it.each([
    [['--model', '/nowhere'], /--model \/nowhere: there is no such folder/],
    [['--model', os.tmpdir()], /it has no config.json/],
    [['--nodes', '0'], /'--nodes <count>' argument '0' is invalid/],
    [['--numeric', 'fp4'], /Allowed choices are auto, f32, bf16/],
    [['--kv-bytes', 'plenty'], /It must be a size like 512M/],
    [['--kv-bytes', '100T'], /--kv-bytes 100.0 TiB for each of 4 workers exceeds this machine's memory/],
    [['--kv-bytes', '1'], /kvBytes is 1, less than the \d+ bytes that 16 tokens of this model take/],
    [['--name', ''], /'--name <id>' argument '' is invalid. It must not be empty/],
    [['--lossy', 'node-limit=2'], /--lossy node-limit=2 limits nothing: there are 2 nodes/],
    [['--plan', '/nowhere.json'], /--plan \/nowhere.json: ENOENT/],
  ])('%j', async (flags, message) => {
    const { status, stderr } = await switchyard(['up', '--port', '0', ...flags]);
    expect(stderr).toMatch(message);
    expect(status).toBeGreaterThan(0);
    expect(stderr).not.toMatch(/ at .*\.js:/);
  });

  it('workers that cannot start, after a few tries and with their last words', async () => {
    const preload = path.join(folder, 'preload.cjs');
    writeFileSync(
      preload,
      "if (process.argv[1]?.endsWith('worker/dist/main.js')) { console.error('no such instruction'); process.exit(7); }",
    );
    const flags = ['up', '--port', '0', '--nodes', '1', '--workers-per-node', '1'];
    const { status, stderr } = await start(flags, { NODE_OPTIONS: `--require ${preload}` }).finished;
    expect(stderr).toMatch(/worker n0w0 exited with status 7; it starts again in/);
    expect(stderr).toMatch(/worker n0w0 is in a crash loop: 5 quick deaths in a row. Its last words:\n {2}no such instruction/);
    expect(stderr).toMatch(/error: worker n0w0 cannot start/);
    expect(status).toBe(1);
  });

  it('a checkpoint that is cut short, by the name of the file', async () => {
    const dir = path.join(folder, 'cut');
    cpSync(bundledModel(), dir, { recursive: true });
    truncateSync(path.join(dir, 'model.safetensors'), 1_000_000);
    const { status, stderr } = await switchyard(['up', '--port', '0', '--model', dir, '--nodes', '1', '--workers-per-node', '1']);
    expect(stderr).toMatch(/model\.safetensors/);
    expect(status).toBe(1);
  });
});
