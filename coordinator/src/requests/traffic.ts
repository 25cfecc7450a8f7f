import type { Routing, Traffic } from '@switchyard/proto';

/** What rows cost the network, summed over MoE layers: of one request, or of all. */
export interface TrafficSum {
  /** (row, layer) pairs, and the distinct remote nodes that they visited. */
  rows: number;
  remoteNodes: number;
  /** (row, expert) pairs, and those that the home's node computed. */
  visits: number;
  homeVisits: number;
  interNodeBytes: number;
  intraNodeBytes: number;
}

export function noTraffic(): TrafficSum {
  return { rows: 0, remoteNodes: 0, visits: 0, homeVisits: 0, interNodeBytes: 0, intraNodeBytes: 0 };
}

export function addTraffic(sum: TrafficSum, more: TrafficSum): void {
  sum.rows += more.rows;
  sum.remoteNodes += more.remoteNodes;
  sum.visits += more.visits;
  sum.homeVisits += more.homeVisits;
  sum.interNodeBytes += more.interNodeBytes;
  sum.intraNodeBytes += more.intraNodeBytes;
}

/** A worker's bill of one sequence, or null when it is none: absent, or figures that cannot be. */
export function checkedTraffic(traffic: Traffic | undefined, nodes: number): TrafficSum | null {
  if (traffic === undefined) return null;
  const { rows, remoteNodes, visits, homeVisits, interNodeBytes, intraNodeBytes } = traffic;
  const possible = remoteNodes <= rows * (nodes - 1) && homeVisits <= visits && isBytes(interNodeBytes) && isBytes(intraNodeBytes);
  return possible ? { rows, remoteNodes, visits, homeVisits, interNodeBytes, intraNodeBytes } : null;
}

/** What a worker has seen of a sequence's routing, or null: nothing, or figures that cannot be. */
export function checkedRouting(routing: Routing | undefined, nodes: number): Routing | null {
  if (routing === undefined || routing.sampled === 0 || routing.held.length !== nodes) return null;
  for (let node = 0; node < nodes; node++) if (routing.held[node] > routing.sampled) return null;
  return routing;
}

/** Figures of a bill as people read them; null where nothing was counted. */
export function trafficRatios({ rows, remoteNodes, visits, homeVisits }: TrafficSum): { r: number | null; homeShare: number | null } {
  return { r: rows === 0 ? null : remoteNodes / rows, homeShare: visits === 0 ? null : homeVisits / visits };
}

function isBytes(value: number): boolean {
  return value >= 0 && value <= Number.MAX_SAFE_INTEGER;
}
