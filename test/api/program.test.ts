import { spawn } from 'node:child_process';
import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';
import { modelDir } from './cluster.ts';

const program = fileURLToPath(new URL('../../coordinator/dist/main.js', import.meta.url));
const folder = mkdtempSync(path.join(os.tmpdir(), 'sw-program-'));
afterAll(() => rmSync(folder, { recursive: true }));
const control = ['--control', `unix:${path.join(folder, 'c.sock')}`];
const model = ['--model', modelDir];
const anyPort = ['--listen', '127.0.0.1:0'];

/** Runs the program to its end; `onListening` is called once it serves. */
async function run(
  args: string[],
  onListening: (child: ReturnType<typeof spawn>) => void = () => {},
  environment: Record<string, string> = {},
) {
  const child = spawn(process.execPath, [program, ...args], { env: { ...process.env, ...environment }, stdio: ['pipe', 'pipe', 'pipe'] });
  let stdout = '';
  let stderr = '';
  child.stdout.on('data', (chunk) => {
    stdout += chunk;
    onListening(child);
  });
  child.stderr.on('data', (chunk) => {
    stderr += chunk;
  });
  // One that should have ended must not outlive the test.
  const late = setTimeout(() => child.kill('SIGKILL'), 40_000);
  const status = await new Promise<number | null>((resolve) => child.once('close', resolve));
  clearTimeout(late);
  return { status, stdout, stderr };
}

function file(name: string, text: string): string {
  const target = path.join(folder, name);
  writeFileSync(target, text);
  return target;
}

describe('the coordinator program', () => {
  it.each([
    [['--fly'], /^switchyard coordinator: --fly is not an option/],
    [[], /^switchyard coordinator: --model must be given/],
    [[...model, '--nodes', '-1'], /^switchyard coordinator: --nodes is "-1"/],
  ])('%j ends with status 2 and one line', async (args, message) => {
    const { status, stderr } = await run(args);
    expect(stderr).toMatch(message);
    expect(stderr.trim().split('\n')).toHaveLength(1);
    expect(status).toBe(2);
  });

  it('reads the environment', async () => {
    const { status, stderr } = await run(model, undefined, { SWITCHYARD_COORDINATOR_GRACE: '1' });
    expect(stderr).toMatch(/SWITCHYARD_COORDINATOR_GRACE is no option/);
    expect(status).toBe(2);
  });

  it('shows its help and version', async () => {
    expect((await run(['--help'])).stdout).toMatch(/Usage: switchyard coordinator[\s\S]*--workers-per-node N/);
    expect((await run(['--version'])).stdout).toMatch(/^\d+\.\d+\.\d+\n$/);
  });

  const broken = path.join(folder, 'broken');
  cpSync(modelDir, broken, { recursive: true, filter: (source) => !/held-out|safetensors/.test(source) });
  const plan = {
    format: 'switchyard-plan',
    version: 1,
    model: { type: 'qwen3_moe', moeLayers: [0], experts: 32 },
    workers: [],
    replicas: [],
  };

  it.each([
    [['--model', '/nowhere'], /\/nowhere\/config\.json: no such file/],
    [['--model', broken], /tokenizer\.json is not JSON/],
    [[...model, '--plan', '/nowhere.json'], /--plan \/nowhere\.json: ENOENT/],
    [[...model, '--plan', file('plan.json', JSON.stringify(plan))], /--plan .*plan\.json: .*model\.moeLayers/],
    [[...model, '--nodes', '64', '--workers-per-node', '64'], /--nodes 64 with --workers-per-node 64 make 4096 workers; the limit is 1024/],
    [[...model, '--token-file', '/nowhere'], /--token-file \/nowhere: no such file/],
    [[...model, '--token-file', file('blank', '\n')], /--token-file .*blank: is empty/],
    [[...model, '--api-key-file', file('none', '# no key\n')], /--api-key-file .*none: has no key/],
    [[...model, '--tls-cert', '/nowhere'], /--tls-cert and --tls-key are needed together/],
    [[...model, '--control', 'unix:/nowhere/c.sock'], /cannot listen on unix:\/nowhere\/c\.sock/],
  ])('%j ends with status 1 and says why', async (args, message) => {
    writeFileSync(path.join(broken, 'tokenizer.json'), '{');
    const { status, stderr, stdout } = await run([...control, ...anyPort, '--log-level', 'silent', ...args]);
    expect(stderr).toMatch(message);
    expect(stderr).not.toMatch(/\n\s+at /);
    expect(stdout).toBe('');
    expect(status).toBe(1);
  });

  it('names the port that is in use', async () => {
    const taken = net.createServer();
    await new Promise<void>((resolve) => taken.listen(0, '127.0.0.1', resolve));
    const { port } = taken.address() as net.AddressInfo;
    for (const where of [
      ['--listen', `127.0.0.1:${port}`],
      [...anyPort, '--health-port', String(port)],
    ]) {
      const { status, stderr } = await run([...model, ...control, '--log-level', 'silent', ...where]);
      expect(stderr).toContain(String(port));
      expect(stderr).toMatch(/listens there already|EADDRINUSE/);
      expect(status).toBe(1);
    }
    taken.close();
  });

  it('takes over sockets that a killed one left, and ends with its standard input when supervised', async () => {
    const sockets = [...control, '--admin-socket', path.join(folder, 'admin.sock')];
    const killed = await run([...model, ...anyPort, ...sockets], (child) => child.kill('SIGKILL'));
    expect(killed.status).toBeNull();
    const { status, stdout } = await run([...model, ...anyPort, ...sockets, '--supervised'], (child) => child.stdin!.end());
    expect(JSON.parse(stdout)).toMatchObject({ event: 'listening', control: control[1], health: null });
    expect(status).toBe(0);
  });
});
