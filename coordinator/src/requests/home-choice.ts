/** A worker that can be the home of a sequence now. */
export interface HomeCandidate {
  worker: number;
  node: number;
  /** Sequences that it has. */
  load: number;
  /** Tokens of their prompts that it has yet to compute. */
  promptTokens: number;
  /** When it was last chosen, as a running count. */
  lastChosen: number;
}

/** How much busier than the least busy worker a preferred one may be. */
export interface HomeSlack {
  sequences: number;
  promptTokens: number;
}

/** What speaks for a worker, or for nodes. */
export type HomePreference =
  | { kind: 'worker'; worker: number; reason: HomeReason }
  /** `share[node]`: share of the sequence's (row, expert) pairs that a home on the node would find there. */
  | { kind: 'nodes'; share: ArrayLike<number>; reason: HomeReason };

/**
 * Why a worker is a home. `prefix`: it has computed the beginning of this prompt. The next four: what is known of the routing of prompts that begin alike, of the
 * tenant's domain, of the domain, of the tenant. `first-chunk`: moved, by what the first chunk of the prompt chose. `least-loaded`: nothing speaks for one of
 * them. `overload`: something does, but those preferred are too busy. `only`: there is no other.
 */
export const homeReasons = [
  'prefix',
  'prefix-routing',
  'tenant-domain',
  'domain',
  'tenant',
  'first-chunk',
  'least-loaded',
  'overload',
  'only',
] as const;
export type HomeReason = (typeof homeReasons)[number];

export interface HomeChoice {
  worker: number;
  reason: HomeReason;
  /** What was expected to be served on the home's node, where that was known. */
  expectedShare: number | null;
}

/** A node must promise so much more of the visits than the least loaded worker's before load is set aside for it: less is noise. */
export const gainMin = 0.03;

/**
 * Which worker becomes a sequence's home. Pure, and independent of the order of the candidates. What a client reads does not depend on it.
 *
 * A preferred worker wins if it is a candidate and not too busy. The first preference among nodes decides: the node with the largest share whose least busy worker
 * is not too busy, unless the least busy worker of all is nearly as well placed. Else the least busy worker; of equals the one that has waited longest.
 *
 * @param candidates   at least one
 * @param preferences  strongest first
 */
export function chooseHome(candidates: readonly HomeCandidate[], preferences: readonly HomePreference[], slack: HomeSlack): HomeChoice {
  if (candidates.length === 1) return { worker: candidates[0].worker, reason: 'only', expectedShare: null };
  const load = new LoadLimit(candidates, slack);
  let overload = false;
  for (const preference of preferences) {
    if (preference.kind === 'worker') {
      const preferred = candidates.find(({ worker }) => worker === preference.worker);
      if (preferred === undefined) continue;
      if (load.allows(preferred)) return { worker: preferred.worker, reason: preference.reason, expectedShare: null };
      overload = true;
      continue;
    }
    const { share, reason } = preference;
    for (const node of nodesByShare(candidates, share)) {
      if (node !== load.least.node && share[node] - share[load.least.node] < gainMin) break;
      const home = preferredOf(node, candidates, preferences, load);
      if (load.allows(home)) return { worker: home.worker, reason: overload ? 'overload' : reason, expectedShare: share[node] };
      overload = true;
    }
    const { worker, node } = load.least;
    return { worker, reason: overload ? 'overload' : 'least-loaded', expectedShare: share[node] };
  }
  return { worker: load.least.worker, reason: overload ? 'overload' : 'least-loaded', expectedShare: null };
}

/**
 * Where a sequence that has begun on `current` should go on instead: a node that would serve at least `gain` more of its visits and has room; null to stay. Pure.
 *
 * @param candidates without the sequence's own load
 */
export function chooseMove(
  candidates: readonly HomeCandidate[],
  current: number,
  share: ArrayLike<number>,
  gain: number,
  slack: HomeSlack,
): HomeChoice | null {
  const here = candidates.find(({ worker }) => worker === current);
  if (here === undefined) return null;
  const load = new LoadLimit(candidates, slack);
  for (const node of nodesByShare(candidates, share)) {
    if (node === here.node || share[node] - share[here.node] < gain) return null;
    const home = leastLoaded(candidates.filter((candidate) => candidate.node === node));
    if (load.allows(home)) return { worker: home.worker, reason: 'first-chunk', expectedShare: share[node] };
  }
  return null;
}

class LoadLimit {
  readonly least: HomeCandidate;
  readonly #sequences: number;
  readonly #promptTokens: number;

  constructor(candidates: readonly HomeCandidate[], slack: HomeSlack) {
    this.least = leastLoaded(candidates);
    this.#sequences = this.least.load + slack.sequences;
    this.#promptTokens = Math.min(...candidates.map(({ promptTokens }) => promptTokens)) + slack.promptTokens;
  }

  allows({ load, promptTokens }: HomeCandidate): boolean {
    return load <= this.#sequences && promptTokens <= this.#promptTokens;
  }
}

/** Of a node: a worker that a preference names, if it is not too busy, else the least busy. */
function preferredOf(
  node: number,
  candidates: readonly HomeCandidate[],
  preferences: readonly HomePreference[],
  load: LoadLimit,
): HomeCandidate {
  const there = candidates.filter((candidate) => candidate.node === node);
  const named = there.find((candidate) => preferences.some((p) => p.kind === 'worker' && p.worker === candidate.worker));
  return named !== undefined && load.allows(named) ? named : leastLoaded(there);
}

function leastLoaded(candidates: readonly HomeCandidate[]): HomeCandidate {
  return candidates.reduce((least, candidate) => (compareLoads(candidate, least) < 0 ? candidate : least));
}

function compareLoads(a: HomeCandidate, b: HomeCandidate): number {
  return a.load - b.load || a.promptTokens - b.promptTokens || a.lastChosen - b.lastChosen || a.worker - b.worker;
}

/** Nodes that have a candidate, the largest share first, of equals the lower number. */
function nodesByShare(candidates: readonly HomeCandidate[], share: ArrayLike<number>): number[] {
  return [...new Set(candidates.map(({ node }) => node))].sort((a, b) => share[b] - share[a] || a - b);
}
