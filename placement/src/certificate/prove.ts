import type { Plan } from '@switchyard/proto';
import type { Cluster } from '../cluster/cluster.ts';
import { scoreFanOut } from '../score/fan-out-score.ts';
import { scoreChain, type Transitions, transitionsOf } from '../score/transitions.ts';
import { loadBound } from '../solve/load-balance.ts';
import { expertLoads } from '../trace/load-matrix.ts';
import type { RoutingTrace } from '../trace/routing-trace.ts';
import {
  type Certificate,
  type ChainClaim,
  type Claim,
  type FanOutClaim,
  type LoadClaim,
  planDigest,
  type StarProof,
  scale,
  traceDigest,
} from './certificate.ts';
import { proveFanOut } from './fan-out-bound.ts';
import { matchingDual } from './matching-dual.ts';
import { proveWindows, type WindowOptions } from './window-proof.ts';

/** What to prove; chain claims are of plans without replicas, and there is none for others, or where no token goes from one MoE layer to another. */
export interface ProveOptions {
  homes: Int32Array;
  claims: ('fan-out' | 'load' | 'chain')[];
  /** Effort of the fan-out bound, each layer. */
  rounds?: number;
  /** Cuts that effort short: the certificate is as valid, its bound weaker. */
  signal?: AbortSignal | undefined;
}

/** Bounds for a plan on a trace, with the duals that prove them. */
export async function prove(plan: Plan, cluster: Cluster, trace: RoutingTrace, options: ProveOptions): Promise<Certificate> {
  const claimOf = async (kind: ProveOptions['claims'][number]): Promise<Claim | null> => {
    if (kind === 'fan-out') return fanOutClaim(plan, cluster, trace, options);
    if (kind === 'load') return loadClaim(plan, cluster, trace, options.homes);
    if (plan.replicas.some((layer) => layer.some((workers) => workers.length > 1))) return null;
    const claim = chainClaim(plan, cluster, trace, 'worker');
    return Number.isNaN(claim.bound) ? null : claim;
  };
  const claims: Claim[] = [];
  for (const kind of options.claims) {
    const claim = await claimOf(kind);
    if (claim !== null) claims.push(claim);
  }
  return { format: 'switchyard-certificate', version: 1, plan: planDigest(plan), trace: traceDigest(trace), claims };
}

/** Experts of each layer on each node, largest first, (layers) of (nodes). */
function nodeExperts(plan: Plan, cluster: Cluster): number[][] {
  return plan.replicas.map((layer) => {
    const held = new Array<number>(cluster.nodes).fill(0);
    for (const workers of layer) for (const n of new Set(workers.map((w) => cluster.nodeOf[w]))) held[n]++;
    return held.sort((a, b) => b - a);
  });
}

async function fanOutClaim(
  plan: Plan,
  cluster: Cluster,
  trace: RoutingTrace,
  { homes, rounds = 24, signal }: ProveOptions,
): Promise<FanOutClaim> {
  const sizes = nodeExperts(plan, cluster);
  const { layers, bound } = await proveFanOut(trace, cluster.nodes, sizes, { rounds, signal });
  const score = scoreFanOut(trace, plan.replicas, cluster, homes).remoteNodes;
  return { kind: 'fan-out', score, bound, homes: Array.from(homes), nodeExperts: sizes, layers };
}

function loadClaim(plan: Plan, cluster: Cluster, trace: RoutingTrace, homes: Int32Array): LoadClaim {
  const { counts, experts, layers } = expertLoads(trace);
  const replicasMax = plan.replicas.map((layer) => layer.reduce((sum, list) => sum + list.length, 0));
  const speed = cluster.speedOf;
  const speeds = Array.from(speed);
  const allSpeed = speeds.reduce((a, b) => a + b, 0);
  const time: number[] = [];
  let bound = 0;
  for (let l = 0; l < layers; l++) {
    const loads = counts.slice(l * experts, (l + 1) * experts);
    const total = loads.reduce((a, b) => a + b, 0);
    // Where the slots are does not matter to the proof, so they are all put in one place; the last digits are given up to stay on the safe side.
    const slots = new Int32Array(speed.length);
    slots[0] = replicasMax[l];
    const t = total === 0 ? 0 : Math.max(total / allSpeed, loadBound({ loads, slots, speed }) * (1 - 1e-9));
    time.push(t);
    bound += total === 0 ? 1 : (t * allSpeed) / total;
  }
  const score = scoreFanOut(trace, plan.replicas, cluster, homes).peakMean;
  return { kind: 'load', homes: Array.from(homes), speeds, replicasMax, score, bound: bound / layers, time };
}

/** Star bound of every layer pair; NaN where there are no transitions. */
function chainClaim(plan: Plan, cluster: Cluster, trace: RoutingTrace, level: 'node' | 'worker'): ChainClaim {
  const parts = level === 'node' ? cluster.nodes : cluster.workers.length;
  const partOf = Int32Array.from(plan.replicas.flat(), (workers) => (level === 'node' ? cluster.nodeOf[workers[0]] : workers[0]));
  const transitions = transitionsOf(trace, 'top1');
  let partExpertsMax = 0;
  for (let l = 0; l < transitions.layers; l++) {
    const held = new Int32Array(parts);
    for (let e = 0; e < transitions.experts; e++) held[partOf[l * transitions.experts + e]]++;
    partExpertsMax = Math.max(partExpertsMax, ...held);
  }
  const { proofs, bound } = proveStars(transitions, partExpertsMax);
  return { kind: 'chain', level, parts, partExpertsMax, score: scoreChain(transitions, partOf, parts).local, bound, proofs };
}

/**
 * The chain claim with window proofs where they are stronger: minutes of highs for 24 layers of 32 experts. The claim stays as it was where a window's program is not
 * solved within its time.
 */
export async function tightenChain(
  claim: ChainClaim,
  trace: RoutingTrace,
  options: Pick<WindowOptions, 'width' | 'rounds' | 'timeLimitMs' | 'signal' | 'onWindow'>,
): Promise<ChainClaim> {
  const transitions = transitionsOf(trace, 'top1');
  const { parts, partExpertsMax } = claim;
  const { proofs, bound } = await proveWindows(transitions, proveStars(transitions, partExpertsMax), { ...options, parts, partExpertsMax });
  return bound < claim.bound ? { ...claim, proofs, bound } : claim;
}

/** Star proofs for all layer pairs, rounded to the grid, and the share of transitions that they allow. */
export function proveStars(transitions: Transitions, cap: number): { proofs: StarProof[]; bound: number; staying: number[] } {
  const { experts } = transitions;
  const steps = Math.max(60, Math.min(2000, Math.ceil(4_000_000 / experts ** 2)));
  let total = 0;
  const staying: number[] = [];
  const proofs = transitions.counts.map((w, layer): StarProof => {
    const { before, after } = matchingDual(w, experts, cap, steps);
    const u = Array.from(before, (x) => Math.round(x * scale));
    const v = Array.from(after, (x) => Math.round(x * scale));
    let sum = 0;
    for (let e = 0; e < experts; e++) {
      sum += cap * (u[e] + v[e]);
      for (let f = 0; f < experts; f++) {
        total += w[e * experts + f];
        sum += Math.max(0, w[e * experts + f] * scale - u[e] - v[f]);
      }
    }
    staying.push(sum / scale);
    return { kind: 'star', layer, before: u, after: v };
  });
  return { proofs, bound: staying.reduce((a, b) => a + b, 0) / total, staying };
}
