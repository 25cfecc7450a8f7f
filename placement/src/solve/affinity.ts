import { type Cluster, inNodeGroups, nodeSpeedShares } from '../cluster/cluster.ts';
import { HomeCovers, maskNodesMax, visitsPrice } from '../cluster/node-set.ts';
import { runThrough, type Steps, tokensPerTurn } from '../steps.ts';
import { largestDomains, NO_EXPERT, type RoutingTrace } from '../trace/routing-trace.ts';
import { assignHomes } from './balanced-homes.ts';

/** What a token of a domain costs on each home node, in remote nodes per layer: what the coordinator needs to choose homes. */
export interface Affinity {
  /** (nodes) for tokens of no known domain. */
  otherwise: number[];
  /** (nodes) per domain. */
  domains: Record<string, number[]>;
}

/** What each sequence would cost from each home node, per token and layer, (sequences, nodes) both. */
export interface HomeCosts {
  /** Remote nodes visited, by the router's rule; each by the price of its link where links are not alike. */
  visits: Float64Array;
  /** Rows that the home does not serve. */
  rows: Float64Array;
}

/** @param firstTokens look at this many tokens of each sequence only: what is known of a running request */
export function sequenceHomeCosts(
  trace: RoutingTrace,
  masks: readonly ArrayLike<number>[],
  cluster: Cluster,
  firstTokens = Infinity,
): HomeCosts {
  return runThrough(sequenceHomeCostsSteps(trace, masks, cluster, firstTokens));
}

/** The same, some tokens at a time. */
export function* sequenceHomeCostsSteps(
  trace: RoutingTrace,
  masks: readonly ArrayLike<number>[],
  { nodes, linkPrice }: Cluster,
  firstTokens = Infinity,
): Steps<HomeCosts> {
  if (nodes > maskNodesMax) throw new RangeError(`sequenceHomeCosts: ${nodes} nodes, at most ${maskNodesMax}`);
  const layers = trace.moeLayers.length;
  const visits = new Float64Array(trace.sequences.length * nodes);
  const rows = new Float64Array(trace.sequences.length * nodes);
  const looked = new Int32Array(trace.sequences.length);
  const covers = new HomeCovers(nodes);
  for (let t = 0; t < trace.tokens; t++) {
    if (t % tokensPerTurn === tokensPerTurn - 1) yield;
    const s = trace.sequenceOf[t];
    if (looked[s] >= firstTokens) continue;
    looked[s]++;
    for (let l = 0; l < layers; l++) {
      const base = (t * layers + l) * trace.topK;
      const layer = masks[l];
      let count = 0;
      for (let k = 0; k < trace.topK; k++) {
        const e = trace.ids[base + k];
        if (e !== NO_EXPERT) covers.masks[count++] = layer[e];
      }
      covers.solve(count);
      for (let h = 0; h < nodes; h++) {
        visits[s * nodes + h] += visitsPrice(covers.visited[h], h, nodes, linkPrice);
        rows[s * nodes + h] += covers.rows[h];
      }
    }
  }
  for (let s = 0; s < looked.length; s++)
    for (let h = 0; h < nodes; h++) {
      visits[s * nodes + h] /= Math.max(1, looked[s]) * layers;
      rows[s * nodes + h] /= Math.max(1, looked[s]) * layers;
    }
  return { visits, rows };
}

/** A row that leaves home weighs this much of a visit when homes are chosen: among homes of equal traffic, the one that serves more of its own. */
const homeRowPrice = 0.25;

export function homePrices({ visits, rows }: HomeCosts): Float64Array {
  return visits.map((v, i) => v + homeRowPrice * rows[i]);
}

/** Averages sequences' costs by domain. @param cost visits of `sequenceHomeCosts` */
export function learnAffinity(trace: RoutingTrace, cost: Float64Array, nodes: number): Affinity {
  const kept = largestDomains(trace);
  const sumOf = () => ({ tokens: 0, cost: new Float64Array(nodes) });
  const all = sumOf();
  const sums = new Map(kept.map(({ name }) => [name, sumOf()]));
  trace.sequences.forEach(({ domain, tokens }, s) => {
    const own = domain === null ? undefined : sums.get(domain);
    for (const sum of own === undefined ? [all] : [all, own]) {
      sum.tokens += tokens;
      for (let h = 0; h < nodes; h++) sum.cost[h] += cost[s * nodes + h] * tokens;
    }
  });
  const mean = (sum: ReturnType<typeof sumOf>) => Array.from(sum.cost, (c) => Number((c / Math.max(1, sum.tokens)).toFixed(6)));
  return { otherwise: mean(all), domains: Object.fromEntries(kept.map(({ name }) => [name, mean(sums.get(name)!)])) };
}

/** How a home is predicted for a sequence that the plan was not fitted on. */
export type HomePredictor =
  | { kind: 'domain'; affinity: Affinity }
  | { kind: 'first-tokens'; tokens: number; affinity: Affinity }
  | { kind: 'whole-sequence' };

/**
 * Homes for the sequences of a trace, each node within `tolerance` of its share of the tokens; inside a node the worker with the fewest tokens for its speed.
 *
 * `domain` knows only the sequence's domain. `first-tokens` has also seen that many tokens' routing (blended with the domain's average as if that were
 * `priorTokens` tokens more). `whole-sequence` knows all of it: the best that any predictor could do.
 *
 * @returns home worker of each sequence, (sequences)
 */
export function chooseHomes(
  trace: RoutingTrace,
  masks: readonly ArrayLike<number>[],
  cluster: Cluster,
  predictor: HomePredictor,
  tolerance: number,
): Int32Array {
  const view = inNodeGroups(cluster);
  return balanceHomes(trace, predictedCosts(trace, masks, view, predictor), view, tolerance);
}

/** The cheapest homes within the balance. @param perToken predicted cost of a token of each sequence on each node, (sequences, nodes) */
export function balanceHomes(trace: RoutingTrace, perToken: Float64Array, cluster: Cluster, tolerance: number): Int32Array {
  const { nodes } = cluster;
  const tokens = trace.sequences.map((s) => s.tokens);
  const cost = perToken.map((c, i) => c * tokens[Math.floor(i / nodes)]);
  const nodeOfSequence = assignHomes(cost, tokens, { share: nodeSpeedShares(cluster), tolerance });
  return spreadOverWorkers(nodeOfSequence, tokens, cluster);
}

/** Tokens that a domain's average is worth beside the first tokens of a sequence. */
const priorTokens = 16;

function predictedCosts(
  trace: RoutingTrace,
  masks: readonly ArrayLike<number>[],
  cluster: Cluster,
  predictor: HomePredictor,
): Float64Array {
  const { nodes } = cluster;
  if (predictor.kind === 'whole-sequence') return homePrices(sequenceHomeCosts(trace, masks, cluster));
  // Domains have any names, also those that every object has something under.
  const byDomain = new Map(Object.entries(predictor.affinity.domains));
  const ofDomain = (s: number) => byDomain.get(trace.sequences[s].domain ?? '') ?? predictor.affinity.otherwise;
  const cost = new Float64Array(trace.sequences.length * nodes);
  if (predictor.kind === 'domain') {
    trace.sequences.forEach((_, s) => {
      cost.set(ofDomain(s), s * nodes);
    });
    return cost;
  }
  const { visits: seen } = sequenceHomeCosts(trace, masks, cluster, predictor.tokens);
  trace.sequences.forEach(({ tokens }, s) => {
    const looked = Math.min(tokens, predictor.tokens);
    const prior = ofDomain(s);
    for (let h = 0; h < nodes; h++) cost[s * nodes + h] = (looked * seen[s * nodes + h] + priorTokens * prior[h]) / (looked + priorTokens);
  });
  return cost;
}

/** Longest sequences first, each to the worker of its node with the fewest tokens for its speed. */
export function spreadOverWorkers(nodeOfSequence: ArrayLike<number>, tokens: readonly number[], cluster: Cluster): Int32Array {
  const load = new Float64Array(cluster.workers.length);
  const homes = new Int32Array(tokens.length);
  const order = tokens.map((_, s) => s).sort((a, b) => tokens[b] - tokens[a] || a - b);
  for (const s of order) {
    let best = -1;
    for (let w = 0; w < load.length; w++) {
      if (cluster.nodeOf[w] !== nodeOfSequence[s]) continue;
      if (best < 0 || (load[w] + tokens[s]) / cluster.speedOf[w] < (load[best] + tokens[s]) / cluster.speedOf[best]) best = w;
    }
    homes[s] = best;
    load[best] += tokens[s];
  }
  return homes;
}
