import { type Cluster, inNodeGroups } from '../cluster/cluster.ts';
import { NodeCover, popcount } from '../cluster/node-set.ts';
import type { Placement } from '../describe.ts';
import { peakOverMean } from '../score/fan-out-score.ts';
import { NO_EXPERT, type RoutingTrace } from '../trace/routing-trace.ts';

/** Why a plan looks as it does, node by node and layer by layer. */
export interface Explanation {
  nodes: {
    name: string;
    experts: number;
    /** Share of the tokens that live here, of all rows served here, and of its own tokens' rows that it serves itself. */
    homeShare: number;
    rowShare: number;
    servedAtHome: number;
    /** Domains with most tokens at home here. */
    domains: { domain: string; tokens: number }[];
    /** Node that most of its rows leave for, with rows per token; null: none leave. */
    busiestLink: { to: string; rowsPerToken: number } | null;
    /** What one more slot would save: the best replica not held here, in remote nodes per token (all layers). */
    nextReplica: { layer: number; expert: number; saves: number } | null;
  }[];
  layers: {
    layer: number;
    remoteNodes: number;
    peakMean: number;
    replicas: number;
    hottest: { expert: number; share: number; nodes: number };
  }[];
}

/** @param trace the trace that the placement's homes are for */
export function explain(placement: Placement, trace: RoutingTrace): Explanation {
  const { masks, homes, score, plan } = placement;
  const cluster = inNodeGroups(placement.cluster);
  const { nodes } = cluster;
  const linkRows = groupedLinks(score.linkRows, placement.cluster, cluster);
  const layers = masks.length;
  const workers = cluster.workers.length;
  const homeOf = Uint8Array.from(trace.sequenceOf, (s) => cluster.nodeOf[homes[s]]);
  const tokensAt = new Float64Array(nodes);
  for (const h of homeOf) tokensAt[h]++;
  const rowsAtHome = new Float64Array(nodes);
  const rowsOf = new Float64Array(nodes);
  const counts = new Float64Array(layers * trace.experts);
  const visits = new Float64Array(layers);
  const saves = new Float64Array(nodes * layers * trace.experts);
  const cover = new NodeCover();
  for (let t = 0; t < trace.tokens; t++) {
    const home = homeOf[t];
    for (let l = 0; l < layers; l++) {
      const base = (t * layers + l) * trace.topK;
      let uncovered = 0;
      let last = -1;
      for (let k = 0; k < trace.topK; k++) {
        const e = trace.ids[base + k];
        if (e === NO_EXPERT) continue;
        counts[l * trace.experts + e]++;
        rowsOf[home]++;
        if ((masks[l][e] >>> home) & 1) rowsAtHome[home]++;
        else {
          cover.masks[uncovered++] = masks[l][e];
          last = e;
        }
      }
      if (uncovered === 0) continue;
      visits[l] += popcount(cover.solveFirst(uncovered));
      // A token that lacks one expert only would not leave home at all if its home held it: the part of a replica's worth that needs no second look.
      if (uncovered === 1) saves[(home * layers + l) * trace.experts + last]++;
    }
  }
  const domainTokens = Array.from({ length: nodes }, () => new Map<string, number>());
  trace.sequences.forEach(({ domain, tokens }, s) => {
    const at = domainTokens[cluster.nodeOf[homes[s]]];
    at.set(domain ?? 'unnamed', (at.get(domain ?? 'unnamed') ?? 0) + tokens);
  });
  const allRows = score.rows.reduce((a, b) => a + b, 0);
  const nodeReport = cluster.nodeNames.map((name, n) => {
    let rows = 0;
    for (let i = 0; i < score.rows.length; i++) if (cluster.nodeOf[i % workers] === n) rows += score.rows[i];
    let busiest = -1;
    for (let m = 0; m < nodes; m++) if (linkRows[n * nodes + m] > (busiest < 0 ? 0 : linkRows[n * nodes + busiest]) && m !== n) busiest = m;
    let next = -1;
    for (let i = n * layers * trace.experts; i < (n + 1) * layers * trace.experts; i++)
      if (saves[i] > 0 && (next < 0 || saves[i] > saves[next])) next = i;
    const at = next - n * layers * trace.experts;
    return {
      name,
      experts: masks.reduce((sum, layer) => sum + layer.reduce((s, mask) => s + ((mask >>> n) & 1), 0), 0),
      homeShare: tokensAt[n] / trace.tokens,
      rowShare: rows / Math.max(1, allRows),
      servedAtHome: rowsOf[n] === 0 ? 0 : rowsAtHome[n] / rowsOf[n],
      domains: [...domainTokens[n]]
        .sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1))
        .slice(0, 3)
        .map(([domain, tokens]) => ({ domain, tokens })),
      busiestLink: busiest < 0 ? null : { to: cluster.nodeNames[busiest], rowsPerToken: linkRows[n * nodes + busiest] },
      nextReplica:
        next < 0
          ? null
          : { layer: trace.moeLayers[Math.floor(at / trace.experts)], expert: at % trace.experts, saves: saves[next] / trace.tokens },
    };
  });
  const layerReport = masks.map((layer, l) => {
    const load = score.rows.subarray(l * workers, (l + 1) * workers);
    const own = counts.subarray(l * trace.experts, (l + 1) * trace.experts);
    const total = own.reduce((a, b) => a + b, 0);
    let hottest = 0;
    for (let e = 1; e < trace.experts; e++) if (own[e] > own[hottest]) hottest = e;
    return {
      layer: trace.moeLayers[l],
      remoteNodes: visits[l] / trace.tokens,
      peakMean: peakOverMean(load, cluster.speedOf),
      replicas: plan.replicas[l].reduce((sum, list) => sum + list.length - 1, 0),
      hottest: { expert: hottest, share: own[hottest] / Math.max(1, total), nodes: popcount(layer[hottest]) },
    };
  });
  return { nodes: nodeReport, layers: layerReport };
}

/** Rows between groups of nodes, from those between nodes. */
function groupedLinks(linkRows: Float64Array, of: Cluster, groups: Cluster): Float64Array {
  if (of.nodes === groups.nodes) return linkRows;
  const groupOf = new Int32Array(of.nodes);
  of.nodeOf.forEach((n, w) => {
    groupOf[n] = groups.nodeOf[w];
  });
  const sums = new Float64Array(groups.nodes ** 2);
  linkRows.forEach((rows, i) => {
    sums[groupOf[Math.floor(i / of.nodes)] * groups.nodes + groupOf[i % of.nodes]] += rows;
  });
  return sums;
}
