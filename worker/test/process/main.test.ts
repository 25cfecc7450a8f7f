import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { afterEach, describe, expect, test } from 'vitest';

const program = fileURLToPath(new URL('../../dist/main.js', import.meta.url));
// Nobody answers there: the worker keeps trying.
const nowhere = ['--coordinator', 'unix:/nonexistent/control.sock', '--name', 'w0', '--node', 'n0'];
const started: ChildProcess[] = [];

function start(args: string[]) {
  const child = spawn(process.execPath, [program, ...args], { stdio: ['pipe', 'pipe', 'pipe'] });
  started.push(child);
  let said = '';
  child.stdout.on('data', (text: Buffer) => {
    said += text.toString();
  });
  const listening = new Promise<void>((resolve) => {
    child.stderr.on('data', (text: Buffer) => {
      said += text.toString();
      if (said.includes('listening')) resolve();
    });
  });
  const ended = new Promise<{ status: number | null; said: string }>((resolve) =>
    child.once('close', (status) => resolve({ status, said })),
  );
  return { child, listening, ended };
}

afterEach(() => {
  for (const child of started.splice(0)) child.kill('SIGKILL');
});

describe('the worker program', () => {
  test('is built', () => expect(existsSync(program)).toBe(true));

  test('explains itself', async () => {
    const { status, said } = await start(['--help']).ended;
    expect(status).toBe(0);
    expect(said).toContain('--coordinator ADDRESS');
  });

  test('refuses wrong flags with status 2 and the flag', async () => {
    const { status, said } = await start([...nowhere, '--threads', 'x']).ended;
    expect(status).toBe(2);
    expect(said).toContain('--threads is x');
  });

  test('says its version', async () => {
    const { status, said } = await start(['--version']).ended;
    expect(status).toBe(0);
    expect(said).toMatch(/^\d+\.\d+\.\d+\n$/);
  });

  test.each([
    ['--tls-ca', '/nonexistent/ca.pem', '--tls-ca /nonexistent/ca.pem: no such file or directory\n'],
    ['--tls-cert', '/nonexistent/cert.pem', '--tls-cert and --tls-key are needed together\n'],
    ['--data', 'pigeon://roof', '--data: address pigeon://roof: the schemes are '],
  ])('names the flag that it cannot start with: %s', async (flag, value, complaint) => {
    const { status, said } = await start([...nowhere, flag, value]).ended;
    expect(status).toBe(1);
    expect(said).toContain(complaint);
  });

  test.each(['SIGTERM', 'SIGINT', 'SIGHUP'] as const)('ends on %s with status 0, coordinator or not', async (signal) => {
    const { child, listening, ended } = start(nowhere);
    await listening;
    child.kill(signal);
    expect((await ended).status).toBe(0);
  });

  test('ends with its supervisor', async () => {
    const { child, listening, ended } = start([...nowhere, '--supervised']);
    await listening;
    child.stdin.end();
    expect((await ended).status).toBe(0);
  });

  test('names a token file that is not there', async () => {
    const { status, said } = await start([...nowhere, '--token-file', '/nonexistent/token']).ended;
    expect(status).toBe(1);
    expect(said).toContain('/nonexistent/token');
  });

  test('takes no empty token for one', async () => {
    const { status, said } = await start([...nowhere, '--token-file', '/dev/null']).ended;
    expect(status).toBe(1);
    expect(said).toContain('--token-file /dev/null: is empty');
  });
});
