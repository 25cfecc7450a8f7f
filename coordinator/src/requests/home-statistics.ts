import type { Routing } from '@switchyard/proto';
import { bounds } from '../bounds.ts';
import type { HomePreference, HomeReason } from './home-choice.ts';
import type { PlanHomes } from './plan-homes.ts';

/** What is known of a request before it runs. */
export interface RequestKind {
  tenant: string;
  domain: string;
  /** Of its prompt: `PrefixPoints`. */
  points: readonly number[];
  promptTokens: number;
}

/** Of what was known before a request, so much still counts after it: the last ten or so decide. */
const KEPT = 0.9;
/** (row, expert) pairs of one request that count at most: a long one is one request too. What a plan says counts as one such request. */
const VISITS_MAX = 4096;
/** Fewer pairs than this say nothing. */
const VISITS_MIN = 256;
/** A beginning that is at least this part of a prompt speaks for the whole of it; a shorter one (a common system prompt, say) speaks last. */
export const STRONG_PREFIX = 0.25;

/**
 * Learns where kinds of requests find their experts, from the routing of those that have run: by the beginning of the prompt, by tenant and domain, by domain, by
 * tenant. A plan may say what to expect at first. Memory is bounded: of each kind the least recently used are forgotten.
 */
export class HomeStatistics {
  readonly #nodes: number;
  readonly #prefixes: EstimateTable<number>;
  readonly #tenantDomains: EstimateTable<string>;
  readonly #domains: EstimateTable<string>;
  readonly #tenants: EstimateTable<string>;

  constructor(nodes: number, plan: PlanHomes | null) {
    this.#nodes = nodes;
    this.#prefixes = new EstimateTable(nodes, bounds.prefixStatisticsMax);
    this.#tenantDomains = new EstimateTable(nodes, bounds.homeStatisticsMax);
    this.#domains = new EstimateTable(nodes, bounds.homeStatisticsMax);
    this.#tenants = new EstimateTable(nodes, bounds.homeStatisticsMax);
    for (const [domain, share] of plan?.domains ?? []) this.#domains.expect(domain, share);
    for (const [tenant, share] of plan?.tenants ?? []) this.#tenants.expect(tenant, share);
  }

  /** Kinds that are known, for the status. */
  get sizes(): { prefixes: number; tenantDomains: number; domains: number; tenants: number } {
    return {
      prefixes: this.#prefixes.size,
      tenantDomains: this.#tenantDomains.size,
      domains: this.#domains.size,
      tenants: this.#tenants.size,
    };
  }

  /** @param routing of a sequence of this kind; checked */
  learn({ tenant, domain, points }: RequestKind, routing: Routing): void {
    if (this.#nodes < 2) return;
    for (const point of points.slice(0, bounds.prefixStatisticsPointsMax)) this.#prefixes.learn(point, routing);
    if (tenant !== '' && domain !== '') this.#tenantDomains.learn(tenantDomain(tenant, domain), routing);
    if (domain !== '') this.#domains.learn(domain, routing);
    if (tenant !== '') this.#tenants.learn(tenant, routing);
  }

  /** What speaks for nodes, strongest first. Requests that name neither tenant nor domain are of no kind but their beginning's. */
  preferences({ tenant, domain, points, promptTokens }: RequestKind): HomePreference[] {
    if (this.#nodes < 2) return [];
    const found: HomePreference[] = [];
    const add = (share: Float64Array | null, reason: HomeReason) => {
      if (share !== null) found.push({ kind: 'nodes', share, reason });
    };
    const prefix = this.#prefix(points);
    const strong = prefix !== null && prefix.tokens >= STRONG_PREFIX * promptTokens;
    if (strong) add(prefix.share, 'prefix-routing');
    if (tenant !== '' && domain !== '') add(this.#tenantDomains.share(tenantDomain(tenant, domain)), 'tenant-domain');
    if (domain !== '') add(this.#domains.share(domain), 'domain');
    if (tenant !== '') add(this.#tenants.share(tenant), 'tenant');
    if (prefix !== null && !strong) add(prefix.share, 'prefix-routing');
    return found;
  }

  /** Of the longest known beginning. */
  #prefix(points: readonly number[]): { share: Float64Array; tokens: number } | null {
    for (let i = Math.min(points.length, bounds.prefixStatisticsPointsMax) - 1; i >= 0; i--) {
      const share = this.#prefixes.share(points[i]);
      if (share !== null) return { share, tokens: (i + 1) * bounds.prefixStrideTokens };
    }
    return null;
  }
}

/** JSON keeps the two apart, whatever they contain. */
function tenantDomain(tenant: string, domain: string): string {
  return JSON.stringify([tenant, domain]);
}

/** Exponentially decayed sums by key: [0] pairs looked at, [1 + node] those that the node holds. */
class EstimateTable<Key> {
  readonly #nodes: number;
  readonly #max: number;
  /** Least recently used first. */
  readonly #sums = new Map<Key, Float64Array>();

  constructor(nodes: number, max: number) {
    this.#nodes = nodes;
    this.#max = max;
  }

  get size(): number {
    return this.#sums.size;
  }

  expect(key: Key, share: readonly number[]): void {
    this.#keep(key, Float64Array.of(VISITS_MAX, ...share.map((part) => part * VISITS_MAX)));
  }

  learn(key: Key, { sampled, held }: Routing): void {
    const sums = this.#sums.get(key) ?? new Float64Array(1 + this.#nodes);
    const weight = Math.min(1, VISITS_MAX / sampled);
    sums[0] = KEPT * sums[0] + weight * sampled;
    for (let node = 0; node < this.#nodes; node++) sums[1 + node] = KEPT * sums[1 + node] + weight * held[node];
    this.#keep(key, sums);
  }

  /** Share of visits that each node would serve at home, or null when too little is known. */
  share(key: Key): Float64Array | null {
    const sums = this.#sums.get(key);
    if (sums === undefined || sums[0] < VISITS_MIN) return null;
    this.#keep(key, sums);
    return sums.subarray(1).map((sum) => sum / sums[0]);
  }

  #keep(key: Key, sums: Float64Array): void {
    this.#sums.delete(key);
    this.#sums.set(key, sums);
    if (this.#sums.size > this.#max) this.#sums.delete(this.#sums.keys().next().value!);
  }
}
