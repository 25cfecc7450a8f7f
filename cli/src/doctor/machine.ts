import { existsSync, readdirSync, readFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { availableCpus } from '@switchyard/proto';
import { formatBytes } from '../terminal/quantity.ts';
import type { Check } from './check.ts';
import { ok, warning } from './check.ts';
import { bytesPerThreadWanted } from './read-bandwidth.ts';

/** The bundled model with four workers needs about a tenth of this; below it nothing real fits. */
const memoryBytesLow = 1024 ** 3;
/** Every client connection, link and mapped file is one. */
const openFilesLow = 4096;

export function checkCpus(): Check {
  const cpus = availableCpus();
  const model = os.cpus()[0]?.model.trim() ?? 'unknown';
  const nodes = existsSync('/sys/devices/system/node')
    ? readdirSync('/sys/devices/system/node').filter((name) => /^node\d+$/.test(name)).length
    : 1;
  return ok('cpus', `${cpus.length} of ${os.cpus().length} usable, ${nodes} NUMA node${nodes === 1 ? '' : 's'}, ${model}`);
}

export function checkMemory(): Check {
  const limit = containerMemory()?.limit ?? null;
  const available = availableMemory();
  const found = `${formatBytes(available)} available of ${formatBytes(os.totalmem())}${limit === null ? '' : `, container limit ${formatBytes(limit)}`}`;
  return available < memoryBytesLow
    ? warning('memory', found, 'stop other programs or raise the limit: weights and KV cache live in memory')
    : ok('memory', found);
}

/** What may be allocated: what the machine has left, and what a container has left of its limit. */
export function availableMemory(): number {
  return Math.min(machineMemory(), containerMemory()?.available ?? Number.POSITIVE_INFINITY);
}

/** Reclaimable page cache counts as available: the kernel's own estimate where it gives one. */
function machineMemory(): number {
  try {
    const line = /^MemAvailable:\s+(\d+) kB/m.exec(readFileSync('/proc/meminfo', 'utf8'));
    if (line) return Number(line[1]) * 1024;
  } catch {
    // Not Linux.
  }
  return os.freemem();
}

interface ContainerMemory {
  limit: number;
  available: number;
}

/** What each version of control groups calls the same, in its folder. */
const memoryFiles = [
  { folder: '/sys/fs/cgroup', limit: 'memory.max', used: 'memory.current' },
  { folder: '/sys/fs/cgroup/memory', limit: 'memory.limit_in_bytes', used: 'memory.usage_in_bytes' },
];

function containerMemory(): ContainerMemory | null {
  for (const { folder, limit, used } of memoryFiles) {
    const [limitText, usedText, statText] = [limit, used, 'memory.stat'].map((name) => textOf(path.join(folder, name)));
    const found = limitText === '' ? null : memoryLeft(limitText, usedText, statText, os.totalmem());
    if (found !== null) return found;
  }
  return null;
}

/** Empty where there is no such file. */
function textOf(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return '';
  }
}

/**
 * What a container has left by its control group's files: the limit, what is used, and the statistics, of which page cache that nobody has used lately is given back
 * where it is wanted. Null where nothing limits it below the machine. Pure.
 */
export function memoryLeft(limitText: string, usedText: string, statText: string, machineBytes: number): ContainerMemory | null {
  const limit = Number(limitText.trim());
  if (!Number.isFinite(limit) || limit >= machineBytes) return null;
  const used = Number(usedText.trim()) || 0;
  // Of all groups below this one where the first version counts them apart.
  const reclaimable = Number((/^total_inactive_file (\d+)$/m.exec(statText) ?? /^inactive_file (\d+)$/m.exec(statText))?.[1] ?? 0);
  return { limit, available: Math.max(0, limit - Math.max(0, used - reclaimable)) };
}

/** @param bytesPerSecond what `threads` threads read together, each `bytes` of its own */
export function describeBandwidth(bytesPerSecond: number, threads: number, bytes: number): Check {
  const less =
    bytes < bytesPerThreadWanted
      ? ` of ${formatBytes(bytes)} each, for want of memory: less than ${formatBytes(bytesPerThreadWanted)}, so caches may have helped`
      : '';
  const found = `about ${(bytesPerSecond / 1e9).toFixed(0)} GB/s read by ${threads} thread${threads === 1 ? '' : 's'} in single streams${less}`;
  return ok('memory bandwidth', `${found}: decoding reads about as fast, in three streams each up to a third faster`);
}

export function checkOpenFiles(): Check {
  let limit = Number.POSITIVE_INFINITY;
  try {
    const line = /^Max open files\s+(\S+)/m.exec(readFileSync('/proc/self/limits', 'utf8'));
    if (line && line[1] !== 'unlimited') limit = Number(line[1]);
  } catch {
    return ok('open files', 'limit not known on this system');
  }
  const found = `limit ${limit}`;
  return limit < openFilesLow ? warning('open files', found, `raise it: ulimit -n ${openFilesLow}`) : ok('open files', found);
}
