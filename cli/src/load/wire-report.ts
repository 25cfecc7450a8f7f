import type { ClusterStatus, WorkerCounters } from '../api/cluster-status.ts';
import { earlierCounters } from '../traffic/earlier-counters.ts';
import { linkFlows } from '../traffic/link-flows.ts';

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

/** The difference of two readings of the workers' counters. Pure. */
export function wireReport(before: ClusterStatus, after: ClusterStatus, tokens: number): WireReport {
  const links = linkFlows(before, after).map(({ from, to, transport, crossNode, bytes, frames }) => ({
    from,
    to,
    transport,
    crossNode,
    bytesPerToken: bytes / Math.max(1, tokens),
    frames,
  }));
  const grown = (pick: (stats: WorkerCounters) => number) =>
    sumOf(after.workers, (worker) => {
      const earlier = earlierCounters(before, worker);
      return worker.stats === null ? 0 : pick(worker.stats) - (earlier === null ? 0 : pick(earlier));
    });
  const rows = grown((stats) => stats.rowsDispatched);
  const roundTrips = grown((stats) => sumOf(stats.links, (link) => link.roundTrips));
  const roundTripSeconds = grown((stats) => sumOf(stats.links, (link) => link.roundTripSeconds));
  return {
    tokens,
    bytesPerToken: sumOf(links, (link) => link.bytesPerToken),
    crossNodeBytesPerToken: sumOf(
      links.filter((link) => link.crossNode),
      (link) => link.bytesPerToken,
    ),
    remoteNodesPerTokenLayer: rows > 0 ? grown((stats) => stats.remoteNodesVisited) / rows : 0,
    roundTripMicroseconds: roundTrips > 0 ? (1e6 * roundTripSeconds) / roundTrips : 0,
    links,
  };
}

function sumOf<T>(items: readonly T[], pick: (item: T) => number): number {
  return items.reduce((total, item) => total + pick(item), 0);
}
