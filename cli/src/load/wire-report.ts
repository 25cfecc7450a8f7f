import type { ClusterStatus, WorkerCounters } from '../api/cluster-status.ts';

/** What the workers exchanged while a level ran. Bytes are what a link carried, framing included, per token (prompt and output). */
export interface WireReport {
  tokens: number;
  bytesPerToken: number;
  crossNodeBytesPerToken: number;
  /** Distinct remote nodes that a token visited per MoE layer, on average: `r` of the cost formula. */
  remoteNodesPerTokenLayer: number;
  /** Mean round trip of a dispatch and its answer, all links together. */
  roundTripMicroseconds: number;
  links: { from: string; to: string; transport: string; crossNode: boolean; bytesPerToken: number; frames: number }[];
}

type LinkCounters = WorkerCounters['links'][number];

/** The difference of two readings of the workers' counters. Each direction of a link is counted where it was sent. Pure. */
export function wireReport(before: ClusterStatus, after: ClusterStatus, tokens: number): WireReport {
  const nodeOf = new Map(after.workers.map((worker) => [worker.name, worker.node]));
  const counters = (status: ClusterStatus, from: string) => status.workers.find((worker) => worker.name === from)?.stats ?? null;
  const links: WireReport['links'] = [];
  let roundTrips = 0;
  let roundTripSeconds = 0;
  let rows = 0;
  let remoteNodes = 0;
  for (const { name, node, stats } of after.workers) {
    const earlier = counters(before, name);
    rows += (stats?.rowsDispatched ?? 0) - (earlier?.rowsDispatched ?? 0);
    remoteNodes += (stats?.remoteNodesVisited ?? 0) - (earlier?.remoteNodesVisited ?? 0);
    for (const link of stats?.links ?? []) {
      const since = earlier?.links.find((l) => l.peer === link.peer);
      const grown = (pick: (l: LinkCounters) => number) => pick(link) - (since ? pick(since) : 0);
      roundTrips += grown((l) => l.roundTrips);
      roundTripSeconds += grown((l) => l.roundTripSeconds);
      links.push({
        from: name,
        to: link.peer,
        transport: link.transport,
        crossNode: nodeOf.get(link.peer) !== node,
        bytesPerToken: grown((l) => l.bytesSent) / Math.max(1, tokens),
        frames: grown((l) => l.framesSent),
      });
    }
  }
  const total = (chosen: WireReport['links']) => chosen.reduce((sum, link) => sum + link.bytesPerToken, 0);
  return {
    tokens,
    bytesPerToken: total(links),
    crossNodeBytesPerToken: total(links.filter((link) => link.crossNode)),
    remoteNodesPerTokenLayer: rows > 0 ? remoteNodes / rows : 0,
    roundTripMicroseconds: roundTrips > 0 ? (1e6 * roundTripSeconds) / roundTrips : 0,
    links,
  };
}
