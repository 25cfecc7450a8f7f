import { mkdtempSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { sharedMemory } from '@switchyard/native';
import { sharedMemoryTransport } from '@switchyard/proto';
import { linkConformance } from '../../proto/test/link-conformance.ts';

const folder = mkdtempSync(path.join(os.tmpdir(), 'sy-shm-'));
let count = 0;
linkConformance({
  name: 'shm',
  create: (bounds) => sharedMemoryTransport(sharedMemory, bounds),
  address: () => `shm://${folder}/${count++}.sock`,
});
