import { chooseReplicas } from '@switchyard/proto';
import { type Cluster, nodeSpeedShares } from '../cluster/cluster.ts';
import { holderMasks, maskNodesMax } from '../cluster/node-set.ts';
import { LayerSearch } from '../solve/layer-search.ts';
import { entriesOf, histogramsOf } from '../trace/pattern-histogram.ts';
import { NO_EXPERT, type RoutingTrace } from '../trace/routing-trace.ts';

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
  if (nodes > maskNodesMax) return replicas.map((layer, l) => new CostByRule(trace, l, layer, cluster, homes));
  const histograms = histogramsOf(trace);
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

/** By the router's rule, whose choice of nodes knows no loads. */
class CostByRule implements LayerCost {
  cost: number;
  private readonly trace: RoutingTrace;
  private readonly layer: number;
  private readonly cluster: Cluster;
  private readonly homes: Int32Array;

  constructor(trace: RoutingTrace, layer: number, replicas: Layer, cluster: Cluster, homes: Int32Array) {
    this.trace = trace;
    this.layer = layer;
    this.cluster = cluster;
    this.homes = homes;
    this.cost = this.trial(replicas);
  }

  get remoteNodes(): number {
    return this.cost;
  }

  set(replicas: Layer): void {
    this.cost = this.trial(replicas);
  }

  trial(replicas: Layer): number {
    const { trace, layer, homes } = this;
    const { nodeOf, workers } = this.cluster;
    const experts = new Int32Array(trace.topK);
    const chosen = new Int32Array(trace.topK);
    const load = new Float64Array(workers.length);
    let visits = 0;
    for (let t = 0; t < trace.tokens; t++) {
      const base = (t * trace.moeLayers.length + layer) * trace.topK;
      let count = 0;
      for (let k = 0; k < trace.topK; k++) if (trace.ids[base + k] !== NO_EXPERT) experts[count++] = trace.ids[base + k];
      const home = homes[trace.sequenceOf[t]];
      chooseReplicas(experts, count, replicas, nodeOf, home, load, chosen);
      const visited = new Set<number>();
      for (let k = 0; k < count; k++) if (nodeOf[chosen[k]] !== nodeOf[home]) visited.add(nodeOf[chosen[k]]);
      visits += visited.size;
    }
    return visits;
  }
}
