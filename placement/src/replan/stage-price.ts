import { chooseReplicas } from '@switchyard/proto';
import { type Cluster, nodeSpeedShares } from '../cluster/cluster.ts';
import { holderMasks, maskNodesMax } from '../cluster/node-set.ts';
import { LayerSearch } from '../solve/layer-search.ts';
import { entriesOf, histogramsOf, type PatternHistogram } from '../trace/pattern-histogram.ts';
import type { RoutingTrace } from '../trace/routing-trace.ts';

/** What stages are judged by, in visits of one remote node, as a search judges. */
export interface StagePrices {
  /** Of one remote node visit. */
  visit: number;
  /** Of one row that its home does not serve. */
  remoteRow: number;
  /** Of one row that the fullest worker of a layer serves above its fair share. */
  peak: number;
}

/** Visits alone, each by the price of its link where links are not alike. */
export const visitsOnly: StagePrices = { visit: 1, remoteRow: 0, peak: 0 };

type Layer = readonly (readonly number[])[];

/** What one layer costs under holders that change step by step, homes fixed. */
export interface LayerCost {
  readonly cost: number;
  /** Remote nodes of all tokens. */
  readonly remoteNodes: number;
  /** The cost if the given experts, which alone differ, had these holders. */
  trial(replicas: Layer, changed: readonly number[]): number;
  set(replicas: Layer, changed: readonly number[]): void;
}

/** Of every layer. Where nodes are too many for a mask only remote nodes count. */
export function layerCosts(
  trace: RoutingTrace,
  cluster: Cluster,
  homes: Int32Array,
  replicas: readonly Layer[],
  prices: StagePrices,
): LayerCost[] {
  const { nodes, nodeOf } = cluster;
  const histograms = histogramsOf(trace);
  if (nodes > maskNodesMax) return replicas.map((layer, l) => new CostByRule(trace, histograms[l], layer, cluster, homes));
  const homeOf = Uint8Array.from(trace.sequenceOf, (s) => nodeOf[homes[s]]);
  const scratch = new Float64Array(histograms.reduce((most, { patterns }) => Math.max(most, patterns), 0) * nodes);
  const layerPrices = {
    peakPrice: 0,
    share: nodeSpeedShares(cluster),
    linkPrice: cluster.linkPrice,
    visitPrice: prices.visit,
    remoteRowPrice: prices.remoteRow,
  };
  return histograms.map((histogram, l) => {
    const search = new LayerSearch(histogram, trace.topK, trace.experts, nodes, layerPrices);
    search.setEntries(entriesOf(histogram, homeOf, null, nodes, scratch));
    search.reset(holderMasks(replicas[l], nodeOf));
    return new CostBySearch(search, cluster, replicas[l], prices.peak);
  });
}

/** A change re-prices only the tokens that chose one of its experts. */
class CostBySearch implements LayerCost {
  cost: number;
  private readonly search: LayerSearch;
  private readonly cluster: Cluster;
  private readonly peakPrice: number;
  private readonly speedShare: Float64Array;

  constructor(search: LayerSearch, cluster: Cluster, replicas: Layer, peakPrice: number) {
    this.search = search;
    this.cluster = cluster;
    this.peakPrice = peakPrice;
    const speed = cluster.speedOf.reduce((a, b) => a + b, 0);
    this.speedShare = Float64Array.from(cluster.speedOf, (own) => own / speed);
    this.cost = this.costOf(replicas);
  }

  get remoteNodes(): number {
    return this.search.remoteNodes;
  }

  trial(replicas: Layer, changed: readonly number[]): number {
    const { maskOf } = this.search;
    const before = changed.map((e) => maskOf[e]);
    this.hold(changed, this.masksOf(replicas, changed));
    const cost = this.costOf(replicas);
    this.hold(changed, before);
    return cost;
  }

  set(replicas: Layer, changed: readonly number[]): void {
    this.hold(changed, this.masksOf(replicas, changed));
    this.cost = this.costOf(replicas);
  }

  private masksOf(replicas: Layer, experts: readonly number[]): number[] {
    return experts.map((e) => replicas[e].reduce((mask, w) => mask | (1 << this.cluster.nodeOf[w]), 0));
  }

  private hold(experts: readonly number[], masks: readonly number[]): void {
    experts.forEach((e, i) => {
      if (this.search.maskOf[e] !== masks[i]) this.search.apply(e, masks[i], -1, 0);
    });
  }

  private costOf(replicas: Layer): number {
    const { visits, totalRows, nodes } = this.search;
    if (this.peakPrice === 0) return visits;
    return visits + (this.peakPrice * Math.max(0, this.fullestWorker(replicas) - totalRows)) / nodes;
  }

  /** Rows over share of the fullest worker, where replicas of one node share its rows evenly. */
  private fullestWorker(replicas: Layer): number {
    const { served, nodes } = this.search;
    const { nodeOf } = this.cluster;
    const load = new Float64Array(nodeOf.length);
    replicas.forEach((own, e) => {
      for (const w of own) {
        let beside = 0;
        for (const v of own) if (nodeOf[v] === nodeOf[w]) beside++;
        load[w] += served[e * nodes + nodeOf[w]] / beside;
      }
    });
    return load.reduce((most, rows, w) => Math.max(most, rows / this.speedShare[w]), 0);
  }
}

/** Tokens that chose the same experts from homes on one node. */
interface Alike {
  experts: Int32Array;
  /** Home worker of one of them: what nodes they visit is the same for all. */
  home: number;
  tokens: number;
  /** Remote nodes of each, as last set. */
  visits: number;
}

/** By the router's rule, whose choice of nodes knows no loads. A change routes only tokens again that chose one of its experts. */
class CostByRule implements LayerCost {
  cost = 0;
  private readonly nodeOf: Int32Array;
  /** (experts) of lists */
  private readonly choosing: Alike[][];
  private readonly chosen: Int32Array;
  private readonly load: Float64Array;

  constructor(trace: RoutingTrace, histogram: PatternHistogram, replicas: Layer, { nodeOf, nodes }: Cluster, homes: Int32Array) {
    this.nodeOf = nodeOf;
    this.choosing = Array.from({ length: trace.experts }, () => []);
    this.chosen = new Int32Array(trace.topK);
    this.load = new Float64Array(nodeOf.length);
    const { ids, countOf, patternOf } = histogram;
    const known = new Map<number, Alike>();
    for (let t = 0; t < trace.tokens; t++) {
      const pattern = patternOf[t];
      const home = homes[trace.sequenceOf[t]];
      const key = pattern * nodes + nodeOf[home];
      let alike = known.get(key);
      if (alike === undefined) {
        const experts = Int32Array.from(ids.subarray(pattern * trace.topK, pattern * trace.topK + countOf[pattern]));
        alike = { experts, home, tokens: 0, visits: this.visitsOf(experts, home, replicas) };
        known.set(key, alike);
        for (const e of experts) this.choosing[e].push(alike);
      }
      alike.tokens++;
      this.cost += alike.visits;
    }
  }

  get remoteNodes(): number {
    return this.cost;
  }

  trial(replicas: Layer, changed: readonly number[]): number {
    let { cost } = this;
    for (const { experts, home, tokens, visits } of this.touchedBy(changed))
      cost += tokens * (this.visitsOf(experts, home, replicas) - visits);
    return cost;
  }

  set(replicas: Layer, changed: readonly number[]): void {
    this.cost = this.trial(replicas, changed);
    for (const alike of this.touchedBy(changed)) alike.visits = this.visitsOf(alike.experts, alike.home, replicas);
  }

  private touchedBy(changed: readonly number[]): Set<Alike> {
    return new Set(changed.flatMap((e) => this.choosing[e]));
  }

  private visitsOf(experts: Int32Array, home: number, replicas: Layer): number {
    const { nodeOf, chosen, load } = this;
    chooseReplicas(experts, experts.length, replicas, nodeOf, home, load, chosen);
    const visited = new Set<number>();
    for (let k = 0; k < experts.length; k++) if (nodeOf[chosen[k]] !== nodeOf[home]) visited.add(nodeOf[chosen[k]]);
    return visited.size;
  }
}
