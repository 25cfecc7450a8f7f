import type { Plan } from '@switchyard/proto';
import type { Cluster } from '../cluster/cluster.ts';
import { runThrough, type Steps, tokensPerTurn } from '../steps.ts';
import { largestDomains, NO_EXPERT, type RoutingTrace } from '../trace/routing-trace.ts';

/** Where requests of each domain find their experts: what a coordinator chooses homes by before it has seen any. In a plan as `provenance.homes`. */
export interface DomainHomes {
  /** `homeShare[node]`: share of the domain's (token, layer, expert) visits that a home on the node would serve there. */
  domains: Record<string, { tokens: number; homeShare: number[] }>;
}

type Nodes = Pick<Cluster, 'nodeOf' | 'nodes'>;

/** @param cluster the plan's, node by node */
export function homesOf(trace: RoutingTrace, plan: Pick<Plan, 'replicas'>, cluster: Nodes): DomainHomes {
  return runThrough(homesOfSteps(trace, plan, cluster));
}

/** The same, some tokens at a time. */
export function* homesOfSteps(trace: RoutingTrace, { replicas }: Pick<Plan, 'replicas'>, { nodeOf, nodes }: Nodes): Steps<DomainHomes> {
  const { start, holders } = holderNodes(replicas, nodeOf);
  const experts = replicas[0].length;
  const layers = trace.moeLayers.length;
  const kept = largestDomains(trace);
  const sums = new Map(kept.map(({ name }) => [name, { visits: 0, held: new Float64Array(nodes) }]));
  for (let t = 0; t < trace.tokens; t++) {
    if (t % tokensPerTurn === tokensPerTurn - 1) yield;
    const { domain } = trace.sequences[trace.sequenceOf[t]];
    const sum = domain === null ? undefined : sums.get(domain);
    if (sum === undefined) continue;
    for (let l = 0; l < layers; l++) {
      const base = (t * layers + l) * trace.topK;
      for (let k = 0; k < trace.topK; k++) {
        const expert = trace.ids[base + k];
        if (expert === NO_EXPERT) continue;
        sum.visits++;
        for (let i = start[l * experts + expert]; i < start[l * experts + expert + 1]; i++) sum.held[holders[i]]++;
      }
    }
  }
  const rounded = (held: Float64Array, visits: number) => Array.from(held, (h) => Number((h / Math.max(1, visits)).toFixed(4)));
  const entryOf = ({ name, tokens }: { name: string; tokens: number }) => {
    const { held, visits } = sums.get(name)!;
    return [name, { tokens, homeShare: rounded(held, visits) }] as const;
  };
  return { domains: Object.fromEntries(kept.map(entryOf)) };
}

/** Nodes of each expert, none twice, one after another: holders[start[l * experts + e]..start[l * experts + e + 1]). */
function holderNodes(replicas: Plan['replicas'], nodeOf: ArrayLike<number>): { start: Int32Array; holders: number[] } {
  const start = new Int32Array(replicas.length * replicas[0].length + 1);
  const holders: number[] = [];
  let at = 0;
  for (const layer of replicas)
    for (const workers of layer) {
      const from = holders.length;
      for (const w of workers) if (!holders.includes(nodeOf[w], from)) holders.push(nodeOf[w]);
      start[++at] = holders.length;
    }
  return { start, holders };
}
