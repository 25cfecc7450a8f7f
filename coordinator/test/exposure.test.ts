import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { exposures } from '../src/exposure.ts';
import { startCoordinator } from '../src/index.ts';
import { modelDir } from './model-dir.ts';

const folder = mkdtempSync(path.join(os.tmpdir(), 'sw-ex-'));
afterAll(() => rmSync(folder, { recursive: true }));

const closed = { listen: '127.0.0.1:8000', control: '127.0.0.1:8001', tokenFile: 't', tlsCert: null, tlsCa: null, apiKeyFile: null };

describe('a coordinator warns', () => {
  it.each([
    ['of nothing on loopback with a token', {}, []],
    [
      'of workers that anybody starts',
      { control: '0.0.0.0:8001', tokenFile: null },
      ['--control 0.0.0.0:8001 takes any worker: give it a --token-file'],
    ],
    [
      'of workers that other users start',
      { control: 'localhost:8001', tokenFile: null },
      ['--control localhost:8001 takes a worker of any user of this machine: give it a --token-file'],
    ],
    ['of nothing on a socket, which is its owner alone', { control: 'unix:/run/c.sock', tokenFile: null }, []],
    ['of a token that can be read', { control: '[::]:8001' }, [expect.stringMatching(/^--control \[::\]:8001 has no TLS: .*--tls-cert/)]],
    ['of nothing with TLS', { control: '[::]:8001', tlsCert: 'c' }, []],
    ['of nothing where workers show certificates', { control: '[::]:8001', tokenFile: null, tlsCert: 'c', tlsCa: 'a' }, []],
    ['of an API for anybody', { listen: '0.0.0.0:8000' }, ['--listen 0.0.0.0:8000 answers anybody: give it an --api-key-file']],
    ['of nothing with keys', { listen: '0.0.0.0:8000', apiKeyFile: 'k' }, []],
  ])('%s', (_, changes, told) => {
    expect(exposures({ ...closed, ...changes })).toEqual(told);
  });

  it('once, in its log', async () => {
    const tokenFile = path.join(folder, 'token');
    writeFileSync(tokenFile, 'secret', { mode: 0o600 });
    const lines: string[] = [];
    const config = { model: modelDir, listen: '0.0.0.0:0', control: '0.0.0.0:0', tokenFile, logLevel: 'warn' as const };
    const coordinator = await startCoordinator(config, (line) => lines.push(JSON.parse(line).msg));
    expect(lines).toEqual([expect.stringMatching(/^--control 0.0.0.0:0 has no TLS/), expect.stringMatching(/^--listen 0.0.0.0:0 answers/)]);
    await coordinator.close(0);
  });
});
