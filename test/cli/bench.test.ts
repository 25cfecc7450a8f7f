import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { completionServerOfTests, startCompletionServer } from '../../cli/test/completion-server.ts';
import { start, switchyard, until } from './program.ts';

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
