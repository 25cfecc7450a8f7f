// The same promises of links in a program that waits awake for frames, as workers do.
import { mkdtempSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { sharedMemory, yieldCore } from '@switchyard/native';
import { lingerAfterFrames, sharedMemoryTransport, socketTransport } from '@switchyard/proto';
import { linkConformance } from '../../proto/test/link-conformance.ts';

lingerAfterFrames(yieldCore);

const folder = mkdtempSync(path.join(os.tmpdir(), 'sy-linger-'));
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
