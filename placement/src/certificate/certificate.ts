import { createHash } from 'node:crypto';
import type { Plan } from '@switchyard/proto';
import type { RoutingTrace } from '../trace/routing-trace.ts';

/**
 * Proof that no placement of a stated class does better than a bound on a stated trace. Small JSON; checked by `verifyCertificate`, which shares no code with the
 * solvers. All dual values are integers times a power of two and all counts are integers, so that the checker's sums are exact in doubles and no rounding can make
 * a bound too good.
 */
export interface Certificate {
  format: 'switchyard-certificate';
  version: 1;
  /** sha256 of the plan's model, workers and replicas. */
  plan: string;
  /** sha256 of the trace's shape and ids. */
  trace: string;
  claims: Claim[];
}

export type Claim = FanOutClaim | LoadClaim | ChainClaim;

/**
 * Remote nodes per token and layer. Class: any homes; any plan whose nodes, in some order, hold at most
 * `nodeExperts[l]` experts of layer l.
 *
 * A token whose k experts need D nodes has at least pairsMin(D) = the fewest co-located pairs of k experts on D nodes, so for every lambda >= 0
 * D >= min over D' of (D' + lambda pairsMin(D')) - lambda (its co-located pairs). Summed with a lambda per token, the second part is at most a maximum-weight choice
 * of co-located pairs under degree and count limits, and that is at most the value of any dual (`degreePrice`, `countPrice`). A token visits D - 1 or more remote nodes.
 */
export interface FanOutClaim {
  kind: 'fan-out';
  /** What the plan reaches, and the proven lower bound; remote nodes per token and layer. */
  score: number;
  bound: number;
  /** Homes by which the score was taken: home worker of each sequence. */
  homes: number[];
  /** Experts of each layer on each node, largest first, (layers) of (nodes). */
  nodeExperts: number[][];
  layers: {
    /** Co-location from which each token's lambda follows, 0..255 for 0..1: upper triangle, row by row, base64. */
    reference: string;
    /** Dual price of one more co-location of expert e, in units of 2^-8, (experts). */
    degreePrice: number[];
    /** Dual price of one more co-located pair, in the same units. */
    countPrice: number;
  }[];
}

/**
 * Peak over mean of a layer's work. Class: plans with at most `replicasMax[l]` replicas of layer l; valid for every way of splitting an expert's rows over its replicas:
 * to finish in time t an expert needs rows / (t x fastest speed) replicas at least.
 */
export interface LoadClaim {
  kind: 'load';
  /** Home worker of each sequence, for which the score is claimed. */
  homes: number[];
  /** Relative speed of each worker. */
  speeds: number[];
  replicasMax: number[];
  /**
   * Mean over layers of (largest rows / speed) over (all rows / all speed): reached by the plan under the router's rule, and proven. Which replica is the least loaded
   * depends on the order of the tokens: 64 sequences run side by side, each gives one token in turn, and the next one takes the place of one that ends.
   */
  score: number;
  bound: number;
  /** Proven smallest time of each layer, in rows at speed 1. */
  time: number[];
}

/**
 * Transitions (top-1) that stay on their part. Class: plans with one copy of every expert and at most `partExpertsMax` experts of a layer on a part.
 * Per pair of adjacent layers, the staying pairs form a matching with degrees at most that: any dual of it is an upper bound. Windows of layers prove more.
 */
export interface ChainClaim {
  kind: 'chain';
  level: 'node' | 'worker';
  parts: number;
  partExpertsMax: number;
  /** Share of transitions that stay: the plan's, and the proven upper bound. */
  score: number;
  bound: number;
  proofs: (StarProof | WindowProof)[];
}

/** Duals of one layer pair, in units of 2^-8: bound = C (sum u + sum v) + sum max(0, W - u - v). */
export interface StarProof {
  kind: 'star';
  layer: number;
  before: number[];
  after: number[];
}

/** Duals of a window of layers; see window-proof.ts. Rows are named by their type and experts, so that the checker can build them itself. */
export interface WindowProof {
  kind: 'window';
  from: number;
  to: number;
  /** [row name, dual in units of 2^-8] */
  duals: [string, number][];
}

/** Dual values are multiples of 2^-8: exact sums up to 2^45. */
export const scale = 2 ** 8;

export function planDigest(plan: Plan): string {
  return createHash('sha256')
    .update(JSON.stringify([plan.model, plan.workers, plan.replicas]))
    .digest('hex');
}

/** Bytes that a hash is given at a time: it refuses 2^31 and more, which ids of a long trace are. */
const digestedAtOnce = 2 ** 20;

export function traceDigest(trace: RoutingTrace): string {
  const hash = createHash('sha256');
  hash.update(JSON.stringify([trace.moeLayers, trace.experts, trace.topK, trace.tokens]));
  for (const { buffer, byteOffset, byteLength } of [trace.ids, trace.sequenceOf])
    for (let at = 0; at < byteLength; at += digestedAtOnce)
      hash.update(new Uint8Array(buffer, byteOffset + at, Math.min(digestedAtOnce, byteLength - at)));
  return hash.digest('hex');
}
