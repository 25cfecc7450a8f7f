import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { type FromWorker, PROTOCOL_VERSION } from '@switchyard/proto';
import { afterAll, describe, expect, it } from 'vitest';
import { startCoordinator } from '../src/index.ts';
import { modelDir } from './model-dir.ts';
import { ScriptedWorker } from './scripted-worker.ts';

const folder = mkdtempSync(path.join(os.tmpdir(), 'sw-he-'));
afterAll(() => rmSync(folder, { recursive: true }));

const hello = {
  ...{ type: 'hello' as const, protocolVersion: PROTOCOL_VERSION, name: 'n0w0', node: 'n0', pid: 1, dataAddresses: ['uds:///a'] },
  ...{ device: '{}', softwareVersion: '0', memories: [] as string[] },
};

describe('a worker that says too much of itself', () => {
  const x = (count: number) => 'x'.repeat(count);

  it('is cut off by the field, and its place stays free', async () => {
    const control = `unix:${path.join(folder, 'c.sock')}`;
    const coordinator = await startCoordinator({ model: modelDir, listen: '127.0.0.1:0', control, logLevel: 'silent', graceMs: 0 });
    for (const [changes, told] of [
      [{ name: x(257) }, 'name has 257 characters; the limit is 256'],
      [{ node: x(257) }, 'node has 257 characters; the limit is 256'],
      [{ softwareVersion: x(257) }, 'softwareVersion has 257 characters; the limit is 256'],
      [{ device: x(4097) }, 'device has 4097 characters; the limit is 4096'],
      [{ dataAddresses: ['uds:///a', x(513)] }, 'dataAddresses has 513 characters; the limit is 512'],
    ] as const) {
      const worker = await ScriptedWorker.attach(control);
      worker.send({ ...hello, ...changes } as FromWorker);
      expect(await worker.stream.closed).toMatchObject({ message: expect.stringContaining(`hello: ${told}`) });
    }
    const { workers } = coordinator.status() as { workers: { state: string }[] };
    expect(workers.map(({ state }) => state)).toEqual(['absent']);
    await coordinator.close();
  });
});
