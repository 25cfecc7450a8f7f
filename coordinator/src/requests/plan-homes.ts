import type { Plan } from '@switchyard/proto';
import { bounds } from '../bounds.ts';

/** What a plan says about homes: for names of domains and of tenants, the share of their (row, expert) visits that each node would serve at home. */
export interface PlanHomes {
  domains: ReadonlyMap<string, readonly number[]>;
  tenants: ReadonlyMap<string, readonly number[]>;
}

/** What a plan promises of its traffic. */
interface PlanPrediction {
  remoteNodes: number;
  homeShare: number;
}

/** Nodes are numbered from 0; a number may have no worker. */
export function nodeCount({ workers }: Plan): number {
  return 1 + Math.max(...workers.map(({ node }) => node));
}

/**
 * Reads `provenance.homes` (docs/placement.md). Provenance comes with a file and decides nothing that a client reads, so that what cannot be used is left out:
 * each problem is told once.
 */
export function readPlanHomes(plan: Plan, onProblem: (problem: string) => void): PlanHomes | null {
  const homes = plan.provenance?.homes;
  if (homes === undefined || homes === null) return null;
  if (!isRecord(homes)) {
    onProblem('provenance.homes is not an object');
    return null;
  }
  const nodes = nodeCount(plan);
  return {
    domains: readShares('domains', homes.domains, nodes, onProblem),
    tenants: readShares('tenants', homes.tenants, nodes, onProblem),
  };
}

/** What `provenance` promises on the trace that the plan was made from, or null. */
export function readPrediction({ provenance }: Plan): PlanPrediction | null {
  const remoteNodes = provenance?.remoteNodes;
  const homeShare = provenance?.homeShare;
  if (!isBetween(remoteNodes, bounds.remoteNodesMax) || !isBetween(homeShare, 1)) return null;
  return { remoteNodes, homeShare };
}

function readShares(field: string, given: unknown, nodes: number, onProblem: (problem: string) => void): Map<string, readonly number[]> {
  const shares = new Map<string, readonly number[]>();
  if (given === undefined || given === null) return shares;
  if (!isRecord(given)) {
    onProblem(`provenance.homes.${field} is not an object`);
    return shares;
  }
  const entries = Object.entries(given);
  if (entries.length > bounds.homeStatisticsMax)
    onProblem(`provenance.homes.${field} has ${entries.length} names; the first ${bounds.homeStatisticsMax} are used`);
  let unusable = 0;
  for (const [name, entry] of entries.slice(0, bounds.homeStatisticsMax)) {
    const share = isRecord(entry) ? entry.homeShare : null;
    const usable = Array.isArray(share) && share.length === nodes && share.every((part) => isBetween(part, 1));
    if (usable && name.length <= bounds.nameCharsMax) shares.set(name, share as number[]);
    else unusable++;
  }
  if (unusable > 0)
    onProblem(
      `provenance.homes.${field}: ${unusable} entries are not used: a name of at most ${bounds.nameCharsMax} characters and homeShare, ${nodes} numbers from 0 to 1, are needed`,
    );
  return shares;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isBetween(value: unknown, max: number): value is number {
  return typeof value === 'number' && value >= 0 && value <= max;
}
