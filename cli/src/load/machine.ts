import os from 'node:os';
import { availableCpus } from '@switchyard/proto';

export interface MachineDescription {
  cpu: string;
  cpus: number;
  memoryBytes: number;
  platform: string;
  node: string;
}

/** What every kept result says about where it was measured. */
export function describeMachine(): MachineDescription {
  return {
    cpu: os.cpus()[0]?.model.trim() ?? 'unknown',
    cpus: availableCpus().length,
    memoryBytes: os.totalmem(),
    platform: `${process.platform}-${process.arch}`,
    node: process.version,
  };
}
