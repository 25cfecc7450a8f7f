import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { listenAny } from '@switchyard/proto';
import { afterAll, describe, expect, it } from 'vitest';
import { completionServerOfTests, startCompletionServer } from '../../cli/test/completion-server.ts';
import { childrenOf, start, switchyard, until } from './program.ts';

const folder = mkdtempSync(path.join(os.tmpdir(), 'sw-'));
afterAll(() => rmSync(folder, { recursive: true }));

const { serve, requests, close } = completionServerOfTests();

describe('bench', () => {
  it('starts no server for a subcommand that there is not', async () => {
    const { status, stdout, stderr } = await switchyard(['bench', 'exakt']);
    expect(stderr).toMatch(/^error: bench has no exakt: there are serve, exact, quality, calibrate/);
    expect([status, stdout]).toEqual([2, '']);
  });

  it.each(['serve', 'exact', 'quality'])('%s starts no server for a key file that it cannot read', async (kind) => {
    const { status, stdout, stderr } = await switchyard(['bench', kind, '--api-key-file', '/nowhere/keys', '--', '--fly']);
    expect([status, stdout]).toEqual([2, '']);
    expect(stderr).toMatch(/^error: --api-key-file \/nowhere\/keys: no such file/);
  });

  it('passes on what its server prints instead of serving', async () => {
    const { status, stdout, stderr } = await switchyard(['bench', 'serve', '--', '--help']);
    expect(stderr).toMatch(/Usage: switchyard up/);
    expect(stderr).toMatch(/error: the server exited with status 0 before it was ready/);
    expect(stderr).not.toMatch(/ at .*\.js:/);
    expect([status, stdout]).toEqual([1, '']);
  });
});

describe('options that would mean nothing', () => {
  const url = 'http://127.0.0.1:9';
  const listen = ['bench', 'calibrate', '--listen', 'tcp://127.0.0.1:0'];
  it.each([
    [['bench', 'exact', '--also', 'ftp://x', '--', '--fly'], /--also ftp:\/\/x: the scheme must be http or https/],
    [['bench', 'quality', '--url', url, '--', '--nodes', '2'], /flags after -- are for a server that is started here, but --url/],
    [[...listen, '--json'], /--listen tcp:.* measures nothing itself; --json: for the machine that dials/],
    [[...listen, '--out', 'x.json', '--', '--nodes', '2'], /measures nothing itself; --out x.json, flags after --: for the machine/],
    [['bench', 'serve', '--text', 'README.md', '--vocab', '600'], /--vocab 600 is for random token ids, --text README.md takes its own/],
    [
      ['bench', 'serve', '--url', url, '--concurrency', '1,32,8', '--requests', '8'],
      /--requests 8 a level leaves some of --concurrency 32 clients without any/,
    ],
    [
      ['place', 'worth-it', '--trace', 'x.trace', '--nodes', '8', '--topology', 'x.json'],
      /--nodes 8 is for a cluster of equal nodes, but --topology x.json says what there is/,
    ],
    [['place', 'export', 'x.json', '--format', 'vllm', '--hidden-layers', '3'], /--hidden-layers 3 is for --format sglang: vllm counts/],
    [['bench', 'serve', '--text', '/nowhere/x.txt', '--', '--fly'], /--text \/nowhere\/x.txt: ENOENT/],
  ])('%j are refused before anything is done', async (args, message) => {
    const { status, stderr, stdout } = await switchyard(args);
    expect(stderr).toMatch(message);
    expect([status, stdout]).toEqual([2, '']);
  });
});

describe('bench calibrate', () => {
  it('says how long a context it needs of the server, whatever the model has', async () => {
    const { status, stderr } = await switchyard(['bench', 'calibrate', '--out', '/dev/null', '--', '--max-context', '64']);
    expect([status, stderr]).toEqual([2, expect.stringMatching(/needs a context of 112 tokens at least, the server has one of 64\n$/)]);
  });

  it('hears Ctrl-C while it waits for a machine that does not answer', async () => {
    let tellDialled: () => void = () => {};
    const dialled = new Promise<void>((resolve) => {
      tellDialled = resolve;
    });
    const silent = await listenAny(['tcp://127.0.0.1:0'], { token: '', tls: null }, () => tellDialled());
    const out = path.join(folder, 'calibration.json');
    const calibrating = start(['bench', 'calibrate', '--dial', silent.addresses[0]!, '--out', out]);
    await dialled;
    calibrating.child.kill('SIGINT');
    const { status, stdout, stderr } = await calibrating.finished;
    await silent.close();
    expect([status, stdout, stderr]).toEqual([130, '', '']);
  });
});

it('bench serve of a server that reports no usage says so, and not that prompts have no tokens', async () => {
  const url = await serve(() => 'no-usage');
  const flags = ['--concurrency', '1', '--requests', '1', '--warmup', '0', '--prompt-tokens', '8', '--output-tokens', '3'];
  const shown = await switchyard(['bench', 'serve', '--url', url, ...flags]);
  expect([shown.status, shown.stdout]).toEqual([0, expect.stringMatching(/^Usage is not reported by the server: prompt tokens are not/m)]);
  const { stdout } = await switchyard(['bench', 'serve', '--url', url, ...flags, '--json']);
  expect(JSON.parse(stdout).levels).toMatchObject([
    { promptTokens: null, cachedTokens: null, totalTokensPerSecond: null, outputTokens: 3 },
  ]);
});

describe('bench serve that is interrupted', () => {
  const flags = ['--concurrency', '1,1', '--requests', '2', '--warmup', '0', '--prompt-tokens', '8', '--output-tokens', '3', '--json'];

  it('reports the levels that are complete, and that they are not all', async () => {
    const out = path.join(folder, 'part.json');
    const url = await serve((_, index) => (index < 2 ? 'answer' : 'silent'));
    const bench = start(['bench', 'serve', '--url', url, ...flags, '--out', out]);
    await until(() => requests().length === 3);
    bench.child.kill('SIGINT');
    const { status, stdout } = await bench.finished;
    expect(status).toBe(130);
    expect(JSON.parse(stdout)).toMatchObject({ interrupted: true, levels: [{ requests: 2 }] });
    expect(JSON.parse(stdout).levels).toHaveLength(1);
    expect(readFileSync(out, 'utf8')).toBe(stdout);
  });

  it('after its last level, while it waits for the server to tell its counters, says so', async () => {
    let asked = 0;
    // At the start, and before the level; then never again.
    const url = await serve(undefined, () => (++asked <= 2 ? { format: 'switchyard-status', workers: [] } : null));
    const bench = start(['bench', 'serve', '--url', url, ...flags, '--concurrency', '1']);
    await until(() => asked === 3);
    bench.child.kill('SIGINT');
    const { status, stdout } = await bench.finished;
    expect(status).toBe(130);
    expect(JSON.parse(stdout)).toMatchObject({ interrupted: true, levels: [{ requests: 2, wire: null }] });
  });

  it('leaves an earlier report alone where none is', async () => {
    const out = path.join(folder, 'kept.json');
    writeFileSync(out, 'kept');
    const url = await serve(() => 'silent');
    const bench = start(['bench', 'serve', '--url', url, ...flags, '--out', out]);
    await until(() => requests().length === 1);
    bench.child.kill('SIGINT');
    const { status, stdout } = await bench.finished;
    expect([status, stdout]).toEqual([130, '']);
    expect(readFileSync(out, 'utf8')).toBe('kept');
  });
});

describe('bench serve whose server ends', () => {
  const flags = ['--requests', '2', '--warmup', '0', '--prompt-tokens', '8', '--output-tokens', '3'];
  const status = { format: 'switchyard-status', numericClass: 'f32', workers: [] };
  /** Answers so many requests, and is gone in the middle of the next. */
  const dying = (answered: number) =>
    serve((_, index) => {
      if (index === answered) void close();
      return index < answered ? 'answer' : 'silent';
    }, status);

  it('reports what was measured until then, and fails', async () => {
    const out = path.join(folder, 'until.json');
    const url = await dying(3);
    const {
      status: exit,
      stdout,
      stderr,
    } = await switchyard([...['bench', 'serve', '--url', url, ...flags, '--concurrency', '1,1,1', '--json', '--out', out]]);
    expect(exit).toBe(1);
    expect(stderr).toMatch(/nothing answers at/);
    const report = JSON.parse(stdout);
    expect(report).toMatchObject({ interrupted: false, failure: expect.stringMatching(/nothing answers at/) });
    expect(report.levels.map((level: { errors: number }) => level.errors)).toEqual([0, 1]);
    expect(readFileSync(out, 'utf8')).toBe(stdout);
  });

  it('before a level is complete leaves an earlier report alone', async () => {
    const out = path.join(folder, 'earlier.json');
    writeFileSync(out, 'kept');
    const url = await dying(0);
    await close();
    const { status: exit, stdout } = await switchyard(['bench', 'serve', '--url', url, ...flags, '--concurrency', '1', '--out', out]);
    expect([exit, stdout]).toEqual([1, '']);
    expect(readFileSync(out, 'utf8')).toBe('kept');
  });
});

describe('bench serve refuses prompts that would not differ or not be as long as asked', () => {
  const text = path.join(folder, 'text.txt');
  writeFileSync(text, 'It was a dark night, and the captain stood alone upon the deck.');

  it.each([
    [['--prompt-tokens', '64'], /has 63 tokens, fewer than --prompt-tokens 64/],
    [
      ['--prompt-tokens', '60', '--concurrency', '1', '--requests', '4', '--warmup', '1'],
      /has 63 tokens: 4 different prompts of --prompt-tokens 60, fewer than the 5 requests/,
    ],
    [['--prompt-tokens', '17', '--chat'], /has 63 characters, about 16 tokens, fewer than --prompt-tokens 17/],
    [['--shared-prefix', '4'], /--shared-prefix 4 is for random token ids/],
  ])('--text %j', async (flags, message) => {
    const url = await serve();
    const { status, stderr, stdout } = await switchyard(['bench', 'serve', '--url', url, '--text', text, ...flags]);
    expect(stderr).toMatch(message);
    expect([status, stdout]).toEqual([2, '']);
    expect(requests().filter(({ body }) => body.stream === true)).toEqual([]);
  });

  it('which all share their last token', async () => {
    const { status, stderr } = await switchyard(['bench', 'serve', '--prompt-tokens', '8', '--shared-prefix', '8']);
    expect(stderr).toMatch(/--shared-prefix 8 must be less than --prompt-tokens 8/);
    expect(status).toBe(2);
  });

  it('but takes a text that is just long enough', async () => {
    const url = await serve();
    const flags = ['--prompt-tokens', '60', '--concurrency', '1', '--requests', '3', '--warmup', '1', '--output-tokens', '2'];
    const { status } = await switchyard(['bench', 'serve', '--url', url, '--text', text, ...flags]);
    const prompts = requests()
      .filter(({ body }) => body.stream === true)
      .map(({ body }) => JSON.stringify(body.prompt));
    expect(new Set(prompts).size).toBe(4);
    expect(status).toBe(0);
  });
});

/** A folder of one text and no questions. */
function heldOut(): string {
  const dir = mkdtempSync(path.join(folder, 'held-out-'));
  writeFileSync(path.join(dir, 'novels.txt'), 'It was a dark night, and the captain stood alone upon the deck.');
  return dir;
}

describe('bench quality that is interrupted', () => {
  const up = ['--', '--nodes', '1', '--workers-per-node', '1'];

  it('reports the classes that are complete, and that they are not all', async () => {
    const out = path.join(folder, 'quality.json');
    const flags = ['--held-out', heldOut(), '--window', '2', '--classes', 'f32,bf16', '--json', '--out', out];
    const bench = start(['bench', 'quality', ...flags, ...up]);
    await until(() => bench.output().stderr.includes('bench quality bf16'));
    bench.child.kill('SIGINT');
    const { status, stdout } = await bench.finished;
    expect(status).toBe(130);
    expect(JSON.parse(stdout)).toMatchObject({ interrupted: true, failure: null, results: [{ domains: [{ domain: 'novels' }] }] });
    expect(readFileSync(out, 'utf8')).toBe(stdout);
  });

  it('reports nothing where none is', async () => {
    const url = await serve(() => 'silent');
    const bench = start(['bench', 'quality', '--held-out', heldOut(), '--url', url]);
    await until(() => requests().some((request) => request.path === '/v1/completions'));
    bench.child.kill('SIGINT');
    const { status, stdout } = await bench.finished;
    expect([status, stdout]).toEqual([130, '']);
  });
});

describe('a server of its own that dies', () => {
  const up = ['--', '--nodes', '1', '--workers-per-node', '1'];
  const killed = /error: the server that was started for this was killed by SIGKILL meanwhile\n/;

  it.each([
    ['serve', '--concurrency', '1', '--requests', '100000'],
    ['exact', '--tokens', '900'],
  ])('is what ends bench %s', async (...args) => {
    const bench = start(['bench', ...args, ...up]);
    await until(() => bench.output().stderr.includes(`bench ${args[0]}: `));
    const [server] = childrenOf(bench.child.pid!);
    process.kill(server!, 'SIGKILL');
    const { status, stderr } = await bench.finished;
    expect(stderr).toMatch(killed);
    expect(stderr).not.toMatch(/switchyard up`/);
    expect(status).toBe(1);
  });
});

describe('bench exact', () => {
  const exact = (...args: string[]) =>
    switchyard(['bench', 'exact', '--questions', '1', '--tokens', '3', '--others', '1', '--json', ...args]);

  it('does not take a refusal of what another server has answered for something that cannot be asked', async () => {
    const url = await serve();
    const second = await startCompletionServer((body) => (body.stream === true ? 'answer' : 'reject'));
    const { status, stdout, stderr } = await exact('--url', url, '--also', second.url);
    await second.close();
    expect(status).toBe(1);
    expect(stderr).toMatch(/the server says: the prompt is not to its taste/);
    expect(JSON.parse(stdout)).toMatchObject({ exact: false, incomplete: 'the prompt is not to its taste' });
    expect(JSON.parse(stdout).results).toHaveLength(8);
  });

  it('keeps the rows that it had when the server begins to refuse', async () => {
    const url = await serve((body) => (body.stream === true ? 'reject' : 'answer'));
    const { status, stdout } = await exact('--url', url);
    expect(status).toBe(1);
    expect(JSON.parse(stdout)).toMatchObject({ exact: false, incomplete: 'the prompt is not to its taste' });
    expect(JSON.parse(stdout).results).toMatchObject([{ scenario: 'repeated', sameLogprobs: 1 }]);
  });
});
