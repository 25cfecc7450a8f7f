import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { afterAll, afterEach, describe, expect, it, vi } from 'vitest';
import { AllowedHosts } from '../src/api/allowed-hosts.ts';
import type { RunningCoordinator } from '../src/index.ts';
import { startCoordinator } from '../src/index.ts';
import { modelDir } from './model-dir.ts';

const folder = mkdtempSync(path.join(os.tmpdir(), 'sw-ad-'));
afterAll(() => rmSync(folder, { recursive: true }));

let coordinator: RunningCoordinator;
afterEach(() => coordinator?.close(0));

const lines: string[] = [];
let serial = 0;
async function start(config: Partial<Parameters<typeof startCoordinator>[0]> = {}): Promise<void> {
  const control = `unix:${path.join(folder, `${serial++}.sock`)}`;
  const usual = { model: modelDir, listen: '127.0.0.1:0', control, logLevel: 'silent' as const };
  lines.length = 0;
  coordinator = await startCoordinator({ ...usual, ...config }, (line) => lines.push(line));
}

function secret(text: string): string {
  const file = path.join(folder, `secret-${serial++}`);
  writeFileSync(file, text, { mode: 0o600 });
  return file;
}

/** `fetch` does not let its caller name the host. */
function get(headers: Record<string, string>, where: http.RequestOptions = {}): Promise<{ status: number; body: string }> {
  return new Promise((resolve, reject) => {
    const { hostname, port } = new URL(coordinator.url);
    const request = http.get({ host: hostname, port, path: '/v1/models', headers, ...where }, (response) => {
      let body = '';
      response.on('data', (chunk) => {
        body += chunk;
      });
      response.on('end', () => resolve({ status: response.statusCode!, body }));
    });
    request.on('error', reject);
  });
}

async function statuses(headers: Record<string, string>[]): Promise<number[]> {
  const answered: number[] = [];
  for (const header of headers) answered.push((await get(header)).status);
  return answered;
}

describe('a server without keys on loopback', () => {
  it('is there for pages of this machine alone', async () => {
    await start();
    const refused = await get({ host: 'rebound.example:8000' });
    expect(refused.status).toBe(403);
    expect(JSON.parse(refused.body).error).toMatchObject({
      code: 'invalid_request',
      param: 'host',
      message: expect.stringMatching(/^host is "rebound.example:8000": .*--allowed-hosts.*--api-key-file/),
    });
    const foreign = await get({ host: 'localhost:8000', origin: 'https://rebound.example' });
    expect([foreign.status, JSON.parse(foreign.body).error.param]).toEqual([403, 'origin']);
    expect(await statuses([{ host: '127.0.0.1.example' }, { host: 'localhost', origin: 'null' }, { host: 'localhost.example' }])).toEqual([
      403, 403, 403,
    ]);
    expect(
      await statuses([
        { host: 'localhost' },
        { host: 'LOCALHOST:1' },
        { host: '127.0.0.1:8000' },
        { host: '127.9.9.9' },
        { host: '[::1]:8000' },
        { host: 'localhost.', origin: 'http://localhost:3000' },
      ]),
    ).toEqual([200, 200, 200, 200, 200, 200]);
  });

  it('lets in names that its operator gives', async () => {
    await start({ allowedHosts: 'models.example,[fe80::1]' });
    const there = { host: 'models.example', origin: 'https://models.example' };
    expect(await statuses([there, { host: '[fe80::1]:80' }, { host: 'localhost' }])).toEqual([200, 200, 200]);
    expect(await statuses([{ host: 'other.example' }])).toEqual([403]);
    await coordinator.close(0);
    await start({ allowedHosts: '*' });
    expect(await statuses([{ host: 'other.example', origin: 'null' }])).toEqual([200]);
  });
});

describe('a server with keys, or off loopback', () => {
  it('may be asked for by any name', async () => {
    await start({ apiKeyFile: secret('key\n') });
    expect(await statuses([{ host: 'models.example', authorization: 'Bearer key' }])).toEqual([200]);
    await coordinator.close(0);
    await start({ listen: '0.0.0.0:0' });
    expect(await statuses([{ host: 'models.example' }])).toEqual([200]);
  });
});

describe('the configured host', () => {
  it('is a name of its own', () => {
    const hosts = new AllowedHosts(['My-Box']);
    expect(() => hosts.check({ host: 'my-box:80' })).not.toThrow();
    expect(() => hosts.check({})).not.toThrow();
    expect(() => hosts.check({ host: 'box' })).toThrow('host is "box"');
  });
});

describe('rows of each expert', () => {
  it("are the operator's alone where there are keys", async () => {
    const adminSocket = path.join(folder, 'admin.sock');
    await start({ apiKeyFile: secret('key\n'), adminTokenFile: secret('operator\n'), adminSocket });
    const has = async (headers: Record<string, string>, where?: http.RequestOptions) => {
      const { status, body } = await get(headers, { path: '/metrics', ...where });
      expect([status, body.includes('switchyard_rank_imbalance_ratio'), /\n\n\n|\n$/.test(body)]).toEqual([200, true, true]);
      return body.includes('switchyard_expert_tokens_total');
    };
    expect(await has({})).toBe(false);
    expect(await has({ authorization: 'Bearer key' })).toBe(false);
    expect(await has({ authorization: 'Bearer operator' })).toBe(true);
    expect(await has({}, { socketPath: adminSocket })).toBe(true);
  });

  it('are in the metrics of a server without keys', async () => {
    await start();
    expect((await get({}, { path: '/metrics' })).body).toContain('switchyard_expert_tokens_total{');
  });
});

describe('the log', () => {
  it('names what is wrong with a request and quotes none of it', async () => {
    await start({ logLevel: 'debug' });
    const refused = await fetch(`${coordinator.url}/v1/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ prompt: 'hello', temperature: 'my secret words' }),
    });
    expect(refused.status).toBe(400);
    const logged = lines.filter((line) => line.includes('request refused'));
    expect(logged.map((line) => JSON.parse(line))).toEqual([expect.objectContaining({ code: 'invalid_request', param: 'temperature' })]);
    expect(lines.join()).not.toContain('secret words');
  });
});

describe('the admin socket', () => {
  it('is made for its owner alone, whatever the mask of files is', async () => {
    const made: number[] = [];
    const { listen } = net.Server.prototype;
    const spy = vi.spyOn(net.Server.prototype, 'listen').mockImplementation(function (this: net.Server, ...args: unknown[]) {
      if (typeof args[0] !== 'string') return Reflect.apply(listen, this, args);
      const server = Reflect.apply(listen, this, args);
      made.push(statSync(args[0]).mode & 0o777);
      return server;
    });
    const mask = process.umask(0);
    try {
      const adminSocket = path.join(folder, 'private.sock');
      await start({ adminSocket });
      expect(made).toEqual([0o600]);
      expect(statSync(adminSocket).mode & 0o777).toBe(0o600);
      // Files that are made later have the mask that was there.
      expect(process.umask()).toBe(0);
    } finally {
      process.umask(mask);
      spy.mockRestore();
    }
  });
});
