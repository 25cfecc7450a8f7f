import { createHash } from 'node:crypto';

/**
 * The epoch of frames: what the coordinator wants served, by the checkpoint that was really read. Whoever assigns knows a folder, and what lies in it may change
 * between two workers' starts: rows and sums of one checkpoint meet none of the other, whether or not the coordinator has noticed yet. Never 0.
 */
export function frameEpoch(assigned: number, weightsHash: bigint): number {
  const bytes = Buffer.alloc(12);
  bytes.writeUInt32LE(assigned, 0);
  bytes.writeBigUInt64LE(weightsHash, 4);
  return createHash('sha256').update(bytes).digest().readUInt32LE() || 1;
}
