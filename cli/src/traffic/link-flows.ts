import type { ClusterStatus } from '../api/cluster-status.ts';

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
 * other end sent. A worker that was started anew has counted from zero. Pure.
 */
export function linkFlows(before: ClusterStatus | null, after: ClusterStatus): LinkFlow[] {
  const earlier = before === null ? new Map<string, LinkFlow>() : totals(before);
  return [...totals(after)].map(([key, flow]) => {
    const since = earlier.get(key);
    if (since === undefined || since.bytes > flow.bytes || since.frames > flow.frames) return flow;
    return {
      ...flow,
      bytes: flow.bytes - since.bytes,
      frames: flow.frames - since.frames,
      sumBytes: flow.sumBytes - since.sumBytes,
      sumFrames: flow.sumFrames - since.sumFrames,
    };
  });
}

function totals({ workers }: ClusterStatus): Map<string, LinkFlow> {
  const nodeOf = new Map(workers.map((worker) => [worker.name, worker.node]));
  const flows = new Map<string, LinkFlow>();
  const flowOf = (from: string, to: string, transport: string): LinkFlow => {
    const key = `${from}\0${to}`;
    let flow = flows.get(key);
    if (flow === undefined) {
      flow = { from, to, transport, crossNode: nodeOf.get(from) !== nodeOf.get(to), bytes: 0, frames: 0, sumBytes: 0, sumFrames: 0 };
      flows.set(key, flow);
    }
    return flow;
  };
  for (const { name, stats } of workers)
    for (const { peer, transport, bytesSent, bytesReceived, framesSent, roundTrips } of stats?.links ?? []) {
      const out = flowOf(name, peer, transport);
      out.bytes += bytesSent;
      out.frames += framesSent;
      const back = flowOf(peer, name, transport);
      back.bytes += bytesReceived;
      back.sumBytes += bytesReceived;
      back.frames += roundTrips;
      back.sumFrames += roundTrips;
    }
  return flows;
}
