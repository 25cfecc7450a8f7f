/** A worker that can be the home of a sequence now. */
export interface HomeCandidate {
  worker: number;
  node: number;
  /** Number of the memory that its weights are in: workers that have the same read at one another's cost. */
  memory: number;
  /** Workers of the same memory reach it through that memory, over no network: there a home's place is worth little. */
  local: boolean;
  /** Sequences that it has. */
  load: number;
  /** Tokens of their prompts that it has yet to compute. */
  promptTokens: number;
  /** Share of its KV cache that they hold. */
  cacheUsed: number;
  /** When it was last chosen, as a running count. */
  lastChosen: number;
}

/** How much busier than the least busy memory, and than the least busy worker that reads it, a preferred one may be. */
export interface HomeSlack {
  sequences: number;
  promptTokens: number;
}

/**
 * Until when a home that has sequences takes more, before an idle worker that reads the same memory becomes a home too. A step reads the weights of a home's own
 * layers once for all of its rows, and those of an expert once for all rows that ask for it together; several homes, whose steps nothing keeps together, read them
 * each for itself, and those that share memory at one another's cost. From some rows on a step multiplies for longer than it reads; there, and where caches are
 * long, spreading is better. Workers that have memory of their own are homes alike: what filling saves is less than what an idle machine adds
 * (`bench/results/filling.md`).
 */
export interface HomeFilling {
  /** It has fewer than so many. 1: none is filled. */
  sequences: number;
  /** Of prompts that it has yet to compute, this one's included, it has so many tokens at most: prompts are computed side by side. */
  promptTokens: number;
  /** It holds at most this share of its KV cache. */
  cacheUsed: number;
  /**
   * What filling it is worth to a sequence that generates all of its tokens, as a share of its visits: a worker of the same memory that is not being filled is
   * taken before it if it promises that much more of them. So over a network; else all of them.
   */
  worth: number;
}

/** What is known of the moment, and what it is judged by. */
export interface HomeRules {
  slack: HomeSlack;
  filling: HomeFilling;
  /** Of the sequence. */
  promptTokens: number;
  /** How many it generates at most. Where they are few it has little of filling, which saves weights in decode steps, and as much of locality. */
  maxTokens: number;
}

/** What speaks for a worker, or for nodes. */
export type HomePreference =
  | { kind: 'worker'; worker: number; reason: HomeReason }
  /** `share[node]`: share of the sequence's (row, expert) pairs that a home on the node would find there. */
  | { kind: 'nodes'; share: ArrayLike<number>; reason: HomeReason };

/**
 * Why a worker is a home. `prefix`: it has computed the beginning of this prompt. The next four: what is known of the routing of prompts that begin alike, of the
 * tenant's domain, of the domain, of the tenant. `first-chunk`: moved, by what the first chunk of the prompt chose. `filling`: it is a home already, and nothing
 * speaks for another, or not enough. `least-loaded`: nothing speaks for one of them. `overload`: something does, but those preferred are too busy. `only`: there is
 * no other.
 */
export const homeReasons = [
  'prefix',
  'prefix-routing',
  'tenant-domain',
  'domain',
  'tenant',
  'first-chunk',
  'filling',
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

/** A node must promise so much more of the visits than the best worker's before load is set aside for it: less is noise. */
export const gainMin = 0.03;

/**
 * Which worker becomes a sequence's home. Pure, and independent of the order of the candidates. What a client reads does not depend on it.
 *
 * A preferred worker wins if it is a candidate and not too busy. The first preference among nodes decides: of the nodes' best workers that are not too busy the one
 * whose node's share is most, less what filling another would have been worth, unless the best worker of all is nearly as well placed. Else the best worker: of the
 * workers of the memory with the fewest sequences the one that is being filled, the fullest first, or else the least busy one; of equals the one that has waited longest.
 *
 * @param candidates   at least one
 * @param preferences  strongest first
 */
export function chooseHome(candidates: readonly HomeCandidate[], preferences: readonly HomePreference[], rules: HomeRules): HomeChoice {
  if (candidates.length === 1) return { worker: candidates[0].worker, reason: 'only', expectedShare: null };
  const order = new HomeOrder(candidates, rules);
  const best = order.best(candidates);
  let overload = false;
  const unpreferred = (expectedShare: number | null): HomeChoice => {
    const reason = overload ? 'overload' : order.fills(best) ? 'filling' : 'least-loaded';
    return { worker: best.worker, reason, expectedShare };
  };
  for (const preference of preferences) {
    if (preference.kind === 'worker') {
      const preferred = candidates.find(({ worker }) => worker === preference.worker);
      if (preferred === undefined) continue;
      if (order.allows(preferred)) return { worker: preferred.worker, reason: preference.reason, expectedShare: null };
      overload = true;
      continue;
    }
    const { share } = preference;
    const worth = (home: HomeCandidate) => share[home.node] - order.lostByOpening(home);
    const homes = byNode(candidates).map((there) => preferredOf(there, preferences, order));
    const shareMax = Math.max(...homes.map(({ node }) => share[node]));
    homes.sort((a, b) => worth(b) - worth(a) || share[b.node] - share[a.node] || a.node - b.node);
    for (const home of homes) {
      if (home.node !== best.node && worth(home) - worth(best) < gainMin) break;
      if (order.allows(home)) {
        const filled = order.fills(home) && share[home.node] < shareMax;
        const reason = overload ? 'overload' : filled ? 'filling' : preference.reason;
        return { worker: home.worker, reason, expectedShare: share[home.node] };
      }
      overload = true;
    }
    return unpreferred(share[best.node]);
  }
  return unpreferred(null);
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
  rules: HomeRules,
): HomeChoice | null {
  const here = candidates.find(({ worker }) => worker === current);
  if (here === undefined) return null;
  const order = new HomeOrder(candidates, rules);
  for (const node of nodesByShare(candidates, share)) {
    if (node === here.node || share[node] - share[here.node] < gain) return null;
    const home = order.best(candidates.filter((candidate) => candidate.node === node));
    if (order.allows(home)) return { worker: home.worker, reason: 'first-chunk', expectedShare: share[node] };
  }
  return null;
}

/** The candidates that read the same memory, together. */
interface Together {
  memory: number;
  workers: number;
  load: number;
  loadMin: number;
  promptTokens: number;
  promptTokensMin: number;
  lastChosen: number;
  /** One of them is being filled. */
  filling: boolean;
}

class HomeOrder {
  readonly #rules: HomeRules;
  readonly #together = new Map<number, Together>();
  /** Of the least busy memory. */
  readonly #loadMin: number;
  readonly #promptTokensMin: number;

  constructor(candidates: readonly HomeCandidate[], rules: HomeRules) {
    this.#rules = rules;
    for (const candidate of candidates) this.#add(candidate);
    const all = [...this.#together.values()];
    for (const candidate of candidates) if (this.fills(candidate)) this.#of(candidate).filling = true;
    this.#loadMin = Math.min(...all.map(({ load }) => load));
    this.#promptTokensMin = Math.min(...all.map(({ promptTokens }) => promptTokens));
  }

  /** Not too busy to be preferred. */
  allows(candidate: HomeCandidate): boolean {
    const { slack } = this.#rules;
    const { load, promptTokens, loadMin, promptTokensMin } = this.#of(candidate);
    const near = (sequences: number, tokens: number, sequencesMin: number, tokensMin: number) =>
      sequences <= sequencesMin + slack.sequences && tokens <= tokensMin + slack.promptTokens;
    return (
      near(load, promptTokens, this.#loadMin, this.#promptTokensMin) &&
      (this.fills(candidate) || near(candidate.load, candidate.promptTokens, loadMin, promptTokensMin))
    );
  }

  /** Has sequences, and takes this one before another of the same memory that has none does. */
  fills(candidate: HomeCandidate): boolean {
    const { filling, promptTokens: own } = this.#rules;
    const { load, promptTokens, cacheUsed } = candidate;
    const may = load > 0 && load < filling.sequences && promptTokens + own <= filling.promptTokens && cacheUsed <= filling.cacheUsed;
    return may && this.#of(candidate).workers > 1;
  }

  /** What the sequence would have of a home that is being filled in the same memory, as a share of its visits. */
  lostByOpening(candidate: HomeCandidate): number {
    const { filling, promptTokens, maxTokens } = this.#rules;
    const opens = this.#of(candidate).filling && !this.fills(candidate);
    return opens ? ((candidate.local ? 1 : filling.worth) * maxTokens) / (promptTokens + maxTokens) : 0;
  }

  best(candidates: readonly HomeCandidate[]): HomeCandidate {
    return candidates.reduce((best, candidate) => (this.#compare(candidate, best) < 0 ? candidate : best));
  }

  #compare(a: HomeCandidate, b: HomeCandidate): number {
    const [thereA, thereB] = [this.#of(a), this.#of(b)];
    if (thereA !== thereB) return byLoad(thereA, thereB) || thereA.memory - thereB.memory;
    const fillsA = this.fills(a);
    if (fillsA !== this.fills(b)) return fillsA ? -1 : 1;
    return (fillsA ? b.load - a.load : 0) || byLoad(a, b) || a.worker - b.worker;
  }

  #of({ memory }: HomeCandidate): Together {
    return this.#together.get(memory)!;
  }

  #add({ memory, load, promptTokens, lastChosen }: HomeCandidate): void {
    const there = this.#together.get(memory);
    if (there === undefined) {
      const one = { load, loadMin: load, promptTokens, promptTokensMin: promptTokens, lastChosen };
      this.#together.set(memory, { memory, workers: 1, ...one, filling: false });
      return;
    }
    there.workers++;
    there.load += load;
    there.loadMin = Math.min(there.loadMin, load);
    there.promptTokens += promptTokens;
    there.promptTokensMin = Math.min(there.promptTokensMin, promptTokens);
    there.lastChosen = Math.max(there.lastChosen, lastChosen);
  }
}

type Busy = Pick<HomeCandidate, 'load' | 'promptTokens' | 'lastChosen'>;

/** The least busy first, of equals the one that has waited longest. */
function byLoad(a: Busy, b: Busy): number {
  return a.load - b.load || a.promptTokens - b.promptTokens || a.lastChosen - b.lastChosen;
}

function byNode(candidates: readonly HomeCandidate[]): HomeCandidate[][] {
  const nodes = new Map<number, HomeCandidate[]>();
  for (const candidate of candidates) {
    const there = nodes.get(candidate.node);
    if (there === undefined) nodes.set(candidate.node, [candidate]);
    else there.push(candidate);
  }
  return [...nodes.values()];
}

/** Of the workers of a node: the first that a preference names and that is not too busy, else the best. */
function preferredOf(there: readonly HomeCandidate[], preferences: readonly HomePreference[], order: HomeOrder): HomeCandidate {
  for (const preference of preferences) {
    const named = preference.kind === 'worker' ? there.find(({ worker }) => worker === preference.worker) : undefined;
    if (named !== undefined && order.allows(named)) return named;
  }
  return order.best(there);
}

/** Nodes that have a candidate, the largest share first, of equals the lower number. */
function nodesByShare(candidates: readonly HomeCandidate[], share: ArrayLike<number>): number[] {
  return [...new Set(candidates.map(({ node }) => node))].sort((a, b) => share[b] - share[a] || a - b);
}
