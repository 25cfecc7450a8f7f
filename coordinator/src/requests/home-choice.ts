/** A worker that can be the home of a sequence now. */
export interface HomeCandidate {
  worker: number;
  /** Sequences that it has. */
  load: number;
  /** When it was last chosen, as a running count. */
  lastChosen: number;
}

/** A reason to prefer a worker, and how many more sequences than the least loaded one it may have for it. */
export interface HomePreference {
  worker: number;
  reason: HomeReason;
  slack: number;
}

/** `prefix`: it has computed the beginning of this prompt. `least-loaded`: nothing speaks for one of them. `only`: there is no other. */
export type HomeReason = 'prefix' | 'least-loaded' | 'only';
export const homeReasons: readonly HomeReason[] = ['prefix', 'least-loaded', 'only'];

export interface HomeChoice {
  worker: number;
  reason: HomeReason;
}

/**
 * Which worker becomes a sequence's home. Pure.
 *
 * The first preference that is a candidate and not too loaded wins; else the least loaded candidate, of equals the one that has waited longest. What a client
 * reads does not depend on it.
 *
 * @param candidates   at least one
 * @param preferences  strongest first
 */
export function chooseHome(candidates: readonly HomeCandidate[], preferences: readonly HomePreference[]): HomeChoice {
  if (candidates.length === 1) return { worker: candidates[0].worker, reason: 'only' };
  let least = candidates[0];
  for (const candidate of candidates) {
    if (candidate.load < least.load || (candidate.load === least.load && candidate.lastChosen < least.lastChosen)) least = candidate;
  }
  for (const { worker, reason, slack } of preferences) {
    const preferred = candidates.find((candidate) => candidate.worker === worker);
    if (preferred !== undefined && preferred.load <= least.load + slack) return { worker, reason };
  }
  return { worker: least.worker, reason: 'least-loaded' };
}
