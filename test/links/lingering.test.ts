// The same promises of links in a program that waits awake for frames, as workers do.
import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { sharedMemory, yieldCore } from '@switchyard/native';
import { lingerAfterFrames, sharedMemoryTransport, socketTransport } from '@switchyard/proto';
import { afterAll, vi } from 'vitest';
import { linkConformance } from '../../proto/test/link-conformance.ts';

vi.mock('../../proto/src/limits.ts', async (original) => {
  const { limits } = await original<typeof import('../../proto/src/limits.ts')>();
  return { limits: { ...limits, linksPerListenerMax: 16 } };
});

lingerAfterFrames(yieldCore);

const folder = mkdtempSync(path.join(os.tmpdir(), 'sy-linger-'));
afterAll(() => rmSync(folder, { recursive: true }));
let count = 0;

linkConformance({
  name: 'shm, awake',
  create: (bounds) => sharedMemoryTransport(sharedMemory, bounds),
  address: () => `shm://${folder}/${count++}.sock`,
});
linkConformance({
  name: 'tcp, awake',
  create: (bounds) => socketTransport('tcp', bounds),
  address: () => 'tcp://127.0.0.1:0',
});
