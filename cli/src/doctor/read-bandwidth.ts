import { Worker } from 'node:worker_threads';

/** Well beyond any last-level cache. */
export const bytesPerThreadWanted = 192 * 1024 * 1024;
/** What a check may take of the memory that is there: other programs go on allocating meanwhile, and a container ends the one that exceeds its limit. */
const availableShare = 1 / 4;
const passes = 3;

/** What each of `threads` threads reads, where so much memory is available. Pure. */
export function bytesPerThread(threads: number, availableBytes: number): number {
  return Math.max(1, Math.min(bytesPerThreadWanted, Math.floor((availableBytes * availableShare) / threads)));
}

/**
 * Bytes per second that `threads` threads read together, each `bytes` of its own, best of a few passes. The search for a byte that is not there is the C library's
 * vectorised memchr: no kernel of ours needs to be built for the estimate.
 */
export async function measureReadBandwidth(threads: number, bytes = bytesPerThreadWanted): Promise<number> {
  const program = `
    const { parentPort, workerData } = require('node:worker_threads');
    const memory = Buffer.alloc(workerData.bytes, 1);
    const now = () => performance.timeOrigin + performance.now();
    parentPort.postMessage(null);
    parentPort.on('message', () => {
      const begin = now();
      memory.indexOf(0);
      parentPort.postMessage([begin, now()]);
    });`;
  const workers = Array.from({ length: threads }, () => new Worker(program, { eval: true, workerData: { bytes } }));
  try {
    await Promise.all(workers.map(nextMessage));
    let best = 0;
    for (let pass = 0; pass < passes; pass++) {
      const answers = workers.map(nextMessage);
      for (const worker of workers) worker.postMessage(null);
      const spansMs = (await Promise.all(answers)) as [number, number][];
      const tookMs = Math.max(...spansMs.map(([, end]) => end)) - Math.min(...spansMs.map(([begin]) => begin));
      best = Math.max(best, (threads * bytes * 1000) / tookMs);
    }
    return best;
  } finally {
    await Promise.all(workers.map((worker) => worker.terminate()));
  }
}

function nextMessage(worker: Worker): Promise<unknown> {
  return new Promise((resolve, reject) => {
    worker.once('message', resolve);
    worker.once('error', reject);
  });
}
