import type { ClusterStatus, WorkerCounters } from '../api/cluster-status.ts';
import { earlierCounters } from './earlier-counters.ts';

/** What one worker sent another: rows and tables one way, sums of rows back. */
export interface LinkFlow {
  from: string;
  to: string;
  transport: string;
  crossNode: boolean;
  /** Framing included. */
  bytes: number;
  frames: number;
  /** Those of the bytes and frames that are sums on their way home. */
  sumBytes: number;
  sumFrames: number;
}

/**
 * What crossed each link between two readings of the workers' counters, or since they began. A link is counted by the worker that dialled it: what that received, the
 * other end sent. So each worker's part is taken from that worker's earlier one: one that is lost takes its part with it, and one that was started anew has counted
 * from zero. Pure.
 */
export function linkFlows(before: ClusterStatus | null, after: ClusterStatus): LinkFlow[] {
  const nodeOf = new Map(after.workers.map((worker) => [worker.name, worker.node]));
  const flows = new Map<string, LinkFlow>();
  for (const worker of after.workers) {
    const earlier = before === null ? null : earlierCounters(before, worker);
    const since = partOf(worker.name, earlier, nodeOf);
    for (const [key, flow] of partOf(worker.name, worker.stats, nodeOf))
      flows.set(key, combine(grown(flow, since.get(key)), flows.get(key), 1));
  }
  return [...flows.values()];
}

/** A link that was dialled anew has counted from zero. */
function grown(flow: LinkFlow, since: LinkFlow | undefined): LinkFlow {
  return since !== undefined && (since.bytes > flow.bytes || since.frames > flow.frames) ? flow : combine(flow, since, -1);
}

function combine(flow: LinkFlow, other: LinkFlow | undefined, sign: 1 | -1): LinkFlow {
  if (other === undefined) return flow;
  return {
    ...flow,
    bytes: flow.bytes + sign * other.bytes,
    frames: flow.frames + sign * other.frames,
    sumBytes: flow.sumBytes + sign * other.sumBytes,
    sumFrames: flow.sumFrames + sign * other.sumFrames,
  };
}

/** What one worker has counted on the links that it dialled, both ways. */
function partOf(name: string, counted: WorkerCounters | null, nodeOf: ReadonlyMap<string, string>): Map<string, LinkFlow> {
  const flows = new Map<string, LinkFlow>();
  const add = (from: string, to: string, flow: Pick<LinkFlow, 'transport' | 'bytes' | 'frames' | 'sumBytes' | 'sumFrames'>) => {
    const key = `${from}\0${to}`;
    flows.set(key, combine({ from, to, crossNode: nodeOf.get(from) !== nodeOf.get(to), ...flow }, flows.get(key), 1));
  };
  for (const { peer, transport, bytesSent, bytesReceived, framesSent, roundTrips } of counted?.links ?? []) {
    add(name, peer, { transport, bytes: bytesSent, frames: framesSent, sumBytes: 0, sumFrames: 0 });
    add(peer, name, { transport, bytes: bytesReceived, frames: roundTrips, sumBytes: bytesReceived, sumFrames: roundTrips });
  }
  return flows;
}
